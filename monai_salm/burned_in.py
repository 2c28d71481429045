# SPDX-License-Identifier: Apache-2.0
"""Text and graphics that were burned into images of screens, which no noise may touch."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # its ndimage, which takes a third of a second to load, is loaded where it is first used
from numpy.typing import NDArray

SCREEN_MODALITIES = ("US", "IVUS", "OT", "SC", "ES", "XC", "DOC")
"""Modalities whose pictures may be captured screens, with text and graphics burned in."""


MOST_GRAPHICS = 0.2
"""Where more of a picture than this is at full scale, that is no text."""


GRAPHICS_EDGE = 2
"""Pixels around text that belong to its smoothed edges."""


_FULL_SCALES = frozenset((1 << bits) - 1 for bits in range(8, 33))
"""Largest values of 8 to 32 bits, in which text is burned in."""


LEAST_LOOP = 4
"""Frames that tell what stands still from what moves."""


def graphics_mask(stored: NDArray[Any], modality: str, *, trailing: int = 0) -> NDArray[np.bool_]:
    """Mark burned-in text and graphics of screen pictures (ultrasound, secondary capture): pure colors at full scale,
    and what touches them.

    Args:
        stored: values of one picture, 2D.
        modality: DICOM Modality code; others than :data:`SCREEN_MODALITIES` have none.
        trailing: 1 for color.
    """
    grid = stored.shape[: stored.ndim - trailing]
    if modality not in SCREEN_MODALITIES or stored.dtype.kind == "f" or len(grid) != 2:
        return np.zeros(grid, dtype=bool)
    full = int(stored.max(initial=0))
    if full not in _FULL_SCALES:
        return np.zeros(grid, dtype=bool)
    colors = stored.reshape(*grid, -1)
    pure = ((colors == 0) | (colors == full)).all(axis=-1) & (colors == full).any(axis=-1)
    if pure.mean() > MOST_GRAPHICS:
        return np.zeros(grid, dtype=bool)  # a white page or a saturated picture, not letters on an image
    marked: NDArray[np.bool_] = scipy.ndimage.binary_dilation(pure, iterations=GRAPHICS_EDGE)
    return marked


def static_pixels(stored: NDArray[Any], modality: str, *, trailing: int = 0) -> NDArray[np.bool_]:
    """Mark what never changes over the frames of an ultrasound loop: text, scales, logos.

    Args:
        stored: values of all frames, the first axis.
        modality: DICOM Modality code; of others than ultrasound nothing is marked.
        trailing: 1 for color.

    Returns:
        Bool, ``(1, rows, columns)``.
    """
    grid = stored.shape[: stored.ndim - trailing]
    if modality not in ("US", "IVUS") or len(stored) < LEAST_LOOP:
        return np.zeros((1, *grid[1:]), dtype=bool)
    same: NDArray[np.bool_] = (stored == stored[:1]).reshape(len(stored), *grid[1:], -1).all(axis=(0, -1))
    return same[None]
