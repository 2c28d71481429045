# SPDX-License-Identifier: Apache-2.0
"""Counting what neighboring values have in common, plane by plane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 32
"""Planes that are taken at once from where they lie across the memory."""

Differences = tuple[float, float, float, int]
"""Sum of the sizes of the first differences, that of the third, largest of the first, how many."""


@dataclass
class Pairs:
    """What neighbors have in common.

    Args:
        along: pairs of neighbors in the foreground along rows, columns and planes.
        alike: those of the same value.
        steps: pairs of different values, the background's included.
        next_level: those whose values follow each other.
        first, third: sums of the sizes of first and third differences along each axis in a plane, in the foreground.
        largest, counted: largest first difference along each axis, and how many there are.
        own: equal pairs of each value that may fill an area.
    """

    along: NDArray[np.int64]
    alike: NDArray[np.int64]
    steps: int
    next_level: int
    first: NDArray[np.float64]
    third: NDArray[np.float64]
    largest: NDArray[np.float64]
    counted: NDArray[np.float64]
    own: NDArray[np.int64]

    @property
    def both(self) -> int:
        """Pairs along all axes."""
        return int(self.along.sum())

    @property
    def equal_share(self) -> float:
        """Share of the pairs that have the same value, along the axis where it is largest: slabs are
        alike along two.
        """
        return equal_share(self.along, self.alike)

    @property
    def level_share(self) -> float:
        """Share of the steps that go to the next value."""
        return self.next_level / max(1, self.steps)

    @property
    def steadiness(self) -> float:
        """Mean first difference as a share of the largest, along the axis where it is larger."""
        return float(np.max(self.first / np.maximum(self.largest * self.counted, np.finfo(float).tiny)))

    @property
    def roughness(self) -> float:
        """Third differences as a share of the first, along the axis where it is larger."""
        return float(np.max(self.third / np.maximum(self.first, np.finfo(float).tiny)))


def equal_share(along: NDArray[np.int64], alike: NDArray[np.int64]) -> float:
    """Give the share of :attr:`Pairs.equal_share` from the pairs along each axis, and those of the same value."""
    counted = along >= max(1, int(along.sum()) // 8)
    return float(np.max(alike[counted] / along[counted], initial=0.0))


def equal_values(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
    """Compare values; NaN is the same as NaN."""
    equal: NDArray[np.bool_] = first == second
    return equal | ((first != first) & (second != second)) if first.dtype.kind == "f" else equal


def repeats(plane: NDArray[Any], asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the rows of a plane, of those asked for, that are the same as the one before."""
    result = np.zeros(len(asked), bool)
    if asked[1:].all():
        result[1:] = equal_values(plane[1:], plane[:-1]).all(axis=1)
    elif asked.any():
        rows = np.flatnonzero(asked)
        result[rows] = equal_values(plane[rows], plane[rows - 1]).all(axis=1)
    return result


def one_slice(places: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Give the slice of places that follow each other, which needs no copy; others as they are."""
    if len(places) and places[-1] - places[0] == len(places) - 1:
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


def whole_planes(stack: NDArray[Any], numbers: Sequence[int]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Give planes of a stack, by their numbers, in one piece each; where they lie across the memory, several are taken
    at once.
    """
    across = len(stack) > 1 and abs(stack.strides[0]) < abs(stack.strides[-1])
    most = max(1, min(_AT_ONCE, (1 << 23) * len(stack) // max(1, stack.size))) if across else 1
    for start in range(0, len(numbers), most):
        some = numbers[start : start + most]
        block = stack[some[0] : some[-1] + 1]
        if most > 1:
            block = np.ascontiguousarray(block)
        for number in some:
            yield number, np.ascontiguousarray(block[number - some[0]])


def differences(plane: NDArray[Any], inside: NDArray[np.bool_]) -> Differences:
    """Measure the sizes of differences along the first axis, where all four values that these are from are inside."""
    values = np.where(inside, plane, 0).astype(np.float64)
    four = inside[3:] & inside[2:-1] & inside[1:-2] & inside[:-3]
    first = np.abs(np.diff(values, axis=0)[1:-1])[four]
    third = np.abs(np.diff(values, n=3, axis=0))[four] if len(values) > 3 else first
    return float(first.sum()), float(third.sum()), float(first.max(initial=0.0)), first.size


def regions_of(code: NDArray[np.intp], inside: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Give the size and the value of each connected region of one value in a plane."""
    # Slow to load, and needed for few files.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    # Old versions of SciPy (1.11) take no graph of wider indices.
    index = np.int32 if code.size < 1 << 31 else np.int64
    count = int(inside.sum())
    number = np.full(code.shape, -1, index)
    number[inside] = np.arange(count, dtype=index)
    joined = []
    for one, other in (
        ((slice(None, -1),), (slice(1, None),)),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        same = inside[one] & inside[other] & (code[one] == code[other])
        joined.append(np.stack([number[one][same], number[other][same]]))
    rows, columns = np.concatenate(joined, axis=1)
    _, region = connected_components(
        coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count)), directed=False
    )
    sizes = np.bincount(region)
    owner = np.zeros(len(sizes), np.intp)
    owner[region] = code[inside]
    return sizes, owner
