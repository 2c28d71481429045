# SPDX-License-Identifier: Apache-2.0
"""What the values of a grid say of themselves: pictures are grainy, label maps are flat, and fields, distances and
probabilities are smooth.

Every limit below was set between real files and made ones of each kind; ``docs/kinds.md`` has the figures of today.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_salm.io.neighbors import Pairs, differences, equal_values, regions_of

Kind = Literal["picture", "label map", "cannot tell"]

MOST_DISTINCT = 65536
"""Values that are told apart; what has more of them has no labels."""
MOST_LABEL = 1_000_000_000
"""Labels are numbers of a table; FreeSurfer's reach 14,175, those of the Allen atlases some hundred millions."""
WHOLE = 1e-3
"""A value this near to a whole number is one that went through floats."""

RESAMPLED, LEVELS_LEFT = 0.4, 64
"""Floats of which this share is near one of so few whole numbers are labels that were resampled, or partial volumes."""
NUMBERED, ONE_EACH = 0.2, 2.0
"""Where this share of neighbors is equal, pictures have dozens of regions of each value in a plane, and numbered
regions one or two.
"""
APART = {False: 16, True: 64}
"""Labels are numbers that lie about this far apart on average, of few labels, or of many as in FreeSurfer's table; gray
values lie farther.
"""
FEW_VALUES, FEW_PAIRS = 32, 64
"""A picture has at least so many values besides its background, and so many pairs of neighbors to look at."""
FEW_BOXES = 8
"""So many boxes are labels rather than the pixels of a picture that was enlarged."""
ENLARGED, OWN_VALUES = 8, 0.5
"""Where so many voxels are one block, and so many blocks have a value of their own, they may be numbered as well as
enlarged.
"""
GRAINY = 0.7
"""A picture has at most this share of equal neighbors: 0.47 in the smoothest of real ones, 0.65 blurred by two pixels
and cut to 8 bits.
"""
FLAT = 0.75
"""A label map has at least this share of equal neighbors: 0.99 in most, 0.84 where 2000 labels share
256 x 256 pixels.
"""
LEVELS = 0.95
"""Where this share of all steps goes to the next higher or lower value, the values are levels of something smooth."""
LEVELS_OF_FEW, LEVELS_OF_MORE = {2: 0.9, 3: 0.75}, 0.65
"""The same of so many values, and of more: pictures that were cut to few levels have at least 0.98, 0.8 and 0.79; so do
nested structures.
"""
SMOOTH, FIELD = 0.9, 0.1
"""Third differences as a share of the first: real 8-bit pictures have 0.99 and more, CT 0.63; probability and distance
maps at most 0.84, fields 0.12.
"""
STEADY = 0.32
"""First differences are on average this share of the largest in a distance map, whose slope is the same everywhere, and
at most 0.28 in pictures.
"""
NOISE = 1.2
"""Noise has third differences of more than this share of the first, and first ones that are as steady."""
MOST_SMOOTH = 300.0
"""Probabilities, distances and displacements are numbers up to this; smooth values that reach farther (an averaged MR)
are a picture.
"""
BETWEEN = 0.3
"""Of floats from 0 to 1 this share lies between the ends in a picture; probabilities are nearly all 0 or 1."""
BESIDE_FLAT = 0.5
"""The same of what lies between flat areas."""
PLATEAU_SHARE, PLATEAU_FLAT = 0.03, 0.6
"""A plateau is a value that this share of all have, and whose neighbors have it too in this share."""
NEAR_END, ENDS = 0.02, 0.2
"""Values this near to the highest are at its end; where so many are, the rest may be only the edges of structures."""
BULK = 0.2
"""Of a picture between plateaus this share is farther than two pixels from them; of edges nothing is."""
SPECKS, SPECK = 0.04, 3
"""Label maps have at most this share of their voxels in regions of so few."""
TINY = 256
"""A grid of two values and fewer voxels than this is no picture, however its specks lie."""
FEW_REGIONS, ONE_REGION = 4.0, 0.85
"""Labels form this many regions each at most, in a plane, or have this share of their voxels in the largest."""
MOST_SCATTERED = 0.01
"""Landmarks are no more than this share of all voxels."""


@dataclass(frozen=True)
class Judgement:
    """What an array of values is, and why.

    Args:
        kind: the answer.
        evidence: what it rests on, in words.
        foreground: how many values it rests on, those that are not the most frequent one.
        values: the distinct values where they are few, else nothing.
        flat: whether neighbors are mostly equal, as no picture of clinical depth is.
        shape: of the array.
        declared: whether the file says so itself.
    """

    kind: Kind
    evidence: str
    foreground: int = 0
    values: frozenset[float] = frozenset()
    flat: bool = False
    shape: tuple[int, ...] = ()
    declared: bool = False


class GridEvidence:
    """One array, looked at plane by plane, so that no copy of it is needed."""

    def __init__(self, values: NDArray[Any], slope: float, intercept: float, *, ordered: bool) -> None:
        axis = int(np.argmin(values.shape)) if values.ndim == 3 else 0
        self._stack = np.moveaxis(values, axis, 0) if values.ndim == 3 else values[None]
        self.slope, self.intercept, self.ordered = slope, intercept, ordered
        self._histogram()

    def _histogram(self) -> None:
        """Find the distinct values, the most frequent one, and the planes, rows and columns that only repeat the one
        before.
        """
        planes, rows, columns = self._stack.shape
        rows_repeat, columns_repeat = np.ones(rows, bool), np.ones(columns, bool)
        self._planes: list[int] = []
        self.values, self.counts, self.many = np.empty(0, self._stack.dtype), np.empty(0, np.int64), False
        before: NDArray[Any] | None = None
        for number in range(planes):
            plane = np.ascontiguousarray(self._stack[number])
            rows_repeat[1:] &= equal_values(plane[1:], plane[:-1]).all(axis=1)
            columns_repeat[1:] &= equal_values(plane[:, 1:], plane[:, :-1]).all(axis=0)
            if before is None or not equal_values(plane, before).all():
                self._planes.append(number)
            before = plane
            if not self.many:
                self._count(plane)
        rows_repeat[0] = columns_repeat[0] = False
        self._rows, self._columns = np.flatnonzero(~rows_repeat), np.flatnonzero(~columns_repeat)
        self.mode = self.values[self.counts.argmax()] if len(self.values) else None
        self.size = self._stack.size

    def _count(self, plane: NDArray[Any]) -> None:
        finite = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane
        values, counts = np.unique(finite, return_counts=True)
        merged, place = np.unique(np.concatenate([self.values, values]), return_inverse=True)
        self.counts = np.bincount(place, np.concatenate([self.counts, counts]), len(merged)).astype(np.int64)
        self.values, self.many = merged, len(merged) > MOST_DISTINCT

    def planes(self) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
        """Give the planes without what only repeats (an enlarged picture is as grainy as it was), and where their
        foreground is.
        """
        for number in self._planes:
            plane = self._stack[number][np.ix_(self._rows, self._columns)]
            inside = plane != self.mode
            yield plane, inside & np.isfinite(plane) if plane.dtype.kind == "f" else inside

    def _filled(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Put the background in place of what is no number."""
        filled: NDArray[Any] = (
            np.where(np.isfinite(plane), plane, plane.dtype.type(self.mode or 0)) if plane.dtype.kind == "f" else plane
        )
        return filled

    def judgement(self) -> Judgement:
        """Weigh the evidence."""
        distinct = len(self.values) - 1
        if distinct < 1:
            return Judgement(
                "cannot tell",
                f"all values are {self.mode}" if distinct == 0 else "no value is a number",
                0,
                self._few(),
            )
        foreground, pairs = self._counted()
        said = (
            f"{'over ' * self.many}{distinct} values besides the background, {pairs.equal_share:.0%} of neighbors equal"
        )
        if not self.many and self._is_scattered(pairs, foreground):
            return Judgement(
                "label map",
                f"{foreground} single marks of whole numbers in {self.size} voxels",
                foreground,
                self._few(),
            )
        few = pairs.both < FEW_PAIRS
        stacked = (
            few and np.count_nonzero(pairs.along) <= 1
        )  # slabs and boxes, of which little is left without what repeats
        if self.many or (distinct >= FEW_VALUES and pairs.equal_share < FLAT and not stacked):
            return self._picture(pairs, foreground, said)
        plain = self._picture_between_plateaus(pairs) if distinct >= FEW_VALUES else ""
        if plain:
            return Judgement("picture", f"{said}, {plain}", foreground)
        if pairs.equal_share < FLAT and not stacked and not (few and distinct <= FEW_BOXES):
            return Judgement("cannot tell", said, foreground, self._few())
        self._keep_all()
        foreground, pairs = self._counted()
        said = f"{distinct} values besides the background, {pairs.equal_share:.0%} of neighbors equal"
        return (
            self._label_map(pairs, foreground, said)
            if pairs.equal_share >= FLAT
            else Judgement("cannot tell", said, foreground, self._few())
        )

    def _counted(self) -> tuple[int, Pairs]:
        return sum(int(inside.sum()) for _, inside in self.planes()), self._pairs()

    def _keep_all(self) -> None:
        planes, rows, columns = self._stack.shape
        self._planes, self._rows, self._columns = list(range(planes)), np.arange(rows), np.arange(columns)

    def _few(self) -> frozenset[float]:
        few = () if self.many or len(self.values) > FEW_VALUES else self.values
        return frozenset(round(float(value) * self.slope + self.intercept, 3) for value in few)

    def _picture(self, pairs: Pairs, foreground: int, said: str) -> Judgement:
        """Say whether grainy values are a picture, or something smooth such as a field, a distance or a probability."""
        doubt = ""
        if pairs.both < FEW_PAIRS:
            doubt = f"only {pairs.both} pairs of neighbors"
        elif self.ordered and pairs.roughness < (SMOOTH if self._may_be_computed() else FIELD):
            doubt = "smooth as a distance map, a probability map or a field"
        elif (
            self.ordered
            and self._stack.dtype.kind == "f"
            and self._may_be_computed()
            and pairs.steadiness > STEADY
            and pairs.roughness < NOISE
        ):
            doubt = "of one slope everywhere, as a distance map"
        elif self._is_probable():
            doubt = "nearly all of it 0 or 1, as in a probability map"
        elif self._is_resampled():
            doubt = "much of it a few whole numbers, as in labels that were resampled"
        elif pairs.equal_share >= NUMBERED and self._regions(foreground)[0] <= ONE_EACH:
            doubt = "each value in a region of its own, as in numbered regions"
        elif self.ordered and not self.many and pairs.level_share > LEVELS:
            doubt = "each value is next to its neighbors' as in a distance map"
        elif not self.many and self.size >= ENLARGED * foreground and len(self.values) > OWN_VALUES * foreground:
            doubt = "nearly each in a block of its own, as numbered regions are"
        elif self._has_plateaus(pairs) and not self._bulk(pairs):
            doubt = "what lies between its plateaus is only their edges, as in a probability map"
        elif pairs.equal_share > GRAINY:
            doubt = "neither grainy nor flat"
        return (
            Judgement("cannot tell", f"{said}, {doubt}", foreground)
            if doubt
            else Judgement("picture", said, foreground)
        )

    def _may_be_computed(self) -> bool:
        """Say whether values have the range of probabilities, distances or displacements: 8 bits, or floats near 0."""
        low, high = (self.slope * end + self.intercept for end in self._range())
        return self._stack.dtype.itemsize == 1 or (
            self._stack.dtype.kind == "f" and max(abs(low), abs(high)) <= MOST_SMOOTH
        )

    def _is_probable(self) -> bool:
        """Say whether values are floats from 0 to 1 that keep to the ends."""
        low, high = self._range()
        if self._stack.dtype.kind != "f" or low < 0 or high > 1 + WHOLE:
            return False
        between = sum(int(((plane > NEAR_END) & (plane < 1 - NEAR_END)).sum()) for plane, _ in self.planes())
        return between < BETWEEN * sum(int(inside.sum()) for _, inside in self.planes())

    def _is_resampled(self) -> bool:
        """Say whether values are floats that keep to a few whole numbers, though not all of them are whole."""
        if self._stack.dtype.kind != "f":
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

    def _has_plateaus(self, pairs: Pairs) -> bool:
        """Say whether some value besides the background fills an area, or many values are at the upper end."""
        return bool(self._plateaus(pairs).any()) or self._at_the_end()

    def _plateaus(self, pairs: Pairs) -> NDArray[np.bool_]:
        """Mark the values, of :attr:`values`, that fill areas; the background is none."""
        if self.many:
            return np.zeros(len(self.values), bool)
        axes = 2 if len(self._planes) == 1 else 3
        total = sum(inside.size for _, inside in self.planes())
        counts = np.zeros(len(self.values), np.int64)
        for plane, inside in self.planes():
            counts += np.bincount(np.searchsorted(self.values, plane[inside]), minlength=len(self.values))
        flat = pairs.own >= PLATEAU_FLAT * axes * np.maximum(counts, 1)
        found: NDArray[np.bool_] = (counts >= PLATEAU_SHARE * total) & flat & (self.values != self.mode)
        return found

    def _at_the_end(self) -> bool:
        low, high = self._ends()
        above = sum(int((plane > low).sum()) for plane, _ in self.planes())
        return self.ordered and sum(int((plane >= high).sum()) for plane, _ in self.planes()) >= ENDS * max(1, above)

    def _ends(self) -> tuple[float, float]:
        """Give what is just above the lowest value and just below the highest."""
        low, high = self._range()
        return low + NEAR_END * (high - low), high - NEAR_END * (high - low)

    def _range(self) -> tuple[float, float]:
        """Give the lowest and the highest value of the foreground: a background far from it is no end of it."""
        found = [plane[inside] for plane, inside in self.planes()]
        lows, highs = ([float(end(values)) for values in found if values.size] for end in (np.min, np.max))
        return min(lows), max(highs)

    def _bulk(self, pairs: Pairs) -> bool:
        """Say whether what is between plateaus has an inside of its own, more than edges have."""
        flat, (low, high) = self.values[self._plateaus(pairs)], self._ends()
        all_of_it = inner = 0
        for plane, inside in self.planes():
            between = inside & ~np.isin(plane, flat)
            if self.ordered:
                between &= (plane > low) & (plane < high)
            all_of_it += int(between.sum())
            inner += int(ndimage.binary_erosion(between, np.ones((3, 3), bool), iterations=2, border_value=1).sum())
        return inner >= max(BULK * all_of_it, FEW_PAIRS // 4)

    def _picture_between_plateaus(self, pairs: Pairs) -> str:
        """Find a picture beside large areas of one value, such as saturated ones or air that was cut off; empty if
        there is none.
        """
        flat = self.values[self._plateaus(pairs)]
        if self.many or not len(flat) or not self._bulk(pairs):
            return ""
        rest = self._pairs(besides=flat)
        few = len(self.values) - 1 - len(flat) < FEW_VALUES
        if (
            few
            or rest.both < FEW_PAIRS
            or rest.equal_share > BESIDE_FLAT
            or rest.level_share > LEVELS
            or rest.roughness < SMOOTH
        ):
            return ""
        return f"beside {len(flat)} flat areas {rest.equal_share:.0%}"

    def _label_map(self, pairs: Pairs, foreground: int, said: str) -> Judgement:
        """Say whether flat values are labels: whole numbers that each form few regions."""
        real = self.values.astype(np.float64) * self.slope + self.intercept
        tolerance = max(WHOLE, abs(self.slope) / 2 if abs(self.slope) < WHOLE * 100 else 0.0)
        doubt = ""
        sparse = foreground <= MOST_SCATTERED * self.size
        if not self.ordered:
            real = np.arange(len(real), dtype=np.float64)  # colors stand for labels, whatever their numbers
        if np.abs(real - np.rint(real)).max() > tolerance or real.min() < -1 - tolerance or real.max() > MOST_LABEL:
            doubt = f"values from {real.min():.4g} to {real.max():.4g}, not all of them whole numbers from -1"
        elif len(real) > 2 and np.median(real[real != 0]) > APART[len(real) > FEW_VALUES] * len(real):
            doubt = f"values up to {real.max():.4g}, farther apart than {len(real) - 1} labels are"
        elif self.ordered and len(real) > 2 and pairs.level_share > LEVELS_OF_FEW.get(len(real) - 1, LEVELS_OF_MORE):
            doubt = "each value touches the next alone, as levels of a picture or nested structures do"
        else:
            regions, specks, largest = self._regions(foreground)
            tiny = len(real) == 2 and self.size < TINY
            if specks > SPECKS and not sparse and not tiny:
                doubt = f"{specks:.0%} of it in specks"
            elif len(real) > 2 and regions > FEW_REGIONS and largest < ONE_REGION:
                doubt = f"{regions:.0f} regions a value in a plane, as in a picture of few levels"
        kind: Kind = "cannot tell" if doubt else "label map"
        return Judgement(kind, f"{said}, {doubt or 'whole numbers in few regions'}", foreground, self._few(), flat=True)

    def _is_scattered(self, pairs: Pairs, foreground: int) -> bool:
        """Say whether few single voxels are marked, which are landmarks where they are whole numbers."""
        real = self.values.astype(np.float64) * self.slope + self.intercept
        whole = bool((np.abs(real - np.rint(real)) <= WHOLE).all())
        lonely = pairs.both <= foreground // 4 and foreground <= MOST_SCATTERED * self.size
        return lonely and whole and foreground <= 4 * len(self.values)

    def _pairs(self, besides: NDArray[Any] | None = None) -> Pairs:
        """Compare each voxel with its neighbors, in the plane and across planes.

        Args:
            besides: values that are background as well.
        """
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

    def _regions(self, foreground: int) -> tuple[float, float, float]:
        """Count regions of equal values plane by plane.

        Returns:
            Regions of each value in a plane, share of the voxels in specks, and share in the largest region of each
            value in its plane.
        """
        regions = labels = specks = largest = 0
        for plane, inside in self.planes():
            if not inside.any():
                continue
            code = np.unique(self._filled(plane), return_inverse=True)[1].reshape(plane.shape)
            sizes, owner = regions_of(code, inside)
            present = np.unique(owner)
            most = np.zeros(int(code.max()) + 1, np.int64)
            np.maximum.at(most, owner, sizes)
            regions, labels = regions + len(sizes), labels + len(present)
            specks += int(sizes[sizes <= SPECK].sum())
            largest += int(most.sum())
        return regions / max(1, labels), specks / max(1, foreground), largest / max(1, foreground)
