# SPDX-License-Identifier: Apache-2.0
"""The samples of a run where they are computed with: on the device if they fit, else beside it; nothing is copied up
and down for each batch, and nothing waits for the device while batches are cut.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy import memmap
from numpy.typing import NDArray
from torch import Tensor

from monai_salm.learning.samples import BatchPlace, WorkingBatch, WorkingSet, channels_first
from monai_salm.learning.targets import TargetKind

MOST_OF_DEVICE = 0.5
"""Share of a device's free memory that samples may fill; the network and its gradients need the rest."""

MOST_OF_HOST = 0.5
"""Share of the free memory of the host above which maps lie in a file that has no name and goes with the process."""

BYTES_PER_CELL = 40
"""Of images, carriers and shares, and of what a search keeps beside them: steps, scores, masks, protected images."""


class SampleMaps:
    """One map for each sample of a set.

    On a device where all samples have one shape they are one stack, of which a batch is cut by one operation; else they
    lie one by one, on the device or on the host.

    Args:
        parts: the maps, each ``(channels, *spatial)`` with its sample's shape.
        home: where they are to lie.
        padded_shape: of the stack, zeros behind each map; None keeps them one by one.
    """

    def __init__(
        self, parts: Sequence[Tensor], home: torch.device, padded_shape: tuple[int, ...] | None = None
    ) -> None:
        self._stack: Tensor | None = None
        if padded_shape is None:
            self._parts = [part.to(home) for part in parts]
            return
        self._stack = torch.zeros((len(parts), len(parts[0]), *padded_shape), dtype=parts[0].dtype, device=home)
        self._parts = [row[_region(part)] for row, part in zip(self._stack, parts, strict=True)]
        for place, part in zip(self._parts, parts, strict=True):
            place.copy_(part)

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index: int) -> Tensor:
        """Give the map of one sample, ``(channels, *spatial)`` in its own shape; a change of it is a change here."""
        return self._parts[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._parts)

    def gather(self, place: BatchPlace) -> Tensor:
        """Give the maps of a batch, ``(batch, channels, *spatial)``, on the device of the batch."""
        if self._stack is not None:
            return self._stack.index_select(0, place.index)
        return padded([self._parts[i] for i in place.indices], place.shape).to(place.device, non_blocking=True)

    def others(self, place: BatchPlace, numbers: Tensor) -> Tensor:
        """Give the maps of some samples in the shape of a batch, cut or with zeros behind."""
        if self._stack is not None:
            return self._stack.index_select(0, numbers)
        region = (slice(None), *(slice(0, length) for length in place.shape))
        cut = [self._parts[number][region] for number in numbers.tolist()]
        return padded(cut, place.shape).to(place.device, non_blocking=True)

    def scatter(self, place: BatchPlace, values: Tensor) -> None:
        """Put the maps of a batch back; what lies in the padding is left out."""
        if self._stack is not None:
            region = (slice(None), *_region(self._parts[0]))
            self._stack[region].index_copy_(0, place.index, values[region])
            return
        for row, i in zip(values, place.indices, strict=True):
            self._parts[i].copy_(row[_region(self._parts[i])])


class ResidentSet:
    """Samples and their maps, held where a device reaches them best: on it, else in pinned memory of the host.

    Args:
        samples: of the run.
        device: that computes.
        stacked: hold maps as one stack; None does so on a device where all samples have one shape and fit. Batches are
            the same either way.
        keep_single: give a batch of one sample that is left over, too; it has no statistics for a normalization.
    """

    def __init__(
        self, samples: WorkingSet, device: torch.device, *, stacked: bool | None = None, keep_single: bool = True
    ) -> None:
        self.samples, self.device, self.keep_single = samples, device, keep_single
        self.home = home_of(samples, device)
        alike = len({sample.shape for sample in samples.samples}) == 1
        if stacked is None:
            stacked = alike and self.home.type != "cpu"
        self._padded = samples.batch_shape([0]) if stacked and alike else None
        column = (len(samples), 1, *[1] * samples.spatial_dims)
        of_all = samples.samples
        self._images = self.hold([self._planes(sample.image_model) for sample in of_all])
        self._voxels = self.hold([self._planes(sample.carrier_voxels) for sample in of_all])
        self._share = self.hold([self._planes(sample.carrier_share) for sample in of_all])
        self._levels = torch.tensor([float(sample.levels) for sample in of_all], device=device).reshape(column)
        self._step_model = torch.tensor([sample.step_model for sample in of_all], device=device).reshape(column)
        self._limits = torch.tensor([sample.anatomy_voxels for sample in of_all], device=device)
        self._labels = self._label_maps = None
        if samples.target_kind is TargetKind.LABEL_MAP:
            self._label_maps = self.hold([self._planes(np.asarray(sample.target)).long() for sample in of_all])
        elif samples.target_kind is not None:
            self._labels = samples.targets().to(device)

    def _planes(self, values: NDArray[Any]) -> Tensor:
        """Give a map of a sample as ``(channels, *spatial)``."""
        return torch.from_numpy(np.ascontiguousarray(channels_first(values, self.samples.spatial_dims)))

    def hold(self, parts: Sequence[Tensor]) -> SampleMaps:
        """Take maps of all samples, ``(channels, *spatial)`` on the host, to where the others are."""
        pinned = self.home.type == "cpu" and self.device.type == "cuda"
        return SampleMaps([part.pin_memory() for part in parts] if pinned else parts, self.home, self._padded)

    def new_maps(self, dtype: torch.dtype = torch.float32, channels: int = 1) -> SampleMaps:
        """Give maps of zeros, one for each sample; in a file without a name where the host's memory is short."""
        shapes = [(channels, *sample.shape) for sample in self.samples.samples]
        if self.home.type == "cpu":
            return SampleMaps(_zeros_on_host(shapes, dtype), self.home, self._padded)
        return SampleMaps([torch.zeros(shape, dtype=dtype) for shape in shapes], self.home, self._padded)

    def batch_count(self, samples: int, size: int) -> int:
        """Count the batches of some size that so many samples give."""
        return samples // size + (samples % size > (0 if self.keep_single or samples == 1 else 1))

    def batches(
        self, order: Sequence[int], size: int, images: SampleMaps | None = None, places: slice = slice(None)
    ) -> Iterator[WorkingBatch]:
        """Cut batches off some samples.

        Args:
            order: numbers of the samples.
            size: of each batch but the last.
            images: what takes the place of the samples' own.
            places: of the batches to cut, among all.
        """
        on_device = torch.tensor(list(order), device=self.device)  # at once: a copy for each batch would be waited for
        for start in range(0, self.batch_count(len(order), size) * size, size)[places]:
            yield self.batch(list(order[start : start + size]), on_device[start : start + size], images)

    def batch(self, indices: list[int], index: Tensor | None = None, images: SampleMaps | None = None) -> WorkingBatch:
        """Cut one batch.

        Args:
            indices: numbers of its samples.
            index: the same, on the device; None copies them.
            images: what takes the place of the samples' own.
        """
        if index is None:
            index = torch.tensor(indices, device=self.device)
        place = BatchPlace(indices, self.samples.batch_shape(indices), index, self.device)
        target = None if self._labels is None else self._labels[index]
        if self._label_maps is not None:
            target = self._label_maps.gather(place)[:, 0]
        return WorkingBatch(
            place, (images or self._images).gather(place), self._voxels.gather(place), self._share.gather(place),
            self._levels[index], self._step_model[index], self._limits[index], target,
        )  # fmt: skip

    def contents(self, place: BatchPlace, others: Tensor) -> Tensor:
        """Give the images of other samples in the place of a batch's own, ``(batch, channels, *spatial)``: cut to its
        shape, or with zeros behind.

        Args:
            place: of the batch.
            others: number of the sample whose image takes each place, on the device.
        """
        return self._images.others(place, others)


def padded(parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Stack maps ``(channels, *spatial)`` into ``(batch, channels, *shape)``, zeros behind each."""
    if all(part.shape[1:] == torch.Size(shape) for part in parts):
        return torch.stack(list(parts))
    result = torch.zeros((len(parts), len(parts[0]), *shape), dtype=parts[0].dtype, device=parts[0].device)
    for row, part in zip(result, parts, strict=True):
        row[_region(part)] = part
    return result


def home_of(samples: WorkingSet, device: torch.device) -> torch.device:
    """Give the device itself if all maps of a search fit there, else the host."""
    if device.type != "cuda":
        return device
    cells = sum(sample.image_model.size for sample in samples.samples)
    fits = cells * BYTES_PER_CELL <= MOST_OF_DEVICE * torch.cuda.mem_get_info(device)[0]
    return device if fits else torch.device("cpu")


def _zeros_on_host(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    sizes = [int(np.prod(shape)) for shape in shapes]
    kind = np.dtype(str(dtype).removeprefix("torch."))
    needed = sum(sizes) * kind.itemsize
    if needed <= MOST_OF_HOST * free_memory():
        return [torch.zeros(shape, dtype=dtype) for shape in shapes]
    with tempfile.TemporaryFile() as file:  # the map keeps it open
        flat = torch.from_numpy(memmap(file, kind, "w+", shape=sum(sizes)))
    return [part.reshape(shape) for part, shape in zip(torch.split(flat, sizes), shapes, strict=True)]


def free_memory() -> float:
    """Give the bytes of the host's memory that are free; infinite where the system does not say."""
    names = getattr(os, "sysconf_names", {})
    if not {"SC_AVPHYS_PAGES", "SC_PAGE_SIZE"} <= set(names):
        return float("inf")
    return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")


def _region(part: Tensor) -> tuple[slice, ...]:
    """Give the place of a map ``(channels, *spatial)`` in a larger one."""
    return tuple(slice(0, length) for length in part.shape)
