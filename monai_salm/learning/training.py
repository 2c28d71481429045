# SPDX-License-Identifier: Apache-2.0
"""How every network here is trained, surrogates as victims: one loop, and the descent that it takes its steps with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.learning.chance import SampleChance
from monai_salm.learning.consumers import Augmentation, draws_needed
from monai_salm.learning.networks import behind_view, logits_of
from monai_salm.learning.resident import ResidentSet, SampleMaps
from monai_salm.learning.samples import WorkingBatch
from monai_salm.learning.tasks import LearningTask

SURROGATE_RATE = 2e-3
"""Learning rate of surrogates, which is the same at every step."""

LONGEST_GRADIENT = 5.0
"""Longer gradients are cut to this norm: a few wild steps in the beginning can cost a network all it could learn."""

Objective = Callable[[WorkingBatch], Tensor]
"""Gives the loss of a batch, one number that gradients flow back from."""


class Descent:
    """Adam for the weights of a network that are not frozen.

    Args:
        network: to train.
        steps: that there will be: the learning rate falls to zero over them by half a cosine, and transformers warm up
            over their first tenth. None leaves it as it is.
        learning_rate: at its highest; None takes 2e-3, or 5e-4 for a transformer that warms up.
        longest_gradient: norm that longer gradients are cut to; None leaves them.
        forgiving: leave out a step without a finite gradient, which would turn all weights into NaN; the device is
            waited for at every step, to know.
    """

    def __init__(
        self,
        network: nn.Module,
        steps: int | None,
        learning_rate: float | None = None,
        *,
        longest_gradient: float | None = LONGEST_GRADIENT,
        forgiving: bool = True,
    ) -> None:
        warms_up = steps is not None and any(isinstance(module, nn.LayerNorm) for module in network.modules())
        self.steps, self.done = steps, 0
        self.warmup = max(1, steps // 10) if steps is not None and warms_up else 1
        usual = 5e-4 if warms_up else 2e-3
        self.learning_rate = usual if learning_rate is None else learning_rate
        self.longest_gradient, self.forgiving = longest_gradient, forgiving
        self.weights = [parameter for parameter in network.parameters() if parameter.requires_grad]
        # The same numbers as one weight after the other, in half the time.
        self.optimizer = torch.optim.Adam(self.weights, lr=self.learning_rate, foreach=True)

    def to_memory(self) -> dict[str, Tensor]:
        """Give what the descent remembers of its steps, on the CPU, for :meth:`recall`."""
        return {
            f"{number}.{name}": value.detach().cpu().contiguous()
            for number, weight in enumerate(self.weights)
            for name, value in self.optimizer.state[weight].items()
        }

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Go on as the descent that gave this did, of a network of the same kind."""
        for key, value in memory.items():
            number, _, name = key.partition(".")
            weight = self.weights[int(number)]
            # the count of steps stays on the CPU, where Adam keeps it
            self.optimizer.state[weight][name] = value.clone() if name == "step" else value.to(weight.device, copy=True)

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        if self.steps is None:
            return self.learning_rate
        share = min(self.done / self.steps, 1.0)
        return self.learning_rate * min(1.0, (self.done + 1) / self.warmup) * (1 + math.cos(math.pi * share)) / 2

    def step(self, loss: Tensor) -> None:
        """Go one step down."""
        self.optimizer.param_groups[0]["lr"] = self.rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = None
        if self.longest_gradient is not None:
            norm = nn.utils.clip_grad_norm_(self.weights, self.longest_gradient)
        if norm is None or not self.forgiving or bool(norm.isfinite()):
            self.optimizer.step()
        self.done += 1


def train(batches: Iterable[WorkingBatch], objective: Objective, descent: Descent) -> Tensor | None:
    """Train a network on some batches, in place; whether it is in training mode is its owner's choice.

    Args:
        batches: on the network's device.
        objective: loss of a batch, such as :func:`supervised`.
        descent: of the network.

    Returns:
        The sum of the losses, on their device, so that who wants to know it decides when to wait for it; None without
        a batch.
    """
    total: Tensor | None = None
    for batch in batches:
        loss = objective(batch)
        descent.step(loss)
        total = loss.detach() if total is None else total + loss.detach()
    return total


def supervised(
    network: nn.Module,
    task: LearningTask,
    augmentation: Augmentation,
    *,
    batch_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    bfloat16: bool = False,
) -> Objective:
    """Give the objective of who learns a task from labeled images: its mean loss on a batch, after the augmentation.

    Args:
        network: gives logits.
        task: gives the loss.
        augmentation: of the images; targets that are maps follow it.
        batch_loss: gives the loss of images, as the network behind a view sees them, and targets in place of the task's
            mean loss.
        bfloat16: let the network compute in bfloat16 where that is safe; the loss is of float32 logits.

    Raises:
        UsageError: (the objective) a batch has no targets.
    """
    seeing, view = behind_view(network)

    def loss(batch: WorkingBatch) -> Tensor:
        images, target = augmented(replace(batch, images=view(batch.images)), task, augmentation)
        if batch_loss is not None:
            return batch_loss(images, target)
        return task.loss(logits_in(seeing, images, bfloat16=bfloat16), target).mean()

    return loss


def logits_in(network: nn.Module, images: Tensor, *, bfloat16: bool) -> Tensor:
    """Give float32 logits of a network, computed in bfloat16 where that is safe, or throughout in float32."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        return logits_of(network, images).float()


def augmented(batch: WorkingBatch, task: LearningTask, augmentation: Augmentation) -> tuple[Tensor, Tensor]:
    """Give the images and the targets of a batch as a network in training sees them, with the batch's own draws.

    Raises:
        UsageError: the batch has no targets.
    """
    if batch.target is None:
        raise UsageError("the samples have no labels; a network needs some to learn from")
    if batch.draws is None:
        return batch.images, batch.target
    label_map = batch.target if task.spatial_target else None
    images, label_map = augmentation.apply(batch.images, batch.draws, label_map)
    return images, batch.target if label_map is None else label_map


def drawn_batches(
    samples: ResidentSet,
    chance: SampleChance,
    size: int,
    *,
    round_number: int,
    most: int | None = None,
    images: SampleMaps | None = None,
    views: int = 1,
) -> Iterator[WorkingBatch]:
    """Give batches in ever new orders, each with what is drawn for its augmentation.

    Args:
        samples: to learn from.
        chance: of the samples.
        size: of each batch but the last of an epoch.
        round_number: of the search, or the epoch of a training.
        most: how many batches; an epoch that is not finished then is cut short. None gives one epoch.
        images: what takes the place of the samples' own.
        views: how often each image is to be augmented; the draws of a batch hold those of one view after the other.
    """
    in_epoch = samples.batch_count(len(samples.samples), size)
    most = in_epoch if most is None else most
    epochs = math.ceil(most / in_epoch)
    draws = chance.draws(round_number, epochs, views * draws_needed(samples.samples.spatial_dims), "augmentation")
    for epoch, order in enumerate(chance.orders(round_number, epochs)):
        for batch in islice(samples.batches(order, size, images), most - epoch * in_epoch):
            yield replace(batch, draws=draws.at(batch.place, epoch))
