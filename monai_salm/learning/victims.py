# SPDX-License-Identifier: Apache-2.0
"""Training the networks that a stranger would train, scoring them on clean images they never saw, and what it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
from torch import Tensor, nn

from monai_salm.chance import torch_seed
from monai_salm.errors import UsageError
from monai_salm.learning.augmentations import FLIPS
from monai_salm.learning.chance import SampleChance, own_randomness
from monai_salm.learning.consumers import Augmentation
from monai_salm.learning.networks import behind_view, logits_of, set_training
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, LearningTask
from monai_salm.learning.training import Descent, Objective, drawn_batches, supervised, train
from monai_salm.progress import Progress

BatchLoss = Callable[[Callable[[Tensor], Tensor], LearningTask, Tensor, Tensor, torch.Generator], Tensor]
"""Gives the loss to train on, a scalar, from (logits_of, task, images ``(batch, 1, *spatial)``, target, generator on
the CPU).
"""

LEAST_STEPS = {2: 1000, 3: 800}
"""Optimizer steps of a victim of images or volumes at least, unless it is told otherwise; docs/evaluate.md says why."""


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

    Example:
        >>> from monai_salm.evaluate import VictimRecipe
        >>> VictimRecipe(epochs=20, least_steps=1000, batch_size=32).epochs_for(320)  # of 10 steps each
        100
    """

    epochs: int = 20
    least_steps: int = LEAST_STEPS[2]
    batch_size: int = 32
    learning_rate: float | None = None
    augmentation: Augmentation = FLIPS
    score_every: int = 1

    def epochs_for(self, images: int) -> int:
        """Give the epochs of a training on some number of images."""
        return max(self.epochs, math.ceil(self.least_steps / math.ceil(images / self.batch_size)))


@dataclass(frozen=True, kw_only=True)
class VictimTraining:
    """What a victim learns, from what, and how.

    Args:
        task: loss and scores.
        train, test: images with targets, as they are seen.
        recipe: of the training.
        seed: of the order, the augmentation and the dropout.
        device: where to compute.
        augmentation: in place of the recipe's.
        batch_loss: in place of the mean of the task's loss.
        relied_on: images of the training, in the end scored as well, to see how much the network relies on what they
            have and clean test images have not; None leaves that out.
    """

    task: LearningTask
    train: WorkingSet
    test: WorkingSet
    recipe: VictimRecipe
    seed: int
    device: torch.device
    augmentation: Augmentation | None = None
    batch_loss: BatchLoss | None = None
    relied_on: WorkingSet | None = None

    @property
    def epochs(self) -> int:
        """Passes over the training images."""
        return self.recipe.epochs_for(len(self.train))

    def objective(self, network: nn.Module) -> Objective:
        """Give what a network is to make small; chance in a loss of its own begins anew."""
        task, own_loss, (seeing, _) = self.task, self.batch_loss, behind_view(network)
        generator = torch.Generator().manual_seed(torch_seed(self.seed))

        def batch_loss(images: Tensor, target: Tensor) -> Tensor:
            if own_loss is None:
                return task.loss(logits_of(seeing, images), target).mean()
            return own_loss(partial(logits_of, seeing), task, images, target, generator)

        return supervised(network, task, self.augmentation or self.recipe.augmentation, batch_loss=batch_loss)

    def scores(self, network: nn.Module, *, distances: bool) -> dict[str, float]:
        """Score a network on the test images, see :func:`score_network`."""
        return score_network(network, self.task, self.test, self.recipe.batch_size, self.device, distances=distances)

    def reliance(self, network: nn.Module, score: float) -> float:
        """Give the main score of a network on ``relied_on`` minus that on the test images; NaN where there are none."""
        if self.relied_on is None:
            return math.nan
        size, main = self.recipe.batch_size, main_score(self.task)
        return score_network(network, self.task, self.relied_on, size, self.device, distances=False)[main] - score


@dataclass(frozen=True)
class VictimScores:
    """What a victim learned.

    Args:
        final: scores after the last epoch.
        peak: best main score over the epochs: what a stranger gets who stops in time.
        curve: main score after every scored epoch.
        seconds: time of training and scoring.
        reliance: main score on images that it trained on minus that on the test images, after the last epoch; NaN where
            it was not measured.
    """

    final: dict[str, float]
    peak: float
    curve: tuple[float, ...]
    seconds: float
    reliance: float = math.nan


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

    Example:
        >>> import torch
        >>> from monai_salm import ClassificationTask
        >>> from monai_salm.evaluate import VictimRecipe, VictimTraining, build_victim, train_victim
        >>> training = VictimTraining(  # samples: see WorkingSet
        ...     task=ClassificationTask(outputs=2), train=samples, test=samples, seed=0, device=torch.device("cpu"),
        ...     recipe=VictimRecipe(epochs=2, least_steps=4),
        ... )
        >>> victim = build_victim("small-cnn", outputs=2, image_shape=(16, 16), channels=1, seed=0)
        >>> sorted(train_victim(victim, training).final)
        ['auc', 'balanced_accuracy', 'mcc']
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
    reliance = training.reliance(network, curve[-1])
    peak = max((score for score in curve if score == score), default=math.nan)
    return VictimScores(final, peak, tuple(curve), perf_counter() - start, reliance)


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

    Example:
        >>> import torch
        >>> from monai_salm import ClassificationTask
        >>> from monai_salm.evaluate import build_victim, score_network
        >>> victim = build_victim("small-cnn", outputs=2, image_shape=(16, 16), channels=1, seed=0)
        >>> sorted(score_network(victim, ClassificationTask(outputs=2), samples, 4, torch.device("cpu")))
        ['auc', 'balanced_accuracy', 'mcc']
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
                region = tuple(slice(0, length) for length in sample.shape)
                evidence.append(
                    task.evidence(
                        logits[row][(slice(None), *region)][None],
                        target[row][region][None],
                        [sample.spacing],
                        distances=distances,
                    )
                )
    return task.summarize(torch.cat(evidence))


def chance_score(task: LearningTask) -> float | None:
    """Give the balanced accuracy of a guess; None for segmentation."""
    if not isinstance(task, ClassificationTask):
        return None
    return 0.5 if task.multi_label else 1 / task.outputs
