# SPDX-License-Identifier: Apache-2.0
"""Class textures: the part of the noise that the samples of a class have in common.

A texture is the sign of a plane wave whose direction says the class and whose phase is the sample's own. So it is the
same for a network under flips and shifts, survives a blur and a resampling that its period outlasts, and has no mean
that a linear projection or the average of a class could take out. Synthetic class-wise noise that needs no surrogate:
Yu et al. 2022 (arXiv 2111.00898, there linear and of fixed phase), Sadasivan et al. 2023 (arXiv 2303.04278, class-wise
convolution).

One class can be *calm*: its wave is so long that it passes for anatomy. A network then learns that an image without a
fine texture is of that class, and so it takes every clean image for one of it. Where every class has a fine texture, a
clean image shows none of them, and what is left to judge it by is the disease. See :func:`calm_class` for when there is
one.

Whoever trained on clean images takes a wave for disease that the disease itself looks like. So each class gets the
direction in which its images differ least from the others by nature, see :func:`class_directions`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from monai_salm.chance import sample_generator
from monai_salm.errors import UsageError
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.targets import TargetKind, classes_in
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod, task_needed
from monai_salm.methods.sparsity import box_blur
from monai_salm.noise import fingerprint
from monai_salm.working_samples import WorkingSample

NEXT_PERIOD = 1.6
"""Once all directions are given away, further classes get them again with a period that is so many times as long."""

CALM_PERIOD = 4.0
"""The calm class's wave is so many times as long as the longest of the others."""

LARGE_EFFECT = 0.8
"""Cohen's d from which on classes count as far apart in how fine they are by nature."""

SMALL_EFFECT = 0.2
"""Cohen's d that the classes must be nearer in sum for their directions not to be in the order of the classes."""

FINE = 3
"""Width, in cells, of the box whose mean a cell is compared with to tell how fine an image is."""

LONGEST = 16
"""Cells; waves that are longer are looked for in no larger surroundings than this one, since that would cost more than
it tells.
"""

PHASES = 64
"""So many origins along each axis a wave can have, two cells apart."""

TEXTURE_PERIOD = 4.0
"""Period, in cells, of the textures where nothing else is said."""

Direction = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Waves = tuple[tuple[float, ...], ...]
"""Wave vectors of one class, cycles per cell along each axis: mirror images of each other, of which each sample has
one.
"""


def class_waves(directions: Sequence[int | None], spatial_dims: int, period: float) -> list[Waves]:
    """Give each class its waves.

    A class has with each wave its mirror images along the axes, so that a flip turns no class into another.

    Args:
        directions: number of each class's direction, or None for the class whose wave is too long to be a texture; see
            :func:`class_directions`.
        spatial_dims: 2 or 3.
        period: of the first waves, working cells.
    """
    fine = _fine_waves(
        1 + max((number for number in directions if number is not None), default=0), spatial_dims, period
    )
    calm = _along(_directions(1, spatial_dims)[0], CALM_PERIOD * max(1 / math.hypot(*waves[0]) for waves in fine))
    return [calm if number is None else fine[number] for number in directions]


def _fine_waves(count: int, spatial_dims: int, period: float) -> list[Waves]:
    """Give the waves of the first directions."""
    directions = _directions(count, spatial_dims)
    return [
        _along(directions[number % len(directions)], period * NEXT_PERIOD ** (number // len(directions)))
        for number in range(count)
    ]


def _along(directions: list[Direction], period: float) -> Waves:
    return tuple(tuple((direction / period).tolist()) for direction in directions)


def _directions(count: int, spatial_dims: int) -> list[list[Direction]]:
    """Give directions for some classes, those that outlast most first."""
    return _plane_directions(count) if spatial_dims == 2 else _space_directions()


def _plane_directions(count: int) -> list[list[Direction]]:
    """Give the axes, the diagonals, which are one direction, and for more than three classes what lies between."""
    axes, others = [0.0, math.pi / 2], [math.pi / 4] + ([math.pi / 8, math.pi * 3 / 8] if count > 3 else [])
    return [[np.array([math.cos(a), math.sin(a)])] for a in axes] + [
        [np.array([math.cos(a), math.sin(a)]), np.array([math.cos(a), -math.sin(a)])] for a in others
    ]


def _space_directions() -> list[list[Direction]]:
    """Give the axes, the diagonals of their planes, and the directions between both."""
    axes = np.eye(3)
    pairs = list(itertools.combinations(axes, 2))
    directions = [[axis] for axis in axes]
    directions += [[(first + second) / math.sqrt(2), (first - second) / math.sqrt(2)] for first, second in pairs]
    ordered = [(a, b) for pair in pairs for a, b in (pair, pair[::-1])]
    return directions + [[(2 * a + b) / math.sqrt(5), (2 * a - b) / math.sqrt(5)] for a, b in ordered]


def class_directions(samples: WorkingSet, classes: int, *, period: float) -> tuple[int | None, ...]:
    """Choose the direction of each class's wave, so that the images of a class differ least from the others by nature
    in what looks like its wave.

    A network that was trained on clean images then takes the noise for neither class. On BreastMNIST images, whose
    classes differ along one axis, it changes its AUC by 0.10 if the wave lies along that axis and by 0.02 along the
    other, see benchmarks/LABBOOK.md, round 19.

    Args:
        samples: with classes or findings.
        classes: how many there are.
        period: of the waves, working cells.

    Returns:
        For :func:`class_waves`: the number of the direction of each class, None for the calm one. Findings have the
        directions in their order.
    """
    if samples.target_kind is not TargetKind.CLASS:
        return tuple(range(classes))
    calm = calm_class(samples)
    fine = [k for k in range(classes) if k != calm]
    costs = _natural_differences(
        samples, fine, _fine_waves(max(len(fine), samples.spatial_dims), samples.spatial_dims, period)
    )
    chosen = linear_sum_assignment(costs)[1]
    if np.trace(costs) - costs[range(len(fine)), chosen].sum() < SMALL_EFFECT:
        chosen = np.arange(len(fine))
    places = dict(zip(fine, chosen.tolist(), strict=True))
    return tuple(places.get(k) for k in range(classes))


def _natural_differences(
    samples: WorkingSet, classes: list[int], waves: list[Waves]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Give how far the images of each class differ from the others in how much of each wave they hold: Cohen's d, 0 for
    classes without images.
    """
    means, spread = _by_class(samples, [[_amount(sample, vectors) for vectors in waves] for sample in samples.samples])
    result = torch.zeros(len(classes), len(waves), dtype=torch.float64)
    for row, k in enumerate(classes):
        if k in means and len(means) > 1:
            others = torch.stack([mean for other, mean in means.items() if other != k]).mean(dim=0)
            result[row] = ((means[k] - others) / spread.clamp(min=1e-6)).abs()
    return result.numpy()


def _by_class(samples: WorkingSet, values: Sequence[Any]) -> tuple[dict[int, Tensor], Tensor]:
    """Give the means of some values of each sample in each class that occurs, and their standard deviation within the
    classes.
    """
    targets, measured = samples.targets(), torch.tensor(values, dtype=torch.float64)
    groups = {k: measured[targets == k] for k in sorted(set(targets.tolist()))}
    spread = torch.stack([group.var(dim=0, correction=0) for group in groups.values()]).mean(dim=0).sqrt()
    return {k: group.mean(dim=0) for k, group in groups.items()}, spread


def _amount(sample: WorkingSample, vectors: Waves) -> float:
    """Logarithm of how much of some waves of one period the cells of an image that can carry noise hold on average,
    each in a box of two periods.
    """
    image = _picture(sample)
    half = min(math.ceil(0.5 / math.hypot(*vectors[0])), LONGEST // 2)
    fine = image - box_blur(image, 2 * half + 1)
    power = torch.zeros_like(image)
    for vector in vectors:
        for turn in (0.0, 0.25):
            wave = torch.from_numpy(_plane_wave(vector, image.shape[2:], (0.0,) * len(vector), turn)).float()
            power += box_blur(fine * wave, 4 * half + 1) ** 2
    return _log_mean(power.sqrt(), sample)


def calm_class(samples: WorkingSet) -> int | None:
    """Choose the class that is to be calm, if any, by how fine the images of each class are by nature.

    Where the classes are alike, it is the one of the finest images: a texture against nature is learned as well there,
    and ranks clean images the wrong way round. Where they are far apart, only what goes with nature is learned in time:
    of more than two classes it is the one of the coarsest images, and of two it is none, since a texture of its own for
    each is learned sooner. Chosen on training and validation images, see benchmarks/LABBOOK.md, round 13.

    Args:
        samples: with classes; there is none for others.
    """
    if samples.target_kind is not TargetKind.CLASS:
        return None
    by_class, spread = _by_class(samples, [_fineness(sample) for sample in samples.samples])
    present, means = list(by_class), torch.stack(list(by_class.values()))
    far_apart = bool(means.max() - means.min() > LARGE_EFFECT * spread)
    if far_apart and len(present) == 2:
        return None
    return present[int(means.argmin() if far_apart else means.argmax())]


def _fineness(sample: WorkingSample) -> float:
    """Logarithm of the mean difference between the cells of an image that can carry noise and their surroundings."""
    image = _picture(sample)
    return _log_mean((image - box_blur(image, FINE)).abs(), sample)


def _picture(sample: WorkingSample) -> Tensor:
    """Give an image as ``(1, 1, *spatial)`` model values."""
    return torch.from_numpy(np.asarray(sample.gray_model, np.float32))[None, None]


def _log_mean(picture: Tensor, sample: WorkingSample) -> float:
    """Give the logarithm of the mean over the cells that can carry noise, as if of nearly 0 where there are none."""
    values = picture[0, 0][torch.from_numpy(sample.carrier_voxels > 0)]
    return math.log(float(values.double().mean()) + 1e-6) if values.numel() else math.log(1e-6)


def class_textures(
    samples: WorkingSet, task: LearningTask, *, period: float, seed: int, directions: Sequence[int | None]
) -> list[Tensor]:
    """Give the texture of each sample: -1 or 1 in each working cell.

    Args:
        samples: with classes or findings.
        task: of the targets; with findings, a sample has the sign of the sum of the waves of those that it has, and is
            calm without any.
        period: working cells.
        seed: of the phases; a sample's phase depends on it and on its image alone, not on the other samples.
        directions: of the classes or findings, see :func:`class_directions`.

    Returns:
        float32 maps on the samples' working grids, in their order.

    Raises:
        UsageError: the samples have no targets, or label maps; or it is not one direction for each class.
    """
    if samples.target_kind is None:
        raise UsageError("the samples have no labels, which class textures need; give --labels, or --method random")
    if task.spatial_target:
        raise UsageError("class textures are for classes and findings, not for label maps; set texture_period to 0")
    if len(directions) != task.outputs:
        raise UsageError(
            f"{len(directions)} directions of textures are given for {task.outputs} classes; give one for each, "
            "None for a calm class"
        )
    # Who has no finding is calm.
    calm = () if samples.target_kind is TargetKind.CLASS else (None,)
    waves = class_waves([*directions, *calm], samples.spatial_dims, period)
    return [torch.from_numpy(_texture(sample, waves, seed)) for sample in samples.samples]


def _texture(sample: WorkingSample, waves: list[Waves], seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    # By its image: further samples, which nobody knows by an id, have their phases from the same rule.
    generator = sample_generator(seed, fingerprint(sample.image_model), 0, "texture")
    shape = sample.shape
    found = classes_in(sample.target) or [len(waves) - 1]
    total = np.sum([_wave(waves[k], shape, generator) for k in found], axis=0)
    return np.where(total < 0, -1.0, 1.0).astype(np.float32)


def _wave(
    vectors: Waves, shape: tuple[int, ...], generator: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Give one of some plane waves with a random origin."""
    vector = vectors[generator.integers(len(vectors))]
    # Crests begin at even cells: whoever halves the image then averages two cells of a crest, and not one of a crest
    # and one of a trough.
    return _plane_wave(vector, shape, tuple(2 * generator.integers(PHASES, size=len(shape)) - 0.5))


def _plane_wave(
    vector: tuple[float, ...], shape: tuple[int, ...], origin: tuple[float, ...], turn: float = 0.0
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Give the sine of a wave from an origin on, shifted by a share of a turn."""
    places = zip(vector, shape, origin, strict=True)
    axes = [
        f * (np.arange(n) - start).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        for axis, (f, n, start) in enumerate(places)
    ]
    wave: np.ndarray[Any, np.dtype[np.float64]] = np.sin(2 * np.pi * (sum(axes) + turn))
    return wave


@dataclass(frozen=True)
class ClassTextures(NoiseMethod):
    """The class textures alone, in full strength wherever noise can be: what a search starts from, without the search.

    Args:
        period: of the waves, working cells.
    """

    period: float = TEXTURE_PERIOD

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        task = task_needed(task, samples)
        directions = class_directions(samples, task.outputs, period=self.period)
        textures = class_textures(samples, task, period=self.period, seed=run.seed, directions=directions)
        for sample, texture in zip(samples.samples, textures, strict=True):
            steps = texture.numpy() * sample.levels * (sample.carrier_voxels > 0)
            yield sample.sample_id, steps.astype(np.int16)
