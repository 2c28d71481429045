# SPDX-License-Identifier: Apache-2.0
"""How far the means of regions moved: what who measures densities or uptake in protected images gets wrong.

A region is a disc in the plane of an image, as readers draw them, around any voxel of the anatomy, if all of it lies
inside the image. Its voxels are those whose centers are within half of the diameter. Integers are added up row by row
of a disc from running sums, exactly. Floats, and discs of so many rows that this is slow (2000 x 2000 pixels of
0.15 mm), are averaged by products of Fourier transforms, to which the diameter does not matter. Planes are looked at
one after the other, and of their shifts a histogram is kept, so that a volume takes no more memory than its planes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import scipy  # its fft is loaded where it is first used
from numpy.typing import NDArray

from monai_salm.views import FileView, PictureView

DIAMETERS = (5.0, 10.0, 20.0)
"""Of the regions: a vessel, a lesion, an organ."""

_BINS = 4096
"""Of the histogram from no shift to the largest change of a voxel, which no mean can exceed."""

_ROUNDING = 1e-9
"""Share of the largest change below which a shift is the rounding of the transforms."""

_MOST_ROWS = 80
"""Of a disc; with more of them transforms are faster than running sums."""

_BLOCK_BYTES = 1 << 17
"""Sums that are made at once, in the cache of the processor."""

_SMALL_PLANE = 1 << 18
"""Pixels of a plane whose discs are kept for the next file."""


@dataclass(frozen=True, slots=True)
class MeanShift:
    """How far the means of all regions of one size moved, up or down.

    Args:
        diameter: of the regions, in ``unit``.
        unit: ``mm``, or ``pixels`` where the file does not say how far its pixels are apart.
        regions: how many there are; 0 where none fits into the image.
        largest_real: the largest shift, real units; None without regions.
        p99_real: the shift that 99 % of the regions stay within, likewise, to a 4096th of the largest change of a
            voxel.
    """

    diameter: float
    unit: Literal["mm", "pixels"]
    regions: int
    largest_real: float | None
    p99_real: float | None


class _Discs:
    """All discs of one size in planes of one shape.

    Args:
        diameter: in the unit of ``spacing``.
        spacing: between rows and columns.
        shape: of the planes.
    """

    def __init__(self, diameter: float, spacing: tuple[float, float], shape: tuple[int, int]) -> None:
        radius = diameter / 2 * (1 + 1e-9)
        self._reach = reach = tuple(int(min(radius / step, 1e9)) for step in spacing)
        self.fits = all(2 * most < length for most, length in zip(reach, shape, strict=True))
        self.centers = tuple(slice(most, length - most) for most, length in zip(reach, shape, strict=True))
        self._ends = tuple(slice(2 * most, length) for most, length in zip(reach, shape, strict=True))
        self._shape = shape
        self._transform: NDArray[np.complex128] | None = None
        self._disc = np.zeros((0, 0), dtype=bool)
        if self.fits:  # else a disc may be larger than memory: 20 mm of a microscope's image
            rows, columns = (np.arange(-most, most + 1) * step for most, step in zip(reach, spacing, strict=True))
            self._disc = rows[:, None] ** 2 + columns[None] ** 2 <= radius**2
        self.size = int(self._disc.sum())
        self.is_low = 0 < len(self._disc) <= _MOST_ROWS
        # Rows of a disc that are equally wide are added up before they are cut out.
        self._rows: dict[int, list[int]] = {}
        for row, width in enumerate(self._disc.sum(axis=1).tolist() if self.is_low else ()):
            self._rows.setdefault(width // 2, []).append(row)

    def means(self, transform: NDArray[np.complex128]) -> NDArray[np.float64]:
        """Give the means around all centers of a plane with this transform."""
        padded = _fast(self._shape)
        if self._transform is None:
            self._transform = scipy.fft.rfft2(self._disc / self.size, padded)
        values: NDArray[np.float64] = scipy.fft.irfft2(transform * self._transform, padded)
        return values[self._ends]  # before that a disc reaches over the edge, to the other side

    def around(self, box: tuple[slice, slice]) -> tuple[slice, slice]:
        """Give the rows and the columns of the centers, numbered from the first one, whose discs may reach into a box
        of pixels.
        """
        rows, columns = (
            slice(max(0, part.start - 2 * most), min(part.stop, length - 2 * most))
            for part, most, length in zip(box, self._reach, self._shape, strict=True)
        )
        return rows, columns

    def sums(self, running: NDArray[Any], centers: tuple[slice, slice]) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Give the sums around the centers of some rows at a time, with the place of these rows among those asked for.

        Args:
            running: sums along the rows of a plane from its edge to before each column, and of all of the row; they may
                overflow as long as the sums of discs do not.
            centers: rows and columns, numbered as those of :meth:`around`.
        """
        rows, columns = (part.stop - part.start for part in centers)
        running = running[centers[0].start :, centers[1].start :]
        step = max(1, _BLOCK_BYTES // (running.itemsize * columns))
        for start in range(0, rows, step):
            size = min(step, rows - start)
            total = np.zeros((size, columns), running.dtype)
            for half, offsets in self._rows.items():
                across = slice(self._reach[1] - half, self._reach[1] + half + 1 + columns)
                parts = [running[start + row : start + row + size, across] for row in offsets]
                line = parts[0] if len(parts) == 1 else parts[0] + parts[1]
                for part in parts[2:]:
                    line += part
                total += line[:, 2 * half + 1 :]
                total -= line[:, :columns]
            yield slice(start, start + size), total


class _Tally:
    """The shifts of one size of region, over all planes of a file."""

    def __init__(self, largest_real: float) -> None:
        self._bin = largest_real / _BINS
        self._counts = np.zeros(_BINS + 1, dtype=np.int64)
        self._largest = 0.0
        self.regions = 0

    def add(self, shifts: NDArray[np.float64]) -> None:
        """Count the shifts of some regions, real units without a sign."""
        self.regions += shifts.size
        if not shifts.size:
            return
        self._largest = max(self._largest, float(shifts.max()))
        self._counts += np.bincount(self._bins(shifts), minlength=_BINS + 1)

    def add_counted(self, shifts: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
        """Count regions of which so many have each of some shifts, real units without a sign."""
        self.regions += int(counts.sum())
        there = counts > 0
        if not there.any():
            return
        shifts, counts = shifts[there], counts[there]
        self._largest = max(self._largest, float(shifts.max()))
        np.add.at(self._counts, self._bins(shifts), counts)

    def _bins(self, shifts: NDArray[np.float64]) -> NDArray[np.int64]:
        """Give the bins of shifts; a bin holds what is at most its number times its width."""
        bins = np.ceil(np.minimum(shifts / self._bin, _BINS) - _BINS * _ROUNDING).astype(np.int64)
        return np.maximum(bins, 0)

    def add_still(self, regions: int) -> None:
        """Count regions in which nothing changed."""
        self.regions += regions
        self._counts[0] += regions

    def figures(self) -> tuple[float | None, float | None]:
        """Give the largest shift, and what 99 % stay within."""
        if not self.regions:
            return None, None
        place = int(np.searchsorted(self._counts.cumsum(), 0.99 * self.regions))
        largest = 0.0 if self._largest <= self._bin * _BINS * _ROUNDING else self._largest
        return _digits(largest), _digits(min(largest, place * self._bin))


def mean_shifts(
    before: NDArray[Any],
    after: NDArray[Any],
    view: FileView,
    anatomy: NDArray[np.bool_],
    *,
    largest_real: float,
    spacing_known: bool,
) -> list[MeanShift]:
    """Measure how far the means of the regions of a file moved, for each of :data:`DIAMETERS`.

    Args:
        before, after: stored values of the same shape.
        view: gives slopes and spacing.
        anatomy: bool, on the grid.
        largest_real: largest change of a value, real units.
        spacing_known: whether the file gives the spacing of the view; else diameters are pixels.

    Returns:
        One for each diameter; none where a value became no finite one, so that there is no mean.
    """
    if not np.isfinite(largest_real):
        return []
    unit: Literal["mm", "pixels"] = "mm" if spacing_known else "pixels"
    tallies = [_Tally(largest_real) for _ in DIAMETERS]
    sizes: list[_Discs] = []
    for change, inside in _planes(before, after, view, anatomy):
        if not sizes:
            steps = view.plane_spacing(anatomy.ndim) if spacing_known else (1.0, 1.0)
            sizes = [_discs(diameter, steps, inside.shape) for diameter in DIAMETERS]
        moved = change if inside.any() and change.is_any() else None
        for discs, tally in zip(sizes, tallies, strict=True):
            if not discs.fits:
                continue
            centers = inside[discs.centers]
            if moved is None:
                tally.add_still(int(np.count_nonzero(centers)))
            else:
                moved.tell(tally, discs, centers)
    return [
        MeanShift(diameter, unit, tally.regions, *tally.figures())
        for diameter, tally in zip(DIAMETERS, tallies, strict=True)
    ]


class _Moved:
    """How a plane changed.

    Args:
        values: the change, in integers or floats.
        scale: what their unit is in real units.
    """

    def __init__(self, values: NDArray[Any], scale: float) -> None:
        self.values, self._scale = values, scale

    def is_any(self) -> bool:
        """Say whether anything changed."""
        return self._scale > 0 and bool(self.values.any())

    def tell(self, tally: _Tally, discs: _Discs, centers: NDArray[np.bool_]) -> None:
        """Count the shifts of the discs around some centers."""
        if self.values.dtype.kind == "f" or not discs.is_low:
            tally.add(np.abs(discs.means(self._transform)[centers]) * self._scale)
            return
        most = self._largest * discs.size
        near = discs.around(self._box)
        everywhere, centers = int(np.count_nonzero(centers)), centers[near]
        tally.add_still(everywhere - int(np.count_nonzero(centers)))
        if most > _INT16:
            for rows, sums in discs.sums(self._running(np.dtype(np.int64 if most > _INT32 else np.int32)), near):
                tally.add(np.abs(sums[centers[rows]]) * (self._scale / discs.size))
            return
        counts = np.zeros(most + 1, dtype=np.int64)
        for rows, sums in discs.sums(self._running(np.dtype(np.int16)), near):
            np.abs(sums, out=sums)
            sums *= centers[rows]
            counts += np.bincount(sums.reshape(-1), minlength=most + 1)
        counts[0] -= centers.size - np.count_nonzero(centers)
        tally.add_counted(np.arange(most + 1, dtype=np.float64) * (self._scale / discs.size), counts)

    @cached_property
    def _largest(self) -> int:
        return max(int(self.values.max()), -int(self.values.min()))

    @cached_property
    def _box(self) -> tuple[slice, slice]:
        """The rows and the columns between the first and the last that changed."""
        rows, columns = (np.flatnonzero(self.values.any(axis=axis)) for axis in (1, 0))
        return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)

    @cached_property
    def _transform(self) -> NDArray[np.complex128]:
        found: NDArray[np.complex128] = scipy.fft.rfft2(self.values.astype(np.float64), _fast(self.values.shape))
        return found

    def _running(self, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Give the sums along rows, which are the same for discs of all sizes."""
        if dtype not in self._sums:
            rows, columns = self.values.shape
            found = self._sums[dtype] = np.zeros((rows, columns + 1), dtype)
            moved = self._box[0]
            np.cumsum(self.values[moved], axis=1, dtype=dtype, out=found[moved, 1:])
        return self._sums[dtype]

    @cached_property
    def _sums(self) -> dict[np.dtype[Any], NDArray[Any]]:
        return {}


_INT16, _INT32 = np.iinfo(np.int16).max, np.iinfo(np.int32).max


def worst_shifts(files: Iterable[Sequence[MeanShift]]) -> dict[str, list[MeanShift]]:
    """Give for each unit and diameter the largest of the figures of several files, and how many regions they have
    together.
    """
    found: dict[tuple[str, float], list[MeanShift]] = {}
    for shift in (shift for shifts in files for shift in shifts):
        found.setdefault((shift.unit, shift.diameter), []).append(shift)
    result: dict[str, list[MeanShift]] = {}
    for (unit, diameter), shifts in found.items():
        largest, p99 = (
            max((value for value in values if value is not None), default=None)
            for values in zip(*((shift.largest_real, shift.p99_real) for shift in shifts), strict=True)
        )
        worst = MeanShift(diameter, shifts[0].unit, sum(shift.regions for shift in shifts), largest, p99)
        result.setdefault(unit, []).append(worst)
    return result


def shifts_in_words(shifts: Sequence[MeanShift]) -> str:
    """Give the figures of all sizes of regions in a line."""
    found = [
        f"at most {shift.largest_real:.3g} over {shift.diameter:g} {shift.unit} (99 % within {shift.p99_real:.3g})"
        if shift.regions
        else f"nothing of {shift.diameter:g} {shift.unit} fits"
        for shift in shifts
    ]
    pixels = any(shift.unit == "pixels" for shift in shifts)
    return (", ".join(found) or "not measured") + ("; the files do not say how far pixels are apart" if pixels else "")


def _fast(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give the next lengths that a transform is fast for."""
    return tuple(scipy.fft.next_fast_len(length, real=True) for length in shape)


def _discs(diameter: float, spacing: tuple[float, float], shape: tuple[int, int]) -> _Discs:
    """Give the discs of a size, those of small planes as they were made before: the next file mostly has the same."""
    make = _kept_discs if shape[0] * shape[1] <= _SMALL_PLANE else _Discs
    return make(diameter, spacing, shape)


_kept_discs = lru_cache(maxsize=2 * len(DIAMETERS))(_Discs)


def _planes(
    before: NDArray[Any], after: NDArray[Any], view: FileView, anatomy: NDArray[np.bool_]
) -> Iterator[tuple[_Moved, NDArray[np.bool_]]]:
    """Give the change of each plane, and its anatomy; each color and each point in time is a plane."""
    pairs = zip(view.pictures(before), view.pictures(after), view.pictures(anatomy), strict=True)
    for (old, own), (new, _), (inside, _) in pairs:
        across = None if inside.ndim == 2 else view.across(inside.ndim)
        if across is None:
            parts = [(old, new, inside)]
        else:
            parts = list(zip(*(np.moveaxis(values, across, 0) for values in (old, new, inside)), strict=True))
        for first, second, mask in parts:
            grids = [values.reshape(*mask.shape, -1) for values in (first, second)]
            for number in range(grids[0].shape[-1]):
                yield _change(grids[0][..., number], grids[1][..., number], own), mask


def _change(old: NDArray[Any], new: NDArray[Any], view: PictureView) -> _Moved:
    """Give the change of a plane; none where a value is or becomes no finite one."""
    if old.dtype.kind in "iu" and old.dtype.itemsize <= 2 and new.dtype == old.dtype:
        return _Moved(np.subtract(new, old, dtype=np.int32), abs(view.slope))
    with np.errstate(invalid="ignore"):
        change = (new.astype(np.float64) - old.astype(np.float64)) * abs(view.slope)
    return _Moved(np.nan_to_num(change, copy=False, nan=0.0, posinf=0.0, neginf=0.0), 1.0)


def _digits(value: float) -> float:
    """Give six digits, which is more than a file can hold."""
    return float(f"{value:.6g}")
