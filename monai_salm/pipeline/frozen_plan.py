# SPDX-License-Identifier: Apache-2.0
"""The plan of a run as it lies in its work folder: what was decided, and the files and labels that it was decided for,
so that a run that goes on obeys it instead of planning again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_salm.disk import atomic_target, check_within
from monai_salm.errors import SalmError, UsageError
from monai_salm.pipeline.inventory import Inventory, Stamp, file_digest
from monai_salm.pipeline.known_files import KnownFile, KnownFiles
from monai_salm.pipeline.labels import LabelAssignment, Target
from monai_salm.pipeline.plan import PLAN_FORMAT, ProtectionPlan, SamplePlan, target_from_json, target_to_json
from monai_salm.seals import sealed_lines, unsealed_json, unsealed_lines
from monai_salm.volumes import volume_of

PLAN_FILE = "plan.jsonl"

RUN, SAMPLE, FILE = "run", "sample", "file"
"""What a line is of."""

_FATES = ("refused", "documents", "copies")
_BEGUN_WITH = ("input", "options", "sample", "additions", "grown")


@dataclass(frozen=True)
class FrozenPlan:
    """A plan, and what it was made for.

    Args:
        plan: the decisions, complete: also with what loading refused.
        known: the files as they were.
        labels: the label of each file that had one, by path.
        key: mark of the run's secret, see :func:`~monai_salm.pipeline.keys.secret_mark`.
        begun_with: where the input is, and all options, so that the plan can be carried out without saying them again;
            whether series are samples, the number of additions, and the views of the series that grew by these.
        notes: lines for people, which nobody reads back: what was decided of each volume, what it will take.
    """

    plan: ProtectionPlan
    known: KnownFiles
    labels: Mapping[str, Target] = field(default_factory=dict)
    key: str = ""
    begun_with: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of(
        cls,
        plan: ProtectionPlan,
        inventory: Inventory,
        labels: LabelAssignment | None,
        *,
        archive: Path | None = None,
        decided: ProtectionPlan | None = None,
        key: str = "",
        begun_with: Mapping[str, Any] | None = None,
        notes: tuple[Mapping[str, Any], ...] = (),
    ) -> FrozenPlan:
        """Freeze a plan with the files and labels that it was made for.

        Args:
            plan: complete.
            inventory: of the input.
            labels: of the input; None for a method without labels.
            archive: the zip that the input was unpacked from; None where it is none.
            decided: the plan before loading, which knows the digests of what loading refused.
            key: mark of the run's secret.
            begun_with, notes: see the class.
        """
        digests = input_digests(decided or plan, inventory, labels)
        targets = labels.targets if labels is not None else {}
        return cls(plan, KnownFiles.of(inventory, digests, archive), targets, key, begun_with or {}, notes)

    def without(self, paths: Collection[str]) -> FrozenPlan:
        """Give the plan without some files that it refuses."""
        refused = {path: reason for path, reason in self.plan.refused.items() if path not in paths}
        files = {path: known for path, known in self.known.files.items() if path not in paths}
        return replace(self, plan=replace(self.plan, refused=refused), known=replace(self.known, files=files))

    def write(self, path: Path) -> None:
        """Write the plan, line by line, for nobody but its owner: it names patients and places."""
        with atomic_target(path, private=True) as temporary, temporary.open("w", encoding="ascii") as file:
            for line in sealed_lines(self._records()):
                file.write(f"{line}\n")

    def _records(self) -> Iterator[dict[str, Any]]:
        """Give the lines: of the run, of each sample, of each file."""
        plan, archive = self.plan, self.known.archive
        stamp = [archive.size, archive.mtime_ns] if archive is not None else None
        yield {
            "line": RUN, **plan.head(), "digest": plan.digest(), "key": self.key, "archive": stamp, **self.begun_with,
        }  # fmt: skip
        yield from map(dict, self.notes)
        for sample in plan.samples:
            yield {"line": SAMPLE, **sample.to_json()}
        for path, known in self.known.files.items():
            decided = {name: getattr(plan, name)[path] for name in _FATES if path in getattr(plan, name)}
            label = {"label": target_to_json(self.labels[path])} if path in self.labels else {}
            yield {"line": FILE, "path": path, **label, "plan": decided, "found": known.to_json()}

    @classmethod
    def read(cls, path: Path) -> FrozenPlan:
        """Read what :meth:`write` wrote.

        Raises:
            UsageError: the plan is that of another version.
            SalmError: the file is damaged.
        """
        try:
            with path.open(encoding="utf-8") as file:
                first = file.readline()
                return cls._of_lines(_head(path, first), unsealed_lines(file, first=first))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise SalmError(f"{path}: the plan is damaged ({error}); start again with an empty work folder") from error

    @classmethod
    def _of_lines(cls, head: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> FrozenPlan:
        samples: list[SamplePlan] = []
        fates: dict[str, dict[str, str]] = {name: {} for name in _FATES}
        files: dict[str, KnownFile] = {}
        labels: dict[str, Target] = {}
        names: dict[str, str] = {}  # whose text is kept once
        for line in lines:
            if line["line"] == SAMPLE:
                samples.append(SamplePlan.from_json(line))
                names |= {text: text for text in _texts_of(samples[-1])}
                continue
            if line["line"] != FILE:
                continue
            path = names.get(line["path"], line["path"])
            files[path] = KnownFile.from_json(path, _with_texts(line["found"], names))
            for name, value in line["plan"].items():
                fates[name][path] = value
            if "label" in line:
                labels[path] = target_from_json(line["label"])
        plan = ProtectionPlan(
            tuple(samples), **fates,
            classes=tuple(head["classes"]), multi_label=head["multi_label"], settings=head["settings"],
        )  # fmt: skip
        if plan.digest() != head["digest"]:
            raise ValueError("it was changed")
        known = KnownFiles(files, Stamp(*head["archive"]) if head["archive"] else None)
        _check_names(plan, known, labels)
        return cls(plan, known, labels, head["key"], {name: head[name] for name in _BEGUN_WITH if name in head})


def _texts_of(sample: SamplePlan) -> Iterator[str]:
    """Give the texts of a sample that the lines of its files have too."""
    yield sample.sample_id
    yield from (file.path for file in sample.files)


def _with_texts(found: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Give what was found of a file, with the texts of its sample where they are the same."""
    identifiers = found.get("header", {}).get("identifiers", {})
    identifiers |= {name: names[text] for name, text in identifiers.items() if text in names}
    return found


def plan_head(path: Path) -> dict[str, Any]:
    """Read the first line of a plan: its settings, and what the run was begun with.

    Raises:
        UsageError: the plan is that of another version.
        SalmError: it cannot be read, or the line is damaged.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return _head(path, file.readline())
    except OSError as error:
        raise SalmError(
            f"{path}: the plan cannot be read ({error.strerror}); make one with 'monai-salm plan'"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SalmError(f"{path}: the plan is damaged ({error}); start again with an empty work folder") from error


def _head(path: Path, first: str) -> dict[str, Any]:
    """Give the first line of a plan; of one of another format, which may have no checksum, what it says of that."""
    try:
        head = unsealed_json(first)
    except ValueError:
        head = dict(json.loads(first))
        if head["format"] == PLAN_FORMAT:
            raise
    if head["format"] != PLAN_FORMAT:
        raise UsageError(
            f"{path}: the plan has the format {head['format']!r}, this version goes on with {PLAN_FORMAT!r}; "
            "use the version of monai_salm that began the run, or start anew with another OUTPUT"
        )
    return head


def _check_names(plan: ProtectionPlan, known: KnownFiles, labels: Mapping[str, Target]) -> None:
    """Check that a plan that was read names no file but those of the input and its labels; what became of these since
    is found when it is held against them.

    Raises:
        ValueError: it does.
    """
    files = [(file.path, sample.target) for sample in plan.samples for file in sample.files]
    for path in [*(path for path, _ in files), *plan.documents, *plan.copies, *plan.copies.values()]:
        if check_within(path) not in known.files:
            raise ValueError(f"it is to write {path}, which is not in its input")
    for path, target in files:
        if isinstance(target, str) and labels.get(path) != target:
            raise ValueError(f"the label map of {path} is not the one that it was given")


def input_digests(plan: ProtectionPlan, inventory: Inventory, labels: LabelAssignment | None) -> dict[str, str]:
    """Give the digests of all files that a plan depends on by their bytes, so that a copy that was only made anew is
    known again: what it protects or copies, what was read and refused, what stands beside that in its volume, and what
    is refused for others' sake.
    """
    digests = {file.path: file.sha256 for sample in plan.samples for file in sample.files} | dict(plan.documents)
    labeled = {path: header for path, header in inventory.pictures.items() if labels is None or path in labels.targets}
    volumes = {volume_of(header) for header in labeled.values()} - {""}
    waiting = [
        path for path, header in inventory.pictures.items() if path in labeled or volume_of(header) in volumes
    ] + [record.path for record in inventory.files if record.judgement is not None or record.by_others]
    for path in waiting:
        if path not in digests:
            with suppress(OSError):  # it is gone, and refused for that
                digests[path] = file_digest(inventory.absolute(path))
    return digests | {path: digests[first] for path, first in inventory.copies.items() if first in digests}
