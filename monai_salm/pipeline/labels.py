# SPDX-License-Identifier: Apache-2.0
"""Which label belongs to which file: from a table, from folder names, or from a folder of label maps."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import read_segmentation
from monai_salm.pipeline.inventory import SERIES_MODALITIES, Inventory

PATH_COLUMNS = ("path", "file")
IDENTIFIER_COLUMNS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "AccessionNumber")

SEGMENTATION_KINDS = ("Segmentation Storage", "Label Map Segmentation Storage")
"""Documents that hold label maps."""

Target = int | list[float] | str
"""A class, a list of findings, or the path of a label map."""


@dataclass
class LabelAssignment:
    """The labels of an input.

    Args:
        targets: path of a file -> its label; files without one are missing.
        classes: names of the classes, or of the findings; empty for label maps.
        multi_label: True if the targets are findings.
        key: the column that named the files, or ``folder``, or ``label map``.
        unused: rows or label maps that belong to no file of the input.
        refused: path of a file whose label cannot be used -> reason.
    """

    targets: dict[str, Target]
    classes: list[str] = field(default_factory=list)
    multi_label: bool = False
    key: str = "path"
    unused: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def labels_from_table(table: Path, inventory: Inventory, column: str | None = None) -> LabelAssignment:
    """Read a CSV table whose first column names files or DICOM identifiers.

    Args:
        table: first column one of ``path``, ``file`` (relative to the input or to the table) or a DICOM identifier; then a column ``label``,
            or the one that ``column`` names, or one 0/1 column per finding.
        inventory: the files.
        column: name of the column that holds the class.

    Raises:
        UsageError: the table cannot be understood, or labels none of the files.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{table}: the label table cannot be read ({error}); give a CSV file in UTF-8") from error
    if not rows:
        raise UsageError(f"{table}: the label table has no rows")
    columns = list(reader.fieldnames or [])
    ragged = next((number for number, row in enumerate(rows, start=2) if None in row), None)
    if ragged is not None:
        raise UsageError(f"{table}: line {ragged} has more fields than the {len(columns)} columns; quote values that hold commas")
    key = columns[0]
    if key not in PATH_COLUMNS + IDENTIFIER_COLUMNS:
        raise UsageError(f"{table}: the first column is {key!r}; name it one of {', '.join(PATH_COLUMNS + IDENTIFIER_COLUMNS)}")
    names = _label_columns(table, columns, rows, column)
    values: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows, start=2):
        label = tuple((row[name] or "").strip() for name in names)
        if not all(label):
            continue
        if values.setdefault((row[key] or "").strip(), label) != label:
            raise UsageError(f"{table}: line {number} gives {row[key]!r} the label {label}, an earlier line {values[row[key].strip()]}; keep one")
    chosen, used = _match(values, key, table, inventory)
    if not chosen:
        raise UsageError(
            f"{table}: none of its {len(values)} labels in column {key!r} belongs to a picture of {inventory.root}; paths are relative to one of the two"
        )
    unused = len(values) - len(used)
    if len(names) > 1:
        return LabelAssignment({path: [float(v) for v in label] for path, label in chosen.items()}, names, True, key, unused)
    classes = _ordered({label[0] for label in chosen.values()})
    return LabelAssignment({path: classes.index(label[0]) for path, label in chosen.items()}, classes, False, key, unused)


def _label_columns(table: Path, columns: list[str], rows: list[dict[str, str]], column: str | None) -> list[str]:
    others = columns[1:]
    wanted = column or "label"
    if wanted in others:
        return [wanted]
    if column is not None:
        raise UsageError(f"{table}: there is no column {column!r}; its columns are {', '.join(columns)}")
    findings = all((row[name] or "").strip() in ("", "0", "1", "0.0", "1.0") for row in rows for name in others)
    if others and findings:
        return others
    raise UsageError(f"{table}: there is no column 'label'; name one of {', '.join(others) or 'no other columns'} with --label-column")


def _match(values: dict[str, tuple[str, ...]], key: str, table: Path, inventory: Inventory) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Find the label of each picture and say which rows were used."""
    chosen: dict[str, tuple[str, ...]] = {}
    used: set[str] = set()
    places: dict[Path, str] = {}
    if key in PATH_COLUMNS:
        for name in values:
            for base in (table.parent, inventory.root):
                other = places.setdefault((base / name).resolve(), name)
                if values[other] != values[name]:
                    raise UsageError(f"{table}: {other!r} and {name!r} are one file, with the labels {values[other]} and {values[name]}; keep one")
    for path, header in ((record.path, record.header) for record in inventory.files if record.header is not None):
        named = places.get(inventory.absolute(path).resolve()) if key in PATH_COLUMNS else header.identifiers.get(key)
        if named in values:
            chosen[path] = values[named]
            used.add(named)
    return chosen, used


def _ordered(names: set[str]) -> list[str]:
    """Order class names as numbers where they all are numbers, else as text."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


def labels_from_folders(inventory: Inventory) -> LabelAssignment:
    """Take the name of the folder that a file lies in as its class.

    Raises:
        UsageError: a picture lies in no folder below the input.
    """
    folders: dict[str, str] = {}
    for path in [record.path for record in inventory.files if record.header is not None]:  # a copy in another folder has another class
        parent = Path(path).parent.name
        if not parent:
            raise UsageError(f"{path} lies in no folder below {inventory.root}, so its folder cannot name its class; give --labels FILE")
        folders[path] = parent
    classes = _ordered(set(folders.values()))
    return LabelAssignment({path: classes.index(name) for path, name in folders.items()}, classes, False, "folder")


def label_maps(folder: Path, inventory: Inventory) -> LabelAssignment:
    """Find the label map of each picture in a folder of the same paths or names, also with the channel suffix of nnU-Net (``_0000``) left off.

    Raises:
        UsageError: the folder does not exist, or labels none of the pictures.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; --task segmentation needs a folder of label maps of the images' names")
    available = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    targets: dict[str, Target] = {}
    for path in inventory.pictures:
        for name in (path, path.replace("_0000.nii", ".nii"), Path(path).name, Path(path).name.replace("_0000.nii", ".nii")):
            if name in available:
                targets[path] = str(available[name].resolve())
                break
    if not targets:
        raise UsageError(f"{folder}: none of its {len(available)} files has the name of a picture of {inventory.root}; label maps are named like their images")
    return LabelAssignment(targets, key="label map", unused=len(available) - len(set(targets.values())))


def segmentations_in(inventory: Inventory) -> LabelAssignment:
    """Take the SEG objects of the input as label maps, one for each series; a slice of a segmented volume that its SEG object does not list is background.

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
    for seg in (path for path, document in inventory.documents.items() if document.kind in SEGMENTATION_KINDS):
        try:
            instances, broken = frozenset(read_segmentation(inventory.absolute(seg)).planes), ""
        except RefusedError as refusal:
            instances, broken = inventory.documents[seg].references, f"its segmentation {seg} cannot be used: {refusal}"
        for paths in members.values():
            named = [path for path in paths if inventory.headers[path].identifiers.get("SOPInstanceUID") in instances]
            if not named:
                continue
            segmented = paths if inventory.headers[named[0]].modality in SERIES_MODALITIES else named
            others = {claims.setdefault(path, seg) for path in segmented} - {seg}
            reason = f"it has the segmentations {min(others)} and {seg}, where 1 can be its label map; leave the others out" if others else broken
            (refused if reason else targets).update(dict.fromkeys(segmented, reason or seg))
    targets = {path: seg for path, seg in targets.items() if path not in refused}
    if not targets:
        why = next(iter(refused.values()), "there is none that segments one of its pictures")
        raise UsageError(f"{inventory.root}: no SEG object in it can be used as a label map ({why}); give --labels FOLDER with label maps")
    return LabelAssignment(targets, key="SEG", refused=refused)
