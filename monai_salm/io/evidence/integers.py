# SPDX-License-Identifier: Apache-2.0
"""Integers that lie close together: what they have in common is counted in tables and in small integers, without floats
and without sorting.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.evidence.neighbors import Differences, Pairs

_MOST = 1 << 16
"""Integers that a code tells apart."""
_EXACT = 1 << 53
"""Integers beyond it are not all floats."""
_NARROW = 1 << 13
"""Of codes below it third differences are 16-bit numbers."""
_FEW = 6
"""So many values are sooner compared one by one than counted in a table."""


class _Place(NamedTuple):
    """A plane, or a part of it: codes, how many values are lower, and where its foreground is."""

    codes: NDArray[np.uint16]
    ranks: NDArray[np.uint16]
    here: NDArray[np.bool_]

    def part(self, *index: slice) -> _Place:
        return _Place(self.codes[index], self.ranks[index], self.here[index])


class Codes:
    """The integers of a grid as their distance from the lowest.

    Args:
        lowest: of all.
        span: how many integers there are from the lowest to the highest.
    """

    def __init__(self, lowest: int, span: int) -> None:
        self.lowest, self.span = lowest, span
        self._base = np.uint16(lowest % _MOST)
        self.present = np.empty(0, np.int64)
        self._rank: NDArray[Any] | None = None

    @classmethod
    def of(cls, values: NDArray[Any]) -> Codes | None:
        """Give the codes of an array; None of an empty one, of floats, and of integers that lie far apart."""
        if values.dtype.kind not in "iu" or not values.size:
            return None
        low, high = int(values.min()), int(values.max())
        return cls(low, high - low + 1) if high - low < _MOST and low > -_EXACT and high < _EXACT else None

    def plane(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Give the codes of values."""
        codes: NDArray[np.uint16] = np.subtract(values.astype(np.uint16), self._base)
        return codes

    def table(self, codes: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Count each code from 0 to the highest."""
        return np.bincount(codes.ravel(), minlength=self.span)

    def keep(self, counts: NDArray[np.int64]) -> None:
        """Remember which codes there are, from their counts."""
        self.present = np.flatnonzero(counts)
        if len(self.present) < self.span:
            self._rank = np.zeros(self.span, np.uint16)
            self._rank[self.present] = np.arange(len(self.present))

    def ranks(self, codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Give how many of the values present are lower."""
        return codes if self._rank is None else self._rank[codes]

    def marks(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Give a table of all codes from marks of those present."""
        table = np.zeros(self.span, bool)
        table[self.present] = chosen
        return table

    def _next_levels(self, first: NDArray[np.uint16], second: NDArray[np.uint16], equal: int) -> int:
        """Count where ranks differ by one, of arrays that are equal at so many places."""
        if len(self.present) < _MOST:
            gap = np.subtract(first, second)
            gap += np.uint16(1)
        else:
            gap = np.abs(first.astype(np.int32) - second) * 2  # 0, 2, and 4 and more
        return int(np.count_nonzero(gap <= 2)) - equal

    def _own(self, codes: NDArray[np.uint16], marks: NDArray[np.bool_], wanted: NDArray[np.intp]) -> NDArray[np.int64]:
        """Count how often each value present is marked; only the wanted ones, as places among those."""
        if len(wanted) > _FEW:
            return self.table(codes[marks])[self.present]
        found = np.zeros(len(self.present), np.int64)
        for place in wanted:
            found[place] = np.count_nonzero(marks & (codes == np.uint16(self.present[place])))
        return found

    def pairs(
        self,
        planes: Iterable[tuple[NDArray[np.uint16], NDArray[np.bool_]]],
        wanted: NDArray[np.intp],
        left_out: NDArray[np.bool_] | None,
    ) -> Pairs:
        """Compare each code with its neighbors, in the plane and across planes.

        Args:
            planes: codes, and where these are no background.
            wanted: values, as places among those present, whose equal pairs are counted.
            left_out: table of codes that are background as well; None of no further ones.
        """
        along, alike = np.zeros(3, np.int64), np.zeros(3, np.int64)
        steps = levels = 0
        sums = np.zeros((4, 2))
        own = np.zeros(len(self.present), np.int64)
        last: _Place | None = None
        rest = slice(None)
        for codes, inside in planes:
            here = inside if left_out is None else inside & ~left_out[codes]
            place = _Place(codes, self.ranks(codes), here)
            sides = [
                (place.part(slice(None, -1)), place.part(slice(1, None))),
                (place.part(rest, slice(None, -1)), place.part(rest, slice(1, None))),
                *([] if last is None else [(last, place)]),
            ]
            for axis, (one, other) in enumerate(sides):
                pair, same = one.here & other.here, one.codes == other.codes
                both = pair & same
                found, equal = int(np.count_nonzero(pair)), int(np.count_nonzero(both))
                along[axis] += found
                alike[axis] += equal
                if left_out is None:
                    # What is in no foreground is the background on both sides, and no step.
                    everywhere = int(np.count_nonzero(same))
                    steps += same.size - everywhere
                    levels += self._next_levels(one.ranks, other.ranks, everywhere)
                    own += self._own(one.codes, both, wanted)
                else:
                    steps += found - equal
                    levels += self._next_levels(one.ranks[pair], other.ranks[pair], equal)
                if axis < 2:
                    total, third, largest, counted = self._differences(codes, pair, axis)
                    sums[:, axis] = sums[:, axis] + (total, third, 0, counted)
                    sums[2, axis] = max(sums[2, axis], largest)
            last = place
        first, third_sums, largest_of, counts = sums
        return Pairs(along, alike, steps, levels, first, third_sums, largest_of, counts, own)

    def _differences(self, codes: NDArray[np.uint16], pair: NDArray[np.bool_], axis: int) -> Differences:
        """Measure the sizes of differences along an axis of a plane, as
        :func:`~monai_salm.io.evidence.neighbors.differences`.

        Args:
            codes: of the plane.
            pair: whether a place and the next along the axis are both inside.
            axis: 0 or 1.
        """
        ahead, behind = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(None, -1)))
        if codes.shape[axis] < 4:
            return 0.0, 0.0, 0.0, 0
        values = codes.view(np.int16) if self.span <= _NARROW else codes.astype(np.int32)
        four = pair[ahead][ahead] & pair[behind][behind]
        first = values[ahead] - values[behind]
        second = first[ahead] - first[behind]
        third = second[ahead] - second[behind]
        first = first[ahead][behind]
        for sizes in (first, third):
            np.abs(sizes, out=sizes)
            np.multiply(sizes, four, out=sizes)
        return (
            float(first.sum(dtype=np.int64)),
            float(third.sum(dtype=np.int64)),
            float(first.max(initial=0)),
            int(np.count_nonzero(four)),
        )
