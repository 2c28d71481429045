# SPDX-License-Identifier: Apache-2.0
"""Other forms of a sample that a stranger may train on: at half of its size, after a blur, or a piece of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_salm.learning.consumers import binomial_blur
from monai_salm.learning.samples import channels_first
from monai_salm.working_samples import WorkingSample


def halved(sample: WorkingSample) -> WorkingSample:
    """Give a sample on half of its grid: images averaged over boxes of two cells a side, label maps by their first
    cell.
    """
    dims = len(sample.shape)

    def summed(values: NDArray[Any]) -> NDArray[Any]:
        for axis in range(dims):
            values = np.add.reduceat(values, np.arange(0, values.shape[axis], 2), axis=axis)
        return values

    def averaged(values: NDArray[Any]) -> NDArray[Any]:
        mean: NDArray[Any] = summed(values) / summed(np.ones_like(values))
        return mean

    target = sample.target
    if isinstance(target, np.ndarray) and target.ndim == dims:
        target = target[(slice(None, None, 2),) * dims]
    return replace(
        sample, image_model=averaged(sample.image_model), carrier_voxels=summed(sample.carrier_voxels),
        carrier_share=averaged(sample.carrier_share), target=target,
        spacing=tuple(2 * step for step in sample.spacing),
        planes=None if sample.planes is None else sample.planes.coarser(2),
    )  # fmt: skip


def blurred(sample: WorkingSample) -> WorkingSample:
    """Give a sample after the 3-wide binomial blur."""
    planes = binomial_blur(torch.from_numpy(channels_first(sample.image_model, len(sample.shape))[None].copy()))[0]
    image = planes[0] if len(planes) == 1 else planes.movedim(0, -1)
    return replace(sample, image_model=image.numpy())


def patch_of(sample: WorkingSample, side: int) -> WorkingSample:
    """Give a piece of a sample with at most ``side`` cells along each axis, around what its label map marks; around its
    middle where that marks nothing. How its cells lie in planes is left out.
    """
    if max(sample.shape) <= side:
        return sample
    target = sample.target
    label_map = target if isinstance(target, np.ndarray) and target.ndim == len(sample.shape) else None
    marked = np.argwhere(np.zeros(sample.shape) if label_map is None else label_map)
    middle = marked.mean(axis=0) + 0.5 if len(marked) else np.array(sample.shape) / 2
    starts = np.clip(np.round(middle - side / 2), 0, np.maximum(0, np.array(sample.shape) - side)).astype(int)
    cut = tuple(slice(start, start + side) for start in starts)
    carriers = sample.carrier_voxels[cut]
    share = carriers.sum() / max(sample.carrier_voxels.sum(), 1)
    return replace(
        sample, image_model=sample.image_model[cut], carrier_voxels=carriers, carrier_share=sample.carrier_share[cut],
        anatomy_voxels=round(sample.anatomy_voxels * share), planes=None,
        target=target if label_map is None else label_map[cut],
    )  # fmt: skip
