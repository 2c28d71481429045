# SPDX-License-Identifier: Apache-2.0
"""Training the networks that a stranger would train, and scoring them on clean images they never saw."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from tqdm import tqdm

from monai_salm.consumers import ConsumerAugmentation
from monai_salm.samples import WorkingSet
from monai_salm.tasks import LearningTask, SegmentationTask


@dataclass(frozen=True, kw_only=True)
class VictimRecipe:
    """How a victim is trained: Adam with a cosine schedule and the augmentation of the consumer.

    Args:
        epochs: passes over the training images; more where they make fewer steps than ``least_steps``.
        least_steps: optimizer steps at least, since a victim that was not trained proves nothing.
        batch_size: images per step.
        learning_rate: at the start.
        augmentation: applied to every training image.
    """

    epochs: int = 20
    least_steps: int = 300
    batch_size: int = 32
    learning_rate: float = 2e-3
    augmentation: ConsumerAugmentation = ConsumerAugmentation(identity=0.0)


def train_victim(
    network: nn.Module,
    task: LearningTask,
    train: WorkingSet,
    test: WorkingSet,
    recipe: VictimRecipe,
    *,
    seed: int,
    device: torch.device,
    description: str = "training",
    show_progress: bool = False,
) -> dict[str, float]:
    """Train a network and score it on the test images after every epoch.

    Args:
        network: with weights of its own; trained in place.
        task: loss and scores.
        train, test: images with targets.
        recipe: see :class:`VictimRecipe`.
        seed: of the order and the augmentation.
        device: where to compute.
        description: for the progress bar.
        show_progress: a progress bar on standard error.

    Returns:
        The scores after the last epoch, and under ``peak`` the best value of the main score over all epochs: what a stranger gets who stops early.
    """
    generator = torch.Generator().manual_seed(seed)
    network.to(device)
    epochs = max(recipe.epochs, math.ceil(recipe.least_steps / math.ceil(len(train) / recipe.batch_size)))
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    main = "dice" if isinstance(task, SegmentationTask) else "balanced_accuracy"
    scores: dict[str, float] = {}
    peak = float("-inf")
    for _ in tqdm(range(epochs), desc=description, unit="epoch", disable=not show_progress):
        network.train()
        order = torch.randperm(len(train), generator=generator).tolist()
        for start in range(0, len(train), recipe.batch_size):
            indices = order[start : start + recipe.batch_size]
            if len(indices) == 1 and len(train) > 1:
                continue  # batch statistics of one image are no statistics
            batch = train.batch(indices, device)
            follows = batch.target if task.spatial_target else None
            images, label_map = recipe.augmentation(batch.images, generator, follows)
            optimizer.zero_grad(set_to_none=True)
            target = label_map if task.spatial_target else batch.target
            task.loss(_logits(network, images), target).mean().backward()  # type: ignore[arg-type, no-untyped-call]
            optimizer.step()
        schedule.step()
        scores = score_network(network, task, test, recipe.batch_size, device)
        peak = max(peak, scores[main])
    return scores | {"peak": peak}


def score_network(network: nn.Module, task: LearningTask, samples: WorkingSet, batch_size: int, device: torch.device) -> dict[str, float]:
    """Score a network on samples as they are."""
    network.eval()
    logits, targets = [], []
    with torch.no_grad():
        for start in range(0, len(samples), batch_size):
            batch = samples.batch(range(start, min(start + batch_size, len(samples))), device)
            logits.append(_logits(network, batch.images).float().cpu())
            targets.append(batch.target.cpu())  # type: ignore[union-attr]
    return task.score(torch.cat(logits), torch.cat(targets))


def _logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    result = network(images)
    first: torch.Tensor = result[0] if isinstance(result, (tuple, list)) else result
    return first
