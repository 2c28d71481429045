# SPDX-License-Identifier: Apache-2.0
"""How alike two images look: the structural similarity (SSIM, Wang et al. 2004, doi 10.1109/TIP.2003.819861)."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

_KERNEL, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
"""Stability constants for a data range of 1."""
_ROWS = 64
"""Rows whose similarities are found at once, in the cache of the processor."""


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


def _slice_similarity(before: NDArray[np.float32], after: NDArray[np.float32], kernel: NDArray[np.float64]) -> float:
    """Give the mean over all places where the whole window lies in a slice, some rows at once."""
    beyond = len(kernel) - 1
    places = len(before) - beyond
    total = 0.0
    for start in range(0, places, _ROWS):
        part = slice(start, min(start + _ROWS, places) + beyond)
        total += _sum_of_similarities(before[part].astype(np.float64), after[part].astype(np.float64), kernel)
    return total / float(places * (before.shape[1] - beyond))


def _sum_of_similarities(x: NDArray[np.float64], y: NDArray[np.float64], kernel: NDArray[np.float64]) -> float:
    """Add the similarities of all places of some rows; changes ``x`` and ``y``."""
    mean_x, mean_y = _weighted(x, kernel), _weighted(y, kernel)
    together = _weighted(x * y, kernel)
    np.square(x, out=x)
    x += np.square(y, out=y)
    spread = _weighted(x, kernel)
    both = mean_x * mean_y
    np.square(mean_x, out=mean_x)
    mean_x += np.square(mean_y, out=mean_y)
    together -= both
    spread -= mean_x
    for part, constant, times in ((both, _C1, 2.0), (together, _C2, 2.0), (mean_x, _C1, 1.0), (spread, _C2, 1.0)):
        part *= times
        part += constant
    both *= together
    mean_x *= spread
    both /= mean_x
    return float(both.sum())


def _gaussian(size: int) -> NDArray[np.float64]:
    offsets = np.arange(size) - size // 2
    line: NDArray[np.float64] = np.exp(-((offsets / _SIGMA) ** 2) / 2)
    line /= line.sum()
    return line


def _weighted(values: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average under the window of a line along both axes, where all of it lies inside."""
    for axis in (0, 1):
        values = sliding_window_view(values, len(kernel), axis) @ kernel
    return values
