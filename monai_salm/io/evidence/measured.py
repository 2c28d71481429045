# SPDX-License-Identifier: Apache-2.0
"""What can be measured in a grid of values: how grainy, flat or smooth it is, and where it is flat.

Every limit below was set between real files and made ones of each kind; ``docs/kinds.md`` has the figures of today.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.evidence.integers import Codes
from monai_salm.io.evidence.neighbors import (
    Pairs,
    differences,
    equal_values,
    one_slice,
    regions_of,
    repeats,
    whole_planes,
)

MOST_DISTINCT = 65536
"""Values that are told apart; what has more of them has no labels."""
WHOLE = 1e-3
"""A value this near to a whole number is one that went through floats."""
RESAMPLED, LEVELS_LEFT = 0.4, 64
"""Floats of which this share is near one of so few whole numbers are labels that were resampled, or partial volumes."""
FEW_VALUES, FEW_PAIRS = 32, 64
"""A picture has at least so many values besides its background, and so many pairs of neighbors to look at."""
MOST_SMOOTH = 300.0
"""Probabilities, distances and displacements are numbers up to this; smooth values that reach farther (an averaged MR)
are a picture.
"""
BETWEEN = 0.3
"""Of floats from 0 to 1 this share lies between the ends in a picture; probabilities are nearly all 0 or 1."""
PLATEAU_SHARE, PLATEAU_FLAT = 0.03, 0.6
"""A plateau is a value that this share of all have, and whose neighbors have it too in this share."""
NEAR_END, ENDS = 0.02, 0.2
"""Values this near to the highest are at its end; where so many are, the rest may be only the edges of structures."""
BULK = 0.2
"""Of a picture between plateaus this share is farther than two pixels from them; of edges nothing is."""
SPECKS, SPECK = 0.04, 3
"""Label maps have at most this share of their voxels in regions of so few."""


class MeasuredGrid:
    """One array, looked at plane by plane, so that no copy of it is needed.

    Args:
        values: of two or three axes.
        slope, intercept: from stored to real values.
        ordered: whether a larger value means more of something, as it does not of colors.
    """

    def __init__(self, values: NDArray[Any], slope: float, intercept: float, *, ordered: bool) -> None:
        axis = int(np.argmin(values.shape)) if values.ndim == 3 else 0
        self.stack = np.moveaxis(values, axis, 0) if values.ndim == 3 else values[None]
        self.slope, self.intercept, self.ordered = slope, intercept, ordered
        self._histogram()

    def _histogram(self) -> None:
        """Find the distinct values, the most frequent one, and the planes, rows and columns that only repeat the one
        before.
        """
        planes, rows, columns = self.stack.shape
        rows_repeat, columns_repeat = np.arange(rows) > 0, np.arange(columns) > 0
        self._planes: list[int] = []
        self.values, self.counts, self.many = np.empty(0, self.stack.dtype), np.empty(0, np.int64), False
        self.codes = Codes.of(self.stack)
        table = np.zeros(0 if self.codes is None else self.codes.span, np.int64)
        before: NDArray[Any] | None = None
        for number, plane in whole_planes(self.stack, range(planes)):
            rows_repeat &= repeats(plane, rows_repeat)
            columns_repeat &= repeats(plane.T, columns_repeat)
            if before is None or not equal_values(plane, before).all():
                self._planes.append(number)
            before = plane
            if self.codes is not None:
                table += self.codes.table(self.codes.plane(plane))
            elif not self.many:
                self._count(plane)
        if self.codes is not None:
            self.codes.keep(table)
            self.counts = table[self.codes.present]
            self.values = (self.codes.present + self.codes.lowest).astype(self.stack.dtype)
        self._rows, self._columns = np.flatnonzero(~rows_repeat), np.flatnonzero(~columns_repeat)
        self.mode = self.values[self.counts.argmax()] if len(self.values) else None
        self.size = self.stack.size
        self._seen: NDArray[np.int64] | None = None

    def _count(self, plane: NDArray[Any]) -> None:
        finite = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane
        values, counts = np.unique(finite, return_counts=True)
        merged, place = np.unique(np.concatenate([self.values, values]), return_inverse=True)
        self.counts = np.bincount(place, np.concatenate([self.counts, counts]), len(merged)).astype(np.int64)
        self.values, self.many = merged, len(merged) > MOST_DISTINCT

    def planes(self) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
        """Give the planes without what only repeats (an enlarged picture is as grainy as it was), and where their
        foreground is. Integers that have codes are given as these.
        """
        rows, columns = one_slice(self._rows), one_slice(self._columns)
        background = self.mode if self.codes is None else np.uint16(int(self.mode or 0) - self.codes.lowest)
        for _, plane in whole_planes(self.stack, self._planes):
            plane = np.ascontiguousarray(plane[rows][:, columns])
            if self.codes is not None:
                plane = self.codes.plane(plane)
            inside = plane != background
            yield plane, inside & np.isfinite(plane) if plane.dtype.kind == "f" else inside

    def _seen_counts(self) -> NDArray[np.int64]:
        """Count the values, of :attr:`values`, that :meth:`planes` gives where these have codes."""
        if self._seen is None:
            sizes = (len(self._planes), len(self._rows), len(self._columns))
            if self.codes is None or sizes == self.stack.shape:
                self._seen = self.counts
            else:
                table = np.zeros(self.codes.span, np.int64)
                for plane, _ in self.planes():
                    table += self.codes.table(plane)
                self._seen = table[self.codes.present]
        return self._seen

    def _may_be_plateaus(self) -> NDArray[np.bool_]:
        """Mark the values that have codes and are frequent enough for a plateau."""
        counts = self._seen_counts()
        found: NDArray[np.bool_] = (counts >= PLATEAU_SHARE * counts.sum()) & (self.values != self.mode)
        return found

    def _filled(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Put the background in place of what is no number."""
        filled: NDArray[Any] = (
            np.where(np.isfinite(plane), plane, plane.dtype.type(self.mode or 0)) if plane.dtype.kind == "f" else plane
        )
        return filled

    def counted(self) -> tuple[int, Pairs]:
        """Give the voxels of the foreground, and what their neighbors have in common."""
        if self.codes is not None:
            counts = self._seen_counts()
            return int(counts.sum() - counts[self.values == self.mode].sum()), self.pairs()
        return sum(int(inside.sum()) for _, inside in self.planes()), self.pairs()

    def keep_what_repeats(self) -> None:
        """Look at all planes, rows and columns from now on, also at those that only repeat the one before."""
        planes, rows, columns = self.stack.shape
        self._planes, self._rows, self._columns = list(range(planes)), np.arange(rows), np.arange(columns)
        self._seen = None

    def few_values(self) -> frozenset[float]:
        """Give the distinct values in real units where they are few, else nothing."""
        few = () if self.many or len(self.values) > FEW_VALUES else self.values
        return frozenset(round(float(value) * self.slope + self.intercept, 3) for value in few)

    def pairs(self, besides: NDArray[Any] | None = None) -> Pairs:
        """Compare each voxel with its neighbors, in the plane and across planes.

        Args:
            besides: values that are background as well.
        """
        if self.codes is not None:
            left_out = None if besides is None else self.codes.marks(np.isin(self.values, besides))
            return self.codes.pairs(self.planes(), np.flatnonzero(self._may_be_plateaus()), left_out)
        along, alike = np.zeros(3, np.int64), np.zeros(3, np.int64)
        steps = levels = 0
        first, third, largest, counted = np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2)
        own = np.zeros(0 if self.many else len(self.values), np.int64)
        last: tuple[NDArray[Any], NDArray[np.bool_]] | None = None
        for plane, inside in self.planes():
            here = inside if besides is None else inside & ~np.isin(plane, besides)
            code = plane if self.many else np.searchsorted(self.values, self._filled(plane))
            sides = [(code[:-1], code[1:], here[:-1], here[1:]), (code[:, :-1], code[:, 1:], here[:, :-1], here[:, 1:])]
            if last is not None:
                sides.append((last[0], code, last[1], here))
            for axis, (one, other, here_one, here_other) in enumerate(sides):
                pair, same = here_one & here_other, one == other
                along[axis] += int(pair.sum())
                alike[axis] += int((pair & same).sum())
                if not self.many:
                    own += np.bincount(one[pair & same], minlength=len(own))
                    different = (here_one | here_other) & ~same if besides is None else pair & ~same
                    steps += int(different.sum())
                    levels += int((np.abs(one[different].astype(np.int64) - other[different]) == 1).sum())
            for axis in (0, 1):
                sums = differences(np.moveaxis(plane, axis, 0), np.moveaxis(here, axis, 0))
                first[axis] += sums[0]
                third[axis] += sums[1]
                largest[axis] = max(largest[axis], sums[2])
                counted[axis] += sums[3]
            last = code, here
        return Pairs(along, alike, steps, levels, first, third, largest, counted, own)

    def regions(self, foreground: int) -> tuple[float, float, float]:
        """Count regions of equal values plane by plane.

        Returns:
            Regions of each value in a plane, share of the voxels in specks, and share in the largest region of each
            value in its plane.
        """
        regions = labels = specks = largest = 0
        for plane, inside in self.planes():
            if not inside.any():
                continue
            if self.codes is not None:
                code = plane.astype(np.intp)
            else:
                code = np.unique(self._filled(plane), return_inverse=True)[1].reshape(plane.shape)
            sizes, owner = regions_of(code, inside)
            present = np.unique(owner)
            most = np.zeros(int(code.max()) + 1, np.int64)
            np.maximum.at(most, owner, sizes)
            regions, labels = regions + len(sizes), labels + len(present)
            specks += int(sizes[sizes <= SPECK].sum())
            largest += int(most.sum())
        return regions / max(1, labels), specks / max(1, foreground), largest / max(1, foreground)

    def plateaus(self, pairs: Pairs) -> NDArray[np.bool_]:
        """Mark the values, of :attr:`values`, that fill areas; the background is none."""
        if self.many:
            return np.zeros(len(self.values), bool)
        axes = 2 if len(self._planes) == 1 else 3
        if self.codes is not None:
            counts = np.where(self.values == self.mode, 0, self._seen_counts())
            total = int(self._seen_counts().sum())
        else:
            total = sum(inside.size for _, inside in self.planes())
            counts = np.zeros(len(self.values), np.int64)
            for plane, inside in self.planes():
                counts += np.bincount(np.searchsorted(self.values, plane[inside]), minlength=len(self.values))
        flat = pairs.own >= PLATEAU_FLAT * axes * np.maximum(counts, 1)
        found: NDArray[np.bool_] = (counts >= PLATEAU_SHARE * total) & flat & (self.values != self.mode)
        return found

    def has_plateaus(self, pairs: Pairs) -> bool:
        """Say whether some value besides the background fills an area, or many values are at the upper end."""
        return bool(self.plateaus(pairs).any()) or self._at_the_end()

    def _at_the_end(self) -> bool:
        low, high = self._ends()
        if self.codes is not None:
            counts = self._seen_counts()
            above, at_the_end = int(counts[self.values > low].sum()), int(counts[self.values >= high].sum())
        else:
            above = sum(int((plane > low).sum()) for plane, _ in self.planes())
            at_the_end = sum(int((plane >= high).sum()) for plane, _ in self.planes())
        return self.ordered and at_the_end >= ENDS * max(1, above)

    def has_bulk(self, pairs: Pairs) -> bool:
        """Say whether what is between plateaus has an inside of its own, more than edges have."""
        flat, (low, high) = self.values[self.plateaus(pairs)], self._ends()
        all_of_it = inner = 0
        chosen = ~np.isin(self.values, flat) & (self.values != self.mode)
        if self.ordered:
            chosen &= (self.values > low) & (self.values < high)
        table = None if self.codes is None else self.codes.marks(chosen)
        for plane, inside in self.planes():
            if table is not None:
                between = table[plane]
            else:
                between = inside & ~np.isin(plane, flat)
                if self.ordered:
                    between &= (plane > low) & (plane < high)
            all_of_it += int(between.sum())
            inner += int(_eroded(between, 2).sum())
        return inner >= max(BULK * all_of_it, FEW_PAIRS // 4)

    def _ends(self) -> tuple[float, float]:
        """Give what is just above the lowest value and just below the highest."""
        low, high = self._range()
        return low + NEAR_END * (high - low), high - NEAR_END * (high - low)

    def _range(self) -> tuple[float, float]:
        """Give the lowest and the highest value of the foreground: a background far from it is no end of it."""
        if self.codes is not None:
            others = self.values[self.values != self.mode]
            return float(others.min()), float(others.max())
        found = [plane[inside] for plane, inside in self.planes()]
        lows, highs = ([float(end(values)) for values in found if values.size] for end in (np.min, np.max))
        return min(lows), max(highs)

    def may_be_computed(self) -> bool:
        """Say whether values have the range of probabilities, distances or displacements: 8 bits, or floats near 0."""
        low, high = (self.slope * end + self.intercept for end in self._range())
        return self.stack.dtype.itemsize == 1 or (
            self.stack.dtype.kind == "f" and max(abs(low), abs(high)) <= MOST_SMOOTH
        )

    def is_probable(self) -> bool:
        """Say whether values are floats from 0 to 1 that keep to the ends."""
        if self.stack.dtype.kind != "f":
            return False
        low, high = self._range()
        if low < 0 or high > 1 + WHOLE:
            return False
        between = sum(int(((plane > NEAR_END) & (plane < 1 - NEAR_END)).sum()) for plane, _ in self.planes())
        return between < BETWEEN * sum(int(inside.sum()) for _, inside in self.planes())

    def is_resampled(self) -> bool:
        """Say whether values are floats that keep to a few whole numbers, though not all of them are whole."""
        if self.stack.dtype.kind != "f":
            return False
        near = total = 0
        levels: set[float] = set()
        for plane, inside in self.planes():
            real = plane[inside] * self.slope + self.intercept
            whole = np.rint(real)
            close = np.abs(real - whole) <= NEAR_END
            near, total = near + int(close.sum()), total + real.size
            levels.update(np.unique(whole[close]).tolist() if len(levels) <= LEVELS_LEFT else ())
        return near >= RESAMPLED * total and 1 < len(levels) <= LEVELS_LEFT


def _eroded(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Give the places of a plane whose neighbors up to a distance, diagonal ones too, are all in the mask; what is
    beyond the edge counts as in it.
    """
    for axis in (0, 1):
        length = mask.shape[axis]
        padded = np.pad(mask, [(distance, distance) if axis == one else (0, 0) for one in (0, 1)], constant_values=True)
        mask = np.logical_and.reduce([padded.take(range(n, n + length), axis) for n in range(2 * distance + 1)])
    return mask
