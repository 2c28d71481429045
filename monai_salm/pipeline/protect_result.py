# SPDX-License-Identifier: Apache-2.0
"""What a run did, and how the commands tell it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_salm.dicomweb.storing import StoreResult
from monai_salm.pipeline.fates import FileFate, count_fates
from monai_salm.pipeline.search_summary import SearchSummary


@dataclass(frozen=True)
class ProtectResult:
    """What a run did.

    Args:
        output: folder or zip of protected files.
        work_dir: private folder.
        fates: by path.
        search: what the search of the noise did.
        documents: paths of what is no image.
        ignored: files that an operating system left in the input.
        labels: what is known of them, as plain types; None for a method without labels.
        of_release: number of the files of the input that the release had before.
        stored: what became of the files in the archive that is the output; None where that is a folder or a zip.
    """

    output: Path
    work_dir: Path
    fates: dict[str, FileFate]
    search: SearchSummary
    documents: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()
    labels: dict[str, Any] | None = None
    of_release: int = 0
    stored: StoreResult | None = None

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm protect --json`` prints."""
        problems = [
            {"path": fate.path, "status": fate.status, "reason": fate.reason}
            for _, fate in sorted(self.fates.items())
            if fate.status in ("refused", "failed") or (fate.status == "copied" and fate.path not in self.documents)
        ]
        for _, fate in sorted(self.fates.items()):
            told = (
                {"incomplete": fate.left_out, "unprotected": fate.unprotected}
                if fate.status in ("protected", "copied")
                else {}
            )
            problems += [
                {"path": fate.path, "status": status, "reason": reason} for status, reason in told.items() if reason
            ]
        troubled = {problem["path"] for problem in problems if problem["status"] not in ("incomplete", "unprotected")}
        notes = [
            {"path": fate.path, "notes": fate.reason.split("; ")}
            for _, fate in sorted(self.fates.items())
            if fate.reason and fate.path not in troubled
        ]
        if self.stored is not None:
            problems += [
                {"path": path, "status": "not stored", "reason": reason}
                for path, reason in sorted(self.stored.problems.items())
            ]
            notes += [{"path": path, "notes": [note]} for path, note in sorted(self.stored.notes.items())]
        done = [fate for fate in self.fates.values() if fate.status == "protected"]
        summary = {
            "lowest_psnr": min((fate.psnr for fate in done if fate.psnr is not None), default=None),
            "largest_changed_fraction": max(
                (fate.changed_fraction for fate in done if fate.changed_fraction is not None), default=None
            ),
        }
        return {
            "output": str(self.output), "work_dir": str(self.work_dir), "counts": count_fates(self.fates),
            "ignored": len(self.ignored), "of_release": self.of_release,
            "labels": self.labels, "notes": notes, "rounds": self.search.rounds,
            "passes_per_sample": self.search.passes,
            "surrogate": self.search.surrogate, "choice": self.search.choice,
            "stored": None if self.stored is None else self.stored.to_json(),
            "estimate": None if self.search.estimate is None else self.search.estimate.to_json(),
            **summary, "problems": problems,
        }  # fmt: skip
