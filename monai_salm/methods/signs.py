# SPDX-License-Identifier: Apache-2.0
"""Signs drawn at random, for who loads no network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monai_salm.chance import sample_generator
from monai_salm.working_samples import WorkingSample


def random_steps(sample: WorkingSample, seed: int) -> NDArray[np.int16]:
    """Draw signs of the full budget for every cell that can carry noise; the same for the same sample and seed,
    whatever the order.
    """
    signs = sample_generator(seed, sample.sample_id).integers(0, 2, size=sample.shape) * 2 - 1
    return (signs * sample.levels * (sample.carrier_voxels > 0)).astype(np.int16)
