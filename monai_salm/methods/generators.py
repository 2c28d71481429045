# SPDX-License-Identifier: Apache-2.0
"""What the methods share whose noise networks make: generators trained in turn with a surrogate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from monai_salm.learning.chance import SampleChance
from monai_salm.learning.networks import logits_of
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.learning.training import SURROGATE_RATE, Descent, drawn_batches
from monai_salm.methods.base import (
    MethodRun,
    Noise,
    batch_size,
    batches_in_order,
    deliver,
    protected_images,
    targets_of,
)
from monai_salm.progress import track

GENERATOR_RATE = 1e-3
"""Learning rate of the generators; published is 1e-4 for 100 epochs of far more samples."""

LEAST_STEPS = 10
"""Generator steps of a round at least, so that few samples train it as well."""

Penalty = Callable[[WorkingBatch, Tensor, Tensor, Tensor], Tensor]
"""(batch, steps, logits, logits of the clean images) -> what is added to the generator's loss."""


def alternate(
    samples: WorkingSet,
    task: LearningTask,
    run: MethodRun,
    generator: nn.Module,
    turns: Sequence[bool],
    rounds: int,
    penalty: Penalty | None = None,
) -> Noise:
    """Train generator and surrogate in turn, then give the noise of the last generator.

    Args:
        samples, task, run: as a maker has them.
        generator: batch -> steps.
        turns: of one round: True for a step of the surrogate, False for one of the generator.
        rounds: that are run.
        penalty: added to the generator's loss.
    """
    surrogate = run.build_surrogate().to(run.device)
    generator.to(run.device).train()
    descents = {
        True: Descent(surrogate, None, SURROGATE_RATE, longest_gradient=None),
        False: Descent(generator, None, GENERATOR_RATE, longest_gradient=None),
    }
    resident = ResidentSet(samples, run.device)
    chance, size = SampleChance(samples, run.seed, run.device), batch_size(samples, run)
    batches = drawn_batches(resident, chance, size, round_number=0, most=rounds * len(turns))
    for _ in track(range(rounds), "generating", "rounds", total=rounds, show_progress=run.show_progress):
        errors: list[float] = []
        for surrogates_turn in turns:
            batch = next(batches)
            target = targets_of(batch)
            surrogate.train(surrogates_turn).requires_grad_(surrogates_turn)
            generator.requires_grad_(not surrogates_turn)
            steps = generator(batch)
            logits = logits_of(surrogate, protected_images(steps, batch))
            loss = task.loss(logits, target).mean()
            work = 1.0
            if not surrogates_turn:
                errors += task.error(logits.detach(), target).tolist()
                if penalty is not None:
                    with torch.no_grad():
                        clean = logits_of(surrogate, batch.images)
                    loss = loss + penalty(batch, steps, logits, clean)
                    work = 1.5
            descents[surrogates_turn].step(loss)
            run.passes += work * len(batch.indices) / len(samples)
        run.errors.append(sum(errors) / len(errors))
    generator.eval().requires_grad_(False)
    for batch in batches_in_order(resident, run, "noise"):
        yield from deliver(generator(batch), batch, samples)


def small_generator(spatial_dims: int) -> nn.Module:
    """Build a network of one channel in and one out."""
    return UNet(spatial_dims, 1, 1, channels=(16, 32, 64), strides=(2, 2), num_res_units=1, norm="instance")
