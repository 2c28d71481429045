# SPDX-License-Identifier: Apache-2.0
"""Which label belongs to which file: from a table, from folder names, or from a folder of label maps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_salm.errors import RefusedError, UsageError, unreadable
from monai_salm.io import is_litter, read_segmentation
from monai_salm.pipeline.case_names import stem_of
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.label_matching import Matches, match_identifiers, match_label_maps, match_paths
from monai_salm.pipeline.label_table import (
    PATH_COLUMNS,
    SHOWN,
    Row,
    Table,
    candidates,
    check_classes,
    check_spread,
    is_missing,
    ordered,
    read_table,
)
from monai_salm.volumes import SERIES_MODALITIES

SEGMENTATION_KINDS = ("Segmentation Storage", "Label Map Segmentation Storage")
"""Documents that hold label maps."""

Target = int | tuple[float, ...] | str
"""A class, a list of findings, or the path of a label map."""

_FINDINGS = {"0": "0", "1": "1", "false": "0", "true": "1"}
"""What a cell of a finding may say."""


@dataclass
class LabelAssignment:
    """The labels of an input.

    Args:
        targets: path of a file -> its label; files without one are missing.
        classes: names of the classes, or of the findings; empty for label maps.
        multi_label: True if the targets are findings.
        key: the column that named the files, or ``folder``, or ``label map``.
        refused: path of a file whose label cannot be used -> reason.
        column: the column of the classes, if they are of a table.
        rows: of the table, or label maps.
        unmatched: rows or label maps that belong to no image of the input.
        blank: rows that hold no label.
        notes: what else is to be told of them.
    """

    targets: dict[str, Target]
    classes: list[str] = field(default_factory=list)
    multi_label: bool = False
    key: str = "path"
    refused: dict[str, str] = field(default_factory=dict)
    column: str = ""
    rows: int = 0
    unmatched: list[str] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self, inventory: Inventory) -> dict[str, Any]:
        """Give what ``--json`` prints of the labels: the images of each class, and what has no counterpart."""
        labels = [self.targets[path] for path in inventory.pictures if path in self.targets]
        counts = dict.fromkeys(self.classes, 0)
        for label in labels:
            if isinstance(label, int):
                counts[self.classes[label]] += 1
            elif isinstance(label, tuple):
                for name, value in zip(self.classes, label, strict=True):
                    counts[name] += value > 0.5
        unlabeled = [path for path in inventory.pictures if path not in self.targets]
        return {
            "key": self.key, "column": self.column, "multi_label": self.multi_label, "classes": counts,
            "labeled_pictures": len(labels),
            "rows": self.rows, "unmatched_rows": _counted(self.unmatched), "unlabeled_rows": _counted(self.blank),
            "unlabeled_pictures": _counted(unlabeled), "notes": self.notes,
        }  # fmt: skip


def _counted(names: Iterable[str]) -> dict[str, Any]:
    known = list(names)
    return {"count": len(known), "first": known[:10]}


def describe_labels(found: dict[str, Any]) -> list[str]:
    """Give in lines for people what :meth:`LabelAssignment.to_json` gave."""
    counts = ", ".join(f"{name} {number}" for name, number in found["classes"].items())
    kind = "findings" if found["multi_label"] else "classes"
    of = (
        f" of column {found['column']!r}"
        if found["column"]
        else f" of {found['key']}s"
        if found["key"] in ("folder", "label map")
        else ""
    )
    what = f"{kind}{of}: {counts} of" if counts else f"label maps ({found['key']}) of"
    lines = [f"labels: {what} {found['labeled_pictures']} images"]
    rows = "label maps" if found["key"] in ("label map", "SEG") else "rows"
    for name, kind in (
        ("unmatched_rows", f"{rows} without an image"),
        ("unlabeled_rows", "rows without a label"),
        ("unlabeled_pictures", "images without a label"),
    ):
        number, first = found[name]["count"], found[name]["first"]
        if number:
            more = f" and {number - SHOWN} more" if number > SHOWN else ""
            lines.append(
                f"labels: {number} {kind}: {', '.join(first[:SHOWN])}{more}"
                if number > 1
                else f"labels: 1 {kind.replace('s without', ' without')}: {first[0]}"
            )
    return lines + [f"labels: {note}" for note in found["notes"]]


def labels_from_table(table: Path, inventory: Inventory, column: str | None = None) -> LabelAssignment:
    """Read a table whose first column names files or DICOM identifiers.

    Args:
        table: first column one of ``path``, ``file`` (relative to the input or to the table) or a DICOM identifier;
            then a column ``label``, or the one that ``column`` names, or one 0/1 column per finding.
        inventory: the files.
        column: name of the column that holds the class.

    Raises:
        UsageError: the table cannot be understood, contradicts itself, or labels none of the files.
    """
    read = read_table(table)
    names = _label_columns(read, column)
    labels, blank, unmatched = _labels_of(read, names)
    where = f"{table}: column {names[0]!r}"
    if not labels:
        raise UsageError(f"{where} holds no label in {len(read.rows)} rows; {candidates(read, names)}")
    notes = []
    if len(names) == 1:
        counts = Counter(label[0] for label in labels.values())
        check_classes(counts, where)
        notes = [note for note in [check_spread(counts, where, candidates(read, names))] if note]
    all_names = [*labels, *(name for name in blank if name not in labels)]
    matches = (
        match_paths(all_names, table, inventory)
        if read.key in PATH_COLUMNS
        else match_identifiers(all_names, read.key, inventory)
    )
    chosen = _chosen(matches, labels, read)
    if not chosen:
        near = next(iter(matches.near.items()), None)
        hint = (
            f"{read.named(near[0])} is not there, but {near[1][1]}" if near else "paths are relative to one of the two"
        )
        raise UsageError(
            f"{table}: none of its {len(labels)} labels in column {read.key!r} belongs to an image of "
            f"{inventory.root}; {hint}"
        )
    unmatched += [read.place(name) for name in all_names if name not in matches.found]
    notes += [
        f"{read.named(name)} belongs to no image, but {difference}"
        for name, (_, difference) in list(matches.near.items())[:3]
    ]
    found = LabelAssignment(
        {}, names, len(names) > 1, read.key, _refused(matches, chosen, blank, read), column=", ".join(names),
        rows=len(read.rows), unmatched=unmatched, notes=notes,
        blank=[f"{read.place(name)} ({reason})" for name, reason in blank.items()],
    )  # fmt: skip
    if found.multi_label:
        found.targets = {path: tuple(float(value) for value in labels[name]) for path, name in chosen.items()}
    else:
        found.classes = ordered(labels[name][0] for name in chosen.values())
        found.targets = {path: found.classes.index(labels[name][0]) for path, name in chosen.items()}
    return found


def _chosen(matches: Matches, labels: Mapping[str, tuple[str, ...]], table: Table) -> dict[str, str]:
    """Give the name in the table that each file has its label by, or raise UsageError for two with different ones."""
    chosen: dict[str, str] = {}
    for name, paths in matches.found.items():
        for path in paths if name in labels else ():
            other = chosen.setdefault(path, name)
            if labels[other] != labels[name]:
                raise UsageError(
                    f"{table.path}: {table.named(other)} and {table.named(name)} are one file, with the labels "
                    f"{labels[other]} and {labels[name]}; keep one"
                )
    return chosen


def _refused(matches: Matches, chosen: Mapping[str, str], blank: Mapping[str, str], table: Table) -> dict[str, str]:
    """Give the reasons of files whose rows hold no label, or come near to them only."""
    refused: dict[str, str] = {}
    for name, paths in matches.found.items():
        why = f"its row in the table has {blank.get(name)}; fill it in, or leave the file out"
        refused |= {path: why for path in paths if path not in chosen}
    for name, (paths, difference) in matches.near.items():
        why = f"it has no label: the table has {table.named(name)} where {difference}; write it as it is"
        refused |= {path: why for path in paths if path not in refused}
    return refused


def _labels_of(table: Table, names: list[str]) -> tuple[dict[str, tuple[str, ...]], dict[str, str], list[str]]:
    """Give the label of each name in the key column, what the rows without one lack, and the rows without a name."""
    labels: dict[str, tuple[str, ...]] = {}
    lines: dict[str, int] = {}
    blank: dict[str, str] = {}
    nameless = []
    for row in table.rows:
        name = row.cells[table.key]
        label = tuple(_cell(table, row, column, finding=len(names) > 1) for column in names)
        absent = [column for column, value in zip(names, label, strict=True) if not value]
        if is_missing(name):
            nameless.append(f"line {row.line} without {table.key}")
        elif absent:
            blank[name] = f"no value in column {absent[0]!r}, line {row.line}" + (
                f" ({row.cells[absent[0]]!r})" if row.cells[absent[0]] else ""
            )
        elif labels.setdefault(name, label) == label:
            lines.setdefault(name, row.line)
        else:
            raise UsageError(
                f"{table.path}: line {row.line} gives {table.named(name)} the label {label}, line {lines[name]} the "
                f"label {labels[name]}; keep one, or label smaller units (path, SOPInstanceUID)"
            )
    return labels, blank, nameless


def _cell(table: Table, row: Row, column: str, *, finding: bool) -> str:
    value = table.value(row, column)
    return _FINDINGS.get(value.casefold(), value) if finding else value


def _label_columns(table: Table, column: str | None) -> list[str]:
    wanted = table.column(column or "label")
    if wanted is not None:
        return [wanted]
    everything = [table.key, *table.columns]
    if column is not None:
        if column == table.key:
            raise UsageError(
                f"{table.path}: column {column!r} names the files, so it cannot be their class; its columns are "
                f"{', '.join(everything)}"
            )
        raise UsageError(f"{table.path}: there is no column {column!r}; its columns are {', '.join(everything)}")
    odd = next(
        (
            (name, row)
            for name in table.columns
            for row in table.rows
            if _cell(table, row, name, finding=True) not in ("", "0", "1")
        ),
        None,
    )
    if table.columns and odd is None:
        return table.columns
    if odd is None:
        raise UsageError(f"{table.path}: there is no column 'label'; name one of no other columns with --label-column")
    name, row = odd
    raise UsageError(
        f"{table.path}: there is no column 'label'; name one of {', '.join(table.columns)} with --label-column "
        f"(they are no findings of 0 and 1: line {row.line} has {table.shown(row, name)} in column {name!r})"
    )


def labels_from_folders(inventory: Inventory) -> LabelAssignment:
    """Take the name of the folder that a file lies in as its class.

    Raises:
        UsageError: an image lies in no folder below the input.
    """
    folders: dict[str, str] = {}
    for path in [
        record.path for record in inventory.files if record.header is not None
    ]:  # a copy in another folder has another class
        parent = Path(path).parent.name
        if not parent:
            raise UsageError(
                f"{path} lies in no folder below {inventory.root}, so its folder cannot name its class; give "
                "--labels FILE"
            )
        folders[path] = parent
    counts = Counter(folders.values())
    check_classes(counts, f"{inventory.root}: its folders")
    note = check_spread(counts, f"{inventory.root}: the folder of an image", "give --labels FILE")
    classes = ordered(counts)
    return LabelAssignment(
        {path: classes.index(name) for path, name in folders.items()},
        classes,
        False,
        "folder",
        notes=[note] if note else [],
    )


def label_maps(folder: Path, inventory: Inventory) -> LabelAssignment:
    """Find the label map of each image in a folder, by its path or name; see
    :func:`~monai_salm.pipeline.label_matching.match_label_maps`.

    Raises:
        UsageError: the folder does not exist, is the input, or labels none of the images.
    """
    if not folder.is_dir():
        problem = (
            "a file, for example a table of classes, which need no --task segmentation"
            if folder.is_file()
            else "no such folder"
        )
        raise UsageError(f"{folder}: {problem}; --task segmentation needs a folder of label maps of the images' names")
    if folder.resolve() == inventory.root.resolve():
        raise UsageError(
            f"{folder}: the folder of the label maps is the input itself; put them into a folder of their own"
        )
    available = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    available = {
        name: path
        for name, path in available.items()
        if not is_litter(name) and not _has_values_beside(name, available)
    }
    chosen, why = match_label_maps(available, inventory)
    if not chosen:
        hint = next((f" ({path}: {reason})" for path, reason in why.items()), "")
        raise UsageError(
            f"{folder}: none of its {len(available)} files has the name of an image of {inventory.root}; label "
            f"maps are named like their images{hint}"
        )
    used = set(chosen.values())
    return LabelAssignment(
        {path: str(available[name].resolve()) for path, name in chosen.items()}, key="label map", refused=why,
        rows=len(available),
        unmatched=[name for name in available if name not in used],
    )  # fmt: skip


def _has_values_beside(name: str, available: Iterable[str]) -> bool:
    """Say whether a file is the header of another one, which stands for the two."""
    others = {".hdr": (".img",), ".mhd": (".raw", ".zraw"), ".nhdr": (".raw", ".raw.gz")}.get(
        Path(name).suffix.lower(), ()
    )
    return any(stem_of(name) + suffix in available for suffix in others)


def segmentations_in(inventory: Inventory) -> LabelAssignment:
    """Take the SEG objects of the input as label maps, one for each series; a slice of a segmented volume that its SEG
    object does not list is background.

    Targets are paths relative to the input, so that a plan names no place of this machine.

    Raises:
        UsageError: no SEG object of the input can be used.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for path, header in inventory.headers.items():
        members[header.identifiers.get("SeriesInstanceUID") or path].append(path)
    targets: dict[str, Target] = {}
    refused: dict[str, str] = {}
    claims: dict[str, str] = {}
    used: set[str] = set()
    segs = [path for path, document in inventory.documents.items() if document.kind in SEGMENTATION_KINDS]
    for seg in segs:
        try:
            instances, broken = frozenset(read_segmentation(inventory.absolute(seg)).planes), ""
        except (RefusedError, OSError) as error:
            why = unreadable(error) if isinstance(error, OSError) else error
            instances, broken = inventory.documents[seg].references, f"its segmentation {seg} cannot be used: {why}"
        for paths in members.values():
            named = [path for path in paths if inventory.headers[path].identifiers.get("SOPInstanceUID") in instances]
            if not named:
                continue
            used.add(seg)
            segmented = paths if inventory.headers[named[0]].modality in SERIES_MODALITIES else named
            others = {claims.setdefault(path, seg) for path in segmented} - {seg}
            reason = (
                f"it has the segmentations {min(others)} and {seg}, where 1 can be its label map; leave the others out"
                if others
                else broken
            )
            (refused if reason else targets).update(dict.fromkeys(segmented, reason or seg))
    targets = {path: seg for path, seg in targets.items() if path not in refused}
    if not targets:
        why = next(iter(refused.values()), "there is none that segments one of its images")
        raise UsageError(
            f"{inventory.root}: no SEG object in it can be used as a label map ({why}); give --labels FOLDER with "
            "label maps"
        )
    return LabelAssignment(
        targets, key="SEG", refused=refused, rows=len(segs), unmatched=[seg for seg in segs if seg not in used]
    )
