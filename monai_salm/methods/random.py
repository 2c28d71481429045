# SPDX-License-Identifier: Apache-2.0
"""Random noise: signs of the full budget that fit no label, the control that needs no labels and no network."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from monai_salm.learning.samples import WorkingSample


def random_steps(sample: WorkingSample, seed: int) -> NDArray[np.int16]:
    """Draw signs of the full budget for every cell that can carry noise; the same for the same sample and seed,
    whatever the order.
    """
    digest = hashlib.sha256(f"{seed}/{sample.sample_id}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    signs = generator.integers(0, 2, size=sample.image_model.shape) * 2 - 1
    return (signs * sample.levels * (sample.carrier_voxels > 0)).astype(np.int16)
