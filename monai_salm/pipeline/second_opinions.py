# SPDX-License-Identifier: Apache-2.0
"""What other readers, SimpleITK and dcmtk, find in a pair of files, where they are installed; they read while we
measure, except for what is large, of which too much would be in memory at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from monai_salm.io import SourceImage, dcmtk_finds_within, kept_bytes, read_with_simpleitk
from monai_salm.io.origins import Buffer
from monai_salm.pipeline.verdicts import FileVerdict

SECOND_READER = "SimpleITK"

AT_ONCE_BYTES = 1 << 24
"""Stored values of a file that the others read while we measure; of a larger one they read when that is done."""

_SLAB_VALUES = 1 << 21
"""Values that are looked at as floats at a time."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class _Files:
    """An original and its protected file.

    Args:
        places: of both.
        contents: the bytes of both; None where they are to be read again.
        small: whether their bytes may be held.
    """

    places: tuple[Path, Path]
    contents: tuple[Buffer | None, Buffer | None] = (None, None)
    small: bool = False

    @classmethod
    def of(cls, source: SourceImage, found: SourceImage, *, held: bool) -> _Files:
        """Name the files of two images, with their bytes where these are to be held until the others have read them."""
        places = source.header.path, found.header.path
        return cls(places, (kept_bytes(source), kept_bytes(found)), small=True) if held else cls(places)

    def content(self, number: int) -> Buffer | None:
        """Give the bytes for SimpleITK, which reads a compressed NIfTI file several times over: it is read once more.

        Raises:
            OSError: the file cannot be read.
        """
        place = self.places[number]
        if self.contents[number] is None and self.small and place.name.lower().endswith(".nii.gz"):
            return place.read_bytes()
        return self.contents[number]


class SecondOpinions:
    """Who else is asked of the files of a volume, one pair after the other; ends with the block."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2)  # they wait for SimpleITK and for dcmtk, which are processes of their own

    def __enter__(self) -> SecondOpinions:
        """Begin; a thread starts where it is needed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the answers that nobody took."""
        self._threads.shutdown(cancel_futures=True)

    @staticmethod
    def at_once(source: SourceImage) -> bool:
        """Say whether a file is so small that others can read it while we go on."""
        return source.stored.nbytes <= AT_ONCE_BYTES

    def on(self, verdict: FileVerdict, source: SourceImage, found: SourceImage) -> Callable[[], None]:
        """Ask who else reads a pair of files; of small ones they get the very bytes that were read here.

        Args:
            verdict: on the pair; the largest change that was found is in it.
            source, found: the original and the protected file.

        Returns:
            Waits for the answers, and adds to the verdict who read both files, and what they find otherwise.
        """
        ask = self._now if self.at_once(source) else _later
        pair = _Files.of(source, found, held=self.at_once(source))
        simpleitk, dcmtk = ask(_read_both, verdict, source, pair), ask(_within, verdict, source, pair)

        def add() -> None:
            _add_opinion_of_simpleitk(verdict, source, simpleitk())
            _add_opinion_of_dcmtk(verdict, dcmtk())

        return add

    def _now(self, function: Callable[..., _Answer], *arguments: object) -> Callable[[], _Answer]:
        return self._threads.submit(function, *arguments).result


def _later(function: Callable[..., _Answer], *arguments: object) -> Callable[[], _Answer]:
    return partial(function, *arguments)


def _read_both(verdict: FileVerdict, source: SourceImage, files: _Files) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Let SimpleITK read both files; None where it is no judge, for who misreads the original is none."""
    if source.frame_rescale or verdict.max_change_real is None:
        return None  # SimpleITK rescales all frames as the first
    rows_first = source.header.format in ("dicom", "raster")
    try:
        first = read_with_simpleitk(files.places[0], rows_first=rows_first, content=files.content(0))
        if first is None or not _agree(first, source):
            return None
        second = read_with_simpleitk(files.places[1], rows_first=rows_first, content=files.content(1))
    except (OSError, MemoryError):
        return None
    return None if second is None else (first, second)


def _within(verdict: FileVerdict, source: SourceImage, files: _Files) -> bool | None:
    """Let dcmtk compare the stored values of two DICOM files; None where it cannot."""
    if source.header.format != "dicom" or verdict.max_change_stored is None:
        return None
    try:
        return dcmtk_finds_within(*files.places, int(verdict.max_change_stored), files.contents)
    except OSError:
        return None


def _add_opinion_of_simpleitk(
    verdict: FileVerdict, source: SourceImage, found: tuple[NDArray[Any], NDArray[Any]] | None
) -> None:
    """Say whether SimpleITK finds a larger change, or none."""
    if found is None or verdict.max_change_real is None:
        return
    first, second = found
    verdict.second_reader = SECOND_READER
    if first.shape != second.shape:
        verdict.problems.append(f"{SECOND_READER} reads shape {second.shape}, of the original {first.shape}")
        return
    with np.errstate(invalid="ignore"):
        largest = max(_most(after - before) for before, after in _slabs(first, second))
        most = _most(first) if first.dtype.kind in "iu" else max(_most(values) for (values,) in _slabs(first))
    verdict.second_max_change_real = largest
    # Luminance is converted to colors, each decoder has its own way with lossy frames, and 32-bit floats round.
    converted = first.shape != source.stored.shape or source.header.output_transfer_syntax
    allowance = (abs(source.slope) if converted else 0.0) + 1e-6 * most
    if largest > verdict.max_change_real * (1 + 1e-6) + allowance:
        verdict.problems.append(
            f"{SECOND_READER} finds a change of {largest:g} real units, this package one of {verdict.max_change_real:g}"
        )
    elif largest == 0 and verdict.max_change_real > 0:
        verdict.problems.append(f"{SECOND_READER} finds no change: a reader of its kind sees the unprotected image")


def _add_opinion_of_dcmtk(verdict: FileVerdict, within: bool | None) -> None:
    if within is not None:
        verdict.second_reader = f"{verdict.second_reader}, dcmtk" if verdict.second_reader else "dcmtk"
    if within is False:
        verdict.problems.append(
            f"dcmtk finds a change of more than {verdict.max_change_stored:g} stored units, which this "
            "package finds at most"
        )


def _agree(second: NDArray[Any], source: SourceImage) -> bool:
    """Say whether another reader sees the values of a file as we do, perhaps inverted (MONOCHROME1); of other axes that
    cannot be said.
    """
    if second.shape != source.stored.shape or _same(second, source):
        return True
    most = apart = 0.0
    low, high = np.inf, -np.inf
    with np.errstate(invalid="ignore", over="ignore"):  # infinities, and signaling NaN, are no error of ours
        for stored, values in _slabs(source.stored, second):
            real = stored * source.slope + source.intercept
            most, apart = max(most, _most(real)), max(apart, _most(values - real))
            total = values + real
            low, high = np.fmin.reduce(total, axis=None, initial=low), np.fmax.reduce(total, axis=None, initial=high)
    allowance = 1e-6 * most + (abs(source.slope) if source.header.output_transfer_syntax else 0.0)
    return bool(apart <= allowance or high - low <= allowance)


def _same(second: NDArray[Any], source: SourceImage) -> bool:
    """Say whether another reader sees the very values of a file."""
    if second.dtype.kind not in "iu" or source.stored.dtype.kind not in "iu":
        return False  # floats round, so they are mostly next to each other
    pairs = _slabs(source.stored, second)
    return all(np.array_equal(stored * source.slope + source.intercept, values) for stored, values in pairs)


def _most(values: NDArray[Any]) -> float:
    """Give the largest distance from zero; 0 where there is no number."""
    if values.dtype.kind in "iu":
        return float(max(int(values.max(initial=0)), -int(values.min(initial=0))))
    return float(np.fmax.reduce(np.abs(values), axis=None, initial=0.0))


def _slabs(*arrays: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Give arrays of one shape in parts along the axis whose steps are the longest in memory, as numbers that
    can be subtracted: floats, or 32-bit integers where all are smaller ones.
    """
    first = arrays[0]
    small = all(values.dtype.kind in "iu" and values.dtype.itemsize <= 2 for values in arrays)
    numbers = np.int32 if small else np.float64
    if first.ndim == 0 or first.size <= _SLAB_VALUES:
        yield tuple(values.astype(numbers) for values in arrays)
        return
    axis = int(np.argmax(np.abs(first.strides)))
    moved = [np.moveaxis(values, axis, 0) for values in arrays]
    step = max(1, _SLAB_VALUES * len(moved[0]) // first.size)
    for start in range(0, len(moved[0]), step):
        yield tuple(values[start : start + step].astype(numbers) for values in moved)
