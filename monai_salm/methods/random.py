# SPDX-License-Identifier: Apache-2.0
"""Random noise: signs of the full budget that fit no label, the control that needs no labels and no network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod
from monai_salm.methods.signs import random_signs


@dataclass(frozen=True)
class RandomSigns(NoiseMethod):
    """Signs drawn at random, the full budget everywhere inside the masks."""

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:  # noqa: ARG002
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        for sample in samples.samples:
            signs = random_signs(sample.sample_id, sample.shape, run.seed)
            yield sample.sample_id, (signs * sample.levels * (sample.carrier_voxels > 0)).astype(np.int16)
