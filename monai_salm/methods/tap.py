# SPDX-License-Identifier: Apache-2.0
"""TAP: noise that makes a clean network see the next class, so that a victim learns the features of the wrong one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from monai_salm.learning.chance import SampleChance
from monai_salm.learning.consumers import ConsumerAugmentation, draws_needed
from monai_salm.learning.networks import logits_of
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.targets import next_class
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import (
    MethodRun,
    Noise,
    NoiseMethod,
    batches_in_order,
    deliver,
    protected_images,
    random_start,
    targets_of,
    task_needed,
    train_clean,
)

EPOCHS, LEAST_STEPS = 20, 300
"""Of the clean surrogate; published: 40 epochs."""

STEP_SIZE = 0.1
"""Of one noise step, as a share of the budget."""


@dataclass(frozen=True)
class Targeted(NoiseMethod):
    """Targeted noise: signed gradient steps on a clean surrogate's loss for the next class, under random augmentation.

    Fowl et al. 2021 (arXiv 2106.10807)::

        min_delta  E_t L(f*(t(x + delta)), (y + 1) mod C),   |delta| <= epsilon,   f* trained on clean images

    Of findings instead of classes, each is asked for where it is absent and the other way round.

    Args:
        rounds: noise steps of every sample; published are 250.
    """

    rounds: int = 60

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        task, rounds = task_needed(task, samples), self.rounds_of(run)
        network, augmentation = run.build_surrogate().to(run.device), ConsumerAugmentation()
        resident, chance = ResidentSet(samples, run.device), SampleChance(samples, run.seed, run.device)
        train_clean(network, resident, task, run, epochs=EPOCHS, least_steps=LEAST_STEPS, augmentation=augmentation)
        draws = chance.draws(1, rounds, draws_needed(samples.spatial_dims), "noise")
        run.errors = [0.0] * rounds
        for batch in batches_in_order(resident, run, "targeting"):
            target, levels = next_class(targets_of(batch), task.outputs), batch.levels
            steps = random_start(chance, batch) * levels
            for number in range(rounds):
                images = protected_images(steps, batch).requires_grad_(True)
                logits = logits_of(network, augmentation.apply(images, draws.at(batch.place, number))[0])
                (gradient,) = torch.autograd.grad(task.loss(logits, target).sum(), images)
                steps = (steps - STEP_SIZE * levels * gradient.sign()).clamp(-levels, levels)
                run.errors[number] += float(task.error(logits.detach(), target).sum()) / len(samples)
            run.passes += rounds * len(batch.indices) / len(samples)
            yield from deliver(steps, batch, samples)
