# SPDX-License-Identifier: Apache-2.0
"""Where noise may be: the anatomy of a picture, from its values and its background alone.

The anatomy mask is a function of the file alone (and, for a volume stored slice by slice, of its series), so that
anybody who holds the original can compute it again. It is generous: a voxel is left out only where it is evidently not
body (air, table, empty or collimated border).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.background import Background
from monai_salm.morphology import Structure, dilated, drop_small_components, eroded, fill_cavities
from monai_salm.slabs import slabs
from monai_salm.spans import Span, real_span

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
    slope: float = 1.0,
    intercept: float = 0.0,
) -> NDArray[np.bool_]:
    """Mark the body: CT by its density without air and table, other pictures by what differs from their background.

    Cavities inside the body (lungs, ventricles) belong to it. A picture without background is anatomy throughout.

    Args:
        values_real: one slice (2D) or volume (3D), real units; or stored ones, with their rescaling.
        modality: DICOM Modality code; ``CT`` has a rule of its own.
        background: from :func:`~monai_salm.background.find_background`; None if there is none.
        spacing: millimeters between samples, for the CT opening; 1 where unknown.
        slope, intercept: ``real = slope * value + intercept``.
    """
    body = _Body(modality, background, slope, intercept)
    values = np.asarray(values_real)
    inside = np.empty_like(values, dtype=bool, subok=False)
    span = body.span(values.dtype)
    for slab in slabs(values):
        inside[slab] = body.marks(values[slab]) if span is None else body.marks_in(span, values[slab])
    if modality != "CT" and background is None:
        return inside
    if modality == "CT":
        inside = _open(inside, spacing or (1.0,) * values.ndim)
    # A lung is open at the end of a volume: it is filled slice by slice, along the axis of fewest samples.
    fill_cavities(inside, None if inside.ndim == 2 else int(np.argmin(inside.shape)))
    drop_small_components(inside, SMALL_COMPONENT)
    if span is None:
        for slab in slabs(values):
            inside[slab] &= np.isfinite(body.real(values[slab]))
    return inside


class _Body:
    """What one value tells of its place.

    Args:
        modality, background, slope, intercept: see :func:`anatomy_mask`.
    """

    def __init__(self, modality: str, background: Background | None, slope: float, intercept: float) -> None:
        self._ct, self._background = modality == "CT", background
        self._slope, self._intercept = slope, intercept

    def real(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Rescale values."""
        return values.astype(np.float64) * self._slope + self._intercept

    def marks(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark what is no air, or differs from the background."""
        real = self.real(values)
        finite: NDArray[np.bool_] = np.isfinite(real)
        if self._ct:
            return finite & (np.nan_to_num(real, nan=-np.inf) > CT_BODY_HU)
        if self._background is None:
            return finite
        center = self._background.center_real
        return finite & (np.abs(np.nan_to_num(real, nan=center) - center) > self._background.spread_real)

    def span(self, dtype: np.dtype[Any]) -> Span | None:
        """Give the stored integers that are body in CT, and background in other pictures; None of other types."""
        if self._ct:
            return real_span(dtype, self._slope, self._intercept, lambda real: real > CT_BODY_HU, lambda _: True)
        if self._background is None:
            return real_span(dtype, self._slope, self._intercept, lambda _: True, lambda _: True)
        center, spread = self._background.center_real, self._background.spread_real
        if not (math.isfinite(center) and math.isfinite(spread)):
            return None
        return real_span(
            dtype,
            self._slope,
            self._intercept,
            lambda real: real - center >= -spread,
            lambda real: real - center <= spread,
        )

    def marks_in(self, span: Span, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark the same as :meth:`marks`, by the span of these values' type."""
        marks = span.marks(values)
        return marks if self._ct or self._background is None else np.logical_not(marks, out=marks)


def _open(inside: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.bool_]:
    """Cut what is thinner than CT_OPENING_MM, then grow the rest back to its own outline (opening by
    reconstruction).
    """
    disk = _disk(tuple(max(0, round(CT_OPENING_MM / 2 / step)) if step > 0 else 1 for step in spacing))
    core = eroded(inside, disk)
    if not core.any():
        return inside
    grown = dilated(core, disk)
    grown &= inside
    return grown


@lru_cache(maxsize=8)
def _disk(reach: tuple[int, ...]) -> Structure:
    """Give the ellipsoid that reaches so many samples along each axis."""
    axes = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    return Structure(np.asarray(sum((axis / max(r, 1)) ** 2 for axis, r in zip(axes, reach, strict=True)) <= 1.0))
