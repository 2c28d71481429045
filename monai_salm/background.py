# SPDX-License-Identifier: Apache-2.0
"""What surrounds the anatomy, and the window on what it surrounds: found from the values of an image or a series
alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.hounsfield import check_units
from monai_salm.windows import IntensityWindow, default_window

BORDER_QUIET = 0.05
"""A border whose values spread less than this share of the image's contrast is background; otherwise the image is a
crop without one.
"""

BACKGROUND_CONTRAST = 0.06
"""Values within this share of the image's contrast from the background are background too."""

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


@dataclass(frozen=True, slots=True)
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
    """Find the background of an image, or of a series, from its values and those on its border.

    Args:
        values_stored: sample of all values, any shape.
        border_stored: sample of the border's values (:func:`border_values`).
        slope: real units per stored unit.
        intercept: real value of stored 0.
        modality: DICOM Modality code; some films show air bright.

    Returns:
        None if the border is as lively as the rest, or of a middling value: the image is a crop and has no
        background.
    """
    values, border = _finite(values_stored), _finite(border_stored)
    if values.size == 0 or border.size == 0:
        return None
    center = float(np.median(border))
    apart = values - center
    contrast = float(np.percentile(np.abs(apart), 99, overwrite_input=True))
    spread = float(np.median(np.abs(border - center)))
    if spread > BORDER_QUIET * contrast:
        return None
    exact = center if np.mean(border == center) >= EXACT_BORDER else None
    spread = max(BACKGROUND_CONTRAST * contrast, NOISE_MULTIPLE * spread)
    found = Background(center * slope + intercept, spread * abs(slope), exact)
    if exact is not None:
        return found
    apart *= np.sign(slope)
    darkest = np.mean(apart < -spread) <= BEYOND_BACKGROUND
    brightest = np.mean(apart > spread) <= BEYOND_BACKGROUND
    return found if darkest or (brightest and modality in BRIGHT_AIR) else None


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    """Give the values that are finite as 64-bit floats; those themselves where they are that already."""
    finite = np.isfinite(values)
    return (values if finite.all() else values[finite]).astype(np.float64, copy=False)


def find_window(
    modality: str,
    values_real: NDArray[np.float64],
    border_real: NDArray[np.float64],
    *,
    voi_real: tuple[float, float] | None = None,
    full_scale_real: tuple[float, float] | None = None,
    window: IntensityWindow | None = None,
) -> tuple[IntensityWindow, Background | None]:
    """Find the intensity window and the background of an image or a series from samples of its real values.

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
