# SPDX-License-Identifier: Apache-2.0
"""What all baselines share: what they are given, what they give, and how their noise reaches an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.networks import logits_of
from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.progress import track

LEARNING_RATE = 2e-3
"""Of the Adam that trains surrogates, as in the min-min search."""


@dataclass(kw_only=True)
class BaselineRun:
    """What a baseline is told, and what it reports while its noise is taken.

    Args:
        seed: of everything random.
        device: where to compute.
        rounds: how often the noise is improved; each maker says what its round is.
        build_surrogate: gives an untrained network for the task; methods without a deep surrogate never call it.
        batch_size: samples per step.
        show_progress: a progress bar on standard error.
        passes: forward and backward passes of the surrogate per sample; a forward pass alone counts half.
        errors: mean error of the surrogate in each round, at what the noise is to make it say.
    """

    seed: int
    device: torch.device
    rounds: int
    build_surrogate: Callable[[], nn.Module]
    batch_size: int = 32
    show_progress: bool = False
    passes: float = 0.0
    errors: list[float] = field(default_factory=list)


BaselineMaker = Callable[[WorkingSet, LearningTask, BaselineRun], Iterator[tuple[str, NDArray[np.int16]]]]
"""Gives each sample's id and its noise in integer steps on its working grid."""


@dataclass(frozen=True)
class Baseline:
    """A baseline as a method: its maker, its rounds unless the user gives another number, and what it is for."""

    make: BaselineMaker
    rounds: int
    task: str = "classification"
    spatial_dims: tuple[int, ...] = (2, 3)


def column(values: Tensor, like: Tensor) -> Tensor:
    """Shape ``(batch,)`` values to multiply maps of a batch."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def within_budget(steps: Tensor, batch: WorkingBatch) -> Tensor:
    """Round steps to what a file can hold, at most the budget, zero without carriers; gradients pass straight through
    the rounding.
    """
    levels = column(batch.levels, steps)
    return (steps + (steps.round() - steps).detach()).clamp(-levels, levels) * (batch.voxels > 0)


def noise_model(steps: Tensor, batch: WorkingBatch) -> Tensor:
    """Give the noise in model values, as the mean of each cell keeps it."""
    return within_budget(steps, batch) * batch.share * column(batch.step_model, steps)


def protected_images(steps: Tensor, batch: WorkingBatch) -> Tensor:
    """Give the images as a consumer will find them in the files."""
    return (batch.images + noise_model(steps, batch)).clamp(0, 1)


def targets_of(batch: WorkingBatch) -> Tensor:
    """Give the targets of a batch, or raise UsageError: every baseline needs them."""
    if batch.target is None:
        raise UsageError("the samples have no labels, which this method needs; give --labels, or --method random")
    return batch.target


def batches_in_order(samples: WorkingSet, run: BaselineRun, description: str) -> Iterator[WorkingBatch]:
    """Give all samples once, those of like shape together so that little is padded."""
    order = sorted(range(len(samples)), key=lambda index: samples.samples[index].image_model.shape)
    starts = range(0, len(order), run.batch_size)
    for start in track(starts, description, "batches", total=len(starts), show_progress=run.show_progress):
        yield samples.batch(order[start : start + run.batch_size], run.device)


def shuffled_batches(samples: WorkingSet, run: BaselineRun, generator: torch.Generator) -> Iterator[WorkingBatch]:
    """Give batches in ever new orders, without end."""
    while True:
        order = torch.randperm(len(samples), generator=generator).tolist()
        for start in range(0, len(order), run.batch_size):
            yield samples.batch(order[start : start + run.batch_size], run.device)


def batch_count(samples: WorkingSet, run: BaselineRun) -> int:
    """Count the batches of one pass over all samples."""
    return math.ceil(len(samples) / run.batch_size)


def deliver(steps: Tensor, batch: WorkingBatch, samples: WorkingSet) -> Iterator[tuple[str, NDArray[np.int16]]]:
    """Give the ids and the integer steps of a batch."""
    final = within_budget(steps.detach(), batch)
    for row, index in enumerate(batch.indices):
        yield samples.ids[index], samples.crop(final[row], index).astype(np.int16)


def train_clean(
    network: nn.Module,
    samples: WorkingSet,
    task: LearningTask,
    run: BaselineRun,
    *,
    epochs: int,
    least_steps: int,
    augmentation: ConsumerAugmentation,
) -> None:
    """Train a network on the samples as they are, in place, and leave it frozen.

    Args:
        network: on the run's device.
        samples, task, run: as a maker has them.
        epochs: passes over the samples.
        least_steps: optimizer steps at least, so that few samples train it as well.
        augmentation: of each batch; targets that are maps follow it.
    """
    generator = torch.Generator().manual_seed(run.seed)
    optimizer = torch.optim.Adam(network.train().parameters(), lr=LEARNING_RATE)
    batches = shuffled_batches(samples, run, generator)
    steps = max(least_steps, epochs * batch_count(samples, run))
    for _ in track(range(steps), "surrogate", "steps", total=steps, show_progress=run.show_progress):
        batch = next(batches)
        target = targets_of(batch)
        images, label_map = augmentation(batch.images, generator, target if task.spatial_target else None)
        optimizer.zero_grad(set_to_none=True)
        task.loss(logits_of(network, images), target if label_map is None else label_map).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.passes += len(batch.indices) / len(samples)
    network.eval().requires_grad_(False)
