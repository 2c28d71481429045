# SPDX-License-Identifier: Apache-2.0
"""The plan of a run as it lies in its work folder: what was decided, and the files and labels that it was decided for,
so that a run that goes on obeys it instead of planning again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_salm.disk import check_within, write_atomically
from monai_salm.errors import SalmError, UsageError
from monai_salm.pipeline.inventory import Inventory, file_digest
from monai_salm.pipeline.known_files import KnownFiles
from monai_salm.pipeline.labels import LabelAssignment, Target
from monai_salm.pipeline.plan import PLAN_FORMAT, ProtectionPlan, target_from_json, target_to_json
from monai_salm.seals import sealed_json, unsealed_json
from monai_salm.volumes import volume_of

PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class FrozenPlan:
    """A plan, and what it was made for.

    Args:
        plan: the decisions, complete: also with what loading refused.
        known: the files as they were.
        labels: the label of each file that had one, by path.
        key: mark of the run's secret, see :func:`~monai_salm.pipeline.keys.secret_mark`.
    """

    plan: ProtectionPlan
    known: KnownFiles
    labels: Mapping[str, Target] = field(default_factory=dict)
    key: str = ""

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
    ) -> FrozenPlan:
        """Freeze a plan with the files and labels that it was made for.

        Args:
            plan: complete.
            inventory: of the input.
            labels: of the input; None for a method without labels.
            archive: the zip that the input was unpacked from; None where it is none.
            decided: the plan before loading, which knows the digests of what loading refused.
            key: mark of the run's secret.
        """
        digests = input_digests(decided or plan, inventory, labels)
        targets = labels.targets if labels is not None else {}
        return cls(plan, KnownFiles.of(inventory, digests, archive), targets, key)

    def write(self, path: Path) -> None:
        """Write the plan, for nobody but its owner: it names patients and places."""
        text = sealed_json(
            self.plan.to_json()
            | {
                "digest": self.plan.digest(),
                "key": self.key,
                "inputs": self.known.to_json(),
                "labels": {name: target_to_json(target) for name, target in self.labels.items()},
            }
        )  # on one line: an indent takes four times as long
        write_atomically(path, f"{text}\n".encode(), private=True)

    @classmethod
    def read(cls, path: Path) -> FrozenPlan:
        """Read what :meth:`write` wrote.

        Raises:
            UsageError: the plan is that of another version.
            SalmError: the file is damaged.
        """
        try:
            record = _read(path)
            if str(record["format"]) != PLAN_FORMAT:
                raise UsageError(
                    f"{path}: the plan has the format {record['format']!r}, this version goes on with {PLAN_FORMAT!r}; "
                    "use the version of monai_salm that began the run, or start anew with another OUTPUT"
                )
            plan = ProtectionPlan.from_json(record)
            if plan.digest() != record["digest"]:
                raise ValueError("it was changed")
            labels = {name: target_from_json(target) for name, target in record["labels"].items()}
            known = KnownFiles.from_json(record["inputs"])
            _check_names(plan, known, labels)
            return cls(plan, known, labels, record["key"])
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise SalmError(f"{path}: the plan is damaged ({error}); start again with an empty work folder") from error


def _read(path: Path) -> dict[str, Any]:
    """Read the record of a plan; one of another format, which may have no checksum, as it is."""
    text = path.read_text(encoding="utf-8")
    try:
        return unsealed_json(text)
    except ValueError:
        record: dict[str, Any] = dict(json.loads(text))
        if record["format"] == PLAN_FORMAT:
            raise
        return record


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
