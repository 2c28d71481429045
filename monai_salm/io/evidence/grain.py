# SPDX-License-Identifier: Apache-2.0
"""A quick look at integers: whether neighbors differ so often that the values are surely not flat, as labels are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.evidence.integers import Codes
from monai_salm.io.evidence.neighbors import equal_share, one_slice, repeats, whole_planes

_SAMPLED = 1 << 9
"""Values that are sorted to see whether there are many."""


def grainy_foreground(values: NDArray[Any], flat: float, *, least_values: int, least_pairs: int) -> int:
    """Give the voxels that are not of the most frequent value, without what only repeats, of integers whose neighbors
    among these are surely not flat; 0 where that is not known.

    Args:
        values: of two or three axes.
        flat: share of equal neighbors from which values are flat.
        least_values: of fewer values besides the most frequent one nothing is said.
        least_pairs: of neighbors, likewise.
    """
    if values.dtype.kind not in "iu" or not values.size or not _has_values(values, least_values + 1):
        return 0
    axis = int(np.argmin(values.shape)) if values.ndim == 3 else 0
    stack = np.moveaxis(values, axis, 0) if values.ndim == 3 else values[None]
    background = _most_frequent(values)
    if background is None:
        return 0
    along, alike = np.zeros(3, np.int64), np.zeros(3, np.int64)
    foreground, last = 0, None
    for plane in _without_repeats(stack):
        here = plane != background
        foreground += int(np.count_nonzero(here))
        sides = [
            (plane[:-1], plane[1:], here[:-1] & here[1:]),
            (plane[:, :-1], plane[:, 1:], here[:, :-1] & here[:, 1:]),
            *([] if last is None else [(last[0], plane, last[1] & here)]),
        ]
        for side, (one, other, pair) in enumerate(sides):
            along[side] += np.count_nonzero(pair)
            pair &= one == other
            alike[side] += np.count_nonzero(pair)
        last = plane, here
    return 0 if int(along.sum()) < least_pairs or equal_share(along, alike) >= flat else foreground


def _has_values(values: NDArray[Any], least: int) -> bool:
    """Say whether there are surely so many different values."""
    return len(np.unique(values.ravel(order="K")[:: values.size // _SAMPLED | 1])) >= least


def _most_frequent(values: NDArray[Any]) -> Any:
    """Give the most frequent value, the lowest of several; None of integers that lie far apart."""
    corner = values[(0,) * values.ndim]
    if 2 * int(np.count_nonzero(values == corner)) > values.size:
        return corner
    codes = Codes.of(values)
    if codes is None:
        return None
    return values.dtype.type(int(codes.table(codes.plane(values)).argmax()) + codes.lowest)


def _without_repeats(stack: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Give the planes of a stack without those, and the rows and columns, that only repeat the one before."""
    planes, rows, columns = stack.shape
    rows_repeat, columns_repeat = np.arange(rows) > 0, np.arange(columns) > 0
    for _, plane in whole_planes(stack, range(planes)):
        rows_repeat = repeats(plane, rows_repeat)
        columns_repeat = repeats(plane.T, columns_repeat)
    some = one_slice(np.flatnonzero(~rows_repeat)), one_slice(np.flatnonzero(~columns_repeat))
    before = None
    for _, plane in whole_planes(stack, range(planes)):
        if before is None or not np.array_equal(plane, before):
            yield np.ascontiguousarray(plane[some[0]][:, some[1]])
        before = plane
