# SPDX-License-Identifier: Apache-2.0
"""Spans: which stored integers have real values within limits, so that integers need no conversion to be compared.

Rescaling is monotone, also as floats are rounded, so that what lies between two real limits is what lies between two
stored integers. These are found by trying, with the very arithmetic that arrays are rescaled by: the answer is the same
for each value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Span:
    """The integers from the first to the last, none if that is below the first; both are values of their type.

    Args:
        first, last: ends.
        lowest, highest: ends of the type.
    """

    first: int
    last: int
    lowest: int
    highest: int

    def marks(self, stored: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark the values of an array of the type that are in it."""
        if self.first > self.last:
            return np.zeros_like(stored, dtype=bool, subok=False)
        if self.first == self.last:
            only: NDArray[np.bool_] = stored == self.first
            return only
        if self.first == self.lowest and self.last == self.highest:
            return np.ones_like(stored, dtype=bool, subok=False)
        if self.last == self.highest:
            above: NDArray[np.bool_] = stored >= self.first
            return above
        inside: NDArray[np.bool_] = stored <= self.last
        if self.first > self.lowest:
            inside &= stored >= self.first
        return inside

    def __and__(self, other: Span) -> Span:
        return Span(max(self.first, other.first), min(self.last, other.last), self.lowest, self.highest)


def has_spans(dtype: np.dtype[Any]) -> bool:
    """Say whether values of a type are integers that all are floats, so that limits on floats are limits on them."""
    return dtype.kind in "iu" and dtype.itemsize <= 4


def stored_span(dtype: np.dtype[Any], low: float, high: float) -> Span:
    """Give the integers of a type from one number to another, both included; none where one is NaN."""
    ends = np.iinfo(dtype)
    lowest, highest = int(ends.min), int(ends.max)
    first = lowest if low <= lowest else highest + 1 if not low <= highest else math.ceil(low)
    last = highest if high >= highest else lowest - 1 if not high >= lowest else math.floor(high)
    return Span(first, last, lowest, highest) if first <= last else Span(1, 0, lowest, highest)


def real_span(
    dtype: np.dtype[Any], slope: float, intercept: float, above: Callable[[float], bool], below: Callable[[float], bool]
) -> Span | None:
    """Give the integers of a type whose real values are above one limit and below another.

    Args:
        dtype: of the stored values.
        slope, intercept: ``real = slope * stored + intercept``.
        above: whether a real value is above the lower limit; so are all larger ones.
        below: whether a real value is below the upper limit; so are all smaller ones.

    Returns:
        None where some real values are no finite ones, or of a type that has none.
    """
    if not has_spans(dtype) or not slope:
        return None
    ends = np.iinfo(dtype)
    lowest, highest = int(ends.min), int(ends.max)

    def real(stored: int) -> float:
        return float(stored) * slope + intercept

    if not all(math.isfinite(float(end) * slope) and math.isfinite(real(end)) for end in (lowest, highest)):
        return None
    enters, leaves = (above, below) if slope > 0 else (below, above)
    first = _first(lowest, highest, lambda stored: enters(real(stored)))
    last = _first(lowest, highest, lambda stored: not leaves(real(stored))) - 1
    return Span(first, last, lowest, highest)


def _first(lowest: int, highest: int, holds: Callable[[int], bool]) -> int:
    """Give the lowest integer for which something holds, as it does for all above; one behind the highest if none."""
    low, high = lowest, highest + 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
