# SPDX-License-Identifier: Apache-2.0
"""The samples of a run on their working grids, in flat arrays that batches are cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_salm.errors import UsageError
from monai_salm.learning.targets import TargetKind, collate, target_kind
from monai_salm.working_samples import WorkingSample

PAD_MULTIPLE = 8
"""Batches are padded to a multiple of this many cells, which the pooling of the networks divides."""


SLICE_BATCH, VOLUME_BATCH = 32, 8
"""Slices and volumes per step of a training, unless its settings say otherwise."""


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

    Example:
        >>> import numpy as np
        >>> from monai_salm import WorkingSample, WorkingSet
        >>> generator, everywhere = np.random.default_rng(0), np.ones((16, 16), np.float32)
        >>> samples = WorkingSet([
        ...     WorkingSample(
        ...         sample_id=name, image_model=generator.random((16, 16), np.float32), target=number % 2,
        ...         carrier_voxels=everywhere.astype(int), carrier_share=everywhere, anatomy_voxels=256,
        ...         levels=8, step_model=1 / 255,
        ...     )
        ...     for number, name in enumerate("abcd")
        ... ])
        >>> samples.ids, samples.targets().tolist(), samples.spatial_dims
        (['a', 'b', 'c', 'd'], [0, 1, 0, 1], 2)
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
