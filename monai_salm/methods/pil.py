# SPDX-License-Identifier: Apache-2.0
"""PIL: noise that a linear model reads the label from, while it reads nothing from the image any more;
no deep network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_salm.learning.chance import SampleChance
from monai_salm.learning.consumers import NO_AUGMENTATION
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import (
    MethodRun,
    Noise,
    NoiseMethod,
    batches_in_order,
    deliver,
    noise_model,
    protected_images,
    random_start,
    targets_of,
    task_needed,
    train_clean,
)

EPOCHS, LEAST_STEPS = 30, 300
"""Of the linear model; 30 epochs are published."""

LARGEST_GRID = {2: 32, 3: 16}
"""Cells along each axis that the linear model sees: on whole images it would have more weights than there is to learn
from.
"""

STEP_SIZE = 0.1
"""Of one noise step, as a share of the budget; as published."""

LABEL_SHARE = 0.9
"""Weight of the noise's label against the image's indifference; as published."""


@dataclass(frozen=True)
class Linearized(NoiseMethod):
    """Noise by signed gradient steps on a linear model that was trained on the clean images.

    PIL, perturbation-induced linearization (ICLR 2026), from its released code, for a bias-free linear f and a release
    of x - delta::

        min_delta  0.9 CE(f(delta), y) + 0.1 KL(uniform || softmax f(x - delta))
        |delta| <= epsilon,   delta from U(-epsilon, epsilon)

    The passes that are counted are those of the linear model.

    Args:
        rounds: noise steps of every sample; published are 30.
    """

    rounds: int = 30

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        task, rounds = task_needed(task, samples), self.rounds_of(run)
        grid = tuple(min(LARGEST_GRID[samples.spatial_dims], length) for length in samples.padded_shape)
        network = LinearModel(grid, task.outputs).to(run.device)
        resident, chance = ResidentSet(samples, run.device), SampleChance(samples, run.seed, run.device)
        train_clean(network, resident, task, run, epochs=EPOCHS, least_steps=LEAST_STEPS, augmentation=NO_AUGMENTATION)
        run.errors = [0.0] * rounds
        for batch in batches_in_order(resident, run, "linearizing"):
            target, levels = targets_of(batch), batch.levels
            # What is released: minus delta.
            steps = random_start(chance, batch) * levels
            for number in range(rounds):
                steps.requires_grad_(True)
                logits = network(-noise_model(steps, batch))
                indifferent = indifference(network(protected_images(steps, batch)), target)
                loss = LABEL_SHARE * task.loss(logits, target) + (1 - LABEL_SHARE) * indifferent
                (gradient,) = torch.autograd.grad(loss.sum(), steps)
                steps = (steps.detach() - STEP_SIZE * levels * gradient.sign()).clamp(-levels, levels)
                run.errors[number] += float(task.error(logits.detach(), target).sum()) / len(samples)
            run.passes += 1.5 * rounds * len(batch.indices) / len(samples)
            yield from deliver(steps, batch, samples)


class LinearModel(nn.Module):
    """A linear map of the image's means over a coarse grid, without bias, from zero weights: its training has one
    minimum.

    Args:
        grid: cells along each axis.
        outputs: classes or findings.
    """

    def __init__(self, grid: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(grid) if len(grid) == 2 else nn.AdaptiveAvgPool3d(grid)
        self.weight = nn.Parameter(torch.zeros(outputs, int(np.prod(grid))))

    def forward(self, images: Tensor) -> Tensor:
        """Give logits of ``(batch, 1, *spatial)`` images."""
        return functional.linear(self.pool(images).flatten(1), self.weight)


def indifference(logits: Tensor, target: Tensor) -> Tensor:
    """Give the distance of each sample's logits from no opinion: KL of the uniform distribution to theirs, up to a
    constant.
    """
    if target.is_floating_point():
        return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 0.5), reduction="none").mean(
            dim=1
        )
    return -logits.log_softmax(dim=1).mean(dim=1)
