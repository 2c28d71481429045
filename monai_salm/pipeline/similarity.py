# SPDX-License-Identifier: Apache-2.0
"""How alike two pictures look: the structural similarity (SSIM, Wang et al. 2004, doi 10.1109/TIP.2003.819861), as
MONAI computes it.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics.regression import compute_ssim_and_cs
from numpy.typing import NDArray

_KERNEL = 11
_SLICES_AT_ONCE = 16


def structural_similarity(before_model: NDArray[np.float32], after_model: NDArray[np.float32]) -> float:
    """Give the mean SSIM of two pictures in model values (data range 1); of volumes, that of their slices along the
    shortest axis.

    Args:
        before_model, after_model: 2D or 3D, of one shape.
    """
    if before_model.ndim == 2:
        before_model, after_model = before_model[None], after_model[None]
    axis = int(np.argmin(before_model.shape))
    slices = [np.moveaxis(values, axis, 0) for values in (before_model, after_model)]
    size = min(_KERNEL, *slices[0].shape[1:])
    size -= 1 - size % 2
    total = 0.0
    for start in range(0, len(slices[0]), _SLICES_AT_ONCE):
        first, second = (
            torch.from_numpy(np.ascontiguousarray(values[start : start + _SLICES_AT_ONCE])[:, None]).double()
            for values in slices
        )
        ssim, _ = compute_ssim_and_cs(first, second, spatial_dims=2, kernel_size=(size, size), kernel_sigma=(1.5, 1.5))
        total += float(ssim.mean(dim=(1, 2, 3)).sum())
    return total / len(slices[0])
