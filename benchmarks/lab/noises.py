# SPDX-License-Identifier: Apache-2.0
"""Noises that were tried before the optimizer got its settings, made in memory; ``trials.py`` trains victims on them.

A variant is a name with its parameters behind ``@``. Periods, widths, and sides of blocks are in cells, shares are of
the cells that may change, and a mask holds 40 % of them where nothing else is said. Behind the parameters of gclean,
two, split and hv the batches of their surrogate may follow, if not 100. Each class has waves in directions of its own,
each image its own phases.

    clean                           no noise
    full@PERIOD                     waves everywhere
    swap@PERIOD                     the same, two classes' directions exchanged
    grid@PERIOD@PERIOD              two classes, told by period instead of direction
    random@PERIOD@SIDE              waves in random blocks
    crest@PERIOD@SHARE              where a wave is farthest from zero
    centre@PERIOD                   in the middle of the image
    gclean@PERIOD@WIDTH             where a surrogate of the clean images has its gradient, averaged over a box
    gprot@PERIOD@WIDTH              the same, of a surrogate of images with waves everywhere
    mean@PERIOD                     one mask for all images: the mean gradient of a surrogate of the clean images
    grad@PERIOD                     where the first steps of targeted noise have the largest gradient
    gcrest@PERIOD@SHARE             crests, weighted by the clean surrogate's gradient
    two@PERIOD@WIDTH@PERIOD@WEIGHT  mask of gclean; the sum of two waves
    split@PERIOD@WIDTH@PERIOD@SIDE  mask of gclean; two periods in the fields of a chessboard
    hv@PERIOD@WIDTH@PERIOD          mask of gclean; four classes: two periods along each axis
    next@SHARE                      targeted noise: what a clean surrogate takes for the next class
    mix@PERIOD@STEPS@SHARE          waves and targeted noise of so many steps, in random blocks
    ensemble@NAME=VALUE,...         targeted noise of two clean surrogates, with waves in a part of the mask:
                                    ``Ensemble`` of searches.py
    minmin@NAME=VALUE,...           error-minimizing noise that starts from waves: ``MinMin`` of searches.py
    METHOD                          what ``monai-salm protect --method METHOD`` does
    METHOD@NAME=VALUE,...           with some of its ``MinMinSettings`` or ``ConsumerAugmentation`` changed, as
                                    class_directions=[none,1], or with other networks, as beside=small-cnn+ViT;
                                    up to the commit 89910e0 salm was what salm:texture is now
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monai_salm.learning.consumers import NO_AUGMENTATION, ConsumerAugmentation
from monai_salm.learning.networks import behind_view, build_network, logits_of
from monai_salm.learning.tasks import ClassificationTask, LearningTask
from monai_salm.methods.sparsity import box_blur

LEVELS = 8
BATCH = 32
FRACTION = 0.4
EXPECTED = ConsumerAugmentation(blur=0.3)

Change = Callable[..., tuple[Tensor, Tensor | None]]
"""Changes images as a :class:`~monai_salm.learning.consumers.ConsumerAugmentation` does."""
Waves = list[tuple[float, float, float]]
"""Waves that are added: cycles per cell along each axis, and a weight."""


@dataclass(frozen=True)
class Pictures:
    """What noise is made for.

    Args:
        images: model values ``(samples, 1, side, side)``, padded with zeros at the end of each axis.
        labels: classes.
        size: of a side without the padding.
    """

    images: Tensor
    labels: Tensor
    size: int

    @property
    def task(self) -> ClassificationTask:
        return ClassificationTask.balanced(self.labels)

    @property
    def carriers(self) -> Tensor:
        """Cells that may change: neither padding nor at an end of the range."""
        inside = torch.zeros_like(self.images, dtype=torch.bool)
        inside[..., : self.size, : self.size] = True
        return inside & (self.images > 0.004) & (self.images < 0.996)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def new_network(name: str, task: LearningTask, images: Tensor, seed: int) -> nn.Module:
    shape = tuple(images.shape[2:])
    torch.manual_seed(seed)
    return build_network(
        name, spatial_dims=len(shape), outputs=task.outputs, in_channels=images.shape[1], image_shape=shape
    )


def fit(
    network: nn.Module, optimizer: torch.optim.Optimizer, task: LearningTask, images: Tensor, labels: Tensor,
    change: Change, source: torch.Generator,
    *, steps: int, batch: int = BATCH, schedule: Any = None,
) -> None:  # fmt: skip
    """Train a network for some batches; with a schedule that steps after each of them only whole batches count."""
    network.train().requires_grad_(True)
    seeing, view = behind_view(network)
    done = 0
    while done < steps:
        order = torch.randperm(len(images), generator=source)
        for start in range(0, len(images) - (1 if schedule is None else batch - 1), batch):
            chosen = order[start : start + batch]
            maps = labels[chosen] if task.spatial_target else None
            moved, target = change(view(images[chosen]), source, maps)
            loss = task.loss(logits_of(seeing, moved), labels[chosen] if target is None else target).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if schedule is not None:
                schedule.step()
            done += 1
            if done == steps:
                break
    network.eval().requires_grad_(False)


def surrogate(data: Pictures, images: Tensor, *, steps: int = 0, epochs: int = 0) -> nn.Module:
    network = new_network("small-resnet", data.task, images, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    steps = steps or epochs * math.ceil((len(images) - 1) / BATCH)
    fit(network, optimizer, data.task, images, data.labels, EXPECTED, generator(0), steps=steps)
    return network


def gradient(
    data: Pictures,
    networks: Sequence[nn.Module],
    images: Tensor,
    target: Tensor,
    change: Change,
    source: torch.Generator,
) -> Tensor:
    """Give the gradient of the summed losses of some networks."""
    result = torch.zeros_like(images)
    for start in range(0, len(images), 64):
        part = slice(start, start + 64)
        values = images[part].clone().requires_grad_(True)
        moved = change(values, source)[0]
        loss = sum(data.task.loss(logits_of(network, moved), target[part]).sum() for network in networks)
        (result[part],) = torch.autograd.grad(loss, values)  # type: ignore[arg-type]
    return result


def relative(score: Tensor, least: float = 1e-30) -> Tensor:
    return score / score.flatten(1).mean(1).clamp(min=least)[:, None, None, None]


def add_steps(images: Tensor, steps: Tensor, mask: Tensor, levels: int = LEVELS) -> Tensor:
    return (images + steps.round().clamp(-levels, levels) * mask / 255).clamp(0, 1)


def highest(score: Tensor, allowed: Tensor, share: float) -> Tensor:
    """Give a mask of the highest values of each image among the cells that are allowed."""
    flat = allowed.flatten(1)
    count = (flat.sum(1) * share).long()
    order = torch.argsort(torch.where(allowed, score, -torch.inf).flatten(1), dim=1, descending=True, stable=True)
    rank = torch.zeros_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order).clone())
    return ((rank < count[:, None]) & flat).reshape(score.shape)


def random_blocks(data: Pictures, side: int, share: float = FRACTION) -> Tensor:
    count, _, height, width = data.images.shape
    score = (
        torch.rand(count, 1, height // side, width // side, generator=generator(1))
        .repeat_interleave(side, 2)
        .repeat_interleave(side, 3)
    )
    return highest(score + torch.arange(height * width).reshape(1, 1, height, width) * 1e-9, data.carriers, share)


def directions(period: float) -> list[Waves]:
    f = 1 / period
    d = f / math.sqrt(2)
    return [[(f, 0, 1)], [(0, f, 1)], [(d, d, 1), (d, -d, 1)], [(f, 0, 1), (0, f, 1)]]


def textures(data: Pictures, waves: Sequence[Waves], *, sharp: bool = True) -> Tensor:
    """Give each image the waves of its class: their sum, or its sign."""
    result = torch.zeros_like(data.images)
    place = torch.arange(data.images.shape[-1]).float()
    for label in data.labels.unique().tolist():
        chosen = (data.labels == label).nonzero()[:, 0]
        source = generator(label)
        total = torch.zeros(len(chosen), len(place), len(place))
        for fy, fx, weight in waves[label]:
            phase = torch.rand(len(chosen), 1, 1, generator=source) * 2 * math.pi
            total += weight * torch.cos(2 * math.pi * (fy * place[:, None] + fx * place[None])[None] + phase)
        result[chosen] = (torch.sign(total) if sharp else total / total.abs().amax((1, 2), keepdim=True))[:, None]
    return result


def gradient_mask(data: Pictures, images: Tensor, steps: float, width: float) -> Tensor:
    """Give the mask where a surrogate of some images has its gradient, averaged over a box."""
    return highest(box_blur(gradient_size(data, images, steps), int(width)), data.carriers, FRACTION)


def gradient_size(data: Pictures, images: Tensor, steps: float) -> Tensor:
    network, source = surrogate(data, images, steps=int(steps)), generator(5)
    return sum(
        (gradient(data, [network], images, data.labels, EXPECTED, source).abs() for _ in range(2)),
        torch.zeros_like(images),
    )


def targeted(
    data: Pictures,
    network: nn.Module,
    target: Tensor,
    *,
    steps: int = 20,
    levels: int = LEVELS,
    step: float = 0.1,
    share: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Give the steps of noise that a network takes for other classes, and its mask: where the gradient is largest in
    the sum over the steps.
    """
    source, noise, score = generator(0), torch.zeros_like(data.images), torch.zeros_like(data.images)
    for number in range(steps):
        mask = data.carriers if share >= 1 or number < 3 else highest(score, data.carriers, share)
        slope = gradient(data, [network], add_steps(data.images, noise, mask, levels), target, EXPECTED, source)
        score += relative(slope.abs())
        noise = (noise - step * levels * slope.sign()).clamp(-levels, levels)
    return noise, data.carriers if share >= 1 else highest(score, data.carriers, share)


# Masks and textures
# --------------------------------------------------------------------------------------------------------------


def with_waves(data: Pictures, waves: Sequence[Waves], mask: Tensor) -> Tensor:
    return add_steps(data.images, textures(data, waves) * LEVELS, mask)


def crest(data: Pictures, period: float, share: float) -> Tensor:
    height = textures(data, directions(period), sharp=False).abs() + 1e-4 * torch.rand(
        data.images.shape, generator=generator(3)
    )
    return with_waves(data, directions(period), highest(height, data.carriers, share))


def gcrest(data: Pictures, period: float, share: float) -> Tensor:
    slope = gradient(
        data, [surrogate(data, data.images, epochs=8)], data.images, data.labels, NO_AUGMENTATION, generator(0)
    )
    seen = box_blur(slope.abs(), 7)
    height = (
        textures(data, directions(period), sharp=False).abs()
        * seen
        / seen.amax((1, 2, 3), keepdim=True).clamp(min=1e-20)
    )
    return with_waves(data, directions(period), highest(height, data.carriers, share))


def centre(data: Pictures, period: float) -> Tensor:
    squared = (torch.arange(data.images.shape[-1]).float() - (data.size - 1) / 2) ** 2
    near = (-(squared[:, None] + squared[None]))[None, None].expand_as(data.images) + 1e4
    return with_waves(data, directions(period), highest(near, data.carriers, FRACTION))


def gprot(data: Pictures, period: float, width: float) -> Tensor:
    return with_waves(
        data, directions(period), gradient_mask(data, with_waves(data, directions(period), data.carriers), 60, width)
    )


def mean(data: Pictures, period: float) -> Tensor:
    seen = relative(gradient_size(data, data.images, 100)).mean(0, keepdim=True)
    return with_waves(
        data, directions(period), highest(box_blur(seen, 3).expand_as(data.images) + 0, data.carriers, FRACTION)
    )


def grad(data: Pictures, period: float) -> Tensor:
    _, mask = targeted(data, surrogate(data, data.images, epochs=8), data.labels, levels=1, steps=4, share=FRACTION)
    return with_waves(data, directions(period), mask)


def two(data: Pictures, period: float, width: float, other: float, weight: float, steps: float = 100) -> Tensor:
    pairs = zip(directions(period), directions(other), strict=True)
    waves = [[*first, *((fy, fx, weight) for fy, fx, _ in second)] for first, second in pairs]
    return with_waves(data, waves, gradient_mask(data, data.images, steps, width))


def split(data: Pictures, period: float, width: float, other: float, side: float, steps: float = 100) -> Tensor:
    field = torch.arange(data.images.shape[-1]) // int(side)
    first = ((field[:, None] + field[None]) % 2 == 0)[None, None]
    noise = torch.where(first, textures(data, directions(period)), textures(data, directions(other)))
    return add_steps(data.images, noise * LEVELS, gradient_mask(data, data.images, steps, width))


def hv(data: Pictures, period: float, width: float, other: float, steps: float = 100) -> Tensor:
    waves: list[Waves] = [wave for f in (1 / period, 1 / other) for wave in ([(f, 0, 1)], [(0, f, 1)])]
    return with_waves(data, waves, gradient_mask(data, data.images, steps, width))


def next_class(data: Pictures, share: float) -> Tensor:
    noise, mask = targeted(
        data, surrogate(data, data.images, epochs=10), (data.labels + 1) % data.task.outputs, share=share
    )
    return add_steps(data.images, noise, mask)


def mix(data: Pictures, period: float, levels: float, share: float) -> Tensor:
    target = (data.labels + 1) % data.task.outputs
    noise, _ = targeted(data, surrogate(data, data.images, epochs=8), target, levels=int(levels), steps=12, step=0.15)
    noise = (textures(data, directions(period)) * (LEVELS - levels) + noise).clamp(-LEVELS, LEVELS)
    return add_steps(data.images, noise, data.carriers if share >= 1 else random_blocks(data, 2, share))


WAVES: dict[str, Callable[..., Tensor]] = {
    "clean": lambda data: data.images,
    "full": lambda data, period: with_waves(data, directions(period), data.carriers),
    "swap": lambda data, period: with_waves(data, directions(period)[1::-1], data.carriers),
    "grid": lambda data, *periods: with_waves(data, [directions(period)[3] for period in periods], data.carriers),
    "random": lambda data, period, side: with_waves(data, directions(period), random_blocks(data, int(side))),
    "gclean": lambda data, period, width,
    steps=100: with_waves(data, directions(period), gradient_mask(data, data.images, steps, width)),
    "crest": crest, "gcrest": gcrest, "centre": centre, "gprot": gprot, "mean": mean, "grad": grad, "two": two,
    "split": split, "hv": hv,
    "next": next_class, "mix": mix,
}  # fmt: skip
