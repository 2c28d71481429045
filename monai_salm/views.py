# SPDX-License-Identifier: Apache-2.0
"""What a file shows: how its stored values are to be read, where its anatomy is, and what a network sees of it; not how
far its values may move.

A file is one image (2D or 3D), or a stack of frames (tiles are some), each with an anatomy and perhaps a rescaling
of its own. Behind the axes of the image its values may have others that share one place: the samples of a color, the
points of a time series.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from monai_salm.anatomy import anatomy_mask
from monai_salm.background import Background
from monai_salm.burned_in import graphics_mask, may_have_graphics, static_pixels
from monai_salm.slabs import slabs
from monai_salm.spans import has_spans, real_span, stored_span
from monai_salm.windows import IntensityWindow

Region = tuple[int, int, int, int]
"""First row, row behind the last, first column, column behind the last."""

_MOST_TABLED = 1 << 16
"""Integers that span no more than this are looked up rather than computed one by one."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureView:
    """How the stored values of one image are to be read.

    Args:
        modality: DICOM Modality code, or empty.
        window: the intensity window, real units.
        slope, intercept: ``real = slope * stored + intercept``.
        padding_stored: inclusive padding range.
        background: what surrounds the anatomy, its exact value in stored units; None where the image shows none.
    """

    modality: str
    window: IntensityWindow
    slope: float = 1.0
    intercept: float = 0.0
    padding_stored: tuple[float, float] | None = None
    background: Background | None = None

    def real(self, stored: NDArray[Any]) -> NDArray[np.float64]:
        """Give the real values of stored ones of any shape."""
        return stored.astype(np.float64) * self.slope + self.intercept

    def empty(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark the values that are padding or empty background."""
        marks: NDArray[np.bool_] | None = None
        for low, high in self._empty_ranges:
            found = values_within(stored, low, high)
            marks = found if marks is None else marks | found
        return np.zeros_like(stored, dtype=bool, subok=False) if marks is None else marks

    @property
    def has_empty(self) -> bool:
        """Whether some values may be padding or empty background."""
        return bool(self._empty_ranges)

    @property
    def _empty_ranges(self) -> list[tuple[float, float]]:
        """Give the ranges of stored values, both ends included, that are padding or empty background."""
        exact = None if self.background is None else self.background.exact_stored
        return [
            *([] if self.padding_stored is None else [self.padding_stored]),
            *([] if exact is None else [(exact, exact)]),
        ]

    def extremes(self, stored: NDArray[Any]) -> tuple[float, float] | None:
        """Give the lowest and the highest value that is finite and no padding; None where there is none."""
        ends = []
        for slab in slabs(stored):
            part = stored[slab]
            if part.dtype.kind == "f":
                part = part[np.isfinite(part)]
            if self.padding_stored is not None:
                part = part[~values_within(part, *self.padding_stored)]
            if part.size:
                ends += [part.min(), part.max()]
        return (float(min(ends)), float(max(ends))) if ends else None

    def model_into(self, stored: NDArray[Any], model: NDArray[np.float32]) -> None:
        """Write the model values of stored ones of any shape into an array of that shape."""
        table, low = None, 0
        if has_spans(stored.dtype) and stored.size:
            low, high = int(stored.min()), int(stored.max())
            if high - low < min(stored.size, _MOST_TABLED):
                table = self.window.to_model(self.real(np.arange(low, high + 1)))
        for slab in slabs(stored):
            part = stored[slab]
            if table is None:
                model[slab] = self.window.to_model(self.real(part))
            else:
                model[slab] = table[np.subtract(part, low, dtype=np.intp)]

    def anatomy(self, stored: NDArray[Any], spacing: tuple[float, ...] = (), *, trailing: int = 0) -> NDArray[np.bool_]:
        """Mark the anatomy, as :func:`~monai_salm.anatomy.anatomy_mask`, without padding and empty background.

        Args:
            stored: values of the image.
            spacing: millimeters between samples along the axes of the image; 1 where not given.
            trailing: how many axes at the end share one place (colors, points in time): their mean decides.
        """
        behind, grid = tuple(range(stored.ndim - trailing, stored.ndim)), stored.ndim - trailing
        values, slope, intercept = stored, self.slope, self.intercept
        if behind:
            values, slope, intercept = np.empty(stored.shape[:grid]), 1.0, 0.0
            for slab in slabs(stored, grid):
                with np.errstate(invalid="ignore"):  # both infinities at one place: no anatomy is there
                    values[slab] = self.real(stored[slab]).mean(axis=behind)
        inside = anatomy_mask(
            values,
            modality=self.modality,
            background=self.background,
            spacing=spacing,
            slope=slope,
            intercept=intercept,
        )
        if self.has_empty:
            for slab in slabs(stored, grid):
                empty = self.empty(stored[slab])
                inside[slab] &= ~(empty.all(axis=behind) if behind else empty)
        return inside

    def carriers(
        self, stored: NDArray[Any], anatomy: NDArray[np.bool_], range_stored: tuple[float, float]
    ) -> NDArray[np.bool_]:
        """Mark the values of the anatomy that can carry noise to a network: inside the intensity window, not saturated.

        Args:
            stored: values of the image, native grid, perhaps with trailing axes.
            anatomy: of this image.
            range_stored: values below the first and above the second are saturated.

        Returns:
            Bool, the shape of ``stored``.
        """
        window = self.window
        seen = real_span(
            stored.dtype, self.slope, self.intercept, lambda real: real > window.low, lambda real: real < window.high
        )
        carried = None if seen is None else seen & stored_span(stored.dtype, *range_stored)
        marks = np.empty_like(stored, dtype=bool, subok=False)
        for slab in slabs(stored, anatomy.ndim):
            part, inside = stored[slab], anatomy[slab]
            if carried is None:
                marks[slab] = window.sees(self.real(part)) & values_within(part, *range_stored)
            else:
                marks[slab] = carried.marks(part)
            marks[slab] &= inside.reshape(inside.shape + (1,) * (stored.ndim - anatomy.ndim))
        return marks


@dataclass(frozen=True, kw_only=True, slots=True)
class FileView:
    """What a file shows.

    Args:
        views: one for all frames, or one for each where they are rescaled differently.
        spacing: millimeters between samples along each axis of the grid of places.
        trailing: how many axes of the stored values lie behind those of the grid.
        color: whether there is one such axis, of red, green and blue.
        stacked: whether the first axis of the grid counts frames.
        regions: parts of a frame outside which there is text and graphics; empty where that is not known.
    """

    views: tuple[PictureView, ...]
    spacing: tuple[float, ...] = ()
    trailing: int = 0
    color: bool = False
    stacked: bool = False
    regions: tuple[Region, ...] = ()

    @property
    def modality(self) -> str:
        """DICOM Modality code, or empty."""
        return self.views[0].modality

    def across(self, ndim: int) -> int | None:
        """Give the axis that leads from plane to plane: that of the frames; in a volume the axis of the widest spacing,
        the last one of several; None of a single plane.

        Args:
            ndim: axes of the grid.
        """
        if ndim < 3 or self.stacked:
            return 0 if self.stacked else None
        steps = self.spacing if len(self.spacing) == ndim else (1.0,) * ndim
        return max(range(ndim), key=lambda axis: (steps[axis], axis))

    def plane_spacing(self, ndim: int) -> tuple[float, float]:
        """Give the millimeters between rows and between columns of a plane."""
        across = self.across(ndim)
        rows, columns = (step for axis, step in enumerate(self.spacing) if axis != across)
        return rows, columns

    def through(self, window: IntensityWindow) -> FileView:
        """Give the same file as a network with another window sees it."""
        return replace(self, views=tuple(replace(view, window=window) for view in self.views))

    def pictures(self, values: NDArray[Any]) -> Iterator[tuple[NDArray[Any], PictureView]]:
        """Give the frames of an array of the file's values, or of its grid, each with its view."""
        return self._with(values, self.views)

    def _with(self, values: NDArray[Any], items: Sequence[_Item]) -> Iterator[tuple[NDArray[Any], _Item]]:
        """Give the frames of an array, each with its item of one for all, or one for each."""
        if not self.stacked:
            yield values, items[0]
            return
        for number, picture in enumerate(values):
            yield picture, items[number if len(items) > 1 else 0]

    def anatomy(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark the anatomy of all frames, on the grid; burned-in text and graphics are none."""
        spacing = self.spacing[1:] if self.stacked else self.spacing
        grid = stored.shape[: stored.ndim - self.trailing]
        anatomy = np.empty(grid, dtype=bool) if self.stacked else np.empty(0, dtype=bool)
        for number, (picture, view) in enumerate(self.pictures(stored)):
            inside = view.anatomy(picture, spacing, trailing=self.trailing)
            if may_have_graphics(picture, view.modality, trailing=self.trailing):
                inside &= ~graphics_mask(picture, view.modality, trailing=self.trailing)
            if self.regions:
                inside &= _in_regions(self.regions, inside.shape)
            if not self.stacked:
                return inside
            anatomy[number] = inside
        anatomy &= ~static_pixels(stored, self.modality, trailing=self.trailing)
        return anatomy

    def model(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Give model values on the grid, in [0, 1]: the mean of what lies behind it (the gray of a color)."""
        values = self.model_values(stored)
        behind = tuple(range(values.ndim - self.trailing, values.ndim))
        return values.mean(axis=behind, dtype=np.float32) if behind else values

    def model_values(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Give the model values of stored ones, in [0, 1] and their shape."""
        model = np.empty_like(stored, dtype=np.float32, order="C" if self.stacked else "K", subok=False)
        for number, (picture, view) in enumerate(self.pictures(stored)):
            view.model_into(picture, model[number] if self.stacked else model)
        return model

    def carriers(self, stored: NDArray[Any], anatomy: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the values whose change a network sees, in the shape of ``stored``.

        They lie in the anatomy, inside the window, and between the extremes of the file, or of their frame where
        frames are rescaled differently: what is extreme is saturated.
        """
        parts = self._with(stored, self.views) if len(self.views) > 1 else [(stored, self.views[0])]
        ranges = [_between(view.extremes(values), stored.dtype) for values, view in parts]
        return self._carriers(stored, anatomy, ranges)

    def _carriers(
        self, stored: NDArray[Any], anatomy: NDArray[np.bool_], ranges: Sequence[tuple[float, float]]
    ) -> NDArray[np.bool_]:
        """Mark what can carry noise where each frame, or all, have a range of values that are not saturated."""
        pairs = zip(self.pictures(stored), self.pictures(anatomy), self._with(stored, ranges), strict=True)
        marks = np.empty(stored.shape, dtype=bool) if self.stacked else np.empty(0, dtype=bool)
        for number, ((picture, view), (inside, _), (_, within)) in enumerate(pairs):
            found = view.carriers(picture, inside, within)
            if not self.stacked:
                return found
            marks[number] = found
        return marks


def _between(extremes: tuple[float, float] | None, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Give the lowest and the highest value of a type that lies between two others; an empty range for none."""
    if extremes is None:
        return np.inf, -np.inf
    if dtype.kind != "f":
        return extremes[0] + 1, extremes[1] - 1
    ends = np.nextafter(np.array(extremes, dtype), np.array((np.inf, -np.inf), dtype))
    return float(ends[0]), float(ends[1])


def values_within(stored: NDArray[Any], low: float, high: float) -> NDArray[np.bool_]:
    """Mark the values from one number to another, both included."""
    if has_spans(stored.dtype):
        return stored_span(stored.dtype, low, high).marks(stored)
    marks: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return marks


def _in_regions(regions: tuple[Region, ...], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    inside = np.zeros(shape, dtype=bool)
    for top, bottom, left, right in regions:
        inside[top:bottom, left:right] = True
    return inside
