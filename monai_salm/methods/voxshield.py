# SPDX-License-Identifier: Apache-2.0
"""VoxShield: one network makes noise in the labeled structures of volumes, whose slices differ in spectrum.

Gated by the label map, as its authors do: noise lies only at or in the labeled structures, so where it lies already
tells the label map. That is part of why the method is strong, and it gives the label map away to whoever compares two
releases; where it matters, say so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from monai_salm.learning.chance import own_randomness
from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods import generators
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod, batch_count, targets_of, task_needed
from monai_salm.methods.generators import alternate, small_generator

SURROGATE_STEPS = 10
"""VoxShield: steps of the surrogate at the start of a round."""

INCOHERENCE_WEIGHT, DISRUPTION_WEIGHT = 0.2, 0.05
"""VoxShield: weights of the spectra's difference between slices and of the change of the surrogate's logits."""


@dataclass(frozen=True)
class SpectrallyIncoherent(NoiseMethod):
    """Volumetric noise from one generator whose slices differ in spectrum and which moves the surrogate's logits far.

    VoxShield-like (arXiv 2605.17345), for a label map y and the amplitude spectra S_z of the noise of each slice::

        delta = epsilon tanh(G(x)) [y > 0],   S_z = |FFT2(delta_z)|
        min_G  L_dice + L_ce (f_theta(x + delta), y)
               - 0.2 mean_z ||S_{z+1} - S_z||_2 - 0.05 mean |f_theta(x + delta) - f_theta(x)|

    theta has ten steps at the start of each round. Other than the authors we divide the spectra's difference by its
    largest possible size (epsilon times the root of the structures' cells in a slice), so that its weight means the
    same for every size; and the noise that is given is the last generator's.

    Args:
        rounds: passes over the samples; published are 100.
    """

    rounds: int = 30

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        task = task_needed(task, samples)
        with own_randomness(run.seed, torch.device("cpu")):
            generator = StructureNoise()
        first = samples.samples[0]
        # Slices lie across the axis with the widest spacing, or else with the fewest cells.
        axis = int(np.argmax(first.spacing)) if first.spacing else int(np.argmin(first.shape))

        def penalty(batch: WorkingBatch, steps: Tensor, logits: Tensor, clean: Tensor) -> Tensor:
            incoherence = slice_incoherence(steps / batch.levels, axis)
            return -INCOHERENCE_WEIGHT * incoherence - DISRUPTION_WEIGHT * (logits - clean).abs().mean()

        turns = [True] * SURROGATE_STEPS + [False] * max(generators.LEAST_STEPS, batch_count(samples, run))
        return alternate(samples, task, run, generator, turns, self.rounds_of(run), penalty)


class StructureNoise(nn.Module):
    """VoxShield's generator: noise in the labeled structures of volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_generator(3)

    def forward(self, batch: WorkingBatch) -> Tensor:
        """Give steps ``(batch, 1, *spatial)``."""
        noise: Tensor = self.network(batch.images).tanh()
        return noise * batch.levels * (targets_of(batch)[:, None] > 0)


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
