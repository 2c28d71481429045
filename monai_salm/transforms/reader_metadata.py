# SPDX-License-Identifier: Apache-2.0
"""What MONAI's readers keep of a file beside its values, and how exactly they keep these."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from monai_salm.io import ImageHeader, SourceImage

MODALITY, SERIES = "00080060", "0020000E"
CENTER, WIDTH, FUNCTION = "00281050", "00281051", "00281056"
_SLOPE, _INTERCEPT = "00281053", "00281052"
_BITS_STORED, _SIGNED, _PADDING, _PADDING_LIMIT = "00280101", "00280103", "00280120", "00280121"


def rounding(values_real: NDArray[Any], intercept: float = 0.0) -> float:
    """Give how far real values may be from those of a file because a reader had them in 32 bits; what is farther off
    was changed.
    """
    finite = np.abs(values_real[np.isfinite(values_real)])
    largest = max(float(finite.max(initial=0.0)), abs(intercept))
    return 4 * float(np.spacing(np.float32(min(largest, float(np.finfo(np.float32).max) / 2))))


def same_values(values: NDArray[np.float64], real: NDArray[np.float64]) -> bool:
    """Say whether values of a pipeline are the real values of a file, which a reader may have rounded to 32 bits."""
    if values.shape != real.shape:
        return False
    with np.errstate(invalid="ignore"):
        same = (np.abs(values - real) <= rounding(real)) | (values == real)
    return bool((same | (np.isnan(values) & np.isnan(real))).all())


def rescaled(meta: Mapping[Any, Any], header: ImageHeader, values: NDArray[Any]) -> SourceImage | None:
    """Undo the rescaling that the metadata of a DICOM reader tells; None where it tells none, or another one."""
    slope, intercept, bits = number_of(meta, _SLOPE), number_of(meta, _INTERCEPT) or 0.0, number_of(meta, _BITS_STORED)
    if not slope or not bits or not 1 <= bits <= 32:
        return None
    real = values.astype(np.float64)
    stored = np.rint((real - intercept) / slope)
    signed = bool(number_of(meta, _SIGNED))
    low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    if (
        not np.isfinite(real).all()
        or stored.min() < low
        or stored.max() > high
        or not same_values(real, stored * slope + intercept)
    ):
        return None
    padding = number_of(meta, _PADDING)
    ends = (
        None
        if padding is None
        else sorted((padding, padding if (limit := number_of(meta, _PADDING_LIMIT)) is None else limit))
    )
    return SourceImage(
        header=header, stored=stored.astype(np.int64), slope=slope, intercept=intercept, range_stored=(low, high),
        padding_stored=None if ends is None else (ends[0], ends[1]),
    )  # fmt: skip


def spacing_of(image: Any, ndim: int) -> tuple[float, ...]:
    """Give the millimeters between the samples of a pipeline's image, for so many axes; empty where unknown."""
    if not isinstance(image, MetaTensor) or "affine" not in image.meta:
        return ()
    spacing = tuple(float(step) for step in image.pixdim)[:ndim]
    return spacing if len(spacing) == ndim and all(step > 0 for step in spacing) else ()


def text_of(meta: Mapping[Any, Any], tag: str) -> str:
    """Give the first value of a DICOM element from the metadata of MONAI's pydicom or ITK reader; empty without one."""
    found = meta.get(tag, meta.get(f"{tag[:4]}|{tag[4:].lower()}"))
    if isinstance(found, Mapping):
        found = next(iter(found.get("Value", [])), "")
    return str("" if found is None else found).partition("\\")[0].strip()


def number_of(meta: Mapping[Any, Any], tag: str) -> float | None:
    """Give the same as a number; None where it is none that is finite."""
    with suppress(ValueError):
        number = float(text_of(meta, tag))
        return number if np.isfinite(number) else None
    return None
