# SPDX-License-Identifier: Apache-2.0
"""Writing the protected files of a sample: each one is written aside, read back, measured against its budget, and only then given its name."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.budget import FileBudget
from monai_salm.canvas import Canvas
from monai_salm.errors import DiskError, RefusedError, VerificationError
from monai_salm.io import Derivation, SourceImage, atomic_target, read_back, read_source, write_like
from monai_salm.noise import NoiseStore
from monai_salm.pipeline.inventory import file_digest
from monai_salm.pipeline.manifest import FileFate
from monai_salm.pipeline.plan import FilePlan, SamplePlan
from monai_salm.pipeline.working import protected_values

_ALLOWANCE = 1 + 1e-9
"""For the float product of stored steps and slope; the check in stored steps is exact."""


@dataclass(frozen=True)
class WriteSettings:
    """What the writing of all samples has in common; a worker process gets it once.

    Args:
        root, output: folders of the input and of the output.
        store: folder of the noise.
        derivation: what the files are to say, but for the description.
        private: whether the output is for the owner alone, as the files are that are packed into a zip afterwards.
    """

    root: Path
    output: Path
    store: Path
    derivation: Derivation
    private: bool = False


@dataclass(frozen=True)
class WriteJob:
    """One sample to write.

    Args:
        sample: its plan.
        targets: paths of the written files where they differ from the sources'.
    """

    sample: SamplePlan
    targets: Mapping[str, str]


@dataclass(frozen=True)
class Change:
    """What two versions of one picture's stored values differ by.

    Args:
        max_stored: largest change, stored units.
        max_real: the same, real units.
        changed: places of the anatomy that changed.
        anatomy: places of the anatomy.
        outside: values that changed outside the anatomy.
        mean_square: mean squared change of all values, in model values.
        values: how many values the picture has.
    """

    max_stored: float
    max_real: float
    changed: int
    anatomy: int
    outside: int
    mean_square: float
    values: int

    @property
    def changed_fraction(self) -> float:
        """Share of the anatomy's places that changed."""
        return self.changed / max(1, self.anatomy)

    @property
    def psnr(self) -> float:
        """In model values, dB; infinite if nothing changed."""
        return -10 * math.log10(self.mean_square) if self.mean_square > 0 else math.inf


def measure_changes(before: NDArray[Any], after: NDArray[Any], canvas: Canvas, anatomy: NDArray[np.bool_]) -> list[Change]:
    """Measure the change of each picture of a file; NaN that stays NaN is no change.

    Args:
        before, after: stored values of the same shape.
        canvas: gives slopes and windows.
        anatomy: bool, on the grid.
    """
    pairs = zip(canvas.pictures(before), canvas.pictures(after), canvas.pictures(anatomy), strict=True)
    return [_measure_change(old, new, budget, inside) for (old, budget), (new, _), (inside, _) in pairs]


def whole_change(changes: Sequence[Change]) -> Change:
    """Give the change of a file from those of its pictures."""
    values = sum(change.values for change in changes)
    return Change(
        max_stored=max(change.max_stored for change in changes),
        max_real=max(change.max_real for change in changes),
        changed=sum(change.changed for change in changes),
        anatomy=sum(change.anatomy for change in changes),
        outside=sum(change.outside for change in changes),
        mean_square=sum(change.mean_square * change.values for change in changes) / max(1, values),
        values=values,
    )


def _measure_change(before: NDArray[Any], after: NDArray[Any], budget: FileBudget, anatomy: NDArray[np.bool_]) -> Change:
    same = before == after
    if before.dtype.kind == "f":
        same |= np.isnan(before) & np.isnan(after)
    with np.errstate(invalid="ignore"):  # an infinity that stays is no change
        difference = np.where(same, 0.0, after.astype(np.float64) - before.astype(np.float64))
    places = (~same).any(axis=tuple(range(anatomy.ndim, same.ndim)))
    largest = float(np.abs(difference).max(initial=0.0))
    return Change(
        max_stored=largest,
        max_real=largest * abs(budget.slope),
        changed=int((places & anatomy).sum()),
        anatomy=int(anatomy.sum()),
        outside=int((places & ~anatomy).sum()),
        mean_square=float(np.mean((difference * budget.slope / budget.window.width) ** 2)),
        values=before.size,
    )


def describe_bound(canvas: Canvas) -> str:
    """Give the sentence that a protected file carries, with the bound that ``verify`` reads back."""
    return f"bounded additive noise, at most {canvas.epsilon_stored:.12g} stored units ({canvas.epsilon_real:.6g} real units); not for diagnosis"


def write_sample(job: WriteJob, settings: WriteSettings) -> list[FileFate]:
    """Write all files of a sample; a file that cannot be written is refused or failed, and the others go on."""
    return [_write_file(job, settings, number, file) for number, file in enumerate(job.sample.files)]


def _write_file(job: WriteJob, settings: WriteSettings, number: int, file: FilePlan) -> FileFate:
    canvas = file.canvas
    target = settings.output / job.targets.get(file.path, file.path)
    known: dict[str, Any] = {
        "path": file.path, "sample_id": job.sample.sample_id, "modality": canvas.modality,
        "epsilon_real": canvas.epsilon_real, "epsilon_stored": canvas.epsilon_stored, "sha256_in": file.sha256,
    }  # fmt: skip
    try:
        source = read_source(settings.root / file.path)
        noise = NoiseStore(settings.store).read(job.sample.sample_id)
        place = (number, len(job.sample.files)) if len(job.sample.files) > 1 else None
        values, anatomy = protected_values(source, canvas, noise, place)
        if np.array_equal(values, source.stored, equal_nan=values.dtype.kind == "f"):
            raise RefusedError("its noise is empty (no voxel of it matters to the surrogate, or none can carry noise), so it would stay unprotected")
        with atomic_target(target, private=settings.private) as temporary:
            write_like(source, values, temporary, replace(settings.derivation, description=describe_bound(canvas)))
            change = prove(source, values, temporary, canvas, anatomy)
        return FileFate(
            **known, status="protected", max_change_stored=change.max_stored, changed_fraction=change.changed_fraction,
            psnr=change.psnr, sha256_out=file_digest(target), reason="; ".join(source.header.notes), left_out=source.header.left_out,
        )  # fmt: skip
    except DiskError:  # it would meet every other file too
        raise
    except RefusedError as refusal:
        fate = FileFate(**known, status="refused", reason=str(refusal))
    except Exception as error:  # noqa: BLE001 (one bad file never stops the rest; what happened is in its manifest line)
        fate = FileFate(**known, status="failed", reason=f"{type(error).__name__}: {error}")
    with contextlib.suppress(OSError):
        target.unlink(missing_ok=True)  # what an earlier run wrote, and something else damaged
    return fate


def prove(source: SourceImage, intended: NDArray[Any], written: Path, canvas: Canvas, anatomy: NDArray[np.bool_]) -> Change:
    """Read a written file back and hold it against its budgets.

    Raises:
        VerificationError: the file is not what was meant, or breaks a bound; the message has the figure and the limit.
    """
    found = read_back(source, written)
    if not np.array_equal(found.stored, intended, equal_nan=intended.dtype.kind == "f"):
        raise VerificationError("the written values, read back, are not those that were meant")
    changes = measure_changes(source.stored, found.stored, canvas, anatomy)
    problem = broken_bound(changes, canvas)
    if problem:
        raise VerificationError(problem)
    return whole_change(changes)


def broken_bound(changes: Sequence[Change], canvas: Canvas) -> str:
    """Say which bound the pictures of a file break first, with the figure and the limit; empty if none."""
    for number, change in enumerate(changes):
        problem = _broken_bound(change, canvas.budgets[number if len(canvas.budgets) > 1 else 0])
        if problem:
            return problem if len(changes) == 1 else f"picture {number + 1}: {problem}"
    return ""


def _broken_bound(change: Change, budget: FileBudget) -> str:
    if change.max_stored > budget.epsilon_stored:
        return f"the largest change is {change.max_stored:g} stored units, the limit {budget.epsilon_stored:g}"
    if change.max_real > budget.epsilon_real * _ALLOWANCE:
        return f"the largest change is {change.max_real:g} real units, the limit {budget.epsilon_real:g}"
    if change.outside:
        return f"{change.outside} voxels changed outside the anatomy, the limit is none"
    lowest = -20 * math.log10(budget.epsilon_real / budget.window.width)
    if change.psnr < lowest - 1e-6:
        return f"PSNR is {change.psnr:.2f} dB, the limit {lowest:.2f} dB"
    return ""


def copy_file(source_root: Path, source: str, target_root: Path, target: str, *, private: bool = False) -> None:
    """Copy a file byte for byte."""
    with atomic_target(target_root / target, private=private) as temporary:
        shutil.copyfile(source_root / source, temporary)
