# SPDX-License-Identifier: Apache-2.0
"""What the values of a grid say of themselves: pictures are grainy, label maps are flat, and fields, distances and
probabilities are smooth.

Every limit below was set between real files and made ones of each kind; ``docs/kinds.md`` has the figures of today.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.evidence.grain import grainy_foreground
from monai_salm.io.evidence.judgement import Judgement, Kind
from monai_salm.io.evidence.measured import FEW_PAIRS, FEW_VALUES, SPECKS, WHOLE, MeasuredGrid
from monai_salm.io.evidence.neighbors import Pairs

MOST_LABEL = 1_000_000_000
"""Labels are numbers of a table; FreeSurfer's reach 14,175, those of the Allen atlases some hundred millions."""
NUMBERED, ONE_EACH = 0.2, 2.0
"""Where this share of neighbors is equal, pictures have dozens of regions of each value in a plane, and numbered
regions one or two.
"""
APART = {False: 16, True: 64}
"""Labels are numbers that lie about this far apart on average, of few labels, or of many as in FreeSurfer's table; gray
values lie farther.
"""
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
BESIDE_FLAT = 0.5
"""A picture between flat areas has at most this share of equal neighbors."""
TINY = 256
"""A grid of two values and fewer voxels than this is no picture, however its specks lie."""
FEW_REGIONS, ONE_REGION = 4.0, 0.85
"""Labels form this many regions each at most, in a plane, or have this share of their voxels in the largest."""
MOST_SCATTERED = 0.01
"""Landmarks are no more than this share of all voxels."""


def weigh(grid: MeasuredGrid) -> Judgement:
    """Say what a grid of values is: picture, label map, or neither for sure."""
    distinct = len(grid.values) - 1
    if distinct < 1:
        return Judgement(
            "cannot tell",
            f"all values are {grid.mode}" if distinct == 0 else "no value is a number",
            0,
            grid.few_values(),
        )
    foreground, pairs = grid.counted()
    said = f"{'over ' * grid.many}{distinct} values besides the background, {pairs.equal_share:.0%} of neighbors equal"
    if not grid.many and _is_scattered(grid, pairs, foreground):
        return Judgement(
            "label map",
            f"{foreground} single marks of whole numbers in {grid.size} voxels",
            foreground,
            grid.few_values(),
        )
    few = pairs.both < FEW_PAIRS
    stacked = (
        few and np.count_nonzero(pairs.along) <= 1
    )  # slabs and boxes, of which little is left without what repeats
    if grid.many or (distinct >= FEW_VALUES and pairs.equal_share < FLAT and not stacked):
        return _picture(grid, pairs, foreground, said)
    plain = _picture_between_plateaus(grid, pairs) if distinct >= FEW_VALUES else ""
    if plain:
        return Judgement("picture", f"{said}, {plain}", foreground)
    if pairs.equal_share < FLAT and not stacked and not (few and distinct <= FEW_BOXES):
        return Judgement("cannot tell", said, foreground, grid.few_values())
    grid.keep_what_repeats()
    foreground, pairs = grid.counted()
    said = f"{distinct} values besides the background, {pairs.equal_share:.0%} of neighbors equal"
    return (
        _label_map(grid, pairs, foreground, said)
        if pairs.equal_share >= FLAT
        else Judgement("cannot tell", said, foreground, grid.few_values())
    )


def weigh_flatness(values: NDArray[Any]) -> Judgement | None:
    """Say of values that are surely not flat that they are a picture, as :func:`weigh` does or leaves open, with the
    same foreground; None where that takes a closer look.

    Args:
        values: of two or three axes.
    """
    found = grainy_foreground(values, FLAT, least_values=FEW_VALUES, least_pairs=FEW_PAIRS)
    return Judgement("picture", "not flat", found) if found else None


def _picture(grid: MeasuredGrid, pairs: Pairs, foreground: int, said: str) -> Judgement:
    """Say whether grainy values are a picture, or something smooth such as a field, a distance or a probability."""
    doubt = ""
    if pairs.both < FEW_PAIRS:
        doubt = f"only {pairs.both} pairs of neighbors"
    elif grid.ordered and pairs.roughness < (SMOOTH if grid.may_be_computed() else FIELD):
        doubt = "smooth as a distance map, a probability map or a field"
    elif (
        grid.ordered
        and grid.stack.dtype.kind == "f"
        and grid.may_be_computed()
        and pairs.steadiness > STEADY
        and pairs.roughness < NOISE
    ):
        doubt = "of one slope everywhere, as a distance map"
    elif grid.is_probable():
        doubt = "nearly all of it 0 or 1, as in a probability map"
    elif grid.is_resampled():
        doubt = "much of it a few whole numbers, as in labels that were resampled"
    elif pairs.equal_share >= NUMBERED and grid.regions(foreground)[0] <= ONE_EACH:
        doubt = "each value in a region of its own, as in numbered regions"
    elif grid.ordered and not grid.many and pairs.level_share > LEVELS:
        doubt = "each value is next to its neighbors' as in a distance map"
    elif not grid.many and grid.size >= ENLARGED * foreground and len(grid.values) > OWN_VALUES * foreground:
        doubt = "nearly each in a block of its own, as numbered regions are"
    elif grid.has_plateaus(pairs) and not grid.has_bulk(pairs):
        doubt = "what lies between its plateaus is only their edges, as in a probability map"
    elif pairs.equal_share > GRAINY:
        doubt = "neither grainy nor flat"
    return Judgement("cannot tell", f"{said}, {doubt}", foreground) if doubt else Judgement("picture", said, foreground)


def _picture_between_plateaus(grid: MeasuredGrid, pairs: Pairs) -> str:
    """Find a picture beside large areas of one value, such as saturated ones or air that was cut off; empty if
    there is none.
    """
    flat = grid.values[grid.plateaus(pairs)]
    if grid.many or not len(flat) or not grid.has_bulk(pairs):
        return ""
    rest = grid.pairs(besides=flat)
    few = len(grid.values) - 1 - len(flat) < FEW_VALUES
    if (
        few
        or rest.both < FEW_PAIRS
        or rest.equal_share > BESIDE_FLAT
        or rest.level_share > LEVELS
        or rest.roughness < SMOOTH
    ):
        return ""
    return f"beside {len(flat)} flat areas {rest.equal_share:.0%}"


def _label_map(grid: MeasuredGrid, pairs: Pairs, foreground: int, said: str) -> Judgement:
    """Say whether flat values are labels: whole numbers that each form few regions."""
    real = grid.values.astype(np.float64) * grid.slope + grid.intercept
    tolerance = max(WHOLE, abs(grid.slope) / 2 if abs(grid.slope) < WHOLE * 100 else 0.0)
    doubt = ""
    sparse = foreground <= MOST_SCATTERED * grid.size
    if not grid.ordered:
        real = np.arange(len(real), dtype=np.float64)  # colors stand for labels, whatever their numbers
    if np.abs(real - np.rint(real)).max() > tolerance or real.min() < -1 - tolerance or real.max() > MOST_LABEL:
        doubt = f"values from {real.min():.4g} to {real.max():.4g}, not all of them whole numbers from -1"
    elif len(real) > 2 and np.median(real[real != 0]) > APART[len(real) > FEW_VALUES] * len(real):
        doubt = f"values up to {real.max():.4g}, farther apart than {len(real) - 1} labels are"
    elif grid.ordered and len(real) > 2 and pairs.level_share > LEVELS_OF_FEW.get(len(real) - 1, LEVELS_OF_MORE):
        doubt = "each value touches the next alone, as levels of a picture or nested structures do"
    else:
        regions, specks, largest = grid.regions(foreground)
        tiny = len(real) == 2 and grid.size < TINY
        if specks > SPECKS and not sparse and not tiny:
            doubt = f"{specks:.0%} of it in specks"
        elif len(real) > 2 and regions > FEW_REGIONS and largest < ONE_REGION:
            doubt = f"{regions:.0f} regions a value in a plane, as in a picture of few levels"
    kind: Kind = "cannot tell" if doubt else "label map"
    return Judgement(
        kind, f"{said}, {doubt or 'whole numbers in few regions'}", foreground, grid.few_values(), flat=True
    )


def _is_scattered(grid: MeasuredGrid, pairs: Pairs, foreground: int) -> bool:
    """Say whether few single voxels are marked, which are landmarks where they are whole numbers."""
    real = grid.values.astype(np.float64) * grid.slope + grid.intercept
    whole = bool((np.abs(real - np.rint(real)) <= WHOLE).all())
    lonely = pairs.both <= foreground // 4 and foreground <= MOST_SCATTERED * grid.size
    return lonely and whole and foreground <= 4 * len(grid.values)
