# SPDX-License-Identifier: Apache-2.0
"""Signs drawn at random, for who loads no network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monai_salm.chance import sample_generator


def random_signs(sample_id: str, shape: tuple[int, ...], seed: int) -> NDArray[np.int16]:
    """Draw 1 or -1 for every cell of a sample; the same for the same sample and seed, whatever the order.

    Args:
        sample_id: identity of the sample.
        shape: of its working grid.
        seed: of the run; see :func:`~monai_salm.chance.secret_seed`.
    """
    return (sample_generator(seed, sample_id).integers(0, 2, size=shape) * 2 - 1).astype(np.int16)
