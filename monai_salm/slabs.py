# SPDX-License-Identifier: Apache-2.0
"""Slabs: parts of an array that are looked at one after the other, so that what is computed from it on the way takes
little memory, and stays in the cache of the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

SLAB = 1 << 18
"""Values of a slab: a CT slice is one."""


def slowest_axis(values: NDArray[Any], axes: int | None = None) -> int:
    """Give the axis along which neighbors lie farthest apart in memory, of all or of the first ``axes``."""
    steps = [abs(step) for step in values.strides[:axes]]
    return max(range(len(steps)), key=lambda axis: (values.shape[axis] > 1, steps[axis], -axis), default=0)


def slabs(values: NDArray[Any], axes: int | None = None, size: int | None = None) -> Iterator[tuple[slice, ...]]:
    """Give indices of parts that together are the array, along its slowest axis.

    Args:
        values: any shape.
        axes: take one of so many first axes; None of any.
        size: about how many values a part has, at least one index of the axis; None of :data:`SLAB`.
    """
    if values.ndim == 0 or values.size == 0:
        yield (slice(None),) * values.ndim
        return
    axis = slowest_axis(values, axes)
    length = values.shape[axis]
    thick = max(1, (size or SLAB) * length // values.size)
    for start in range(0, length, thick):
        yield (slice(None),) * axis + (slice(start, min(start + thick, length)),)
