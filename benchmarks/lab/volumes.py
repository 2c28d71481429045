# SPDX-License-Identifier: Apache-2.0
"""Volumes of the hippocampus in memory, and their noise; ``trials.py`` trains victims on them.

Each is cut around its structures: at 24 x 40 x 24 voxels a search of 12 rounds for 48 of them takes a core two minutes,
a victim one to four. So close a cut leaves out where a network could find what is not there: compare within one shape.
Variants, the first three of them inside the structures alone, in the budget of a trial where no steps of 255 are said:

    clean                no noise
    constant@STEPS       a brightness for each label
    label@PERIOD@STEPS   waves of a direction for each label; at 2 cells their cells are in turn up and down
    METHOD               what ``monai-salm protect --method METHOD --task segmentation`` does, all rounds that it is
                         allowed
    METHOD@NAME=VALUE,...  with some settings changed, see ``noises.py``

Up to the commit 5beff86 salm was what salm:minmin is now. The rows of the commit 3958424+ are of whole volumes, 64 of
them, with 4 steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from noises import generator
from searches import changed, made_by, working_sample
from torch import Tensor

from monai_salm.errors import UsageError
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import SegmentationTask
from monai_salm.methods.registry import METHODS


@dataclass(frozen=True)
class Volumes:
    """What noise is made for.

    Args:
        images: model values ``(samples, 1, x, y, z)``, in steps of 1/255.
        labels: ``(samples, x, y, z)``.
    """

    images: Tensor
    labels: Tensor

    @property
    def task(self) -> SegmentationTask:
        return SegmentationTask(3)


def load_volumes(folder: Path, first: int, end: int, shape: tuple[int, ...]) -> Volumes:
    """Give volumes in the order of their names, in their window from the 0.5 to the 99.5 percentile."""
    import nibabel

    names = sorted(path.name for path in (folder / "imagesTr").glob("hippocampus_*.nii.gz"))[first:end]
    images, labels = np.zeros((len(names), *shape), np.float32), np.zeros((len(names), *shape), np.int64)
    for row, name in enumerate(names):
        values = np.asarray(nibabel.load(folder / "imagesTr" / name).dataobj, dtype=np.float32)
        found = np.asarray(nibabel.load(folder / "labelsTr" / name).dataobj).astype(np.uint8)
        low, high = np.percentile(values, [0.5, 99.5])
        inside = np.argwhere(found > 0)
        starts = (inside.min(0) + inside.max(0) + 1 - shape) // 2
        starts = np.maximum(0, np.minimum(starts, np.array(values.shape) - shape))
        cut = tuple(slice(start, start + size) for start, size in zip(starts, shape, strict=True))
        place = (row, *map(slice, values[cut].shape))
        images[place] = (((values - low) / (high - low)).clip(0, 1) * 255).round()[cut] / 255
        labels[place] = found[cut]
    return Volumes(torch.from_numpy(images)[:, None], torch.from_numpy(labels))


def protect_volumes(data: Volumes, variant: str, steps: float) -> tuple[Tensor, float | None]:
    """Give the images of a variant, and the passes per image if a method made the noise."""
    name, _, text = variant.partition("@")
    if name not in METHODS:
        noise = volume_noise(data.labels, variant, noise_steps(variant, steps)) / 255 * (data.images > 0)
        return (data.images + noise).clamp(0, 1), None
    if "segmentation" not in METHODS[name]:
        raise UsageError(f"method {name!r} is not for label maps")
    method, result = changed(METHODS[name]["segmentation"], name, text), data.images.clone()
    samples = [
        working_sample(
            f"{number:05d}", (image[0].double() * 255).round().numpy(), labels.numpy(), modality="MR",
            epsilon=f"{steps:g}/255", spacing=(1.0, 1.0, 1.0),
        )
        for number, (image, labels) in enumerate(zip(data.images, data.labels, strict=True))
    ]  # fmt: skip
    noise, passes = made_by(method, WorkingSet(samples), data.task)
    for number, sample in enumerate(samples):
        result[number, 0] = torch.from_numpy(sample.protected(noise[sample.sample_id]).image_model)
    return result, passes


def noise_steps(variant: str, steps: float) -> float:
    """Give the size of a variant's noise, in steps of 255; ``steps`` where it does not say."""
    name, *numbers = variant.split("@")
    if name in METHODS:
        return steps
    place = {"clean": 0, "constant": 0, "label": 1}.get(name)
    if place is None or len(numbers) < place:
        raise UsageError(f"variant {variant!r} is unknown for volumes; see volumes.py")
    return 0.0 if name == "clean" else float(numbers[place]) if len(numbers) > place else steps


def volume_noise(labels: Tensor, variant: str, steps: float) -> Tensor:
    """Give noise in steps of 255, from label maps."""
    name, *numbers = variant.split("@")
    if name != "label":
        return steps * ((labels == 1).float() - (labels == 2).float())[:, None]
    f = 1 / float(numbers[0])
    vectors = ((f, 0.0, 0.0), (0.0, f, 0.0)) if f < 0.5 else ((0.5, 0.5, 0.5), (0.5, 0.5, 0.0))
    return steps * _label_waves(labels, vectors)


def _label_waves(labels: Tensor, vectors: Sequence[tuple[float, float, float]]) -> Tensor:
    """Give the sign of a wave with a phase of each volume's own where a label is."""
    source, (x, y, z) = generator(0), (torch.arange(n).float() for n in labels.shape[1:])
    result = torch.zeros(labels.shape)
    for label, (fx, fy, fz) in enumerate(vectors, start=1):
        phase = torch.rand(len(labels), 1, 1, 1, generator=source) * 2 * math.pi
        wave = torch.cos(
            2 * math.pi * (fx * x[:, None, None] + fy * y[None, :, None] + fz * z[None, None])[None] + phase
        )
        result = torch.where(labels == label, torch.sign(wave + 1e-6), result)
    return result[:, None]
