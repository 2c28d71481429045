# SPDX-License-Identifier: Apache-2.0
"""Random noise: signs of the full budget that fit no label, the control that needs no labels and no network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_salm.learning.chance import sample_generator
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod
from monai_salm.working_samples import WorkingSample


@dataclass(frozen=True)
class RandomSigns(NoiseMethod):
    """Signs drawn at random, the full budget everywhere inside the masks."""

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:  # noqa: ARG002
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        for sample in samples.samples:
            yield sample.sample_id, random_steps(sample, run.seed)


def random_steps(sample: WorkingSample, seed: int) -> NDArray[np.int16]:
    """Draw signs of the full budget for every cell that can carry noise; the same for the same sample and seed,
    whatever the order.
    """
    signs = sample_generator(seed, sample.sample_id).integers(0, 2, size=sample.shape) * 2 - 1
    return (signs * sample.levels * (sample.carrier_voxels > 0)).astype(np.int16)
