# SPDX-License-Identifier: Apache-2.0
"""Training the networks that a stranger would train, and scoring them on clean images they never saw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.evaluate.countermeasures import NO_COUNTERMEASURE, Countermeasure
from monai_salm.learning.chance import SampleChance, own_randomness
from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.networks import build_network, freeze_backbone, logits_of, set_training
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.learning.training import Descent, Objective, drawn_batches, supervised, train
from monai_salm.progress import Progress

PRETRAINED, FROZEN = "+pretrained", "+frozen"
"""Suffixes of victims that saw other images before: all their weights are trained then, or only the head."""


@dataclass(frozen=True, kw_only=True)
class VictimRecipe:
    """How a victim is trained: Adam with a cosine schedule and the augmentation of the consumer.

    Args:
        epochs: passes over the training images; more where they make fewer steps than ``least_steps``.
        least_steps: optimizer steps at least, since a victim that was not trained proves nothing.
        batch_size: images per step.
        learning_rate: at its highest; None takes 2e-3, and 5e-4 after a warm-up for transformers.
        augmentation: applied to every training image.
        score_every: epochs from one scoring to the next; the last epoch is always scored.
    """

    epochs: int = 20
    least_steps: int = 300
    batch_size: int = 32
    learning_rate: float | None = None
    augmentation: ConsumerAugmentation = ConsumerAugmentation(identity=0.0)
    score_every: int = 1

    def epochs_for(self, images: int) -> int:
        """Give the epochs of a training on some number of images."""
        return max(self.epochs, math.ceil(self.least_steps / math.ceil(images / self.batch_size)))


@dataclass(frozen=True, kw_only=True)
class VictimTraining:
    """What a victim learns, from what, and how.

    Args:
        task: loss and scores.
        train, test: images with targets, already through the preprocessing of the countermeasure.
        recipe: of the training.
        seed: of the order, the augmentation and the dropout.
        device: where to compute.
        countermeasure: whose augmentation and loss replace the recipe's and the task's.
    """

    task: LearningTask
    train: WorkingSet
    test: WorkingSet
    recipe: VictimRecipe
    seed: int
    device: torch.device
    countermeasure: Countermeasure = NO_COUNTERMEASURE

    @property
    def epochs(self) -> int:
        """Passes over the training images."""
        return self.recipe.epochs_for(len(self.train))

    def objective(self, network: nn.Module) -> Objective:
        """Give what a network is to make small; chance in the loss of a countermeasure begins anew."""
        task, own_loss = self.task, self.countermeasure.batch_loss
        generator = torch.Generator().manual_seed(self.seed)

        def batch_loss(images: Tensor, target: Tensor) -> Tensor:
            if own_loss is None:
                return task.loss(logits_of(network, images), target).mean()
            return own_loss(partial(logits_of, network), task, images, target, generator)

        augmentation = self.countermeasure.augmentation or self.recipe.augmentation
        return supervised(network, task, augmentation, batch_loss=batch_loss)

    def scores(self, network: nn.Module, *, distances: bool) -> dict[str, float]:
        """Score a network on the test images, see :func:`score_network`."""
        return score_network(network, self.task, self.test, self.recipe.batch_size, self.device, distances=distances)


@dataclass(frozen=True)
class VictimScores:
    """What a victim learned.

    Args:
        final: scores after the last epoch.
        peak: best main score over the epochs: what a stranger gets who stops in time.
        curve: main score after every scored epoch.
        seconds: time of training and scoring.
    """

    final: dict[str, float]
    peak: float
    curve: tuple[float, ...]
    seconds: float


def build_victim(name: str, *, spatial_dims: int, outputs: int, image_shape: tuple[int, ...], seed: int) -> nn.Module:
    """Build a victim whose weights depend on the seed alone; one with ``+frozen`` has only its head trainable.

    Args:
        name: of a network, see :func:`~monai_salm.learning.networks.build_network`, and behind it ``+pretrained`` or
            ``+frozen`` for a victim that is to go through :func:`~monai_salm.evaluate.pretraining.pretrain` before it
            is trained.
        spatial_dims: 2 or 3.
        outputs: classes, or findings.
        image_shape: pixels or voxels of the images along each axis.
        seed: of the weights.

    Raises:
        UsageError: there is no such network or suffix.
    """
    base, plus, suffix = name.partition("+")
    if plus + suffix not in ("", PRETRAINED, FROZEN):
        raise UsageError(f"victim {name!r} has an unknown suffix; give {base}, {base}{PRETRAINED} or {base}{FROZEN}")
    with own_randomness(seed, torch.device("cpu")):
        network = build_network(base, spatial_dims=spatial_dims, outputs=outputs, image_shape=image_shape)
    if plus + suffix == FROZEN:
        freeze_backbone(network)
    return network


def is_pretrained(name: str) -> bool:
    """Tell whether a victim of this name sees other images first."""
    return name.endswith((PRETRAINED, FROZEN))


def train_victim(
    network: nn.Module,
    training: VictimTraining,
    *,
    description: str = "training",
    show_progress: bool = False,
    after_epoch: Callable[[int], None] | None = None,
) -> VictimScores:
    """Train a network and score it on the test images again and again.

    Args:
        network: with weights of its own; trained in place. Frozen parts of it stay as they are.
        training: see :class:`VictimTraining`.
        description: for the progress bar.
        show_progress: a progress bar on standard error.
        after_epoch: called with the number of epochs that are done.
    """
    start = perf_counter()
    task, recipe, device, epochs = training.task, training.recipe, training.device, training.epochs
    network.to(device)
    resident = ResidentSet(training.train, device, keep_single=False)
    chance = SampleChance(training.train, training.seed, device)
    descent = Descent(network, epochs * math.ceil(len(training.train) / recipe.batch_size), recipe.learning_rate)
    objective = training.objective(network)
    curve: list[float] = []
    final: dict[str, float] = {}
    with (
        own_randomness(training.seed, device),
        Progress(description, epochs, "epochs", show_progress=show_progress, inner=True) as bar,
    ):
        for epoch in range(1, epochs + 1):
            set_training(network)
            train(drawn_batches(resident, chance, recipe.batch_size, round_number=epoch), objective, descent)
            if epoch == epochs or epoch % recipe.score_every == 0:
                final = training.scores(network, distances=epoch == epochs)
                curve.append(final[main_score(task)])
            bar.update(note=f"{main_score(task).replace('_', ' ')} {curve[-1]:.3f}" if curve else "")
            if after_epoch is not None:
                after_epoch(epoch)
    peak = max((score for score in curve if score == score), default=math.nan)
    return VictimScores(final, peak, tuple(curve), perf_counter() - start)


def main_score(task: LearningTask) -> str:
    """Name the score that a victim is judged by."""
    return "dice" if task.spatial_target else "balanced_accuracy"


def score_network(
    network: nn.Module,
    task: LearningTask,
    samples: WorkingSet,
    batch_size: int,
    device: torch.device,
    *,
    distances: bool = True,
) -> dict[str, float]:
    """Score a network on samples as they are; what it says of the padding of a label map does not count.

    Args:
        network: gives logits.
        task: gives the scores.
        samples: with targets.
        batch_size: images at once.
        device: where to compute.
        distances: measure distances between surfaces, too, which takes time.
    """
    network.eval()
    evidence: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(samples), batch_size):
            chosen = samples.samples[start : start + batch_size]
            batch = samples.batch(range(start, start + len(chosen)), device)
            logits, target = logits_of(network, batch.images).float(), batch.target
            if target is None:
                raise UsageError("the test samples have no labels; a victim cannot be scored without")
            if not task.spatial_target:
                evidence.append(task.evidence(logits, target))
                continue
            for row, sample in enumerate(chosen):
                region = tuple(slice(0, length) for length in sample.image_model.shape)
                evidence.append(
                    task.evidence(
                        logits[row][(slice(None), *region)][None],
                        target[row][region][None],
                        [sample.spacing],
                        distances=distances,
                    )
                )
    return task.summarize(torch.cat(evidence))
