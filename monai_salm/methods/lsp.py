# SPDX-License-Identifier: Apache-2.0
"""LSP: linearly separable patterns, one cluster a class, drawn without any network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import UsageError
from monai_salm.learning.samples import WorkingSample, WorkingSet
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import BaselineRun

PATCHES = 4
"""Patches along each axis: the published 8 pixels of 32."""

CLASS_SEPARATION = 10.0
"""Half the edge of the hypercube whose corners are the classes, in standard deviations of a cluster before mixing; as
published.
"""


def lsp_noise(samples: WorkingSet, task: LearningTask, run: BaselineRun) -> Iterator[tuple[str, NDArray[np.int16]]]:
    """Give linearly separable noise: a Gaussian cluster around a corner of a hypercube for each class, one value a
    patch.

    Yu et al. 2022 (arXiv 2111.00898), who scale each pattern to an L2 ball. Here every patch takes the full budget with
    the sign of its value: of all patterns within an L-infinity bound with these signs the largest. Findings add up the
    corners of those present and subtract the absent ones. There are no rounds and no passes.

    Args:
        samples: with classes or findings.
        task: classification.
        run: see :class:`~monai_salm.methods.base.BaselineRun`; its seed alone matters.
    """
    features = PATCHES**samples.spatial_dims
    generator = np.random.default_rng(run.seed)
    corners = CLASS_SEPARATION * (generator.integers(0, 2, (task.outputs, features)) * 2 - 1)
    mixing = generator.uniform(-1, 1, (task.outputs, features, features))
    for sample in samples.samples:
        # Of the sample alone, so that the pattern does not depend on what else is protected.
        digest = hashlib.sha256(f"{run.seed}/{sample.sample_id}".encode()).digest()
        point = np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(features)
        if isinstance(sample.target, int):
            pattern = corners[sample.target] + point @ mixing[sample.target]
        elif sample.target is not None:
            pattern = (2 * sample.target - 1) @ corners + point @ mixing[0]
        else:
            raise UsageError("the samples have no labels, which this method needs; give --labels, or --method random")
        yield sample.sample_id, _steps(sample, pattern.reshape((PATCHES,) * samples.spatial_dims))


def _steps(sample: WorkingSample, pattern: NDArray[np.float64]) -> NDArray[np.int16]:
    """Enlarge a pattern to the sample's grid at full budget."""
    patches = np.ix_(*(np.arange(n) * PATCHES // n for n in sample.image_model.shape))
    signs = np.where(pattern[patches] >= 0, 1, -1)
    return (signs * sample.levels * (sample.carrier_voxels > 0)).astype(np.int16)
