# SPDX-License-Identifier: Apache-2.0
"""Texture features of a region: what radiomics measures of how gray values lie beside each other, and so what noise of
single voxels changes first.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

TEXTURE_FEATURES = ("contrast", "homogeneity", "correlation")
_GRAY_VALUES = 32
_NEIGHBORS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows down and columns to the right: the neighbors of a voxel in its plane, each pair once."""


def texture_features(values: NDArray[np.floating], mask: NDArray[np.bool_], across: int | None) -> NDArray[np.float64]:
    """Give the features of :data:`TEXTURE_FEATURES` of a region: of the gray-level co-occurrence matrix (Haralick,
    Shanmugam and Dinstein, IEEE Transactions on Systems, Man, and Cybernetics 3, 1973; homogeneity is the inverse
    difference moment) of neighbors at a distance of 1 in the plane, in four directions and both ways, in one matrix for
    all planes (IBSI, arXiv 1612.07003, section 3.6).

    Args:
        values: model values, 2D or 3D; 32 gray values over the window.
        mask: the region; pairs count that lie inside.
        across: axis that leads from plane to plane of 3D values.

    Returns:
        Of a region without pairs or of one gray value: contrast 0, homogeneity and correlation 1.
    """
    shares = _neighbor_shares(values, mask, across)
    gray = np.arange(_GRAY_VALUES, dtype=np.float64)
    squared = (gray[:, None] - gray[None]) ** 2
    center = (shares.sum(axis=1) * gray).sum()
    variance = (shares.sum(axis=1) * (gray - center) ** 2).sum()
    if variance <= 0:
        return np.array([0.0, 1.0, 1.0])
    covariance = (shares * (gray[:, None] - center) * (gray[None] - center)).sum()
    return np.array([(shares * squared).sum(), (shares / (1 + squared)).sum(), covariance / variance])


def _neighbor_shares(values: NDArray[np.floating], mask: NDArray[np.bool_], across: int | None) -> NDArray[np.float64]:
    """Give the share of each pair of gray values among neighbors; nothing but 0 without pairs."""
    gray = np.clip((np.nan_to_num(values) * _GRAY_VALUES).astype(np.int64), 0, _GRAY_VALUES - 1)
    grays, masks = (part[None] if across is None else np.moveaxis(part, across, 0) for part in (gray, mask))
    counts = np.zeros(_GRAY_VALUES**2, dtype=np.int64)
    for down, right in _NEIGHBORS:
        first, second = _shifted(down, right)
        both = masks[first] & masks[second]
        pairs = grays[first][both] * _GRAY_VALUES + grays[second][both]
        counts += np.bincount(pairs, minlength=_GRAY_VALUES**2)
    square = counts.reshape(_GRAY_VALUES, _GRAY_VALUES)
    both_ways = (square + square.T).astype(np.float64)
    both_ways /= max(1.0, both_ways.sum())
    return both_ways


def _shifted(down: int, right: int) -> Iterator[tuple[slice, slice, slice]]:
    """Give the places of the first and of the second of all pairs that lie so many rows and columns apart."""
    rows = (slice(None, -down or None), slice(down, None))
    columns = (slice(max(-right, 0), -right if right > 0 else None), slice(max(right, 0), right if right < 0 else None))
    for row, column in zip(rows, columns, strict=True):
        yield slice(None), row, column
