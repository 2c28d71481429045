# SPDX-License-Identifier: Apache-2.0
"""Noises of ``noises.py`` that are searched for with several options, and the choice of a variant by its name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from noises import (
    BATCH,
    EXPECTED,
    FRACTION,
    LEVELS,
    WAVES,
    Pictures,
    add_steps,
    directions,
    fit,
    generator,
    gradient,
    highest,
    new_network,
    relative,
    surrogate,
    textures,
)  # fmt: skip
from torch import Tensor, nn

from monai_salm.background import border_values, find_background
from monai_salm.budget import Epsilon, PerturbationBudget
from monai_salm.canvas import Canvas
from monai_salm.errors import UsageError
from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.networks import DEFAULT_NETWORKS, logits_of, seeded_network
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import MethodRun, NoiseMethod
from monai_salm.methods.error_minimizing import ErrorMinimizing
from monai_salm.methods.registry import METHODS
from monai_salm.methods.sparsity import box_blur
from monai_salm.windows import IntensityWindow
from monai_salm.working_grid import CellPlanes
from monai_salm.working_samples import Target, WorkingMaps, WorkingSample


@dataclass
class Ensemble:
    """Options of targeted noise.

    Args:
        q: share of the mask that follows the two surrogates; the rest keeps waves.
        n, st: signed gradient steps, and their size as a share of the budget.
        sm, mk: width of the box that a step's gradient, and the mask's, is averaged over.
        frac: share of the cells that the mask holds.
        tex, per: strength of the waves as a share of the budget, and their period.
    """

    q: float = 0.5
    n: int = 8
    st: float = 0.25
    sm: int = 1
    mk: int = 5
    frac: float = FRACTION
    tex: float = 1.0
    per: float = 6.0


def ensemble(data: Pictures, o: Ensemble) -> Tensor:
    """Give images that two networks, trained well on clean ones, take for the next class."""
    networks = [_trained(data, name) for name in ("small-resnet", "small-cnn")]
    change, source, images = ConsumerAugmentation(blur=0.5), generator(3), data.images
    seen = sum(
        (gradient(data, networks, images, data.labels, change, source).abs() for _ in range(2)),
        torch.zeros_like(images),
    )
    mask = highest(box_blur(seen, o.mk), data.carriers, o.frac) if o.frac < 1 else data.carriers
    free = highest(seen * mask, mask, o.q) if o.q < 1 else mask
    noise = textures(data, directions(o.per)) * LEVELS * o.tex
    if o.q < 1:
        noise = torch.where(free, 0.0, noise)
    target = (data.labels + 1) % data.task.outputs
    for _ in range(o.n):
        slope = box_blur(gradient(data, networks, add_steps(images, noise, mask), target, change, source), o.sm)
        noise = torch.where(free, (noise - o.st * LEVELS * slope.sign()).clamp(-LEVELS, LEVELS), noise)
    return add_steps(images, noise, mask)


def _trained(data: Pictures, name: str) -> nn.Module:
    network, steps = new_network(name, data.task, data.images, 0), 300
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    fit(network, optimizer, data.task, data.images, data.labels, EXPECTED, generator(0), steps=steps, schedule=schedule)
    return network


@dataclass
class MinMin:
    """Options of error-minimizing noise.

    Args:
        per: period of the waves that it starts from; 0: no noise.
        frac: share of the cells that the mask holds.
        rounds: rounds.
        sb, lr: batches of each surrogate in a round, and the learning rate.
        ns, step: signed gradient steps per round, and their size as a share of the budget.
        nets: surrogates, joined by +; they take turns.
        blur, zoom, down: of the expected augmentation; ``down`` is the probability that a batch is halved and doubled
            again.
        smooth, block: width of the box that a step's gradient, and the mask's score, is averaged over.
        renew: rounds after which the surrogates are drawn anew; 0: never.
        memory: share of the old score that a round keeps.
        shiftw: weight of a network that was trained on clean images and is to see the next class; 0: none.
        full: steps of noise from which on the whole budget is taken in the end; 0: as it was found.
    """

    per: float = 0.0
    frac: float = FRACTION
    rounds: int = 12
    sb: int = 24
    lr: float = 2e-3
    ns: int = 4
    step: float = 0.15
    nets: str = "small-resnet"
    blur: float = 0.3
    zoom: float = 0.0
    down: float = 0.0
    smooth: int = 1
    block: int = 1
    renew: int = 0
    memory: float = 0.7
    shiftw: float = 0.0
    full: int = 0

    def change(
        self, images: Tensor, source: torch.Generator, label_map: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return ConsumerAugmentation(blur=self.blur, zoom=self.zoom, resample=self.down)(images, source, label_map)


def minmin(data: Pictures, o: MinMin) -> tuple[Tensor, float]:
    """Give images with error-minimizing noise, and the passes per image that it took."""
    names, task, carriers = o.nets.split("+"), data.task, data.carriers
    clean = surrogate(data, data.images, epochs=10) if o.shiftw else None
    noise = textures(data, directions(o.per)) * LEVELS if o.per else torch.zeros_like(data.images)
    score, passes = torch.zeros_like(data.images), 0.0
    for number in range(o.rounds):
        source = generator(number)
        if number == 0 or (o.renew and number % o.renew == 0):
            networks = [new_network(name, task, data.images, k + 100 * number) for k, name in enumerate(names)]
            optimizers = [torch.optim.Adam(network.parameters(), lr=o.lr) for network in networks]
        mask = highest(box_blur(score, o.block), carriers, o.frac) if number else carriers
        protected = add_steps(data.images, noise, mask)
        for network, optimizer in zip(networks, optimizers, strict=True):
            fit(network, optimizer, task, protected, data.labels, o.change, source, steps=o.sb)
            passes += o.sb * BATCH / len(data.images)
        for start in range(0, len(data.images), 64):
            part = slice(start, start + 64)
            turns = [networks[(number + k + start) % len(networks)] for k in range(o.ns)]
            chosen = Pictures(data.images[part], data.labels[part], data.size)
            noise[part], seen = _step(chosen, data, o, noise[part], mask[part], turns, clean, source)
            score[part] = o.memory * score[part] + (1 - o.memory) * seen if number else seen
        passes += o.ns
    mask = highest(box_blur(score, o.block), carriers, o.frac) if o.frac < 1 else carriers
    if o.full:
        noise = torch.where(noise.abs() >= o.full, LEVELS * noise.sign(), noise)
    return add_steps(data.images, noise, mask), passes


def _step(
    chosen: Pictures,
    data: Pictures,
    o: MinMin,
    noise: Tensor,
    mask: Tensor,
    turns: list[nn.Module],
    clean: nn.Module | None,
    source: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Give the noise of some images after a round's steps, and the relative size of the gradients."""
    task, seen = data.task, torch.zeros_like(noise)
    for network in turns:
        images = add_steps(chosen.images, noise, mask).requires_grad_(True)
        loss = task.loss(logits_of(network, o.change(images, source)[0]), chosen.labels).sum()
        if clean is not None:
            loss = (
                loss
                + o.shiftw
                * task.loss(logits_of(clean, o.change(images, source)[0]), (chosen.labels + 1) % task.outputs).sum()
            )
        (slope,) = torch.autograd.grad(loss, images)
        seen += slope.abs()
        noise = (noise - o.step * LEVELS * box_blur(slope, o.smooth).sign()).clamp(-LEVELS, LEVELS)
    return noise, relative(seen)


def package(data: Pictures, name: str, text: str) -> tuple[Tensor, float]:
    """Give images with the noise of ``monai-salm protect --method NAME``, and the passes per image that it took.

    Args:
        data: what noise is made for.
        name: of the method.
        text: see :func:`changed`; with ``millimeters`` of the spacing of the cells.
    """
    items = dict(item.split("=", 1) for item in _items(text))
    spacing = float(items.pop("millimeters", 0))
    planes = CellPlanes(None, (spacing, spacing)) if spacing else None
    text = ",".join(f"{key}={value}" for key, value in items.items())
    method, result = changed(METHODS[name]["classification"], name, text), data.images.clone()
    shown = data.images[..., : data.size, : data.size]
    samples = [
        replace(_sample(f"{number:05d}", image, label), planes=planes)
        for number, (image, label) in enumerate(zip(shown, data.labels.tolist(), strict=True))
    ]
    noise, passes = made_by(method, WorkingSet(samples), data.task)
    for number, sample in enumerate(samples):
        protected = sample.protected(noise[sample.sample_id]).image_model
        colors = torch.from_numpy(protected)
        result[number, :, : data.size, : data.size] = colors[None] if colors.ndim == 2 else colors.movedim(-1, 0)
    return result, passes


def _sample(name: str, image: Tensor, label: int) -> WorkingSample:
    """Give a sample of an image ``(channels, height, width)`` in steps of 1/255; in color all of it is anatomy."""
    if len(image) == 1:
        return working_sample(
            name, (image[0].numpy() * 255).round().astype(np.float64), label, modality="CR", epsilon="8/255"
        )
    colors = image.movedim(0, -1).numpy()
    cells = np.ones(colors.shape[:2], np.int64)
    return WorkingSample(
        sample_id=name, image_model=colors, carrier_voxels=cells, carrier_share=np.ones(colors.shape, np.float32),
        anatomy_voxels=cells.size, levels=8, step_model=1 / 255, target=label,
    )  # fmt: skip


def _items(text: str) -> list[str]:
    """Take the changes of a method apart; a value may be a list."""
    return [item for item in re.split(r",(?=[a-z_]+=)", text) if item]


def changed(method: NoiseMethod, name: str, text: str) -> NoiseMethod:
    """Give an error-minimizing method with other settings.

    Args:
        method: of the package.
        name: of the method.
        text: changes of its settings, of its augmentation, with ``beside`` of the networks beside its own, with ``+``
            between them, and with ``view`` of how its own sees images.
    """
    for item in _items(text):
        if not isinstance(method, ErrorMinimizing):
            raise UsageError(f"method {name!r} has no settings to change; give {name} alone")
        key, _, value = item.partition("=")
        if key in ("beside", "beside_colors"):
            method = replace(method, **{key: tuple(filter(None, value.split("+")))})
        elif key == "view":
            method = replace(method, view=value)
        elif key in vars(method.augmentation):
            method = replace(method, augmentation=replace(method.augmentation, **{key: float(value)}))
        else:
            found = {key: json.loads(value.replace("none", "null"))}
            method = replace(method, settings=replace(method.settings, **found))
    return method


def working_sample(
    name: str, stored: np.ndarray, target: Target, *, modality: str, epsilon: str, spacing: tuple[float, ...] = ()
) -> WorkingSample:
    """Give a sample of stored values from 0 to 255, of the budget that a file would have."""
    background = find_background(stored, border_values(stored), modality=modality)
    budget = PerturbationBudget(Epsilon.parse(epsilon), IntensityWindow(0, 255)).bind(
        stored, modality=modality, background=background
    )
    maps = WorkingMaps.of_file(stored, Canvas(views=(budget,)), stored.shape)
    return WorkingSample(
        sample_id=name, levels=budget.levels, step_model=budget.step_model, target=target, spacing=spacing, **vars(maps)
    )


def made_by(
    method: NoiseMethod, working: WorkingSet, task: LearningTask, **options: Any
) -> tuple[dict[str, np.ndarray], float]:
    """Give the noise of a method in steps by the ids of samples, and the passes per sample that it took; the errors of
    its surrogate are shown.
    """
    rounds = method.settings.max_rounds if isinstance(method, ErrorMinimizing) else None
    network = DEFAULT_NETWORKS["segmentation" if task.spatial_target else "classification"]
    shape, channels = working.padded_shape, working.channels
    run = MethodRun(
        seed=0, device=torch.device("cpu"), rounds=rounds,
        build_surrogate=lambda: seeded_network(network, shape, task.outputs, 0, channels=channels), **options,
    )  # fmt: skip
    noise = dict(method.noise(working, task, run))
    if run.errors:
        print("surrogate's errors:", *(f"{error:.2f}" for error in run.errors), flush=True)
    return noise, run.passes


def _options(kind: type[Any], text: str) -> Any:
    """Read ``name=value,...`` with the types of the defaults."""
    pairs = dict(item.split("=", 1) for item in text.split(",") if item)
    known = vars(kind())
    unknown = sorted(set(pairs) - set(known))
    if unknown:
        raise UsageError(f"option {unknown[0]!r} is unknown; give one of {', '.join(known)}")
    return kind(**{name: type(known[name])(value) for name, value in pairs.items()})


def protect(data: Pictures, variant: str) -> tuple[Tensor, float | None]:
    """Give the images of a variant, and the passes per image if noise was searched for in rounds."""
    name, *rest = variant.split("@")
    if name == "minmin":
        return minmin(data, _options(MinMin, "".join(rest)))
    if name == "ensemble":
        return ensemble(data, _options(Ensemble, "".join(rest))), None
    if name in METHODS:
        return package(data, name, "".join(rest))
    if name not in WAVES:
        known = [*WAVES, "ensemble", "minmin", *METHODS]
        raise UsageError(f"variant {variant!r} is unknown; give one of {', '.join(known)}, see noises.py")
    return WAVES[name](data, *map(float, rest)), None
