# SPDX-License-Identifier: Apache-2.0
"""What a verification says: of each file, and of all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from monai_salm.io.sharing import shared
from monai_salm.pipeline.region_means import MeanShift, shifts_in_words, worst_shifts


@dataclass(kw_only=True, slots=True)
class FileVerdict:
    """What was found in one pair of files.

    Args:
        path: of the original, relative to its folder.
        verdict: ``protected``, ``copied`` (no image, or a refused file byte for byte), ``absent`` (rightly not handed
            out) or ``mismatch``.
        problems: what is wrong; empty unless ``mismatch``.
        absence: of a file that is not in the protected folder what is known of the reason; empty if it is there.
        bound: where the bound that was checked came from: ``option``, ``file``, or ``none``.
        epsilon_stored: that bound in stored units, the largest of any frame of the file; None where none was checked.
        max_change_stored, max_change_real: largest change.
        changed_fraction: share of the anatomy's voxels that changed.
        changed_outside: voxels that changed outside the anatomy.
        mean_shifts: how far the means of regions moved, for each size of them.
        psnr: in model values, dB; None if nothing changed.
        ssim: structural similarity in model values.
        second_reader: names of the other implementations that read both files (SimpleITK, dcmtk); empty where none
            could.
        second_max_change_real: largest change that SimpleITK sees.
        header_changes: attributes that differ as a derived image may.
        dangling: UIDs of objects that the file refers to and that were in the original folder, but were not handed out.
    """

    path: str
    verdict: str
    problems: list[str] = field(default_factory=list)
    absence: str = ""
    bound: str = "none"
    epsilon_stored: float | None = None
    max_change_stored: float | None = None
    max_change_real: float | None = None
    changed_fraction: float | None = None
    changed_outside: int | None = None
    mean_shifts: list[MeanShift] = field(default_factory=list)
    psnr: float | None = None
    ssim: float | None = None
    second_reader: str = ""
    second_max_change_real: float | None = None
    header_changes: tuple[str, ...] = ()
    dangling: list[str] = field(default_factory=list)


def kept_once(verdict: FileVerdict) -> FileVerdict:
    """Give a verdict that came from another process, with what many files' verdicts say alike kept once."""
    verdict.header_changes = shared(verdict.header_changes)
    for name in ("verdict", "bound", "second_reader"):
        setattr(verdict, name, shared(getattr(verdict, name)))
    return verdict


@dataclass(frozen=True)
class VerifyReport:
    """The verdict of every file of two folders.

    Args:
        files: one verdict a file, ordered by path.
        record: what the manifest of the run was used for, or why it was not used; empty where none was looked at.
    """

    files: list[FileVerdict]
    record: str = ""

    @property
    def mismatches(self) -> list[FileVerdict]:
        """Files with a problem."""
        return [file for file in self.files if file.verdict == "mismatch"]

    def mean_shift_lines(self) -> list[str]:
        """Say how far the means of regions moved, in the file in which they moved most: a line for each unit that sizes
        are given in.
        """
        found = worst_shifts(file.mean_shifts for file in self.files)
        return [f"shift of a region's mean, real units: {shifts_in_words(shifts)}" for shifts in found.values()]

    def summary(self) -> dict[str, Any]:
        """Give what :meth:`to_json` says of all files together."""
        counts = Counter(file.verdict for file in self.files)
        dangling = sum(len(file.dangling) for file in self.files)
        unbounded = sum(file.verdict == "protected" and file.bound == "none" for file in self.files)
        absent = [
            {"path": file.path, "excused": file.verdict == "absent", "reason": file.absence}
            for file in self.files
            if file.absence
        ]
        return {
            "counts": {name: counts[name] for name in ("protected", "copied", "absent", "mismatch")},
            "absent": absent, "manifest": self.record, "bound_not_stated": unbounded,
            "dangling_references": dangling,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm verify --json`` prints."""
        return self.summary() | {"files": [asdict(file) for file in self.files]}
