# SPDX-License-Identifier: Apache-2.0
"""Bounds: what a protected file states of its own, what changed in it, and which limit that breaks.

Both the writer and ``verify`` measure and judge by this; who judges needs nothing of the one who changed the values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.budget import FileBudget
from monai_salm.slabs import slabs
from monai_salm.views import FileView, PictureView
from monai_salm.windows import IntensityWindow

_STATED = re.compile(r"at most ([0-9.eE+-]+) stored units \(([0-9.eE+-]+) real units\)")

_STATED_DIGITS = 1 + 1e-5
"""For the six digits in which a file states its bound in real units."""

_AT_ONCE = 1 << 22
"""Values whose changes are averaged at once; a picture of fewer is one part."""

_ALLOWANCE = 1 + 1e-9
"""For the float product of stored steps and slope; the check in stored steps is exact."""


def describe_bound(epsilon_stored: float, epsilon_real: float) -> str:
    """Give the sentence that a protected file carries, with the bound that :func:`stated_bounds` reads back."""
    return (
        f"bounded additive noise, at most {epsilon_stored:.12g} stored units ({epsilon_real:.6g} real units); not for "
        "diagnosis"
    )


def stated_bounds(derivation: str) -> list[tuple[float, float]]:
    """Give the bounds that a DICOM file states, in stored and in real units, that of the last run last; a file may have
    been protected before.
    """
    return [(float(stored), float(real)) for stored, real in _STATED.findall(derivation)]


@dataclass(frozen=True)
class Limit:
    """What no change of an image's values may exceed.

    Args:
        stored: largest change, stored units.
        real: the same, real units.
        model: the same, model values.
    """

    stored: float
    real: float
    model: float

    @classmethod
    def of_budget(cls, budget: FileBudget) -> Limit:
        """Give the limit of an image that was changed within a budget."""
        return cls(budget.epsilon_stored, budget.epsilon_real, budget.epsilon_real / budget.window.width)

    @classmethod
    def of_statement(cls, window: IntensityWindow, real: float, stored: float) -> Limit:
        """Give the limit of an image that somebody stated in some digits.

        Args:
            window: of the image.
            real, stored: largest change in real and in stored units.
        """
        real *= _STATED_DIGITS
        return cls(stored * _ALLOWANCE, real, real / window.width)

    @property
    def lowest_psnr(self) -> float:
        """PSNR in model values that no image within the limit can fall below, dB."""
        return -20 * math.log10(self.model)


def limits_of(budgets: Sequence[FileBudget]) -> list[Limit]:
    """Give the limits of a file's frames: one for all, or one for each."""
    return [Limit.of_budget(budget) for budget in budgets]


@dataclass(frozen=True)
class Change:
    """What two versions of one image's stored values differ by.

    Args:
        max_stored: largest change, stored units.
        max_real: the same, real units.
        changed: places of the anatomy that changed.
        anatomy: places of the anatomy.
        outside: values that changed outside the anatomy.
        mean_square: mean squared change of all values, in model values.
        values: how many values the image has.
    """

    max_stored: float
    max_real: float
    changed: int
    anatomy: int
    outside: int
    mean_square: float
    values: int

    @property
    def changed_fraction(self) -> float:
        """Share of the anatomy's places that changed."""
        return self.changed / max(1, self.anatomy)

    @property
    def psnr(self) -> float:
        """In model values, dB; infinite if nothing changed."""
        return -10 * math.log10(self.mean_square) if self.mean_square > 0 else math.inf


def measure_changes(
    before: NDArray[Any], after: NDArray[Any], view: FileView, anatomy: NDArray[np.bool_]
) -> list[Change]:
    """Measure the change of each frame of a file; NaN that stays NaN is no change.

    Args:
        before, after: stored values of the same shape.
        view: gives slopes and windows.
        anatomy: bool, on the grid.
    """
    pairs = zip(view.pictures(before), view.pictures(after), view.pictures(anatomy), strict=True)
    return [_measure_change(old, new, own, inside) for (old, own), (new, _), (inside, _) in pairs]


def whole_change(changes: Sequence[Change]) -> Change:
    """Give the change of a file from those of its frames."""
    values = sum(change.values for change in changes)
    return Change(
        max_stored=max(change.max_stored for change in changes),
        max_real=max(change.max_real for change in changes),
        changed=sum(change.changed for change in changes),
        anatomy=sum(change.anatomy for change in changes),
        outside=sum(change.outside for change in changes),
        mean_square=sum(change.mean_square * change.values for change in changes) / max(1, values),
        values=values,
    )


def _measure_change(before: NDArray[Any], after: NDArray[Any], view: PictureView, anatomy: NDArray[np.bool_]) -> Change:
    changed = outside = 0
    largest = 0.0
    squares: list[tuple[float, int]] = []
    for slab in slabs(before, anatomy.ndim, _AT_ONCE):
        difference, differs = _difference(before[slab], after[slab])
        inside = anatomy[slab]
        places = differs.any(axis=tuple(range(anatomy.ndim, differs.ndim))) if differs.ndim > anatomy.ndim else differs
        within = int(np.count_nonzero(places & inside))
        changed, outside = changed + within, outside + int(np.count_nonzero(places)) - within
        # NaN stays the largest
        largest = max((largest, _largest(difference)), key=lambda size: (math.isnan(size), size))
        model = difference * view.slope
        model /= view.window.width
        np.square(model, out=model)
        squares.append((float(np.mean(model)), model.size))
    mean = squares[0][0] if len(squares) == 1 else sum(part * size for part, size in squares) / before.size
    return Change(
        max_stored=largest,
        max_real=largest * abs(view.slope),
        changed=changed,
        anatomy=int(np.count_nonzero(anatomy)),
        outside=outside,
        mean_square=mean,
        values=before.size,
    )


def _difference(before: NDArray[Any], after: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Give how far values moved, 32-bit integers of small ones and else floats, and where that is no stay."""
    if before.dtype.kind in "iu" and before.dtype.itemsize <= 2 and after.dtype == before.dtype:
        steps = np.subtract(after, before, dtype=np.int32)
        return steps, steps != 0
    same = before == after
    if before.dtype.kind == "f":
        same |= np.isnan(before) & np.isnan(after)
    with np.errstate(invalid="ignore"):  # an infinity that stays is no change
        difference = np.where(same, 0.0, after.astype(np.float64) - before.astype(np.float64))
    return difference, ~same


def _largest(difference: NDArray[Any]) -> float:
    if difference.dtype.kind == "i":
        return float(max(int(difference.max(initial=0)), -int(difference.min(initial=0))))
    return float(np.abs(difference).max(initial=0.0))


def broken_bound(changes: Sequence[Change], limits: Sequence[Limit]) -> str:
    """Say which limit the frames of a file break first, with the figure and the limit; empty if none.

    Args:
        changes: of the frames.
        limits: one for all of them, or one for each.
    """
    for number, change in enumerate(changes):
        problem = _broken_bound(change, limits[number if len(limits) > 1 else 0])
        if problem:
            return problem if len(changes) == 1 else f"frame {number + 1}: {problem}"
    return ""


def broken_rule(change: Change) -> str:
    """Say what no change may do whatever its limit; empty if it does not."""
    if math.isnan(change.max_stored):
        return "a value is none any more (NaN), or was none before"
    if change.outside:
        return f"{change.outside} voxels changed outside the anatomy, the limit is none"
    return ""


def _broken_bound(change: Change, limit: Limit) -> str:
    if math.isnan(change.max_stored):
        return broken_rule(change)
    if change.max_stored > limit.stored:
        return f"the largest change is {change.max_stored:g} stored units, the limit {limit.stored:g}"
    if change.max_real > limit.real * _ALLOWANCE:
        return f"the largest change is {change.max_real:g} real units, the limit {limit.real:g}"
    if change.outside:
        return broken_rule(change)
    if change.psnr < limit.lowest_psnr - 1e-6:
        return f"PSNR is {change.psnr:.2f} dB, the limit {limit.lowest_psnr:.2f} dB"
    return ""
