# SPDX-License-Identifier: Apache-2.0
"""Telling label maps from images by their values: noise in a label map would be an error in somebody's ground truth."""

from __future__ import annotations

import numpy as np

from monai_salm.io.base import StoredArray

MOST_LABELS = 4096
"""Whole-body atlases have some hundreds of structures, FreeSurfer's lookup table some thousands."""

EQUAL_NEIGHBORS = 0.75
"""Share of neighboring foreground voxels of the same value from which an array is a label map: 0.99 in label maps, below 0.1 in images."""

_SLICES = 16


def is_label_map(stored: StoredArray, *, most_labels: int = MOST_LABELS) -> bool:
    """Say whether an array holds labels: few whole numbers from 0, constant over regions.

    Args:
        stored: 2D or more, any real type; NaN and infinity make it an image.
        most_labels: arrays with more distinct values are images.
    """
    if stored.dtype.kind not in "iuf" or stored.size == 0:
        return False
    # Most files are images, and a few slices show it; only what passes is looked at whole.
    if not _is_piecewise_constant(stored[..., :: max(1, stored.shape[-1] // _SLICES)]):
        return False
    if stored.dtype.kind == "f" and not np.array_equal(stored, np.rint(stored)):
        return False
    if not np.isfinite([stored.min(), stored.max()]).all() or stored.min() < 0:
        return False
    return len(np.unique(stored)) <= most_labels and _is_piecewise_constant(stored)


def _is_piecewise_constant(stored: StoredArray) -> bool:
    """Say whether neighbors in the foreground mostly have the same value."""
    equal = pairs = 0
    for axis in range(min(3, stored.ndim)):
        first, second = (stored[(slice(None),) * axis + (part,)] for part in (slice(None, -1), slice(1, None)))
        foreground = (first != 0) & (second != 0)
        equal += int(((first == second) & foreground).sum())
        pairs += int(foreground.sum())
    return equal >= EQUAL_NEIGHBORS * max(1, pairs)
