# SPDX-License-Identifier: Apache-2.0
"""Shapes in marks: what erosion, dilation, filled holes and components make of them, as ``scipy.ndimage`` has it, but
faster and with little memory beside the marks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its ndimage, which takes a third of a second to load, is loaded where it is first used
from numpy.typing import NDArray

from monai_salm.slabs import slabs

_BLOCK = 1 << 22
"""Marks whose components are numbered at once."""

_LEAST_FOR_RUNS, _PLACES_TO_A_RUN = 1 << 12, 16
"""Planes that are worth to be taken apart into runs: so large, and with so many places to a run at least."""


class Structure:
    """What erosion and dilation look at around each place.

    Args:
        marks: odd along each axis, around the middle.
    """

    def __init__(self, marks: NDArray[np.bool_]) -> None:
        self.marks = marks
        self.reach = tuple(length // 2 for length in marks.shape)
        self.rows = _rows(marks)


def eroded(marks: NDArray[np.bool_], structure: Structure) -> NDArray[np.bool_]:
    """Give the places around which a structure has marks alone, as ``scipy.ndimage.binary_erosion``: beyond the edge
    is none.
    """
    swept = _along_rows(marks, structure, np.logical_and)
    if swept is None:
        swept = scipy.ndimage.binary_erosion(marks, structure.marks)
    return swept


def dilated(marks: NDArray[np.bool_], structure: Structure) -> NDArray[np.bool_]:
    """Give the places around which a structure has a mark, as ``scipy.ndimage.binary_dilation``."""
    swept = _along_rows(marks, structure, np.logical_or)
    if swept is None:
        swept = scipy.ndimage.binary_dilation(marks, structure.marks)
    return swept


def _along_rows(marks: NDArray[np.bool_], structure: Structure, join: np.ufunc) -> NDArray[np.bool_] | None:
    """Join the marks under a structure around each place; None where it is not made of rows along the memory."""
    if structure.marks.ndim != marks.ndim:
        return None
    order = _along_memory(marks)
    if order != list(range(marks.ndim)):
        structure = Structure(structure.marks.transpose(order))
    if structure.rows is None:
        return None
    return _swept(marks.transpose(order), structure.reach, structure.rows, join).transpose(np.argsort(order))


def _rows(marks: NDArray[np.bool_]) -> dict[int, list[tuple[int, ...]]] | None:
    """Give the rows of a structure along its last axis by how far they reach from their middle; None of a structure
    that is not made of such rows, or not the same from all sides.
    """
    if marks.ndim == 0 or not marks.any() or any(length % 2 == 0 for length in marks.shape):
        return None
    if not (marks == marks[(slice(None, None, -1),) * marks.ndim]).all():
        return None
    middle = marks.shape[-1] // 2
    reach = marks.sum(axis=-1) // 2
    lines = np.abs(np.arange(marks.shape[-1]) - middle) <= reach[..., None]
    filled = np.asarray(marks.any(axis=-1))
    if not (marks == (lines & filled[..., None])).all():
        return None
    found: dict[int, list[tuple[int, ...]]] = {}
    for place in np.argwhere(filled):
        found.setdefault(int(reach[tuple(place)]), []).append(tuple(int(index) for index in place))
    return found


def _swept(
    marks: NDArray[np.bool_], reach: tuple[int, ...], rows: dict[int, list[tuple[int, ...]]], join: np.ufunc
) -> NDArray[np.bool_]:
    """Join the marks under a structure around each place, slab by slab: along its rows first, then these.

    Args:
        marks: any shape.
        reach: of the structure, from its middle.
        rows: of :func:`_rows`.
        join: and, or or.
    """
    result = np.empty_like(marks)
    for slab in slabs(marks):
        bounds = [part.indices(length)[:2] for part, length in zip(slab, marks.shape, strict=False)]
        bounds += [(0, length) for length in marks.shape[len(bounds) :]]
        size = [stop - start for start, stop in bounds]
        padded = np.zeros([length + 2 * most for length, most in zip(size, reach, strict=True)], dtype=bool)
        taken, place = [], []
        for (start, stop), most, length in zip(bounds, reach, marks.shape, strict=True):
            first, last = max(0, start - most), min(length, stop + most)
            taken.append(slice(first, last))
            place.append(slice(first - (start - most), last - (start - most)))
        padded[tuple(place)] = marks[tuple(taken)]
        middle, width = reach[-1], size[-1]
        line = padded[..., middle : middle + width].copy()
        joined = np.full(size, join is np.logical_and)
        for far in range(middle + 1):
            if far:
                join(line, padded[..., middle - far : middle - far + width], out=line)
                join(line, padded[..., middle + far : middle + far + width], out=line)
            for offsets in rows.get(far, ()):
                part = tuple(slice(offset, offset + length) for offset, length in zip(offsets, size, strict=False))
                join(joined, line[part], out=joined)
        result[slab] = joined
    return result


def _along_memory(marks: NDArray[np.bool_]) -> list[int]:
    """Give the axes from the one whose neighbors lie farthest apart to the one where they are next to each other."""
    return sorted(range(marks.ndim), key=lambda axis: -abs(marks.strides[axis]))


def fill_cavities(marks: NDArray[np.bool_], across: int | None = None) -> None:
    """Mark what marks enclose, in place: as ``scipy.ndimage.binary_fill_holes`` in each plane.

    Args:
        marks: 2D; or 3D, plane by plane.
        across: axis that leads from plane to plane; None of 2D.
    """
    stack = marks[None] if across is None else np.moveaxis(marks, across, 0)
    for block in _contiguous(stack):
        part = np.ascontiguousarray(stack[block])
        found = False
        for plane in part:
            holes = _holes(plane)
            if holes is not None:
                plane |= holes
                found = True
        if found:
            stack[block] = part


def _contiguous(stack: NDArray[Any]) -> Iterator[slice]:
    """Give parts of a stack of planes that are worth a copy of their own: their planes may lie across the memory."""
    thick = max(1, min(64, _BLOCK // max(1, stack[0].size))) if len(stack) else 1
    for start in range(0, len(stack), thick):
        yield slice(start, start + thick)


def _holes(plane: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Mark what the marks of a plane enclose; None if that is nothing."""
    if not plane.size or not plane.any():
        return None
    runs = _Runs.of(~plane)
    if runs is not None:
        whole = runs.components()
        open_to_edge = np.zeros(len(whole), dtype=bool)
        open_to_edge[whole[runs.at_edge()]] = True
        inside = ~open_to_edge[whole]
        return runs.marked(inside) if inside.any() else None
    outside, count = scipy.ndimage.label(~plane)
    open_ = np.zeros(count + 1, dtype=bool)
    open_[0] = True
    for edge in (outside[0], outside[-1], outside[:, 0], outside[:, -1]):
        open_[edge] = True
    if open_.all():
        return None
    holes: NDArray[np.bool_] = (~open_)[outside]
    return holes


@dataclass(frozen=True)
class _Runs:
    """The marks of a plane as runs along its rows, which are far fewer than its places where it shows a body.

    Args:
        shape: of the plane.
        starts, stops: of the runs, in the order of the memory, where each row has one place more than the plane.
    """

    shape: tuple[int, int]
    starts: NDArray[np.intp]
    stops: NDArray[np.intp]

    @classmethod
    def of(cls, marks: NDArray[np.bool_]) -> _Runs | None:
        """Give the runs of a plane; None where scipy is as fast, of small planes and of those with many runs, and where
        it is no plane.
        """
        if marks.ndim != 2 or marks.size < _LEAST_FOR_RUNS:
            return None
        rows, columns = marks.shape
        spaced = np.zeros(rows * (columns + 1) + 1, dtype=bool)
        spaced[1:].reshape(rows, columns + 1)[:, :columns] = marks
        changes = np.flatnonzero(spaced[1:] != spaced[:-1])
        if len(changes) // 2 > marks.size // _PLACES_TO_A_RUN:
            return None
        return cls((rows, columns), changes[::2], changes[1::2])

    @property
    def lengths(self) -> NDArray[np.intp]:
        """How many marks each run has."""
        return self.stops - self.starts

    def components(self) -> NDArray[np.intp]:
        """Give the first run of the component that each run belongs to."""
        width = self.shape[1] + 1
        first = np.searchsorted(self.stops, self.starts + width, side="right")
        counts = np.maximum(np.searchsorted(self.starts, self.stops + width, side="left") - first, 0)
        above, below = np.repeat(np.arange(len(first)), counts), _ranges(first, counts)
        whole = np.arange(len(first))
        while True:
            one, other = whole[above], whole[below]
            apart = one != other
            if not apart.any():
                return whole
            np.minimum.at(whole, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
            while True:  # the root of each, in as many steps as the depth has digits
                root = whole[whole]
                if np.array_equal(root, whole):
                    break
                whole = root

    def at_edge(self) -> NDArray[np.bool_]:
        """Say which runs touch the edge of the plane."""
        rows, columns = self.shape
        row, start = np.divmod(self.starts, columns + 1)
        edge: NDArray[np.bool_] = (row == 0) | (row == rows - 1) | (start == 0) | (start + self.lengths == columns)
        return edge

    def marked(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Give the plane with the chosen runs alone."""
        rows, columns = self.shape
        spaced = np.zeros(rows * (columns + 1), dtype=bool)
        spaced[_ranges(self.starts[chosen], self.lengths[chosen])] = True
        plane: NDArray[np.bool_] = spaced.reshape(rows, columns + 1)[:, :columns]
        return plane


def _ranges(starts: NDArray[np.intp], counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Give the numbers from each start on, so many of each, one after the other."""
    before = np.cumsum(counts) - counts
    numbers: NDArray[np.intp] = np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
    return numbers


def drop_small_components(marks: NDArray[np.bool_], share: float) -> None:
    """Take away the components, joined along axes, that have fewer marks than a share of the largest one, in place."""
    marks = marks.transpose(_along_memory(marks))  # neighbors stay neighbors, and slabs lie in one piece
    runs = _Runs.of(marks)
    if runs is not None:
        whole = runs.components()
        together = np.bincount(whole, runs.lengths, len(whole))[whole]
        dropped = together < share * together.max(initial=0)
        if dropped.any():
            marks &= ~runs.marked(dropped)
        return
    sizes: list[NDArray[np.int64]] = []
    joined: list[NDArray[np.int64]] = []
    total, last = 0, None
    for block in slabs(marks, 1, _BLOCK):
        numbers, count = scipy.ndimage.label(marks[block])
        if last is not None:
            joined.append(_touching(last, numbers[0], total))
        last = numbers[-1].astype(np.int64) + np.where(numbers[-1] > 0, total - 1, -1) if numbers.size else None
        sizes.append(np.bincount(numbers.ravel(), minlength=count + 1)[1:])
        total += count
    if total <= 1:
        return
    size = _united(np.concatenate(sizes), joined)
    kept = size >= share * size.max()
    if kept.all():
        return
    first = 0
    for block, own in zip(slabs(marks, 1, _BLOCK), sizes, strict=True):
        table = np.concatenate([[False], kept[first : first + len(own)]])
        first += len(own)
        if not table[1:].all():
            if len(sizes) > 1:
                numbers, _ = scipy.ndimage.label(marks[block])
            marks[block] = table[numbers]


def _touching(last: NDArray[np.int64], face: NDArray[np.int32], total: int) -> NDArray[np.int64]:
    """Give the pairs of components that meet where two blocks do.

    Args:
        last: components at the end of the block before, -1 where there is none.
        face: those at the start of the next, from 1; 0 where there is none.
        total: components before that.
    """
    both = (last >= 0) & (face > 0)
    one, other = last[both], face[both].astype(np.int64)
    most = int(other.max(initial=0)) + 1
    pairs = one * most + other
    pairs = np.unique(pairs[np.flatnonzero(np.diff(pairs, prepend=-1))])  # mostly the same ones one after the other
    return np.stack([pairs // most, pairs % most + (total - 1)])


def _united(sizes: NDArray[np.int64], joined: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Give the size of the whole that each part belongs to."""
    pairs = np.concatenate(joined, axis=1) if joined else np.zeros((2, 0), np.int64)
    if not pairs.size:
        return sizes
    # Slow to load, and needed for large volumes alone.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(pairs.shape[1], np.int8), (pairs[0], pairs[1])), shape=(len(sizes), len(sizes)))
    count, whole = connected_components(graph, directed=False)
    together = np.zeros(count, np.int64)
    np.add.at(together, whole, sizes)
    found: NDArray[np.int64] = together[whole]
    return found
