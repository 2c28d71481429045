# SPDX-License-Identifier: Apache-2.0
"""The samples of a run on their working grids, in flat arrays that batches are cut from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_salm.canvas import Canvas
from monai_salm.errors import UsageError
from monai_salm.learning.targets import Target, TargetKind, collate, target_kind
from monai_salm.views import FileView
from monai_salm.working_grid import CellPlanes, axis_cells, cell_counts, to_working

PAD_MULTIPLE = 8
"""Batches are padded to a multiple of this many cells, which the pooling of the networks divides."""


LEAST_COLOR, LEAST_COLORED = 0.04, 0.1
"""An image is in color if in this share of its anatomy the colors are so far apart, in model values."""

SLICE_BATCH, VOLUME_BATCH = 32, 8
"""Slices and volumes per step of a training, unless its settings say otherwise."""


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
        image, share = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        voxels, anatomy_voxels = np.zeros(shape, np.int64), 0
        cells = axis_cells(native[0], shape[0])
        depth = np.bincount(cells, minlength=shape[0])
        for cell, (stored, view) in zip(cells, slices, strict=True):
            maps = cls.of_file(stored, replace(view, color=False), shape[1:])
            weight = 1.0 / depth[cell]
            image[cell] += maps.image_model * weight
            share[cell] += maps.carrier_share * weight
            voxels[cell] += maps.carrier_voxels
            anatomy_voxels += maps.anatomy_voxels
        return cls(image, voxels, share, anatomy_voxels)


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


@dataclass(frozen=True)
class BatchPlace:
    """Which samples of a set are a batch.

    Args:
        indices: their numbers.
        shape: of the padded maps.
        index: their numbers on the device.
        device: of the batch.
    """

    indices: list[int]
    shape: tuple[int, ...]
    index: Tensor
    device: torch.device


@dataclass(frozen=True)
class WorkingBatch:
    """Some samples, padded to one shape, on one device.

    Args:
        place: which samples these are.
        images, share: maps ``(batch, channels, *spatial)``; see :class:`WorkingSample`.
        voxels: ``(batch, 1, *spatial)``.
        levels, step_model: ``(batch, 1, ..., 1)``, so that they multiply maps.
        limits: ``(batch,)`` int64, native voxels of each anatomy.
        target: see :func:`~monai_salm.learning.targets.collate`; None without labels.
        draws: numbers that the augmentation of each sample takes, ``(batch, numbers)``; None leaves the images alone.
    """

    place: BatchPlace
    images: Tensor
    voxels: Tensor
    share: Tensor
    levels: Tensor
    step_model: Tensor
    limits: Tensor
    target: Tensor | None
    draws: Tensor | None = None

    @property
    def indices(self) -> list[int]:
        """Numbers of the samples in their set."""
        return self.place.indices


class WorkingSet:
    """All samples of a run; the order is that of their ids, so that it does not depend on how they were found.

    Args:
        samples: at least one; all 2D or all 3D, with distinct ids, and either all or none with a target. If some are
            gray, all are taken in gray.
        padded_shape: shape of all batches; None pads each batch as little as its samples and :data:`PAD_MULTIPLE`
            allow.

    Raises:
        UsageError: the samples do not belong together.
    """

    def __init__(self, samples: Sequence[WorkingSample], padded_shape: tuple[int, ...] | None = None) -> None:
        if not samples:
            raise UsageError("no sample is left to protect; see the reasons of the refused files")
        ordered = sorted(samples, key=lambda sample: sample.sample_id)
        dims = {len(sample.shape) for sample in ordered}
        if len(dims) > 1:
            raise UsageError("2D and 3D samples are mixed in one run; protect them in separate runs")
        if len({sample.sample_id for sample in ordered}) < len(ordered):
            raise UsageError("two samples have one id; remove the duplicate files")
        unlabeled = [sample.sample_id for sample in ordered if sample.target is None]
        if 0 < len(unlabeled) < len(ordered):
            raise UsageError(
                f"{len(unlabeled)} of {len(ordered)} samples have no label, the first of them {unlabeled[0]!r}; "
                "label all of them or none"
            )
        channels = {sample.channels for sample in ordered}
        self.samples = ordered if len(channels) == 1 else [sample.in_gray() for sample in ordered]
        self.channels = channels.pop() if len(channels) == 1 else 1
        self.spatial_dims = dims.pop()
        smallest = common_shape([sample.shape for sample in ordered])
        longest = tuple(max(lengths) for lengths in zip(*(sample.shape for sample in ordered), strict=True))
        if padded_shape is not None and any(n > m for n, m in zip(longest, padded_shape, strict=True)):
            raise UsageError(f"the largest sample is {longest}, more than the padded shape {padded_shape}")
        self.padded_shape = padded_shape or smallest
        self.fixed = padded_shape is not None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def ids(self) -> list[str]:
        """Sample ids in order."""
        return [sample.sample_id for sample in self.samples]

    @property
    def target_kind(self) -> TargetKind | None:
        """What the labels are; None without labels."""
        return target_kind(self.samples[0].target)

    def in_gray(self) -> WorkingSet:
        """Give the set as who sees no colors sees it."""
        if self.channels == 1:
            return self
        return WorkingSet([sample.in_gray() for sample in self.samples], self.padded_shape if self.fixed else None)

    def targets(self) -> Tensor:
        """Give all classes ``(samples,)`` int64, or all findings ``(samples, findings)`` float32."""
        return collate([sample.target for sample in self.samples if sample.target is not None], self.pad)

    def by_shape(self) -> list[int]:
        """Give all indices, those of like shape together, so that batches of neighbors are padded little."""
        return sorted(range(len(self)), key=lambda index: self.samples[index].shape)

    def batch(self, indices: Sequence[int], device: torch.device) -> WorkingBatch:
        """Cut a batch and move it to a device."""
        chosen = [self.samples[i] for i in indices]
        labels = [sample.target for sample in chosen if sample.target is not None]
        column = (len(chosen), 1, *[1] * self.spatial_dims)
        place = BatchPlace(list(indices), self.batch_shape(indices), torch.tensor(list(indices), device=device), device)
        return WorkingBatch(
            place,
            self.pad([sample.image_model for sample in chosen]).to(device),
            self.pad([sample.carrier_voxels for sample in chosen]).to(device),
            self.pad([sample.carrier_share for sample in chosen]).to(device),
            torch.tensor([float(sample.levels) for sample in chosen], device=device).reshape(column),
            torch.tensor([sample.step_model for sample in chosen], device=device).reshape(column),
            torch.tensor([sample.anatomy_voxels for sample in chosen], device=device),
            collate(labels, self.pad).to(device) if labels else None,
        )

    def batch_shape(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Give the shape of the padded maps of a batch."""
        if self.fixed:
            return self.padded_shape
        return common_shape([self.samples[i].shape for i in indices])

    def pad(self, maps: Sequence[NDArray[np.generic]]) -> Tensor:
        """Stack maps of different shapes, perhaps with colors behind, into ``(batch, channels, *spatial)``, zeros
        behind each; to the padded shape if one was given, else as small as can be.
        """
        planes = [channels_first(values, self.spatial_dims) for values in maps]
        shape = self.padded_shape if self.fixed else common_shape([values.shape[1:] for values in planes])
        result = np.zeros((len(maps), len(planes[0]), *shape), dtype=maps[0].dtype)
        for row, values in zip(result, planes, strict=True):
            row[(slice(None), *(slice(0, n) for n in values.shape[1:]))] = values
        return torch.from_numpy(result)

    def crop(self, values: Tensor, index: int) -> NDArray[np.generic]:
        """Cut one sample's map out of a padded ``(channels, *spatial)`` one; of several channels, they are last."""
        cut = values[(slice(None), *(slice(0, n) for n in self.samples[index].shape))]
        result: NDArray[np.generic] = (cut[0] if len(cut) == 1 else cut.movedim(0, -1)).cpu().numpy()
        return result


def channels_first(values: NDArray[Any], spatial_dims: int) -> NDArray[Any]:
    """Give a map of a grid, perhaps with colors behind it, as ``(channels, *spatial)``."""
    return values[None] if values.ndim == spatial_dims else np.moveaxis(values, -1, 0)


def common_shape(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Give the smallest shape of multiples of PAD_MULTIPLE that holds all of some shapes."""
    return tuple(int(-(-max(lengths) // PAD_MULTIPLE) * PAD_MULTIPLE) for lengths in zip(*shapes, strict=True))
