# SPDX-License-Identifier: Apache-2.0
"""UMed: a network each for the contours and the texture of labeled structures makes the noise of segmentation data.

Gated by the label map, as its authors do: noise lies only at or in the labeled structures, so where it lies already
tells the label map. That is part of why the method is strong, and it gives the label map away to whoever compares two
releases; where it matters, say so.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from monai_salm.learning.chance import own_randomness
from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods import generators
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod, batch_count, targets_of, task_needed
from monai_salm.methods.generators import alternate, small_generator

SURROGATE_TURN = 5
"""UMed: every so manyth step is the surrogate's."""

BOUNDARY_RADIUS = 3
"""UMed: cells to either side of a contour."""

CENTRAL_DIFFERENCE = 0.5
"""UMed: share of the center that the contour generator's convolutions subtract."""


@dataclass(frozen=True)
class ContourTexture(NoiseMethod):
    """Contour and texture noise from two generators, trained in turn with the surrogate for the same loss.

    UMed-like (arXiv 2403.14250, from its description), for a label map y with boundary B and interior I, and local
    binary patterns u(x)::

        delta = epsilon tanh(G_c(x)) B + clip(epsilon tanh(G_t(x)), -epsilon u(x) I, epsilon u(x) I)
        min_G min_theta  L_ce + L_dice (f_theta(x + delta), y),   every fifth step for theta, the others for G

    2D as published, and 3D.

    Args:
        rounds: passes over the samples; published are 100.
    """

    rounds: int = 30

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        task = task_needed(task, samples)
        with own_randomness(run.seed, torch.device("cpu")):
            generator = ContourTextureNoise(samples.spatial_dims)
        steps = max(generators.LEAST_STEPS, batch_count(samples, run))
        turns = [(step + 1) % SURROGATE_TURN == 0 for step in range(steps * SURROGATE_TURN // (SURROGATE_TURN - 1))]
        return alternate(samples, task, run, generator, turns, self.rounds_of(run))


class ContourTextureNoise(nn.Module):
    """UMed's generators: noise at the contours of the labeled structures, and weaker noise on the texture inside them.

    Args:
        spatial_dims: 2 or 3.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.contour, self.texture = small_generator(spatial_dims), small_generator(spatial_dims)
        for module in list(self.contour.modules()):
            if isinstance(module, (nn.Conv2d, nn.Conv3d)) and set(module.kernel_size) == {3}:
                parametrize.register_parametrization(module, "weight", _CentralDifference())

    def forward(self, batch: WorkingBatch) -> Tensor:
        """Give steps ``(batch, 1, *spatial)``."""
        boundary, inside = boundary_and_interior(targets_of(batch)[:, None])
        levels = batch.levels
        limit = levels * local_binary_pattern(batch.images) * inside
        contour: Tensor = self.contour(batch.images).tanh() * levels * boundary
        texture: Tensor = self.texture(batch.images).tanh() * levels
        return contour + texture.clamp(-limit, limit)


class _CentralDifference(nn.Module):
    """A convolution's weights such that it gives ``sum_q w(q) x(p + q) - theta x(p) sum_q w(q)`` (Yu et al. 2020, arXiv
    2003.04092).
    """

    def forward(self, weight: Tensor) -> Tensor:
        kernel = weight.flatten(2)
        center = torch.zeros(kernel.shape[-1], device=weight.device)
        center[len(center) // 2] = CENTRAL_DIFFERENCE
        return (kernel - kernel.sum(dim=2, keepdim=True) * center).reshape(weight.shape)


def boundary_and_interior(label_map: Tensor) -> tuple[Tensor, Tensor]:
    """Give where the contours of structures are, and the rest of the structures.

    Args:
        label_map: ``(batch, 1, *spatial)`` classes.
    """
    pool = functional.max_pool2d if label_map.ndim == 4 else functional.max_pool3d
    values = label_map.float()
    size = 2 * BOUNDARY_RADIUS + 1
    # Of several classes too: a contour is where dilation and erosion differ.
    boundary = pool(values, size, stride=1, padding=BOUNDARY_RADIUS) != -pool(
        -values, size, stride=1, padding=BOUNDARY_RADIUS
    )
    return boundary, (label_map > 0) & ~boundary


def local_binary_pattern(images: Tensor) -> Tensor:
    """Give the share of each cell's neighbors, diagonal ones too, that are at least as bright; in [0, 1]."""
    dims = images.ndim - 2
    padded = functional.pad(images, [1, 1] * dims, mode="replicate")
    places = [place for place in itertools.product(range(3), repeat=dims) if set(place) != {1}]
    brighter = torch.zeros_like(images)
    for place in places:
        neighbors = padded
        for axis, (start, length) in enumerate(zip(place, images.shape[2:], strict=True), 2):
            neighbors = neighbors.narrow(axis, start, length)
        brighter += neighbors >= images
    return brighter / len(places)
