# SPDX-License-Identifier: Apache-2.0
"""Pictures that are CT though they say to be something else: their values give them away."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError

AIR_REAL, TISSUE_REAL, BETWEEN_REAL = (-1100.0, -750.0), (-150.0, 150.0), (-700.0, -500.0)
"""Where the values of CT crowd, and where they are few: of other modalities, such as phases of MR, all three are as
full as each other.
"""

LEAST_FILL_REAL = -4096.0
"""What lies outside a scanner's round field of view has one value between this one and that of air."""

LEAST_CROWD = 0.05
"""Share of the values that is a crowd."""


def looks_like_ct(values_real: NDArray[Any]) -> bool:
    """Say whether values crowd at those of air and of soft tissue in HU, with few between the two."""
    values = values_real[np.isfinite(values_real)]
    if values.size == 0:
        return False
    air, tissue, between = (
        float(np.mean((values >= low) & (values <= high))) for low, high in (AIR_REAL, TISSUE_REAL, BETWEEN_REAL)
    )
    lowest = values.min()
    if LEAST_FILL_REAL <= lowest < AIR_REAL[0]:
        air += float(np.mean(values == lowest))
    return min(air, tissue) >= LEAST_CROWD and air > 2 * between


def check_units(modality: str, values_real: NDArray[Any]) -> None:
    """Refuse to choose a window for an image that says to be of another modality than CT, but holds HU.

    Args:
        modality: DICOM Modality code, or empty where unknown: then :func:`~monai_salm.windows.default_window` is
            stricter.
        values_real: sample of all values, air included.

    Raises:
        RefusedError: so it is.
    """
    if modality != "CT" and looks_like_ct(values_real):
        said = f"its modality is {modality}" if modality else "the file does not say so"
        option = (
            "give --modality CT, or"
            if not modality
            else "correct Modality (0008,0060), for example with dcmodify -nb -m '(0008,0060)=CT', or give"
        )
        raise RefusedError(
            f"values crowd at those of air and of soft tissue, which looks like CT, but {said}; {option} --window "
            "LOW,HIGH"
        )
