# SPDX-License-Identifier: Apache-2.0
"""Which cells of the anatomy may carry noise: those of the highest score, within a limit of voxels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

FEW_CELLS = 8192
"""Up to so many cells a score is taken apart into digits of 8 bits, which are fewer than the cells, else of 11."""


def sparsity_mask(score: Tensor, voxels: Tensor, limit: Tensor) -> Tensor:
    """Select, for each sample, the cells of highest score whose voxels together stay within a limit: exact top-k.

    Cells of score zero or below are never selected: noise there would change the file and nothing else.

    Args:
        score: ``(batch, cells)``, accumulated absolute loss gradient; any real values.
        voxels: ``(batch, cells)`` int64, how many native voxels each cell would change; 0 excludes a cell.
        limit: ``(batch,)`` int64, how many native voxels may change.

    Returns:
        ``(batch, cells)`` bool. Ties go to the cell of the lower index, on every device.
    """
    allowed = (voxels > 0) & (score > 0)
    # Positive floats are ordered like their bits. So the score of the first cell that is too much is found a digit of
    # its bits at a time, by sums of the voxels of each digit: no cell is sorted, and sums of integers are exact in any
    # order.
    score = score if score.dtype == torch.float32 else score.double()
    bits = score.view(torch.int32 if score.dtype == torch.float32 else torch.int64) * allowed
    undecided, room = voxels * allowed, limit[:, None]
    threshold = torch.zeros_like(room)
    width = 8 if bits.shape[1] <= FEW_CELLS else 11
    digits, highest = 1 << width, (1 << width) - 1
    for shift in range((bits.itemsize * 8 - 1) // width * width, -1, -width):
        digit = ((bits >> shift) & highest).long()
        sums = torch.zeros(len(bits), digits, dtype=torch.int64, device=bits.device)
        sums = sums.scatter_add_(1, digit, undecided).flip(1)
        used = sums.cumsum(1)
        # How many digits, from the highest down, fit with all their cells.
        whole = (used <= room).sum(1, keepdim=True).clamp(max=highest)
        room = room - (used - sums).gather(1, whole)
        threshold = threshold << width | (highest - whole)
        undecided = undecided * (digit == highest - whole)
    return allowed & ((bits > threshold) | ((bits == threshold) & (undecided.cumsum(1) <= room)))


def relative(gradients: Tensor) -> Tensor:
    """Divide the gradients of each sample by their mean size."""
    size = gradients.abs().flatten(1).mean(dim=1).clamp(min=1e-30)
    return gradients / size.reshape(-1, *[1] * (gradients.ndim - 1))


def block_means(values: Tensor, block: int) -> Tensor:
    """Give each cell of ``(batch, channels, *spatial)`` the mean of its block of so many cells along each axis; blocks
    begin with the first cell.
    """
    if block == 1:
        return values
    pool = functional.avg_pool2d if values.ndim == 4 else functional.avg_pool3d
    box = [min(block, length) for length in values.shape[2:]]  # the pooling refuses boxes larger than volumes
    means = pool(values, box, ceil_mode=True, count_include_pad=False)
    for axis, length in enumerate(values.shape[2:], start=2):
        means = means.repeat_interleave(block, dim=axis).narrow(axis, 0, length)
    return means


def box_blur(maps: Tensor, width: int) -> Tensor:
    """Average ``(batch, channels, *spatial)`` maps over boxes of an odd number of cells a side; what lies outside
    counts as 0.
    """
    if maps.ndim == 4:
        return functional.avg_pool2d(maps, width, stride=1, padding=width // 2)
    # One axis after the other, which is many times as fast in volumes; padded here, since the pooling refuses to pad
    # volumes thinner than its box.
    for axis in range(3):
        box, padding = (
            [size if other == axis else least for other in range(3)] for size, least in ((width, 1), (width // 2, 0))
        )
        maps = functional.avg_pool3d(
            functional.pad(maps, [side for size in reversed(padding) for side in (size, size)]), box, stride=1
        )
    return maps


def local_contrast(images: Tensor, width: int) -> Tensor:
    """Give the standard deviation of ``(batch, channels, *spatial)`` images in the box around each cell; what lies
    outside counts as 0.
    """
    mean = box_blur(images, width)
    return (box_blur(images * images, width) - mean * mean).clamp(min=0).sqrt()
