# SPDX-License-Identifier: Apache-2.0
"""Where noise may be: the anatomy of a picture, its window and its background, from the values alone.

The anatomy mask is a function of the file alone (and, for a volume stored slice by slice, of its series), so that
anybody who holds the original can compute it again. It is generous: a voxel is left out only where it is evidently not
body (air, table, empty or collimated border).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_salm.budget import FileBudget
from monai_salm.hounsfield import check_units
from monai_salm.windows import IntensityWindow, default_window

CT_BODY_HU = -500.0
"""Halfway between air (-1000 HU) and soft tissue: what lies above is body, bed or clothes."""

CT_OPENING_MM = 4.0
"""Structures thinner than this (table top, tubes, blankets) are cut from the body before its components are counted."""

SMALL_COMPONENT = 0.02
"""Components smaller than this share of the largest one are not anatomy."""

BORDER_QUIET = 0.05
"""A border whose values spread less than this share of the picture's contrast is background; otherwise the picture is a
crop without one.
"""

BACKGROUND_CONTRAST = 0.06
"""Values within this share of the picture's contrast from the background are background too."""

NOISE_MULTIPLE = 4.0
"""Air noise reaches about this multiple of its median deviation (Rayleigh: 3.1 at 99.9 %)."""

BEYOND_BACKGROUND = 0.02
"""At most this share of the values is darker than air (or brighter, in films that show it bright); otherwise the border
is tissue.
"""

BRIGHT_AIR = ("CR", "DX", "MG", "IO", "PX", "RG")
"""Modalities whose files may hold air as the brightest value (MONOCHROME1)."""


EXACT_BORDER = 0.5
"""A value that fills at least this share of the border is an empty background (zeros), not measured air."""


@dataclass(frozen=True)
class Background:
    """What surrounds the anatomy.

    Args:
        center_real: its typical value.
        spread_real: values farther away than this are anatomy.
        exact_stored: the one value of an empty background, which is never entered or left; None for measured air.
    """

    center_real: float
    spread_real: float
    exact_stored: float | None


def border_values(values: NDArray[Any]) -> NDArray[Any]:
    """Give the values on the in-plane border: all four edges in 2D, the faces of the first two axes in 3D (heads touch
    the third).
    """
    return np.concatenate([np.take(values, index, axis=axis).ravel() for axis in (0, 1) for index in (0, -1)])


def find_background(
    values_stored: NDArray[Any],
    border_stored: NDArray[Any],
    slope: float = 1.0,
    intercept: float = 0.0,
    *,
    modality: str = "",
) -> Background | None:
    """Find the background of a picture, or of a series, from its values and those on its border.

    Args:
        values_stored: sample of all values, any shape.
        border_stored: sample of the border's values (:func:`border_values`).
        slope: real units per stored unit.
        intercept: real value of stored 0.
        modality: DICOM Modality code; some films show air bright.

    Returns:
        None if the border is as lively as the rest, or of a middling value: the picture is a crop and has no
        background.
    """
    values = values_stored[np.isfinite(values_stored)].astype(np.float64)
    border = border_stored[np.isfinite(border_stored)].astype(np.float64)
    if values.size == 0 or border.size == 0:
        return None
    center = float(np.median(border))
    contrast = float(np.percentile(np.abs(values - center), 99))
    spread = float(np.median(np.abs(border - center)))
    if spread > BORDER_QUIET * contrast:
        return None
    exact = center if np.mean(border == center) >= EXACT_BORDER else None
    spread = max(BACKGROUND_CONTRAST * contrast, NOISE_MULTIPLE * spread)
    darkest = np.mean((center - values) * np.sign(slope) > spread) <= BEYOND_BACKGROUND
    brightest = np.mean((values - center) * np.sign(slope) > spread) <= BEYOND_BACKGROUND
    if exact is None and not darkest and not (brightest and modality in BRIGHT_AIR):
        return None
    return Background(center * slope + intercept, spread * abs(slope), exact)


def find_window(
    modality: str,
    values_real: NDArray[np.float64],
    border_real: NDArray[np.float64],
    *,
    voi_real: tuple[float, float] | None = None,
    full_scale_real: tuple[float, float] | None = None,
    window: IntensityWindow | None = None,
) -> tuple[IntensityWindow, Background | None]:
    """Find the intensity window and the background of a picture or a series from samples of its real values.

    Args:
        modality: DICOM Modality code, or empty.
        values_real: sample of all values, any shape.
        border_real: sample of the border's values.
        voi_real: see :func:`~monai_salm.windows.default_window`.
        full_scale_real: see :func:`~monai_salm.windows.default_window`.
        window: the user's choice; None takes the modality's.

    Returns:
        The window, and the background, whose ``exact_stored`` is a real value here.

    Raises:
        RefusedError: the values leave no window.
    """
    background = find_background(values_real, border_real, modality=modality)
    if window is None:
        check_units(modality, values_real)
        inside = values_real
        if background is not None:
            inside = values_real[np.abs(values_real - background.center_real) > background.spread_real]
        window = default_window(
            modality, voi_real=voi_real, full_scale_real=full_scale_real, anatomy_values_real=inside
        )
    return window, background


def anatomy_mask(
    values_real: NDArray[Any],
    *,
    modality: str,
    background_real: float | None = None,
    background_spread_real: float = 0.0,
    spacing: tuple[float, ...] = (),
) -> NDArray[np.bool_]:
    """Mark the body: CT by its density without air and table, other pictures by what differs from their background.

    Cavities inside the body (lungs, ventricles) belong to it. A picture without background is anatomy throughout.

    Args:
        values_real: one slice (2D) or volume (3D), real units.
        modality: DICOM Modality code; ``CT`` has a rule of its own.
        background_real: typical value of the surrounding air, from :func:`find_background`; None if there is none.
        background_spread_real: values farther away are anatomy.
        spacing: millimeters between samples, for the CT opening; 1 where unknown.
    """
    values = np.asarray(values_real, dtype=np.float64)
    finite = np.isfinite(values)
    if modality == "CT":
        inside = finite & (np.nan_to_num(values, nan=-np.inf) > CT_BODY_HU)
        inside = _open(inside, spacing or (1.0,) * values.ndim)
    elif background_real is None:
        return finite
    else:
        inside = finite & (
            np.abs(np.nan_to_num(values, nan=background_real) - background_real) > background_spread_real
        )
    return _large_components(_fill(inside)) & finite


def _open(inside: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.bool_]:
    """Cut what is thinner than CT_OPENING_MM, then grow the rest back to its own outline (opening by
    reconstruction).
    """
    reach = [max(0, round(CT_OPENING_MM / 2 / step)) if step > 0 else 1 for step in spacing]
    axes = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    disk = sum((axis / max(r, 1)) ** 2 for axis, r in zip(axes, reach, strict=True)) <= 1.0
    core = ndimage.binary_erosion(inside, disk)
    if not core.any():
        return inside
    grown: NDArray[np.bool_] = ndimage.binary_dilation(core, disk)
    return grown & inside


def _fill(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill cavities that the body encloses, slice by slice along the axis of fewest samples in 3D (a lung is open at
    the end of a volume).
    """
    if inside.ndim == 2:
        filled: NDArray[np.bool_] = ndimage.binary_fill_holes(inside)
        return filled
    axis = int(np.argmin(inside.shape))
    planes = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(inside, axis, 0)]
    return np.moveaxis(np.stack(planes), 0, axis)


def _large_components(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest component and those not much smaller (two legs, two breasts)."""
    components, count = ndimage.label(inside)
    if count <= 1:
        return inside
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    kept: NDArray[np.bool_] = (sizes >= SMALL_COMPONENT * sizes.max())[components]
    return kept


def file_anatomy(
    stored: NDArray[Any], budget: FileBudget, spacing: tuple[float, ...] = (), *, trailing: int = 0
) -> NDArray[np.bool_]:
    """Mark the anatomy of one picture's stored values, as :func:`anatomy_mask`, without padding and empty background.

    Args:
        stored: values of the picture.
        budget: of the picture.
        spacing: millimeters between samples along the axes of the picture; 1 where not given.
        trailing: how many axes at the end share one place (colors, points in time): their mean decides.
    """
    behind = tuple(range(stored.ndim - trailing, stored.ndim))
    real = stored.astype(np.float64) * budget.slope + budget.intercept
    inside = anatomy_mask(
        _mean(real, behind) if behind else real,
        modality=budget.modality,
        background_real=budget.background_real,
        background_spread_real=budget.background_spread_real,
        spacing=spacing,
    )
    empty = np.zeros(stored.shape, dtype=bool)
    if budget.padding_stored is not None:
        empty |= (stored >= budget.padding_stored[0]) & (stored <= budget.padding_stored[1])
    if budget.background_stored is not None:
        empty |= stored == budget.background_stored
    return inside & ~(empty.all(axis=behind) if behind else empty)


def _mean(real: NDArray[np.float64], behind: tuple[int, ...]) -> NDArray[Any]:
    with np.errstate(invalid="ignore"):  # both infinities at one place: no anatomy is there
        return np.asarray(real.mean(axis=behind))


def noise_carriers(stored: NDArray[Any], budget: FileBudget, anatomy: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the values of the anatomy that can carry noise to a network: inside the intensity window and not saturated.

    Args:
        stored: stored values of one picture, native grid, perhaps with trailing axes.
        budget: of this picture.
        anatomy: of this picture, :func:`file_anatomy`.

    Returns:
        Bool, the shape of ``stored``.
    """
    low, high = budget.range_stored
    seen = budget.window.sees(stored.astype(np.float64) * budget.slope + budget.intercept)
    return (
        anatomy.reshape(anatomy.shape + (1,) * (stored.ndim - anatomy.ndim)) & seen & (stored >= low) & (stored <= high)
    )
