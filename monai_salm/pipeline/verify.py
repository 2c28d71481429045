# SPDX-License-Identifier: Apache-2.0
"""Checking two folders against each other, from their files alone: bounds, masks and headers, without anything that the run kept."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_salm.budget import Epsilon, FileBudget
from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import SourceImage, compare_headers, read_source
from monai_salm.masks import file_anatomy
from monai_salm.pipeline.inventory import Inventory, file_digest, scan
from monai_salm.pipeline.plan import BudgetOptions, file_budgets
from monai_salm.pipeline.write import broken_bound, measure_change

_BOUND = re.compile(r"at most ([0-9.eE+-]+) stored units \(([0-9.eE+-]+) real units\)")


@dataclass(kw_only=True)
class FileVerdict:
    """What was found in one pair of files.

    Args:
        path: relative to both folders.
        verdict: ``protected``, ``copied`` (a refused file, byte for byte), ``absent`` (not handed out) or ``mismatch``.
        problems: what is wrong; empty unless ``mismatch``.
        bound: where the bound that was checked came from: ``option``, ``file``, or ``none``.
        max_change_stored, max_change_real: largest change.
        changed_fraction: share of the anatomy's voxels that changed.
        changed_outside: voxels that changed outside the anatomy.
        psnr: in model values, dB; None if nothing changed.
        header_changes: attributes that differ as a derived image may.
    """

    path: str
    verdict: str
    problems: list[str] = field(default_factory=list)
    bound: str = "none"
    max_change_stored: float | None = None
    max_change_real: float | None = None
    changed_fraction: float | None = None
    changed_outside: int | None = None
    psnr: float | None = None
    header_changes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VerifyReport:
    """The verdict of every file of two folders.

    Args:
        files: one verdict a file, ordered by path.
    """

    files: list[FileVerdict]

    @property
    def mismatches(self) -> list[FileVerdict]:
        """Files with a problem."""
        return [file for file in self.files if file.verdict == "mismatch"]

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm verify --json`` prints."""
        counts = {name: sum(file.verdict == name for file in self.files) for name in ("protected", "copied", "absent", "mismatch")}
        unbounded = sum(file.verdict == "protected" and file.bound == "none" for file in self.files)
        return {"counts": counts, "bound_not_stated": unbounded, "files": [asdict(file) for file in self.files]}


def verify(
    original: Path, protected: Path, *, options: BudgetOptions | None = None, check_epsilon: Epsilon | None = None, show_progress: bool = False
) -> VerifyReport:
    """Compare two folders file by file.

    Args:
        original: folder, or file, that was protected.
        protected: what came out.
        options: window and modality, as they were given to ``protect``; they choose the anatomy of files that do not say their modality.
        check_epsilon: the budget to hold every file to; None takes the bound that a DICOM file states itself, and checks none in NIfTI files.
        show_progress: a progress bar on standard error.

    Raises:
        UsageError: a folder does not exist, or is empty.
    """
    if original.resolve() == protected.resolve():
        raise UsageError(f"{original} and {protected} are the same; give the original and the protected folder")
    options = options or BudgetOptions()
    before, after = scan(original, show_progress=show_progress), scan(protected, show_progress=show_progress)
    verdicts: dict[str, FileVerdict] = {}
    present = {record.path for record in after.files}
    refused = before.refused
    # An epsilon too small for a file would refuse it here; the budget's other parts do not depend on it.
    lenient = replace(options, epsilon=Epsilon(1.0))
    with tqdm(total=len(before.files), desc="verifying", unit="file", disable=not show_progress) as bar:
        for path, source, budget in file_budgets(before, lenient, refused):
            bound = None if check_epsilon is None else check_epsilon.real(budget.window)
            verdicts[path] = _compare(before, after, path, source, budget, bound) if path in present else FileVerdict(path=path, verdict="absent")
            bar.update()
    for path in refused:
        verdicts[path] = _compare_bytes(before, after, path) if path in present else FileVerdict(path=path, verdict="absent")
    for path, first in before.copies.items():
        verdicts[path] = _compare_copy(after, path, verdicts[first]) if path in present else FileVerdict(path=path, verdict="absent")
    for path in present - verdicts.keys():
        verdicts[path] = FileVerdict(path=path, verdict="mismatch", problems=["it is not in the original folder"])
    return VerifyReport([verdicts[path] for path in sorted(verdicts)])


def _compare(before: Inventory, after: Inventory, path: str, source: SourceImage, budget: FileBudget, bound_real: float | None) -> FileVerdict:
    verdict = FileVerdict(path=path, verdict="protected")
    try:
        found = read_source(after.absolute(path))
    except RefusedError as refusal:
        verdict.verdict, verdict.problems = "mismatch", [f"the protected file cannot be read: {refusal}"]
        return verdict
    if found.stored.shape != source.stored.shape or found.stored.dtype != source.stored.dtype:
        verdict.verdict = "mismatch"
        verdict.problems = [f"values are {found.stored.dtype} {found.stored.shape}, in the original {source.stored.dtype} {source.stored.shape}"]
        return verdict
    anatomy = file_anatomy(source.stored, budget, source.header.spacing)
    change = measure_change(source.stored, found.stored, budget, anatomy)
    verdict.max_change_stored, verdict.max_change_real = change.max_stored, change.max_real
    verdict.changed_fraction, verdict.changed_outside = change.changed_fraction, change.outside
    verdict.psnr = change.psnr if math.isfinite(change.psnr) else None
    if change.max_stored == 0:
        verdict.problems.append("no voxel differs from the original: an unprotected picture")
    if not np.array_equal(source.padding, found.padding):
        verdict.problems.append("padding was entered or left")
    # The last statement is that of the last run; a file may have been protected before.
    stated = _BOUND.findall(found.header.derivation)
    if bound_real is not None:
        verdict.bound = "option"
        problem = broken_bound(change, _held_to(budget, bound_real, bound_real / abs(budget.slope)))
    elif stated:
        verdict.bound = "file"
        problem = broken_bound(change, _held_to(budget, float(stated[-1][1]), float(stated[-1][0])))
    else:
        problem = f"{change.outside} voxels changed outside the anatomy, the limit is none" if change.outside else ""
    if problem:
        verdict.problems.append(problem)
    for difference in compare_headers(before.absolute(path), after.absolute(path)):
        if difference.allowed:
            verdict.header_changes.append(difference.name)
        else:
            verdict.problems.append(f"{difference.name} is {difference.other or 'absent'}, in the original {difference.original or 'absent'}")
    if verdict.problems:
        verdict.verdict = "mismatch"
    return verdict


def _held_to(budget: FileBudget, epsilon_real: float, epsilon_stored: float) -> FileBudget:
    """Give a budget of another size; the allowance is for the six digits that a file states it with."""
    return replace(budget, epsilon_real=epsilon_real * (1 + 1e-5), quantum_stored=epsilon_stored * (1 + 1e-9), steps=1)


def _compare_bytes(before: Inventory, after: Inventory, path: str) -> FileVerdict:
    """A file that cannot be protected may only be there as it was."""
    if file_digest(before.absolute(path)) == file_digest(after.absolute(path)):
        return FileVerdict(path=path, verdict="copied")
    return FileVerdict(path=path, verdict="mismatch", problems=["it cannot be protected, so it should be as it was, but its bytes differ"])


def _compare_copy(after: Inventory, path: str, first: FileVerdict) -> FileVerdict:
    """A copy of another original shares its verdict, if it is a copy of its protected file too."""
    if first.verdict != "absent" and file_digest(after.absolute(path)) == file_digest(after.absolute(first.path)):
        return replace(first, path=path)
    return FileVerdict(path=path, verdict="mismatch", problems=[f"the original is a copy of {first.path}, but the protected file is not"])
