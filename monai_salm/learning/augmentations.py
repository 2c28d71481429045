# SPDX-License-Identifier: Apache-2.0
"""What strangers do to their images while they train, by name: nothing, flips and shifts, or what nnU-Net does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    Flip,
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandomizableTransform,
    RandRotate,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandSimulateLowResolution,
    RandZoom,
)
from torch import Tensor

from monai_salm.errors import UsageError
from monai_salm.learning.consumers import NO_AUGMENTATION, Augmentation, ConsumerAugmentation

FLIPS = ConsumerAugmentation(identity=0.0)
"""Flips along each axis and shifts by whole voxels, which every image gets."""


@dataclass(frozen=True)
class NnUNetAugmentation:
    """What nnU-Net does to its training images (Isensee et al., Nature Methods 18, 2021; version 2's trainer), with
    MONAI's transforms.

    With its probabilities and ranges for one channel: rotation (any angle in a slice whose sides are alike, else up to
    15 degrees; up to 30 about each axis of a volume), scaling (0.7 to 1.4) and mirroring; then noise, blur, brightness,
    contrast, low resolution, gamma of the inverted and of the plain image. As there, intensities are those of an image
    of mean 0 and standard deviation 1; afterwards it has its own again, and may leave [0, 1]. Otherwise than there,
    ranges are drawn uniformly, all colors get the same, and volumes of thick slices are turned as all others.
    """

    def apply(self, images: Tensor, draws: Tensor, label_map: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Give a changed copy of a batch, on its device, that depends on each sample's own draws alone; no gradient
        flows back.

        Args:
            images: ``(batch, channels, *spatial)`` model values, 2D or 3D.
            draws: ``(batch, numbers)`` in [0, 1), what each sample's random state is seeded with.
            label_map: label maps ``(batch, *spatial)`` that follow the images (nearest neighbor), or None.
        """
        shape = tuple(images.shape[2:])
        moves, changes = _moves(shape), _changes(len(shape))
        # numpy makes such numbers of 24 random bits.
        seeds = (draws.detach().cpu().numpy().astype(np.float64) * 2**24).astype(np.uint32)
        rows, maps = [], []
        with _plain_tensors():
            for number, image in enumerate(images.detach()):
                state = np.random.RandomState(seeds[number])
                labels = None if label_map is None else label_map[number][None].to(image.dtype)
                for probability, move in moves:
                    if state.random_sample() < probability:
                        image, labels = move(state, image, labels)
                mean, deviation = image.mean(), image.std().clamp(min=1e-6)
                image = (image - mean) / deviation
                for probability, change in changes:
                    if state.random_sample() < probability:
                        change.set_random_state(state=state)
                        image = change(image)
                rows.append(image * deviation + mean)
                maps.append(labels)
        if label_map is None:
            return torch.stack(rows), None
        return torch.stack(rows), torch.cat([labels for labels in maps if labels is not None]).to(label_map.dtype)


AUGMENTATIONS: dict[str, Augmentation] = {"none": NO_AUGMENTATION, "flips": FLIPS, "nnunet": NnUNetAugmentation()}
"""What a stranger may do, by the name that a user gives."""


def find_augmentation(name: str) -> Augmentation:
    """Give an augmentation by name, or raise UsageError."""
    found = AUGMENTATIONS.get(name)
    if found is None:
        raise UsageError(f"augmentation {name!r} is unknown; choose among {', '.join(AUGMENTATIONS)}")
    return found


_Move = Callable[[np.random.RandomState, Tensor, "Tensor | None"], "tuple[Tensor, Tensor | None]"]


def _moves(shape: tuple[int, ...]) -> Sequence[tuple[float, _Move]]:
    """Give what images and label maps do together, each with its probability."""
    volume = len(shape) == 3
    angle = math.pi / 6 if volume else math.pi if max(shape) <= 1.5 * min(shape) else math.pi / 12
    rotate = RandRotate(angle, angle, angle, prob=1.0, padding_mode="zeros")
    zoom = RandZoom(1.0, 0.7, 1.4, mode=_LINEAR[len(shape)], padding_mode="constant")

    def together(transform: RandRotate | RandZoom, nearest: str) -> _Move:
        def move(state: np.random.RandomState, image: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
            transform.set_random_state(state=state)
            moved = transform(image)
            return moved, None if labels is None else transform(labels, mode=nearest, randomize=False)

        return move

    def mirror(axis: int) -> _Move:
        flip = Flip(axis)
        return lambda _, image, labels: (flip(image), None if labels is None else flip(labels))

    # "nearest" of an interpolation is half a voxel beside the linear one; "nearest-exact" is not.
    mirrors = [(0.5, mirror(axis)) for axis in range(len(shape))]
    return [(0.2, together(rotate, "nearest")), (0.2, together(zoom, "nearest-exact")), *mirrors]


def _changes(dims: int) -> Sequence[tuple[float, RandomizableTransform]]:
    """Give what happens to intensities alone, each with its probability."""
    blur = (0.5, 1.0)
    return [
        (0.1, RandGaussianNoise(1.0, std=0.1)),
        (0.1, RandGaussianSmooth(blur, blur, blur, prob=1.0)),
        (0.15, RandScaleIntensity(0.25, prob=1.0)),
        (0.15, RandScaleIntensityFixedMean(1.0, 0.25, preserve_range=True)),
        (0.125, RandSimulateLowResolution(1.0, "nearest", _LINEAR[dims], (0.5, 1.0))),
        (0.1, RandAdjustContrast(1.0, (0.7, 1.5), invert_image=True, retain_stats=True)),
        (0.3, RandAdjustContrast(1.0, (0.7, 1.5), retain_stats=True)),
    ]


_LINEAR = {2: "bilinear", 3: "trilinear"}


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """Let MONAI's transforms give plain tensors, in a third of the time that those with a history take."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)
