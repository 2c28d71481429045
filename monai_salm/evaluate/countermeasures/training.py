# SPDX-License-Identifier: Apache-2.0
"""Training against the noise: stronger augmentation, cutout, mixup and adversarial training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from monai_salm.evaluate.countermeasures.base import Countermeasure
from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.tasks import LearningTask

EPSILON = 8 / 255
"""How far adversarial training moves a model value."""
_STEPS = 5
_STEP = 2.5 * EPSILON / _STEPS
"""Madry et al. (ICLR 2018): so that every corner of the budget can be reached from every start."""


def cutout_loss(
    logits_of: Callable[[Tensor], Tensor],
    task: LearningTask,
    images: Tensor,
    target: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Hide a box in each image, a quarter of each side long and as gray as the image's mean, and give the mean loss.

    DeVries and Taylor (arXiv 1708.04552) hide half of each side on CIFAR-10. Label maps stay whole: what is hidden is
    to be found all the same.
    """
    batch, dims = len(images), images.ndim - 2
    hidden = torch.ones((batch,) + (1,) * (dims + 1), dtype=torch.bool)
    for axis, length in enumerate(images.shape[2:], start=2):
        box = max(1, length // 4)
        start = (torch.rand(batch, generator=generator) * (length - box + 1)).long()[:, None]
        cells = torch.arange(length)
        within = (cells >= start) & (cells < start + box)
        hidden = hidden & within.reshape((batch,) + (1,) * (axis - 1) + (length,) + (1,) * (dims + 1 - axis))
    mean = images.mean(dim=tuple(range(1, images.ndim)), keepdim=True)
    return task.loss(logits_of(torch.where(hidden.to(images.device), mean, images)), target).mean()


def mixup_loss(
    logits_of: Callable[[Tensor], Tensor],
    task: LearningTask,
    images: Tensor,
    target: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Blend each image with another of the batch and give the mean of both targets' losses, weighted alike.

    Zhang et al. (ICLR 2018), with one share a batch, drawn from Beta(1, 1), which is uniform. The losses are mixed
    instead of the targets: the same for a cross entropy, and defined for label maps too.
    """
    share = float(torch.rand(1, generator=generator))
    other = torch.randperm(len(images), generator=generator).to(images.device)
    logits = logits_of(share * images + (1 - share) * images[other])
    return (share * task.loss(logits, target) + (1 - share) * task.loss(logits, target[other])).mean()


def adversarial_loss(
    logits_of: Callable[[Tensor], Tensor],
    task: LearningTask,
    images: Tensor,
    target: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Move each value by up to 8/255 so that the loss rises, and give the mean loss there: six passes instead of one.

    Projected gradient descent from a random start (Madry et al., ICLR 2018). Published: 10 steps of 2/255; here 5 of
    4/255, for half the time. The batch statistics are those of training throughout, and the epsilon is one of model
    values, so of the intensity window.
    """
    noise = (torch.rand(images.shape, generator=generator).to(images) * 2 - 1) * EPSILON
    for _ in range(_STEPS):
        moved = (images + noise).clamp(0, 1).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(task.loss(logits_of(moved), target).sum(), moved)
        noise = (moved.detach() - images + _STEP * gradient.sign()).clamp(-EPSILON, EPSILON)
    return task.loss(logits_of((images + noise).clamp(0, 1)), target).mean()


TRAININGS = [
    Countermeasure(
        name="strong-augmentation",
        augmentation=ConsumerAugmentation(flip=0.5, shift=0.15, zoom=0.2, blur=0.5, window=0.2, identity=0.0),
    ),
    Countermeasure(name="cutout", batch_loss=cutout_loss),
    Countermeasure(name="mixup", batch_loss=mixup_loss),
    Countermeasure(name="adversarial-training", batch_loss=adversarial_loss),
]
