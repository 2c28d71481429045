# SPDX-License-Identifier: Apache-2.0
"""What is to be done with each file: samples, labels, windows and budgets, written down before anything is changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from types import MappingProxyType
from typing import Any

from monai_salm.canvas import Canvas
from monai_salm.errors import UsageError
from monai_salm.pipeline.kept_once import view_kept_once
from monai_salm.pipeline.labels import Target
from monai_salm.views import FileView

PLAN_FORMAT = "monai_salm.plan/5"


@dataclass(frozen=True, slots=True)
class FilePlan:
    """One file of a sample: its path, the digest of its bytes, the fingerprint of its stored values, and what these
    show; where they may move, their budgets are part of the view.
    """

    path: str
    sha256: str
    fingerprint: str
    view: FileView

    @property
    def canvas(self) -> Canvas:
        """What the stored values may become.

        Raises:
            TypeError: the file was planned without a budget.
        """
        if not isinstance(self.view, Canvas):
            raise TypeError(f"{self.path} was planned without a budget")
        return self.view


@dataclass(frozen=True, slots=True)
class SamplePlan:
    """One unit that carries a label and a noise.

    An instance (its id is the SOP Instance UID), a series ordered along its normal (its Series Instance UID), or a
    NIfTI volume (the fingerprint of its values): no path and no order can change an id.
    """

    sample_id: str
    files: tuple[FilePlan, ...]
    target: Target | None = None

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back."""
        files = [
            {"path": f.path, "sha256": f.sha256, "fingerprint": f.fingerprint, "canvas": f.canvas.to_json()}
            for f in self.files
        ]
        return {"sample_id": self.sample_id, "target": target_to_json(self.target), "files": files}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SamplePlan:
        """Read what :meth:`to_json` gave, also after a trip through JSON text."""
        files = (
            FilePlan(f["path"], f["sha256"], f["fingerprint"], view_kept_once(Canvas.from_json(f["canvas"])))
            for f in record["files"]
        )
        return cls(record["sample_id"], tuple(files), target_from_json(record["target"]))


@dataclass(frozen=True)
class ProtectionPlan:
    """The frozen decision about every file of an input; nothing in it can be changed, :meth:`without` gives another.

    Args:
        samples: what will be protected, ordered by sample id.
        refused: path -> reason.
        documents: path of what is no image and is handed out -> digest of its bytes.
        copies: path of a file -> path of the file with the same bytes whose fate it shares.
        classes: names of classes or findings.
        multi_label: True if targets are findings.
        settings: everything else that the result depends on; plain types.
    """

    samples: tuple[SamplePlan, ...]
    refused: Mapping[str, str]
    documents: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("refused", "documents", "copies", "settings"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def without(self, refused: Mapping[str, str], classes: Sequence[str] = ()) -> ProtectionPlan:
        """Give the plan without the samples of some files, which are refused.

        Args:
            refused: path -> reason.
            classes: names of the classes; empty keeps them.
        """
        kept = tuple(sample for sample in self.samples if not any(file.path in refused for file in sample.files))
        return replace(self, samples=kept, refused={**self.refused, **refused}, classes=tuple(classes) or self.classes)

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back."""
        fates = {"refused": dict(self.refused), "documents": dict(self.documents), "copies": dict(self.copies)}
        return self.head() | fates | {"samples": [sample.to_json() for sample in self.samples]}

    def head(self) -> dict[str, Any]:
        """Give what is neither of a file nor of a sample, as plain types."""
        return {
            "format": PLAN_FORMAT,
            "settings": dict(self.settings),
            "classes": list(self.classes),
            "multi_label": self.multi_label,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> ProtectionPlan:
        """Read what :meth:`to_json` gave, also after a trip through JSON text."""
        if record.get("format") != PLAN_FORMAT:
            raise UsageError(
                f"plan format {record.get('format')!r} is not {PLAN_FORMAT!r}; use the version of monai_salm that "
                "wrote it"
            )
        return cls(
            tuple(map(SamplePlan.from_json, record["samples"])),
            record["refused"],
            record["documents"],
            record["copies"],
            tuple(record["classes"]),
            record["multi_label"],
            record["settings"],
        )

    def protected(self) -> dict[str, tuple[str, Canvas]]:
        """Give the sample and the canvas of every file that will be protected, copies among them, by path."""
        known = {
            file.path: (sample.sample_id, file.canvas)
            for sample in self.samples
            for file in sample.files
            if file.path not in self.refused
        }
        return known | {path: known[first] for path, first in self.copies.items() if first in known}

    def all_refused(self) -> dict[str, str]:
        """Give the reasons of all refused files, copies among them, by path."""
        copies = {path: self.refused[first] for path, first in self.copies.items() if first in self.refused}
        return {**self.refused, **copies}

    def preview(self) -> dict[str, Any]:
        """Give what ``monai-salm protect --dry-run --json`` prints: what would become of each file."""
        protect, refused = self.protected(), self.all_refused()
        files: list[dict[str, Any]] = [
            {
                "path": path,
                "fate": "protect",
                "reason": "",
                "sample_id": name,
                "epsilon_real": canvas.epsilon_real,
                "epsilon_stored": canvas.epsilon_stored,
            }
            for path, (name, canvas) in sorted(protect.items())
        ]
        files += [{"path": path, "fate": "copy", "reason": "no image"} for path in sorted(self.documents)]
        files += [{"path": path, "fate": "refuse", "reason": reason} for path, reason in sorted(refused.items())]
        counts = {
            "protect": len(protect),
            "copy": len(self.documents),
            "refuse": len(refused),
            "samples": len(self.samples),
        }
        return {"counts": counts, "classes": list(self.classes), "files": files}

    def digest(self) -> str:
        """Give the SHA-256 of the plan: two runs with the same digest, key and seed do the same."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        parts: list[Any] = [self.head(), dict(self.refused), dict(self.documents), dict(self.copies)]
        digest = hashlib.sha256()
        for part in chain(parts, (sample.to_json() for sample in self.samples)):
            digest.update(json.dumps(part, sort_keys=True).encode())
        return digest.hexdigest()


def target_to_json(target: Target | None) -> Any:
    """Give plain types that :func:`target_from_json` reads back."""
    return list(target) if isinstance(target, tuple) else target


def target_from_json(plain: Any) -> Any:
    """Read what :func:`target_to_json` gave: JSON has findings as a list."""
    return tuple(plain) if isinstance(plain, list) else plain
