# SPDX-License-Identifier: Apache-2.0
"""A sample on its working grid: what a network sees of it, and where and how far noise can lie; made from the stored
values of its files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from monai_salm.canvas import Canvas
from monai_salm.views import FileView
from monai_salm.working_grid import CellPlanes, axis_cells, cell_counts, to_working

Target: TypeAlias = "int | NDArray[np.float32] | NDArray[np.uint8]"
"""A class, the findings ``(findings,)`` as 0 and 1, or the class of each cell of the working grid."""

LEAST_COLOR, LEAST_COLORED = 0.04, 0.1
"""An image is in color if in this share of its anatomy the colors are so far apart, in model values."""


@dataclass(frozen=True, kw_only=True)
class WorkingSample:
    """One sample on its working grid.

    Args:
        sample_id: its identity.
        image_model: model values, 2D or 3D; of a color image red, green and blue along one more axis, the last.
        carrier_voxels: int, of the shape of the grid: how many native voxels of each cell can carry noise.
        carrier_share: as ``image_model``, in [0, 1]: the share of the cell's voxels that can, so how much of the noise
            the cell's mean keeps.
        anatomy_voxels: native voxels of the anatomy, the base of the perturbed fraction.
        levels: most steps that the budget allows; 0 where there is none.
        step_model: model value of one step; 0 without a budget.
        target: class (int), findings (1D float array), or label map (same shape, integers); None without labels.
        spacing: millimeters between cells along each axis; empty where the file does not say.
        planes: how they lie in planes; None where the file does not say how far its own pixels are apart.

    Example:
        >>> import numpy as np
        >>> from monai_salm import WorkingSample
        >>> everywhere = np.ones((16, 16), np.float32)
        >>> sample = WorkingSample(
        ...     sample_id="film-1", image_model=everywhere / 2, carrier_voxels=everywhere.astype(int),
        ...     carrier_share=everywhere, anatomy_voxels=256, levels=8, step_model=1 / 255, target=1,
        ... )
        >>> round(float(sample.protected(np.full((16, 16), 8)).image_model.max()), 3)
        0.531
    """

    sample_id: str
    image_model: NDArray[np.float32]
    carrier_voxels: NDArray[np.int64]
    carrier_share: NDArray[np.float32]
    anatomy_voxels: int
    levels: int
    step_model: float
    target: Target | None = None
    spacing: tuple[float, ...] = ()
    planes: CellPlanes | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the grid."""
        return self.carrier_voxels.shape

    @property
    def channels(self) -> int:
        """1, or 3 of a color image."""
        return 1 if self.image_model.ndim == len(self.shape) else self.image_model.shape[-1]

    @property
    def gray_model(self) -> NDArray[np.float32]:
        """Model values on the grid, the mean of colors."""
        return self.image_model if self.channels == 1 else self.image_model.mean(axis=-1, dtype=np.float32)

    def in_gray(self) -> WorkingSample:
        """Give the sample as who sees no colors sees it, whose noise all colors share."""
        if self.channels == 1:
            return self
        return replace(
            self, image_model=self.gray_model, carrier_share=self.carrier_share.mean(axis=-1, dtype=np.float32)
        )

    def protected(self, steps: NDArray[np.integer[Any]]) -> WorkingSample:
        """Give the sample as a network sees its file with some noise, in steps on the working grid; noise without
        colors is that of all.
        """
        if steps.ndim < self.image_model.ndim:
            steps = steps[..., None]
        image = self.image_model + steps * self.carrier_share * self.step_model
        return replace(self, image_model=image.clip(0, 1).astype(np.float32))


@dataclass(frozen=True)
class WorkingMaps:
    """One file on the working grid; see :class:`WorkingSample` for the fields."""

    image_model: NDArray[np.float32]
    carrier_voxels: NDArray[np.int64]
    carrier_share: NDArray[np.float32]
    anatomy_voxels: int

    @classmethod
    def of_file(cls, stored: NDArray[Any], view: FileView, shape: tuple[int, ...]) -> WorkingMaps:
        """Bring the stored values of one file, and where they can carry noise, onto a working grid of ``shape``."""
        anatomy = view.anatomy(stored)
        marks = view.carriers(stored, anatomy)
        behind = tuple(range(anatomy.ndim, marks.ndim))
        voxels, count = cell_counts(np.asarray(marks.any(axis=behind)), shape), int(anatomy.sum())
        if view.color:
            colors = view.model_values(stored)
            if shows_color(colors, anatomy):
                return cls(to_working(colors, shape), voxels, to_working(marks, shape), count)
        share = to_working(marks.mean(axis=behind) if behind else marks, shape)
        return cls(to_working(view.model(stored), shape), voxels, share, count)

    @classmethod
    def of_slices(
        cls, slices: Iterable[tuple[NDArray[Any], FileView]], native: tuple[int, ...], shape: tuple[int, ...]
    ) -> WorkingMaps:
        """Bring the stored values of a volume's slices, in their order, onto a working grid of ``shape``; one at a
        time, so that memory stays flat.
        """
        stack = SliceStack(native[0], shape)
        for stored, view in slices:
            stack.add(cls.of_slice(stored, view, shape[1:]))
        return stack.maps()

    @classmethod
    def of_slice(cls, stored: NDArray[Any], view: FileView, shape: tuple[int, ...]) -> WorkingMaps:
        """Bring one slice of a volume onto a plane of its grid, in gray."""
        return cls.of_file(stored, replace(view, color=False), shape)


class SliceStack:
    """The slices of a volume on a working grid, added one by one in their order, so that memory stays flat.

    Args:
        count: how many slices there are.
        shape: of the working grid of the volume, the slices along its first axis.
    """

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._image, self._share = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._voxels, self._anatomy_voxels = np.zeros(shape, np.int64), 0
        self._cells = axis_cells(count, shape[0])
        self._depth = np.bincount(self._cells, minlength=shape[0])
        self._next = iter(self._cells)

    def add(self, maps: WorkingMaps) -> None:
        """Add the next slice, which is in gray."""
        cell = next(self._next)
        weight = 1.0 / self._depth[cell]
        self._image[cell] += maps.image_model * weight
        self._share[cell] += maps.carrier_share * weight
        self._voxels[cell] += maps.carrier_voxels
        self._anatomy_voxels += maps.anatomy_voxels

    def maps(self) -> WorkingMaps:
        """Give the maps of the volume, once all slices are added."""
        return WorkingMaps(self._image, self._voxels, self._share, self._anatomy_voxels)


def shows_color(colors_model: NDArray[np.float32], anatomy: NDArray[np.bool_]) -> bool:
    """Say whether an image of red, green and blue is in color: gray ones are often stored so, some with a colored mark,
    and noise in colors would be seen there, and be gone for who turns them to gray.

    Args:
        colors_model: model values, colors last.
        anatomy: on the grid.
    """
    inside = colors_model[anatomy]
    return bool(len(inside)) and float((np.ptp(inside, axis=-1) > LEAST_COLOR).mean()) >= LEAST_COLORED


def planes_of(
    view: FileView, native: tuple[int, ...], shape: tuple[int, ...], *, spacing_known: bool
) -> CellPlanes | None:
    """Give how the cells of a sample lie in planes, as those of its files do; None where their spacing is not known.

    Args:
        view: of its file, or of one of its slices.
        native, shape: of the sample's native and its working grid.
        spacing_known: whether the files give the spacing of the view.
    """
    if not spacing_known:
        return None
    files = len(native) > len(view.spacing)  # each is a plane
    across = 0 if files else view.across(len(native))
    rows, columns = view.plane_spacing(len(view.spacing))
    down, right = (axis for axis in range(len(native)) if axis != across)
    return CellPlanes(across, (rows * native[down] / shape[down], columns * native[right] / shape[right]))


def common_levels(views: Sequence[FileView]) -> tuple[int, float]:
    """Give the levels of a sample of some files, the most of any, and the model value of one step on average; both are
    0 where the files have no budgets.
    """
    canvases = [view for view in views if isinstance(view, Canvas)]
    if not canvases:
        return 0, 0.0
    levels = max(canvas.levels for canvas in canvases)
    return levels, float(np.mean([canvas.levels * canvas.step_model for canvas in canvases])) / levels
