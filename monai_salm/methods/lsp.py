# SPDX-License-Identifier: Apache-2.0
"""LSP: linearly separable patterns, one cluster a class, drawn without any network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monai_salm.chance import sample_generator
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.targets import TargetKind
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod, task_needed
from monai_salm.working_samples import WorkingSample

PATCHES = 4
"""Patches along each axis: the published 8 pixels of 32."""

CLASS_SEPARATION = 10.0
"""Half the edge of the hypercube whose corners are the classes, in standard deviations of a cluster before mixing; as
published.
"""


@dataclass(frozen=True)
class LinearlySeparable(NoiseMethod):
    """Linearly separable noise: a Gaussian cluster around a corner of a hypercube for each class, one value a patch.

    Yu et al. 2022 (arXiv 2111.00898), who scale each pattern to an L2 ball. Here every patch takes the full budget with
    the sign of its value: of all patterns within an L-infinity bound with these signs the largest. Findings add up the
    corners of those present and subtract the absent ones. There are no rounds and no passes.
    """

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        outputs, one_class = task_needed(task, samples).outputs, samples.target_kind is TargetKind.CLASS
        features = PATCHES**samples.spatial_dims
        generator = np.random.default_rng(run.seed)
        corners = CLASS_SEPARATION * (generator.integers(0, 2, (outputs, features)) * 2 - 1)
        mixing = generator.uniform(-1, 1, (outputs, features, features))
        for sample in samples.samples:
            # Of the sample alone, so that the pattern does not depend on what else is protected.
            point = sample_generator(run.seed, sample.sample_id).standard_normal(features)
            pattern = point @ mixing[sample.target if one_class else 0]
            if one_class:
                pattern = corners[sample.target] + pattern
            else:
                pattern = (2 * np.asarray(sample.target) - 1) @ corners + pattern
            yield sample.sample_id, _steps(sample, pattern.reshape((PATCHES,) * samples.spatial_dims))


def _steps(sample: WorkingSample, pattern: NDArray[np.float64]) -> NDArray[np.int16]:
    """Enlarge a pattern to the sample's grid at full budget."""
    patches = np.ix_(*(np.arange(n) * PATCHES // n for n in sample.shape))
    signs = np.where(pattern[patches] >= 0, 1, -1)
    return (signs * sample.levels * (sample.carrier_voxels > 0)).astype(np.int16)
