# SPDX-License-Identifier: Apache-2.0
"""UMed and VoxShield: networks that make the noise of segmentation data, gated by the label map as their authors do.

Gated means: noise lies only at or in the labeled structures, so where it lies already tells the label map. That is part
of why these methods are strong, and it gives the label map away to whoever compares two releases; where it matters, say
so.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from monai.networks.nets import UNet
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from monai_salm.learning.networks import logits_of
from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import (
    LEARNING_RATE,
    BaselineRun,
    batch_count,
    batches_in_order,
    column,
    deliver,
    protected_images,
    shuffled_batches,
    targets_of,
)
from monai_salm.progress import track

GENERATOR_RATE = 1e-3
"""Learning rate of the generators; published is 1e-4 for 100 epochs of far more samples."""

LEAST_STEPS = 10
"""Generator steps of a round at least, so that few samples train it as well."""

SURROGATE_TURN = 5
"""UMed: every so manyth step is the surrogate's."""

BOUNDARY_RADIUS = 3
"""UMed: cells to either side of a contour."""

CENTRAL_DIFFERENCE = 0.5
"""UMed: share of the center that the contour generator's convolutions subtract."""

SURROGATE_STEPS = 10
"""VoxShield: steps of the surrogate at the start of a round."""

INCOHERENCE_WEIGHT, DISRUPTION_WEIGHT = 0.2, 0.05
"""VoxShield: weights of the spectra's difference between slices and of the change of the surrogate's logits."""

Penalty = Callable[[WorkingBatch, Tensor, Tensor, Tensor], Tensor]
"""(batch, steps, logits, logits of the clean images) -> what is added to the generator's loss."""


def umed_noise(samples: WorkingSet, task: LearningTask, run: BaselineRun) -> Iterator[tuple[str, NDArray[np.int16]]]:
    """Give contour and texture noise from two generators, trained in turn with the surrogate for the same loss.

    UMed-like (arXiv 2403.14250, from its description), for a label map y with boundary B and interior I, and local
    binary patterns u(x)::

        delta = epsilon tanh(G_c(x)) B + clip(epsilon tanh(G_t(x)), -epsilon u(x) I, epsilon u(x) I)
        min_G min_theta  L_ce + L_dice (f_theta(x + delta), y),   every fifth step for theta, the others for G

    2D as published, and 3D. A round is one pass over the samples; published are 100.

    Args:
        samples: with label maps.
        task: segmentation.
        run: see :class:`~monai_salm.methods.base.BaselineRun`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        generator = ContourTextureNoise(samples.spatial_dims)
    generator_steps = max(LEAST_STEPS, batch_count(samples, run))
    turns = [
        (step + 1) % SURROGATE_TURN == 0 for step in range(generator_steps * SURROGATE_TURN // (SURROGATE_TURN - 1))
    ]
    return _alternate(samples, task, run, generator, turns)


def voxshield_noise(
    samples: WorkingSet, task: LearningTask, run: BaselineRun
) -> Iterator[tuple[str, NDArray[np.int16]]]:
    """Give volumetric noise from one generator whose slices differ in spectrum and which moves the surrogate's logits
    far.

    VoxShield-like (arXiv 2605.17345), for a label map y and the amplitude spectra S_z of the noise of each slice::

        delta = epsilon tanh(G(x)) [y > 0],   S_z = |FFT2(delta_z)|
        min_G  L_dice + L_ce (f_theta(x + delta), y)
               - 0.2 mean_z ||S_{z+1} - S_z||_2 - 0.05 mean |f_theta(x + delta) - f_theta(x)|

    theta has ten steps at the start of each round. Other than the authors we divide the spectra's difference by its
    largest possible size (epsilon times the root of the structures' cells in a slice), so that its weight means the
    same for every size; and the noise that is given is the last generator's. A round is one pass over the samples;
    published are 100.

    Args:
        samples: volumes with label maps.
        task: segmentation.
        run: see :class:`~monai_salm.methods.base.BaselineRun`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        generator = StructureNoise()
    first = samples.samples[0]
    # Slices lie across the axis with the widest spacing, or else with the fewest cells.
    axis = int(np.argmax(first.spacing)) if first.spacing else int(np.argmin(first.image_model.shape))

    def penalty(batch: WorkingBatch, steps: Tensor, logits: Tensor, clean: Tensor) -> Tensor:
        share = steps / column(batch.levels, steps)
        return -INCOHERENCE_WEIGHT * slice_incoherence(share, axis) - DISRUPTION_WEIGHT * (logits - clean).abs().mean()

    turns = [True] * SURROGATE_STEPS + [False] * max(LEAST_STEPS, batch_count(samples, run))
    return _alternate(samples, task, run, generator, turns, penalty)


def _alternate(
    samples: WorkingSet,
    task: LearningTask,
    run: BaselineRun,
    generator: nn.Module,
    turns: Sequence[bool],
    penalty: Penalty | None = None,
) -> Iterator[tuple[str, NDArray[np.int16]]]:
    """Train generator and surrogate in turn, then give the noise of the last generator.

    Args:
        samples, task, run: as a maker has them.
        generator: batch -> steps.
        turns: of one round: True for a step of the surrogate, False for one of the generator.
        penalty: added to the generator's loss.
    """
    surrogate = run.build_surrogate().to(run.device)
    generator.to(run.device).train()
    optimizers = {
        True: torch.optim.Adam(surrogate.parameters(), lr=LEARNING_RATE),
        False: torch.optim.Adam(generator.parameters(), lr=GENERATOR_RATE),
    }
    batches = shuffled_batches(samples, run, torch.Generator().manual_seed(run.seed))
    for _ in track(range(run.rounds), "generating", "rounds", total=run.rounds, show_progress=run.show_progress):
        errors: list[float] = []
        for surrogates_turn in turns:
            batch = next(batches)
            target = targets_of(batch)
            surrogate.train(surrogates_turn).requires_grad_(surrogates_turn)
            generator.requires_grad_(not surrogates_turn)
            steps = generator(batch)
            logits = logits_of(surrogate, protected_images(steps, batch))
            loss = task.loss(logits, target).mean()
            work = 1.0
            if not surrogates_turn:
                errors += task.error(logits.detach(), target).tolist()
                if penalty is not None:
                    with torch.no_grad():
                        clean = logits_of(surrogate, batch.images)
                    loss = loss + penalty(batch, steps, logits, clean)
                    work = 1.5
            optimizers[surrogates_turn].zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizers[surrogates_turn].step()
            run.passes += work * len(batch.indices) / len(samples)
        run.errors.append(sum(errors) / len(errors))
    generator.eval().requires_grad_(False)
    for batch in batches_in_order(samples, run, "noise"):
        yield from deliver(generator(batch), batch, samples)


class StructureNoise(nn.Module):
    """VoxShield's generator: noise in the labeled structures of volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.network = _unet(3)

    def forward(self, batch: WorkingBatch) -> Tensor:
        """Give steps ``(batch, 1, *spatial)``."""
        noise: Tensor = self.network(batch.images).tanh()
        return noise * column(batch.levels, noise) * (targets_of(batch)[:, None] > 0)


class ContourTextureNoise(nn.Module):
    """UMed's generators: noise at the contours of the labeled structures, and weaker noise on the texture inside them.

    Args:
        spatial_dims: 2 or 3.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.contour, self.texture = _unet(spatial_dims), _unet(spatial_dims)
        for module in list(self.contour.modules()):
            if isinstance(module, (nn.Conv2d, nn.Conv3d)) and set(module.kernel_size) == {3}:
                parametrize.register_parametrization(module, "weight", _CentralDifference())

    def forward(self, batch: WorkingBatch) -> Tensor:
        """Give steps ``(batch, 1, *spatial)``."""
        boundary, inside = boundary_and_interior(targets_of(batch)[:, None])
        levels = column(batch.levels, batch.images)
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


def _unet(spatial_dims: int) -> nn.Module:
    return UNet(spatial_dims, 1, 1, channels=(16, 32, 64), strides=(2, 2), num_res_units=1, norm="instance")


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


def slice_incoherence(noise: Tensor, axis: int) -> Tensor:
    """Give how much the amplitude spectra of neighboring slices differ, on average over slices and samples: 0 where
    they are alike, at most about 1.4.

    Args:
        noise: ``(batch, 1, *spatial)`` volumes, as a share of the budget.
        axis: spatial axis across the slices.
    """
    slices = noise[:, 0].movedim(axis + 1, 1)
    spectra = torch.fft.fft2(slices, norm="ortho").abs()
    area = (slices.detach() != 0).sum(dim=(2, 3)).amax(dim=1).clamp(min=1)
    difference = (spectra[:, 1:] - spectra[:, :-1]).square().sum(dim=(2, 3))
    # The root has no slope at zero, where two empty slices are.
    incoherence: Tensor = (difference + 1e-12).sqrt().mean(dim=1) / area.sqrt()
    return incoherence.mean()
