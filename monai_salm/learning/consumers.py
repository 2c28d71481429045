# SPDX-License-Identifier: Apache-2.0
"""What an honest training pipeline does to an image before a network sees it, differentiable, on any device.

The search puts its samples through it, so that the noise survives it; victims train with it. What is drawn comes from
the caller, for each sample its own, and is made into flips, shifts and the rest on the device of the images.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Augmentation(Protocol):
    """What happens to the images of a batch before a network in training sees them."""

    def apply(self, images: Tensor, draws: Tensor, label_map: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Give a changed copy of images, and of the label maps that follow them; see
        :meth:`ConsumerAugmentation.apply`.
        """
        ...


@dataclass(frozen=True)
class ConsumerAugmentation:
    """Random flips, shifts, zooms, blurs and window changes, drawn for each sample of a batch.

    Args:
        flip: probability of a flip along each spatial axis.
        shift: largest shift along each axis, as a share of its length.
        zoom: largest relative change of size.
        blur: probability of a 3-wide binomial blur.
        resample: probability that a sample is halved in size and enlarged again.
        window: largest relative change of the intensity window (gain and offset).
        identity: probability that a sample stays as it is, since a consumer may also do nothing.

    Example:
        >>> import torch
        >>> from monai_salm import ConsumerAugmentation
        >>> from monai_salm.learning.consumers import draws_needed
        >>> flips = ConsumerAugmentation(flip=1, shift=0, zoom=0, blur=0, resample=0, window=0, identity=0)
        >>> image = torch.tensor([[[[0.0, 0.25], [0.5, 0.75]]]])  # (batch, channels, rows, columns)
        >>> changed, _ = flips.apply(image, torch.full((1, draws_needed(2)), 0.5))
        >>> changed[0, 0].tolist()
        [[0.75, 0.5], [0.25, 0.0]]
    """

    flip: float = 0.5
    shift: float = 0.08
    zoom: float = 0.0
    blur: float = 0.0
    resample: float = 0.0
    window: float = 0.0
    identity: float = 0.25

    def __call__(
        self, images: Tensor, generator: torch.Generator, label_map: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Give a changed copy of a batch, with numbers that a generator draws; see :meth:`apply`.

        Args:
            images: ``(batch, channels, *spatial)`` model values, 2D or 3D.
            generator: on the CPU; the only source of randomness.
            label_map: label maps ``(batch, *spatial)`` that follow the images (nearest neighbor), or None.
        """
        numbers = torch.rand(len(images), draws_needed(images.ndim - 2), generator=generator)
        return self.apply(images, numbers.to(images.device), label_map)

    def apply(self, images: Tensor, draws: Tensor, label_map: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Give a changed copy of a batch; gradients flow back to the images, and nothing waits for their device.

        Args:
            images: ``(batch, channels, *spatial)`` model values, 2D or 3D.
            draws: ``(batch, draws_needed(dims))`` numbers in [0, 1), on the device of the images.
            label_map: label maps ``(batch, *spatial)`` that follow the images (nearest neighbor), or None.
        """
        dims = images.ndim - 2
        sizes = [1, dims, dims, 1, 1, 1, 1, 1]
        still, flip, shift, zoom, gain, offset, blur, resample = torch.split(draws, sizes, dim=1)
        keep = still < self.identity
        flips = torch.where((flip < self.flip) & ~keep, -1.0, 1.0)
        # Whole voxels: a fraction of one would blur every image, which only some consumers do.
        lengths = draws.new_tensor(images.shape[2:])
        shifts = torch.where(keep, 0.0, ((shift * 2 - 1) * self.shift * lengths).round())
        if self.zoom:
            zooms = torch.where(keep, 1.0, 1 + (zoom * 2 - 1) * self.zoom)[:, 0]
            images, label_map = _move_and_zoom(images, label_map, flips, shifts / lengths * 2, zooms)
        elif self.flip or self.shift:
            images, label_map = _move(images, label_map, flips, shifts)
        column = (len(images), *[1] * (dims + 1))
        if self.window:
            gains = torch.where(keep, 1.0, 1 + (gain * 2 - 1) * self.window).reshape(column)
            offsets = torch.where(keep, 0.0, (offset * 2 - 1) * self.window / 2).reshape(column)
            images = (images * gains + offsets).clamp(0, 1)
        if self.blur:
            images = torch.where((blur < self.blur).reshape(column), binomial_blur(images), images)
        if self.resample:
            images = torch.where((resample < self.resample).reshape(column), halve_and_enlarge(images), images)
        return images, label_map

    def to_json(self) -> dict[str, Any]:
        """Give plain types; ``ConsumerAugmentation(**record)`` reads them back."""
        return asdict(self)


def draws_needed(spatial_dims: int) -> int:
    """Give how many numbers the augmentation of one sample takes."""
    return 6 + 2 * spatial_dims


def _move(images: Tensor, label_map: Tensor | None, flips: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor | None]:
    """Flip each sample and shift it by whole voxels, exactly: a gather is ten times as fast as an affine map. What
    comes from outside is 0.
    """
    index = torch.zeros(1, 1, dtype=torch.int64, device=images.device)
    inside = torch.ones(1, 1, dtype=torch.bool, device=images.device)
    for axis, length in enumerate(images.shape[2:]):
        flip, shift = flips[:, axis, None], shifts[:, axis, None]
        # Cell i shows what was at i + shift, or at length - 1 - i + shift; floats hold such numbers exactly.
        places = torch.addcmul(shift + (1 - flip) * ((length - 1) / 2), flip, torch.arange(length, device=flip.device))
        nearest = places.clamp(0, length - 1)
        index = torch.add(nearest.long()[:, None], index[:, :, None], alpha=length).flatten(1)
        inside = (inside[:, :, None] & (nearest == places)[:, None]).flatten(1)
    moved = images.flatten(2).gather(2, index[:, None].expand(-1, images.shape[1], -1)) * inside[:, None]
    if label_map is not None:
        label_map = (label_map.flatten(1).gather(1, index) * inside).reshape(label_map.shape)
    return moved.reshape(images.shape), label_map


def _move_and_zoom(
    images: Tensor, label_map: Tensor | None, flips: Tensor, shifts: Tensor, zooms: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Flip, shift (in half lengths) and zoom by one affine map per sample; what comes from outside is 0."""
    dims = images.ndim - 2
    theta = torch.zeros(len(images), dims, dims + 1, device=images.device)
    for axis in range(dims):
        # torch orders the coordinates of a grid x, y, z: the last axis first
        theta[:, dims - 1 - axis, dims - 1 - axis] = flips[:, axis] * zooms
        theta[:, dims - 1 - axis, dims] = shifts[:, axis]
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False).to(images.dtype)
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if label_map is not None:
        values = functional.grid_sample(
            label_map[:, None].to(images.dtype), grid, mode="nearest", padding_mode="zeros", align_corners=False
        )
        label_map = values[:, 0].round().to(label_map.dtype)
    return moved, label_map


NO_AUGMENTATION = ConsumerAugmentation(flip=0.0, shift=0.0, identity=1.0)
"""A consumer who trains on the images as they are."""


def halve_and_enlarge(images: Tensor) -> Tensor:
    """Average boxes of two cells a side, and interpolate linearly back to the old size."""
    dims = images.ndim - 2
    pool = functional.avg_pool2d if dims == 2 else functional.avg_pool3d
    mode = "bilinear" if dims == 2 else "trilinear"
    return functional.interpolate(
        pool(images, 2, ceil_mode=True, count_include_pad=False), size=images.shape[2:], mode=mode, align_corners=False
    )


def binomial_blur(images: Tensor) -> Tensor:
    """Blur by the 3-wide binomial kernel (1, 2, 1) / 4 along each spatial axis; edges are repeated."""
    dims, channels = images.ndim - 2, images.shape[1]
    convolve = functional.conv2d if dims == 2 else functional.conv3d
    for axis in range(dims):
        shape = [1] * dims
        shape[axis] = 3
        kernel = images.new_tensor([0.25, 0.5, 0.25]).reshape(1, 1, *shape).expand(channels, 1, *shape)
        padding = [0] * (2 * dims)
        padding[2 * (dims - 1 - axis)] = padding[2 * (dims - 1 - axis) + 1] = 1
        images = convolve(functional.pad(images, padding, mode="replicate"), kernel, groups=channels)
    return images
