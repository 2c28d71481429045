# SPDX-License-Identifier: Apache-2.0
"""Writing the protected files of a sample: each one is written aside, read back, measured against its budget, and only then given its name."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.budget import FileBudget
from monai_salm.errors import RefusedError, VerificationError
from monai_salm.io import Derivation, SourceImage, atomic_target, read_source, write_like
from monai_salm.noise import NoiseStore
from monai_salm.pipeline.inventory import file_digest
from monai_salm.pipeline.manifest import FileFate
from monai_salm.pipeline.plan import FilePlan, SamplePlan
from monai_salm.pipeline.working import protected_values

_ALLOWANCE = 1 + 1e-9
"""For the float product of stored steps and slope; the check in stored steps is exact."""


@dataclass(frozen=True)
class WriteJob:
    """Everything that a worker process needs to write the files of one sample."""

    sample: SamplePlan
    root: Path
    output: Path
    store: Path
    software: str
    version: str
    uid_secret: bytes
    changed_uids: frozenset[str]


@dataclass(frozen=True)
class Change:
    """What two versions of a file's stored values differ by.

    Args:
        max_stored: largest change, stored units.
        max_real: the same, real units.
        changed_fraction: share of the anatomy's voxels that changed.
        outside: voxels that changed outside the anatomy.
        psnr: in model values, dB; infinite if nothing changed.
    """

    max_stored: float
    max_real: float
    changed_fraction: float
    outside: int
    psnr: float


def measure_change(before: NDArray[Any], after: NDArray[Any], budget: FileBudget, anatomy: NDArray[np.bool_]) -> Change:
    """Measure the change of one file's stored values; NaN that stays NaN is no change.

    Args:
        before, after: stored values of the same shape.
        budget: gives slope and window.
        anatomy: bool, same shape.
    """
    same = before == after
    if before.dtype.kind == "f":
        same |= np.isnan(before) & np.isnan(after)
    difference = np.where(same, 0.0, after.astype(np.float64) - before.astype(np.float64))
    changed = ~same
    largest = float(np.abs(difference).max(initial=0.0))
    mean_square = float(np.mean((difference * budget.slope / budget.window.width) ** 2))
    return Change(
        max_stored=largest,
        max_real=largest * abs(budget.slope),
        changed_fraction=float((changed & anatomy).sum() / max(1, int(anatomy.sum()))),
        outside=int((changed & ~anatomy).sum()),
        psnr=-10 * math.log10(mean_square) if mean_square > 0 else math.inf,
    )


def describe_bound(budget: FileBudget) -> str:
    """Give the sentence that a protected file carries, with the bound that ``verify`` reads back."""
    return f"bounded additive noise, at most {budget.epsilon_stored:.12g} stored units ({budget.epsilon_real:.6g} real units); not for diagnosis"


def write_sample(job: WriteJob) -> list[FileFate]:
    """Write all files of a sample; a file that cannot be written is refused or failed, and the others go on."""
    return [_write_file(job, number, file) for number, file in enumerate(job.sample.files)]


def _write_file(job: WriteJob, number: int, file: FilePlan) -> FileFate:
    budget = file.budget
    known: dict[str, Any] = {
        "path": file.path, "sample_id": job.sample.sample_id, "modality": budget.modality,
        "epsilon_real": budget.epsilon_real, "epsilon_stored": budget.epsilon_stored, "sha256_in": file.sha256,
    }  # fmt: skip
    try:
        source = read_source(job.root / file.path)
        noise = NoiseStore(job.store).read(job.sample.sample_id)
        place = (number, len(job.sample.files)) if len(job.sample.files) > 1 else None
        values, anatomy = protected_values(source, budget, file.spacing, noise, place)
        if np.array_equal(values, source.stored, equal_nan=values.dtype.kind == "f"):
            raise RefusedError("its noise is empty (no voxel of it matters to the surrogate, or none can carry noise), so it would stay unprotected")
        derivation = Derivation(
            software=job.software, version=job.version, description=describe_bound(budget), uid_secret=job.uid_secret, changed_uids=job.changed_uids
        )  # fmt: skip
        with atomic_target(job.output / file.path) as temporary:
            write_like(source, values, temporary, derivation)
            change = prove(source, values, temporary, budget, anatomy)
        return FileFate(
            **known, status="protected", max_change_stored=change.max_stored, changed_fraction=change.changed_fraction,
            psnr=change.psnr, sha256_out=file_digest(job.output / file.path),
        )  # fmt: skip
    except RefusedError as refusal:
        fate = FileFate(**known, status="refused", reason=str(refusal))
    except Exception as error:  # noqa: BLE001 (one bad file never stops the rest; what happened is in its manifest line)
        fate = FileFate(**known, status="failed", reason=f"{type(error).__name__}: {error}")
    with contextlib.suppress(OSError):
        (job.output / file.path).unlink(missing_ok=True)  # what an earlier run wrote, and something else damaged
    return fate


def prove(source: SourceImage, intended: NDArray[Any], written: Path, budget: FileBudget, anatomy: NDArray[np.bool_]) -> Change:
    """Read a written file back and hold it against its budget.

    Raises:
        VerificationError: the file is not what was meant, or breaks a bound; the message has the figure and the limit.
    """
    found = read_source(written)
    if not np.array_equal(found.stored, intended, equal_nan=intended.dtype.kind == "f"):
        raise VerificationError("the written values, read back, are not those that were meant")
    change = measure_change(source.stored, found.stored, budget, anatomy)
    problem = broken_bound(change, budget)
    if problem:
        raise VerificationError(problem)
    return change


def broken_bound(change: Change, budget: FileBudget) -> str:
    """Say which bound a change breaks, with the figure and the limit; empty if none."""
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


def copy_file(source_root: Path, source: str, target_root: Path, target: str) -> None:
    """Copy a file byte for byte."""
    with atomic_target(target_root / target) as temporary:
        shutil.copyfile(source_root / source, temporary)


def identifiers_of(pictures: Mapping[str, Any], samples: list[SamplePlan]) -> frozenset[str]:
    """Give the SOP and Series Instance UIDs of all files that will be changed, which every reference has to follow."""
    headers = [pictures[file.path] for sample in samples for file in sample.files]
    return frozenset(uid for header in headers for key in ("SOPInstanceUID", "SeriesInstanceUID") if (uid := header.identifiers.get(key)))
