# SPDX-License-Identifier: Apache-2.0
"""How long a search will take, before it begins, and whether its surrogate learned the noise, when it is done; in words
for people.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from copy import deepcopy

import torch

from monai_salm.learning.networks import logits_of
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, LearningTask
from monai_salm.methods.minmin import MinMinOptimizer, MinMinSettings, SearchState

LEARNED_SHARE = 1 / 3
"""Up to this share of a guess's error the surrogate counts as one that learned the noise of most images; a judgement
from the lab book, not measured.
"""
DOUBTFUL = "protection is doubtful"


def search_seconds(optimizer: MinMinOptimizer, samples: WorkingSet, state: SearchState) -> float:
    """Estimate from one measured step how long the rounds that are left take at most; nothing of the search changes.

    Args:
        optimizer, samples, state: as they will be run.
    """
    settings, size = optimizer.settings, min(optimizer.settings.batch_size, len(samples))
    rounds = settings.max_rounds - state.round
    batches = math.ceil(len(samples) / settings.batch_size)
    training = (
        0
        if optimizer.freeze_surrogate
        else max(settings.surrogate_batches, round(settings.surrogate_epochs * len(samples) / settings.batch_size))
    )
    steps = rounds * (training + settings.noise_steps * batches)
    if training and settings.texture_period and state.round < 2 <= settings.max_rounds:
        steps += max(0, settings.texture_batches - training)
    if steps <= 0:
        return 0.0
    network = deepcopy(optimizer.network).to(optimizer.device).train().requires_grad_(True)
    batch, generator = samples.batch(range(size), optimizer.device), torch.Generator().manual_seed(0)
    measured = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for _ in range(2):  # the first one also warms up
            began = time.perf_counter()
            images, label_map = optimizer.augmentation(
                batch.images, generator, batch.target if optimizer.task.spatial_target else None
            )
            target = label_map if optimizer.task.spatial_target else batch.target
            if target is None:
                return 0.0
            loss = optimizer.task.loss(logits_of(network, images.requires_grad_(True)).float(), target).mean()
            float(
                torch.autograd.grad(loss, [*network.parameters(), images], allow_unused=True)[-1].sum()
            )  # a GPU is waited for
            measured.append(time.perf_counter() - began)
    return min(measured) * steps


def guess_error(samples: WorkingSet, task: LearningTask) -> float:
    """Give the error of who always names what is most common; 1 for segmentation, where that is the background."""
    if not isinstance(task, ClassificationTask):
        return 1.0
    targets = samples.targets()
    if task.multi_label:
        shares = targets.float().mean(dim=0)
        return float(torch.minimum(shares, 1 - shares).mean())
    return 1 - float(torch.bincount(targets).max()) / len(targets)


def what_was_learned(errors: Sequence[float], wanted: float, guess: float, *, frozen: bool = False) -> str:
    """Say whether the surrogate learned the noise, without which nobody else will.

    Args:
        errors: of the surrogate on the protected samples, one a round.
        wanted: at most; 0 where the search has no stop rule.
        guess: error of a guess.
        frozen: whether the surrogate is that of another run and learned nothing now.
    """
    wanted = wanted or MinMinSettings.stop_error
    if not errors:
        return (
            "whether the surrogate learned the noise is not known after one round, which only looks; give --rounds "
            "2 or more"
        )
    error = errors[-1]
    if error <= wanted:
        return f"the surrogate learned the noise, as it should: its error is {error:.3f} (wanted: at most {wanted:g})"
    if error <= LEARNED_SHARE * guess:
        return (
            f"the surrogate learned the noise of most images: its error is {error:.3f} (wanted: at most "
            f"{wanted:g}; a guess makes {guess:.3f})"
        )
    advice = (
        "make the surrogate anew, with more --rounds, or of images like these"
        if frozen
        else "give more --rounds or a larger --epsilon"
    )
    return (
        f"{DOUBTFUL}: the surrogate did not learn the noise, its error is {error:.3f} (wanted: at most "
        f"{wanted:g}; a guess makes {guess:.3f}); "
        f"measure it with 'monai-salm evaluate', and {advice}"
    )
