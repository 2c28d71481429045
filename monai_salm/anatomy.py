# SPDX-License-Identifier: Apache-2.0
"""Where noise may be: the anatomy of a picture, from its values and its background alone.

The anatomy mask is a function of the file alone (and, for a volume stored slice by slice, of its series), so that
anybody who holds the original can compute it again. It is generous: a voxel is left out only where it is evidently not
body (air, table, empty or collimated border).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # its ndimage, which takes a third of a second to load, is loaded where it is first used
from numpy.typing import NDArray

from monai_salm.background import Background

CT_BODY_HU = -500.0
"""Halfway between air (-1000 HU) and soft tissue: what lies above is body, bed or clothes."""

CT_OPENING_MM = 4.0
"""Structures thinner than this (table top, tubes, blankets) are cut from the body before its components are counted."""

SMALL_COMPONENT = 0.02
"""Components smaller than this share of the largest one are not anatomy."""


def anatomy_mask(
    values_real: NDArray[Any],
    *,
    modality: str,
    background: Background | None = None,
    spacing: tuple[float, ...] = (),
) -> NDArray[np.bool_]:
    """Mark the body: CT by its density without air and table, other pictures by what differs from their background.

    Cavities inside the body (lungs, ventricles) belong to it. A picture without background is anatomy throughout.

    Args:
        values_real: one slice (2D) or volume (3D), real units.
        modality: DICOM Modality code; ``CT`` has a rule of its own.
        background: from :func:`~monai_salm.background.find_background`; None if there is none.
        spacing: millimeters between samples, for the CT opening; 1 where unknown.
    """
    values = np.asarray(values_real, dtype=np.float64)
    finite = np.isfinite(values)
    if modality == "CT":
        inside = finite & (np.nan_to_num(values, nan=-np.inf) > CT_BODY_HU)
        inside = _open(inside, spacing or (1.0,) * values.ndim)
    elif background is None:
        return finite
    else:
        center = background.center_real
        inside = finite & (np.abs(np.nan_to_num(values, nan=center) - center) > background.spread_real)
    return _large_components(_fill(inside)) & finite


def _open(inside: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.bool_]:
    """Cut what is thinner than CT_OPENING_MM, then grow the rest back to its own outline (opening by
    reconstruction).
    """
    reach = [max(0, round(CT_OPENING_MM / 2 / step)) if step > 0 else 1 for step in spacing]
    axes = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    disk = sum((axis / max(r, 1)) ** 2 for axis, r in zip(axes, reach, strict=True)) <= 1.0
    core = scipy.ndimage.binary_erosion(inside, disk)
    if not core.any():
        return inside
    grown: NDArray[np.bool_] = scipy.ndimage.binary_dilation(core, disk)
    return grown & inside


def _fill(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill cavities that the body encloses, slice by slice along the axis of fewest samples in 3D (a lung is open at
    the end of a volume).
    """
    if inside.ndim == 2:
        filled: NDArray[np.bool_] = scipy.ndimage.binary_fill_holes(inside)
        return filled
    axis = int(np.argmin(inside.shape))
    planes = [scipy.ndimage.binary_fill_holes(plane) for plane in np.moveaxis(inside, axis, 0)]
    return np.moveaxis(np.stack(planes), 0, axis)


def _large_components(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest component and those not much smaller (two legs, two breasts)."""
    components, count = scipy.ndimage.label(inside)
    if count <= 1:
        return inside
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    kept: NDArray[np.bool_] = (sizes >= SMALL_COMPONENT * sizes.max())[components]
    return kept
