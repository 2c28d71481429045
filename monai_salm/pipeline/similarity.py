# SPDX-License-Identifier: Apache-2.0
"""How alike two images look: the structural similarity (SSIM, Wang et al. 2004, doi 10.1109/TIP.2003.819861)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_KERNEL, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
"""Stability constants for a data range of 1."""
_ROWS = 32
"""Rows, and columns, whose similarities are found at once, in the cache of the processor."""


def structural_similarity(before_model: NDArray[np.float32], after_model: NDArray[np.float32]) -> float:
    """Give the mean SSIM of two images in model values (data range 1); of volumes, that of their slices along the
    shortest axis.

    Args:
        before_model, after_model: 2D or 3D, of one shape.
    """
    if before_model.ndim == 2:
        before_model, after_model = before_model[None], after_model[None]
    axis = int(np.argmin(before_model.shape))
    before, after = (np.moveaxis(values, axis, 0) for values in (before_model, after_model))
    size = min(_KERNEL, *before.shape[1:])
    kernel = _gaussian(size - 1 + size % 2)
    return float(
        np.mean([_slice_similarity(first, second, kernel) for first, second in zip(before, after, strict=True)])
    )


def _slice_similarity(before: NDArray[np.float32], after: NDArray[np.float32], kernel: tuple[float, ...]) -> float:
    """Give the mean over all places where the whole window lies in a slice, some rows at once; where it sees no change,
    the similarity is 1.
    """
    beyond = len(kernel) - 1
    rows, columns = (int(length) - beyond for length in before.shape)
    same, total = rows * columns, 0.0
    for start in range(0, rows, _ROWS):
        end = min(start + _ROWS, rows)
        part = slice(start, end + beyond)
        changed = np.flatnonzero((before[part] != after[part]).any(axis=0))
        if changed.size:
            left, right = max(0, int(changed[0]) - beyond), min(int(changed[-1]) + 1, columns)
            window = part, slice(left, right + beyond)
            same -= (end - start) * (right - left)
            total += _sum_of_similarities(before[window], after[window], kernel)
    return (same + total) / (rows * columns)


def _sum_of_similarities(before: NDArray[np.float32], after: NDArray[np.float32], kernel: tuple[float, ...]) -> float:
    """Add the similarities of all places of some rows.

    Args:
        before, after: the rows.
        kernel: the weights of the window along one axis.
    """
    rows, columns = before.shape
    figures = np.empty((rows, 4, columns), np.float32)
    x, change, squared, powers = figures.transpose(1, 0, 2)
    x[:] = before
    np.subtract(after, before, out=change)
    np.square(before, out=powers)
    powers += np.square(after, out=squared)
    np.square(change, out=squared)
    down = (_bands(rows - len(kernel) + 1, kernel) @ figures.reshape(rows, -1)).reshape(-1, columns)
    mean, change, squared, powers = _along(down, kernel).reshape(-1, 4, columns - len(kernel) + 1).transpose(1, 0, 2)
    # SSIM = (1 - (mean x - mean y)^2 / (mean x^2 + mean y^2 + C1)) * (1 - var(x - y) / (var x + var y + C2)), which is
    # the same as the usual product of fractions, but single precision is enough where the images are alike.
    means = np.square(mean)
    mean += change
    means += np.square(mean, out=mean)
    powers -= means
    powers += _C2
    means += _C1
    np.square(change, out=change)
    squared -= change
    squared /= powers
    change /= means
    np.subtract(1, squared, out=squared)
    np.subtract(1, change, out=change)
    squared *= change
    return float(squared.sum(dtype=np.float64))


def _gaussian(size: int) -> tuple[float, ...]:
    offsets = np.arange(size) - size // 2
    line: NDArray[np.float64] = np.exp(-((offsets / _SIGMA) ** 2) / 2)
    line /= line.sum()
    return tuple(line.tolist())


def _along(values: NDArray[np.float32], kernel: tuple[float, ...]) -> NDArray[np.float32]:
    """Average rows under a window, where all of it lies inside, some columns at a time."""
    places = values.shape[1] - len(kernel) + 1
    averages = np.empty((len(values), places), np.float32)
    for start in range(0, places, _ROWS):
        end = min(start + _ROWS, places)
        part = values[:, start : end + len(kernel) - 1]
        np.matmul(part, _bands(end - start, kernel).T, out=averages[:, start:end])
    return averages


@lru_cache(maxsize=8)
def _bands(places: int, kernel: tuple[float, ...]) -> NDArray[np.float32]:
    """Give the matrix whose product with columns of values averages them under a window at so many places, which is
    faster than to add up shifted values one by one.
    """
    bands = np.zeros((places, places + len(kernel) - 1), np.float32)
    for place in range(places):
        bands[place, place : place + len(kernel)] = kernel
    return bands
