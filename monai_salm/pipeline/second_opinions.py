# SPDX-License-Identifier: Apache-2.0
"""What other readers, SimpleITK and dcmtk, find in a pair of files, where they are installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_salm.io import SourceImage, dcmtk_finds_within, read_with_simpleitk
from monai_salm.pipeline.verdicts import FileVerdict

SECOND_READER = "SimpleITK"


def add_opinions(verdict: FileVerdict, source: SourceImage, places: tuple[Path, Path]) -> None:
    """Add to a verdict who else read both files, and what they find otherwise.

    Args:
        verdict: on the pair; the largest change that was found is in it.
        source: the original.
        places: of the original and of the protected file.
    """
    _opinion_of_simpleitk(verdict, source, places)
    _opinion_of_dcmtk(verdict, source, places)


def _opinion_of_simpleitk(verdict: FileVerdict, source: SourceImage, places: tuple[Path, Path]) -> None:
    """Let SimpleITK read both files, and see whether it finds a larger change, or none."""
    if source.frame_rescale or verdict.max_change_real is None:
        return  # SimpleITK rescales all frames as the first
    rows_first = source.header.format in ("dicom", "raster")
    first, second = (read_with_simpleitk(place, rows_first=rows_first) for place in places)
    if first is None or second is None or not _agree(first, source):
        return  # who misreads the original is no judge
    verdict.second_reader = SECOND_READER
    if first.shape != second.shape:
        verdict.problems.append(f"{SECOND_READER} reads shape {second.shape}, of the original {first.shape}")
        return
    with np.errstate(invalid="ignore"):
        largest = float(np.nanmax(np.abs(second - first), initial=0.0))
    verdict.second_max_change_real = largest
    # Luminance is converted to colors, each decoder has its own way with lossy frames, and 32-bit floats round.
    converted = first.shape != source.stored.shape or source.header.output_transfer_syntax
    allowance = (abs(source.slope) if converted else 0.0) + 1e-6 * float(np.nanmax(np.abs(first), initial=0.0))
    if largest > verdict.max_change_real * (1 + 1e-6) + allowance:
        verdict.problems.append(
            f"{SECOND_READER} finds a change of {largest:g} real units, this package one of {verdict.max_change_real:g}"
        )
    elif largest == 0 and verdict.max_change_real > 0:
        verdict.problems.append(f"{SECOND_READER} finds no change: a reader of its kind sees the unprotected image")


def _opinion_of_dcmtk(verdict: FileVerdict, source: SourceImage, places: tuple[Path, Path]) -> None:
    """Let dcmtk compare the stored values of two DICOM files."""
    if source.header.format != "dicom" or verdict.max_change_stored is None:
        return
    within = dcmtk_finds_within(*places, int(verdict.max_change_stored))
    if within is not None:
        verdict.second_reader = f"{verdict.second_reader}, dcmtk" if verdict.second_reader else "dcmtk"
    if within is False:
        verdict.problems.append(
            f"dcmtk finds a change of more than {verdict.max_change_stored:g} stored units, which this "
            "package finds at most"
        )


def _agree(second: NDArray[np.float64], source: SourceImage) -> bool:
    """Say whether another reader sees the values of a file as we do, perhaps inverted (MONOCHROME1); of other axes that
    cannot be said.
    """
    real = source.real
    if second.shape != real.shape:
        return True
    allowance = 1e-6 * float(np.nanmax(np.abs(real), initial=0.0)) + (
        abs(source.slope) if source.header.output_transfer_syntax else 0.0
    )
    total = second + real
    with np.errstate(invalid="ignore"):
        return bool(
            np.nanmax(np.abs(second - real), initial=0.0) <= allowance
            or np.nanmax(total) - np.nanmin(total) <= allowance
        )
