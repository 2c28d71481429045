# SPDX-License-Identifier: Apache-2.0
"""Writing the protected files of a sample: each one is written aside, read back, measured against its budget, and only
then given its name.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.bounds import Change, broken_bound, describe_bound, limits_of, measure_changes, whole_change
from monai_salm.canvas import Canvas
from monai_salm.disk import remove_leftovers, within
from monai_salm.errors import DiskError, RefusedError, VerificationError
from monai_salm.io import SourceImage, atomic_target, read_back, read_source, write_like
from monai_salm.noise import NoiseStore, SparseNoise
from monai_salm.pipeline.as_planned import ChangedError
from monai_salm.pipeline.fates import FileFate
from monai_salm.pipeline.inventory import has_digest
from monai_salm.pipeline.plan import FilePlan
from monai_salm.pipeline.way_back import keep_image
from monai_salm.pipeline.write_settings import WriteSettings, read_settings


@dataclass(frozen=True)
class WriteJob:
    """One file to write.

    Args:
        sample_id: of the sample that it belongs to.
        file: its plan.
        slice_place: (number of the slice, number of slices) in a series; None if the file is the whole sample.
        target: path of the written file.
        settings: file of the settings that all jobs have in common; see
            :func:`~monai_salm.pipeline.write_settings.kept_settings`.
    """

    sample_id: str
    file: FilePlan
    slice_place: tuple[int, int] | None
    target: str
    settings: Path


def write_file(job: WriteJob) -> FileFate:
    """Write one file, in any process; one that cannot be written is refused or failed, and leaves nothing."""
    settings, known = read_settings(job.settings), _known(job)
    try:
        target = within(settings.output, job.target, itself=True)
    except RefusedError as refusal:
        return FileFate(**known, status="refused", reason=str(refusal))
    try:
        source = _read_as_planned(within(settings.root, job.file.path), job.file.sha256)
        return FileFate(**known, **_write(job, settings, source, target))
    except DiskError:  # it would meet every other file too
        raise
    except RefusedError as refusal:
        fate = FileFate(**known, status="refused", reason=str(refusal))
    except ChangedError as error:
        fate = FileFate(**known, status="failed", reason=str(error))
    except Exception as error:  # noqa: BLE001 (one bad file never stops the rest; what happened is in its manifest line)
        fate = FileFate(**known, status="failed", reason=f"{type(error).__name__}: {error}")
    with contextlib.suppress(OSError):
        target.unlink(missing_ok=True)  # what an earlier run wrote, and something else damaged
    return fate


def not_written(job: WriteJob, why: str) -> FileFate:
    """Give the fate of a file where no process came to the end of writing it; what was written is removed."""
    settings = read_settings(job.settings)
    with contextlib.suppress(OSError, RefusedError):
        target = within(settings.output, job.target, itself=True)
        remove_leftovers(target.parent, [target.name])
        target.unlink(missing_ok=True)
    return FileFate(**_known(job), status="failed", reason=why)


def _known(job: WriteJob) -> dict[str, Any]:
    """Give what the fate of a file says of it, whatever that is."""
    file, canvas = job.file, job.file.canvas
    return {
        "path": file.path, "sample_id": job.sample_id, "modality": canvas.modality,
        "epsilon_real": canvas.epsilon_real, "epsilon_stored": canvas.epsilon_stored, "sha256_in": file.sha256,
    }  # fmt: skip


@lru_cache(maxsize=1)
def _noise_of(folder: Path, sample_id: str, _stamp: object) -> SparseNoise:
    """Read the noise of a sample, once for the slices of a series that one process writes after each other."""
    return NoiseStore(folder).read(sample_id)


def _read_as_planned(place: Path, sha256: str) -> SourceImage:
    """Read an image whose very bytes are those that were planned.

    Raises:
        ChangedError: they are others; also instead of what reading those led to.
    """
    try:
        source = read_source(place, seen=sha256)
    except Exception as error:
        if not has_digest(place, sha256):
            raise ChangedError from error
        raise
    if source.sha256 != sha256:
        raise ChangedError
    return source


def _write(job: WriteJob, settings: WriteSettings, source: SourceImage, target: Path) -> dict[str, Any]:
    """Write one file and prove it; gives what its fate says of that."""
    canvas = job.file.canvas
    store = NoiseStore(settings.store)
    noise = _noise_of(store.folder, job.sample_id, store.stamp(job.sample_id))
    values, anatomy = canvas.protect(source.stored, noise, job.slice_place)
    if np.array_equal(values, source.stored, equal_nan=values.dtype.kind == "f"):
        raise RefusedError(
            "its noise is empty (no voxel of it matters to the surrogate, or none can carry noise), so it would stay "
            "unprotected; more --rounds may help"
        )
    with atomic_target(target, private=settings.private, synced=False) as temporary:  # Manifest.append waits
        words = describe_bound(canvas.epsilon_stored, canvas.epsilon_real)
        write_like(source, values, temporary, replace(settings.derivation, description=words))
        change, found = prove(source, values, temporary, canvas, anatomy)
        residual = ""
        if settings.way_back is not None:
            kept = keep_image(settings.way_back, source, found, job.file.path, job.target)
            residual = settings.way_back.name_of(kept)
    return {
        "status": "protected", "max_change_stored": change.max_stored, "changed_fraction": change.changed_fraction,
        "psnr": change.psnr, "sha256_out": found.sha256, "residual": residual, "reason": "; ".join(source.header.notes),
        "left_out": source.header.left_out, "unprotected": source.header.unprotected,
    }  # fmt: skip


def prove(
    source: SourceImage, intended: NDArray[Any], written: Path, canvas: Canvas, anatomy: NDArray[np.bool_]
) -> tuple[Change, SourceImage]:
    """Read a written file back and hold it against its budgets; gives what changed, and what was read.

    Raises:
        VerificationError: the file is not what was meant, or breaks a bound; the message has the figure and the limit.
    """
    found = read_back(source, written)
    if not np.array_equal(found.stored, intended, equal_nan=intended.dtype.kind == "f"):
        raise VerificationError("the written values, read back, are not those that were meant")
    changes = measure_changes(source.stored, found.stored, canvas, anatomy)
    problem = broken_bound(changes, limits_of(canvas.budgets))
    if problem:
        raise VerificationError(problem)
    return whole_change(changes), found


def copy_file(source_root: Path, source: str, target_root: Path, target: str, *, private: bool = False) -> None:
    """Copy a file byte for byte, from below one folder to below another.

    Raises:
        RefusedError: one of the paths leads out of its folder, or the disk takes none of this name.
    """
    place = within(source_root, source)
    place_to = within(target_root, target, itself=True)
    with atomic_target(place_to, private=private, synced=False) as temporary:  # Manifest.rewrite waits
        shutil.copyfile(place, temporary)
