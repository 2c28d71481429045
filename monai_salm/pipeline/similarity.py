# SPDX-License-Identifier: Apache-2.0
"""How alike two images look: the structural similarity (SSIM, Wang et al. 2004, doi 10.1109/TIP.2003.819861)."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

_KERNEL, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
"""Stability constants for a data range of 1."""


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
    """Give the mean over all places where the whole window lies in a slice."""
    x, y = before.astype(np.float64), after.astype(np.float64)
    mean_x, mean_y = _weighted(x, kernel), _weighted(y, kernel)
    spread = _weighted(x * x, kernel) - mean_x**2 + _weighted(y * y, kernel) - mean_y**2
    together = _weighted(x * y, kernel) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return float(np.mean(luminance * (2 * together + _C2) / (spread + _C2)))


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
