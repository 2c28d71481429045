# SPDX-License-Identifier: Apache-2.0
"""Intensity windows: which real values a network sees, from a preset, from the modality, or from the values inside the
anatomy.

Value spaces are named by suffix as in :mod:`monai_salm.budget`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError, UsageError

WINDOW_PRESETS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "soft-tissue": (-160.0, 240.0),
        "brain": (0.0, 80.0),
        "lung": (-1350.0, 150.0),
        "bone": (-500.0, 1300.0),
        "wide": (-1000.0, 1000.0),
    }
)
"""Intensity windows in HU, (low, high). The first is the default of CT; a file's own window is the reader's choice and
is never used there.
"""

WINDOW_PERCENTILES = (0.5, 99.5)
"""Percentiles inside the anatomy that make a window where no standard one exists (MR, PET, plain films without a VOI
window).
"""

CT_LIKE_REAL = -500.0
"""An image whose modality does not say what its values are ("", OT) and that reaches below this value looks like HU;
its window is not guessed.
"""


@dataclass(frozen=True, slots=True)
class IntensityWindow:
    """Map real values linearly to model values: ``low`` to 0 and ``high`` to 1, clipped outside.

    Args:
        low, high: its ends in real units (HU, gray values).

    Raises:
        UsageError: the window is empty or not finite.

    Example:
        >>> import numpy as np
        >>> from monai_salm import IntensityWindow
        >>> IntensityWindow(-160, 240).to_model(np.array([-1000, 40, 240])).tolist()  # HU
        [0.0, 0.5, 1.0]
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(
                f"intensity window {self.low:g},{self.high:g} is empty or not finite; give LOW,HIGH with LOW below HIGH"
            )

    @property
    def width(self) -> float:
        """Width in real units."""
        return self.high - self.low

    def to_model(self, values_real: NDArray[Any]) -> NDArray[np.float32]:
        """Give the model values of an array of real values of any shape; NaN becomes 0."""
        scaled = (np.asarray(values_real, dtype=np.float64) - self.low) / self.width
        return np.clip(np.nan_to_num(scaled, nan=0.0), 0.0, 1.0).astype(np.float32)

    def sees(self, values_real: NDArray[Any]) -> NDArray[np.bool_]:
        """True where a value lies strictly inside, so that a small change of it reaches a network that uses this
        window.
        """
        return (values_real > self.low) & (values_real < self.high)


def parse_window(text: str) -> IntensityWindow | None:
    """Read ``LOW,HIGH`` in real units, the name of a preset, or ``auto`` (None: the modality decides).

    Raises:
        UsageError: the text is none of these.
    """
    if text == "auto":
        return None
    if text in WINDOW_PRESETS:
        return IntensityWindow(*WINDOW_PRESETS[text])
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"window {text!r} is not understood; give LOW,HIGH in real units, auto, or one of "
            f"{', '.join(WINDOW_PRESETS)}"
        ) from error
    return IntensityWindow(low, high)


def default_window(
    modality: str,
    *,
    voi_real: tuple[float, float] | None,
    full_scale_real: tuple[float, float] | None,
    anatomy_values_real: NDArray[Any],
) -> IntensityWindow:
    """Choose the intensity window of a modality where the user gave none.

    CT: soft tissue. Eight-bit images but MR and PET: their full scale. Plain films (CR, DX, MG, ...): the file's VOI
    window. All others, and those without one: the percentiles 0.5 and 99.5 inside the anatomy.

    Args:
        modality: DICOM Modality code, or empty where unknown.
        voi_real: the file's first VOI window.
        full_scale_real: real values of the lowest and highest storable value of an 8-bit image; None for others.
        anatomy_values_real: sample of the values inside the anatomy.

    Raises:
        RefusedError: the values leave no window, or look like CT without a modality.
    """
    if modality == "CT":
        return IntensityWindow(*WINDOW_PRESETS["soft-tissue"])
    if modality in ("CR", "DX", "MG", "IO", "PX", "RF", "XA", "RG"):
        if full_scale_real is not None:
            return IntensityWindow(*full_scale_real)
        if voi_real is not None and voi_real[0] < voi_real[1]:
            return IntensityWindow(*voi_real)
    elif modality not in ("", "MR", "PT", "NM") and full_scale_real is not None:
        return IntensityWindow(*full_scale_real)
    values = anatomy_values_real[np.isfinite(anatomy_values_real)]
    if values.size == 0:
        raise RefusedError(
            "no anatomy was found: the image is empty or constant; leave it out, or give --copy-unprotected, "
            "which copies it as it is"
        )
    if modality in ("", "OT") and values.min() < CT_LIKE_REAL:
        option = "--window LOW,HIGH" if modality else "--modality CT, or --window LOW,HIGH"
        raise RefusedError(
            f"values reach {values.min():.4g}, which looks like CT, but the file does not say so; give {option}"
        )
    low, high = np.percentile(values, WINDOW_PERCENTILES)
    if not low < high:
        raise RefusedError(
            f"the anatomy is constant at {low:.4g}, so no intensity window can be taken from it; give --window LOW,HIGH"
        )
    return IntensityWindow(float(low), float(high))
