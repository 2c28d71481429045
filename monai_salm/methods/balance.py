# SPDX-License-Identifier: Apache-2.0
"""Noise that keeps the means of regions: what a reader measures over 10 mm moves by a share of the budget at most.

Around each place the noise of one sign may outweigh that of the other by so much and no more. Where it does, what is
too much is taken off the cells of that sign alone, toward zero, so that budget, mask and share of the anatomy stay as
they are, and what lies beside keeps its noise.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from monai_salm.learning.samples import WorkingBatch
from monai_salm.working_grid import CellPlanes

DIAMETER = 10.0
"""Of the regions, millimeters."""

_PASSES = 8
"""At most; each takes some of both signs, which brings the other sign's regions nearer to their limit."""

_MARGIN = 0.92
"""Of the limit, for regions that begin between the places looked at (every half cell)."""

_FINE = 8
"""Points along each side of a cell by which the share of it that lies inside a region is counted."""


def balanced(steps: Tensor, batch: WorkingBatch, planes: Sequence[CellPlanes | None], share: float) -> Tensor:
    """Take from noise what moves the mean of a region by more than a share of the budget.

    Args:
        steps: masked noise in whole steps, ``(batch, 1, *spatial)``.
        batch: of the same samples.
        planes: of each of them; noise of a sample without stays as it is.
        share: of the budget.

    Returns:
        Whole steps of the same signs, none larger than before.
    """
    groups = defaultdict(list)
    for row, plane in enumerate(planes):
        if plane is not None:
            groups[plane].append(row)
    result = steps.clone()
    for plane, rows in groups.items():
        chosen = steps[rows, 0]
        limit = _MARGIN * share * batch.levels[rows].reshape(-1, *[1] * (chosen.ndim - 1))
        weight, limit = (torch.broadcast_to(part, chosen.shape) for part in (batch.share[rows, 0], limit))
        noise, weight, limit = (_in_planes(part, plane.across) for part in (chosen, weight, limit))
        kept = _reduced(noise, weight, limit, _disc(plane.spacing).to(steps.device))
        result[rows, 0] = _from_planes(kept, chosen.shape, plane.across)
    return result


def _reduced(steps: Tensor, weight: Tensor, limit: Tensor, disc: Tensor) -> Tensor:
    """Reduce noise ``(planes, 1, rows, columns)`` until each region is within its limit."""
    reach = disc.shape[-2] // 2, disc.shape[-1] // 2
    limit = limit[:, :, :1, :1]
    signs = torch.cat([steps.clamp(min=0), (-steps).clamp(min=0)])
    for _ in range(_PASSES):
        sums = functional.conv2d(signs * torch.cat([weight, weight]), disc, padding=reach)
        up, down = sums.chunk(2)
        # What each sign may have where the other is as it is, as a share of what it has.
        kept = torch.cat([(limit + down) / up.clamp(min=1e-9), (limit + up) / down.clamp(min=1e-9)])
        kept = kept.amin(dim=1, keepdim=True).clamp(max=1)
        if bool((kept >= 1 - 1e-6).all()):
            break
        size = 2 * reach[0] + 1, 2 * reach[1] + 1
        signs = signs * -functional.max_pool2d(-kept, size, stride=1, padding=reach)
    up, down = (signs + 1e-4).floor().chunk(2)
    return up - down


@lru_cache(maxsize=256)
def _disc(spacing: tuple[float, float]) -> Tensor:
    """Give the share of a region's area that lies in each cell around it, ``(places, 1, rows, columns)``, for regions
    that begin at the middle of a cell and half a cell beside it.
    """
    radius = DIAMETER / 2
    reach = [math.ceil(radius / step) for step in spacing]
    axes = []
    for most, step in zip(reach, spacing, strict=True):
        cells = torch.arange(-most, most + 1, dtype=torch.float64)[:, None]
        axes.append(((cells + (torch.arange(_FINE) + 0.5) / _FINE - 0.5) * step).flatten())
    kernels = []
    for down in (0.0, spacing[0] / 2):
        for right in (0.0, spacing[1] / 2):
            inside = (axes[0][:, None] - down) ** 2 + (axes[1][None] - right) ** 2 <= radius**2
            cells = inside.double().reshape(2 * reach[0] + 1, _FINE, 2 * reach[1] + 1, _FINE).mean(dim=(1, 3))
            kernels.append(cells / cells.sum().clamp(min=1e-9) if bool(cells.any()) else _own(cells))
    return torch.stack(kernels)[:, None].float()


def _own(cells: Tensor) -> Tensor:
    """Give a region that is smaller than the points of a cell: the cell itself."""
    cells[cells.shape[0] // 2, cells.shape[1] // 2] = 1
    return cells


def _in_planes(maps: Tensor, across: int | None) -> Tensor:
    """Give ``(samples, *spatial)`` as ``(planes, 1, rows, columns)``."""
    moved = maps if across is None else maps.movedim(across + 1, 1)
    return moved.reshape(-1, 1, *moved.shape[-2:])


def _from_planes(planes: Tensor, shape: torch.Size, across: int | None) -> Tensor:
    if across is None:
        return planes.reshape(shape)
    moved = [shape[0], shape[across + 1], *(n for axis, n in enumerate(shape[1:]) if axis != across)]
    return planes.reshape(moved).movedim(1, across + 1)
