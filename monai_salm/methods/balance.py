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
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.working_grid import CellPlanes

DIAMETER = 10.0
"""Of the regions, millimeters."""

_PASSES = 3
"""In which noise is reduced as little as needed; each takes some of both signs, which brings regions of the other sign
nearer to their limit. More than three kept no more of the noise.
"""

_WHOLE_PASSES = 20
"""At most, after those, in which noise is rounded toward zero; it is whole and within its limits then."""

_MARGIN = 0.85
"""Of the limit, for regions around other places of a cell than those that are looked at, and whose edge cuts pixels."""

_PLACES = (-1 / 3, 0.0, 1 / 3)
"""That are looked at along each side of a cell, from its middle."""

_ROUNDING = 1e-4
"""Of whole steps."""

_FINE = 8
"""Points along each side of a cell by which the share of it that lies inside a region is counted."""


def planes_of(samples: WorkingSet, batch: WorkingBatch) -> list[CellPlanes | None]:
    """Give the planes of the samples of a batch."""
    return [samples.samples[index].planes for index in batch.indices]


def balanced(steps: Tensor, batch: WorkingBatch, planes: Sequence[CellPlanes | None], share: float) -> Tensor:
    """Take from noise what moves the mean of a region by more than a share of the budget.

    Args:
        steps: masked noise in whole steps, ``(batch, channels, *spatial)``; each channel is balanced by itself.
        batch: of the same samples.
        planes: of each of them; noise of a sample without stays as it is.
        share: of the budget.

    Returns:
        Whole steps of the same signs, none larger than before.
    """
    result = steps.clone()
    for plane, rows in _alike(planes).items():
        disc = _disc(plane.spacing).to(steps.device)
        for channel in range(steps.shape[1]):
            chosen = steps[rows, channel]
            limit = _MARGIN * share * batch.levels[rows].reshape(-1, *[1] * (chosen.ndim - 1))
            weight, limit = (torch.broadcast_to(part, chosen.shape) for part in (batch.share[rows, channel], limit))
            noise, weight, limit = (_in_planes(part, plane.across) for part in (chosen, weight, limit))
            result[rows, channel] = _from_planes(_reduced(noise, weight, limit, disc), chosen.shape, plane.across)
    return result


def without_means(gradient: Tensor, planes: Sequence[CellPlanes | None]) -> Tensor:
    """Take from gradients ``(batch, channels, *spatial)`` the mean over the region around each cell: a step along it
    would be taken back by the balance, which leaves what lies beside each other.
    """
    result = gradient.clone()
    for plane, rows in _alike(planes).items():
        disc = _disc(plane.spacing).to(gradient.device)
        middle = disc[len(disc) // 2][None]
        for channel in range(gradient.shape[1]):
            chosen = gradient[rows, channel]
            flat = _in_planes(chosen, plane.across)
            means = functional.conv2d(flat, middle, padding=(disc.shape[-2] // 2, disc.shape[-1] // 2))
            result[rows, channel] = chosen - _from_planes(means, chosen.shape, plane.across)
    return result


def _alike(planes: Sequence[CellPlanes | None]) -> dict[CellPlanes, list[int]]:
    """Give which samples of a batch have which planes; those of unknown spacing have none."""
    groups: dict[CellPlanes, list[int]] = defaultdict(list)
    for row, plane in enumerate(planes):
        if plane is not None:
            groups[plane].append(row)
    return groups


def _reduced(steps: Tensor, weight: Tensor, limit: Tensor, disc: Tensor) -> Tensor:
    """Reduce noise ``(planes, 1, rows, columns)`` until each region is within its limit."""
    limit, middle = limit[:, :, :1, :1], len(disc) // 2
    # Around the middle of each cell first: that is nearly all, and takes a ninth of the time.
    for _ in range(_PASSES):
        steps, _ = _less(steps, weight, limit, disc[middle : middle + 1])
    steps = _whole(steps)
    places = torch.arange(len(steps), device=steps.device)
    for _ in range(_WHOLE_PASSES):
        less, beyond = _less(steps[places], weight[places], limit[places], disc)
        steps[places] = _whole(less)
        if steps.device.type == "cpu":  # elsewhere the question which are left waits for the device
            places = places[beyond]
            if not len(places):
                break
    return steps


def _less(steps: Tensor, weight: Tensor, limit: Tensor, disc: Tensor) -> tuple[Tensor, Tensor]:
    """Take off each cell what the strictest region around it asks for while the other sign stays as it is.

    Args:
        steps, weight: noise, and what the mean of a cell keeps of it, ``(planes, 1, rows, columns)``.
        limit: of the shift of a mean, ``(planes, 1, 1, 1)``.
        disc: of :func:`_disc`.

    Returns:
        The noise, and in which planes a region was beyond its limit.
    """
    reach = disc.shape[-2] // 2, disc.shape[-1] // 2
    noise = steps * weight
    up, down = functional.conv2d(torch.cat([noise.clamp(min=0), (-noise).clamp(min=0)]), disc, padding=reach).chunk(2)
    kept = torch.stack([(limit + down) / up.clamp(min=1e-9), (limit + up) / down.clamp(min=1e-9)]).amin(dim=2)
    kept = -functional.max_pool2d(-kept.clamp(max=1), (2 * reach[0] + 1, 2 * reach[1] + 1), stride=1, padding=reach)
    beyond = (kept < 1).flatten(2).any(dim=2).any(dim=0)
    return steps * torch.where(steps > 0, kept[0][:, None], kept[1][:, None]), beyond


def _whole(steps: Tensor) -> Tensor:
    """Round toward zero, but for what is a rounding below a whole step."""
    return (steps.abs() + _ROUNDING).floor() * steps.sign()


@lru_cache(maxsize=256)
def _disc(spacing: tuple[float, float]) -> Tensor:
    """Give the share of a region's area that lies in each cell around it, ``(places, 1, rows, columns)``, for regions
    around its places.
    """
    radius = DIAMETER / 2
    reach = [math.ceil(radius / step) for step in spacing]
    axes = []
    for most, step in zip(reach, spacing, strict=True):
        cells = torch.arange(-most, most + 1, dtype=torch.float64)[:, None]
        axes.append(((cells + (torch.arange(_FINE) + 0.5) / _FINE - 0.5) * step).flatten())
    kernels = []
    for down, right in product(_PLACES, _PLACES):
        rows, columns = (axis - place * step for axis, place, step in zip(axes, (down, right), spacing, strict=True))
        inside = rows[:, None] ** 2 + columns[None] ** 2 <= radius**2
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
