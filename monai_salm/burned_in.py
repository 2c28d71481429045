# SPDX-License-Identifier: Apache-2.0
"""Text and graphics that were burned into images of screens, which no noise may touch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.morphology import Structure, dilated

SCREEN_MODALITIES = ("US", "IVUS", "OT", "SC", "ES", "XC", "DOC")
"""Modalities whose pictures may be captured screens, with text and graphics burned in."""


MOST_GRAPHICS = 0.2
"""Where more of a picture than this is at full scale, that is no text."""


GRAPHICS_EDGE = 2
"""Pixels around text that belong to its smoothed edges."""

_EDGE = Structure(np.add.outer(*(abs(np.arange(-GRAPHICS_EDGE, GRAPHICS_EDGE + 1)),) * 2) <= GRAPHICS_EDGE)
"""What lies within so many steps."""


_FULL_SCALES = frozenset((1 << bits) - 1 for bits in range(8, 33))
"""Largest values of 8 to 32 bits, in which text is burned in."""


LEAST_LOOP = 4
"""Frames that tell what stands still from what moves."""


def may_have_graphics(stored: NDArray[Any], modality: str, *, trailing: int = 0) -> bool:
    """Say whether :func:`graphics_mask` has to look at the values of a picture."""
    return modality in SCREEN_MODALITIES and stored.dtype.kind != "f" and stored.ndim - trailing == 2


def graphics_mask(stored: NDArray[Any], modality: str, *, trailing: int = 0) -> NDArray[np.bool_]:
    """Mark burned-in text and graphics of screen pictures (ultrasound, secondary capture): pure colors at full scale,
    and what touches them.

    Args:
        stored: values of one picture, 2D.
        modality: DICOM Modality code; others than :data:`SCREEN_MODALITIES` have none.
        trailing: 1 for color.
    """
    grid = stored.shape[: stored.ndim - trailing]
    if not may_have_graphics(stored, modality, trailing=trailing):
        return np.zeros(grid, dtype=bool)
    full = int(stored.max(initial=0))
    if full not in _FULL_SCALES:
        return np.zeros(grid, dtype=bool)
    if trailing:
        colors = stored.reshape(*grid, -1)
        pure = ((colors == 0) | (colors == full)).all(axis=-1) & (colors == full).any(axis=-1)
    else:
        pure = stored == full
    if pure.mean() > MOST_GRAPHICS:
        return np.zeros(grid, dtype=bool)  # a white page or a saturated picture, not letters on an image
    return dilated(pure, _EDGE) if pure.any() else pure


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
    same = np.ones(grid[1:], dtype=bool)
    for frame in stored[1:]:
        same &= (frame == stored[0]).reshape(*grid[1:], -1).all(axis=-1)
        if not same.any():
            break
    return same[None]
