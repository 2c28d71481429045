# SPDX-License-Identifier: Apache-2.0
"""The working grid: a small copy of a picture on which noise is optimized and stored, and the way back to every native
voxel.

A native voxel at index ``i`` of an axis of length ``n`` belongs to the working cell ``i * m // n`` of ``m`` cells. A
working value is the mean over its cell (area resampling); a noise value holds for every voxel of its cell, so a
consumer who resizes the file gets the noise back. Where the native axis is not longer than the working size, the two
grids are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CellPlanes:
    """How the cells of a sample lie in planes.

    Args:
        across: axis that leads from plane to plane; None of one plane.
        spacing: millimeters between rows and between columns of cells.
    """

    across: int | None
    spacing: tuple[float, float]

    def coarser(self, times: float) -> CellPlanes:
        """Give the planes of cells that are so many times as long."""
        return CellPlanes(self.across, (self.spacing[0] * times, self.spacing[1] * times))


def working_shape(native_shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Give the shape whose longest axis has at most ``size`` cells, with the proportions of the native shape (at least
    1 each).
    """
    scale = min(1.0, size / max(native_shape))
    return tuple(max(1, round(n * scale)) for n in native_shape)


def axis_cells(native: int, working: int) -> NDArray[np.intp]:
    """Give the working cell of every native index of one axis."""
    return np.arange(native) * working // native


def to_working(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Average native values over working cells.

    Args:
        values: native grid, any real or boolean type (a boolean array gives the share of True); axes behind those of
            the grid stay.
        shape: working grid, no axis longer than the native one.
    """
    if shape == values.shape[: len(shape)]:
        return values.astype(np.float32)
    result = values.astype(np.float64)
    for axis, cells in enumerate(shape):
        index = axis_cells(values.shape[axis], cells)
        starts = np.searchsorted(index, np.arange(cells))
        counts = np.diff(np.append(starts, len(index)))
        result = np.add.reduceat(result, starts, axis=axis)
        result /= counts.reshape([-1 if a == axis else 1 for a in range(result.ndim)])
    return result.astype(np.float32)


def labels_to_working(labels: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Take the label of each working cell at its center, for label maps of at most 256 classes."""
    result = labels
    for axis, cells in enumerate(shape):
        index = axis_cells(labels.shape[axis], cells)
        starts = np.searchsorted(index, np.arange(cells))
        centers = (starts + np.append(starts[1:], len(index)) - 1) // 2
        result = np.take(result, centers, axis=axis)
    return result.astype(np.uint8)


def to_native(noise: NDArray[Any], native_shape: tuple[int, ...]) -> NDArray[Any]:
    """Give every native voxel the noise of its working cell; dtype is kept."""
    result = noise
    for axis, native in reversed([*enumerate(native_shape)]):  # whole rows are copied last, which is fast
        if result.shape[axis] != native:
            result = np.take(result, axis_cells(native, noise.shape[axis]), axis=axis)
    return result


def cell_counts(selected: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Count the True native voxels of each working cell."""
    if shape == selected.shape:
        return selected.astype(np.int64)
    result = selected.astype(np.int64)
    for axis, cells in enumerate(shape):
        starts = np.searchsorted(axis_cells(selected.shape[axis], cells), np.arange(cells))
        result = np.add.reduceat(result, starts, axis=axis)
    return result
