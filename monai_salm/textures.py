# SPDX-License-Identifier: Apache-2.0
"""Class textures: the part of the noise that the samples of a class have in common.

A texture is the sign of a plane wave whose direction says the class and whose phase is the sample's own. So it is the same for a network under flips and
shifts, survives a blur and a resampling that its period outlasts, and has no mean that a linear projection or the average of a class could take out. It
starts the search, which then only has to fit it to the images. Synthetic class-wise noise that needs no surrogate: Yu et al. 2022 (arXiv 2111.00898, there
linear and of fixed phase), Sadasivan et al. 2023 (arXiv 2303.04278, class-wise convolution).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from monai_salm.errors import UsageError
from monai_salm.noise import fingerprint
from monai_salm.samples import WorkingSample, WorkingSet
from monai_salm.tasks import ClassificationTask, LearningTask

NEXT_PERIOD = 1.6
"""Once all directions are given away, further classes get them again with a period that is so many times as long."""

SEEDS = 2**64
"""So many seeds there are; negative ones, which numpy refuses, count from the end."""

MOST_ANGLES = 5
"""Directions in a plane that a network can still tell apart at a budget of a few gray values."""

Direction = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Waves = tuple[tuple[float, ...], ...]
"""Wave vectors of one class, cycles per cell along each axis."""


def class_waves(count: int, spatial_dims: int, period: float, seed: int) -> list[Waves]:
    """Give each class waves in directions of its own.

    A class has with each wave its mirror images along the axes, so that a flip turns no class into another.

    Args:
        count: classes.
        spatial_dims: 2 or 3.
        period: of the first classes' waves, working cells.
        seed: says which class gets which directions.
    """
    directions = _plane_directions(min(count, MOST_ANGLES)) if spatial_dims == 2 else _space_directions()
    frequencies = [1 / (period * NEXT_PERIOD ** (number // len(directions))) for number in range(count)]
    waves = [tuple(tuple((f * wave).tolist()) for wave in directions[number % len(directions)]) for number, f in enumerate(frequencies)]
    order = np.random.default_rng(seed % SEEDS).permutation(count)
    return [waves[number] for number in order]


def _plane_directions(count: int) -> list[list[Direction]]:
    """Give directions at equal angles from one axis to the other, each with its mirror image."""
    angles = np.linspace(0, math.pi / 2, max(count, 2))
    return [
        [np.array([math.cos(a), math.sin(a)]), np.array([math.cos(a), -math.sin(a)])][: 1 if number in (0, len(angles) - 1) else 2]
        for number, a in enumerate(angles)
    ]


def _space_directions() -> list[list[Direction]]:
    """Give the axes, the diagonals of their planes, and the directions between both."""
    axes = np.eye(3)
    pairs = list(itertools.combinations(axes, 2))
    directions = [[axis] for axis in axes]
    directions += [[(first + second) / math.sqrt(2), (first - second) / math.sqrt(2)] for first, second in pairs]
    ordered = [(a, b) for pair in pairs for a, b in (pair, pair[::-1])]
    return directions + [[(2 * a + b) / math.sqrt(5), (2 * a - b) / math.sqrt(5)] for a, b in ordered]


def class_textures(samples: WorkingSet, task: LearningTask, *, period: float, seed: int) -> list[Tensor]:
    """Give the texture of each sample: -1 or 1 in each working cell; for label maps by the cell's label, and 0 in the background.

    Args:
        samples: with targets.
        task: of the targets; each finding of several has a texture for yes and one for no, and a sample the sign of their sum.
        period: working cells.
        seed: of the directions and phases; a sample's phases depend on it and on its image alone, not on the other samples.

    Returns:
        float32 maps on the samples' working grids, in their order.

    Raises:
        UsageError: the samples have no targets.
    """
    if samples.samples[0].target is None:
        raise UsageError("the samples have no labels, which class textures need; give --labels, or --method random")
    multi_label = isinstance(task, ClassificationTask) and task.multi_label
    waves = class_waves(task.outputs * (2 if multi_label else 1), samples.spatial_dims, period, seed)
    return [torch.from_numpy(_texture(sample, waves, seed)) for sample in samples.samples]


def _texture(sample: WorkingSample, waves: list[Waves], seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    generator = np.random.default_rng([seed % SEEDS, int(fingerprint(sample.image_model)[:15], 16)])
    shape, target = sample.image_model.shape, sample.target
    if isinstance(target, int):
        return _signs(_wave(waves[target], shape, generator))
    values = np.asarray(target)
    if values.shape != shape:  # findings
        return _signs(np.sum([_wave(waves[2 * k + int(found <= 0.5)], shape, generator) for k, found in enumerate(values)], axis=0))
    texture = np.zeros(shape, np.float32)
    for label in range(1, len(waves)):
        texture = np.where(values == label, _signs(_wave(waves[label], shape, generator)), texture)
    return texture


def _wave(vectors: Waves, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Give the sum of some plane waves with random phases."""
    total = np.zeros(shape)
    for vector in vectors:
        cycles = sum(
            f * np.arange(n).reshape([-1 if a == axis else 1 for a in range(len(shape))]) for axis, (f, n) in enumerate(zip(vector, shape, strict=True))
        )
        total += np.cos(2 * np.pi * (cycles + generator.random()))
    return total


def _signs(wave: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.where(wave < 0, -1.0, 1.0).astype(np.float32)
