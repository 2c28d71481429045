# SPDX-License-Identifier: Apache-2.0
"""New values, held against what the file of a source can hold before they are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.io.base import SourceImage, StoredArray


def check_stored(source: SourceImage, stored: StoredArray, target: Path) -> None:
    """Hold new values against what a source's file can hold, before a module writes them.

    Args:
        source: the image.
        stored: its new values.
        target: where they are to be written.

    Raises:
        RefusedError: other shape or type, values out of range, a padding value or a value that is not finite entered,
            left or moved, or the source's own file as target.
    """
    if stored.shape != source.stored.shape or stored.dtype != source.stored.dtype:
        raise RefusedError(
            f"the new values are {stored.dtype} {stored.shape}, the file holds {source.stored.dtype} "
            f"{source.stored.shape}"
        )
    low, high = source.range_stored
    extremes: list[tuple[Any, Any]] = []
    moved = 0
    for before, after in zip(slabs(source.stored), slabs(stored), strict=True):
        if before.dtype.kind == "f":
            finite = np.isfinite(before)
            if not np.array_equal(finite, np.isfinite(after)) or after[~finite].tobytes() != before[~finite].tobytes():
                raise RefusedError("values that are not finite (NaN, infinity) may neither appear, vanish nor change")
            after_finite = after[finite]
        else:
            after_finite = after
        if after_finite.size:
            extremes.append((after_finite.min(), after_finite.max()))
        if source.padding_stored is not None:
            pads = [replace(source, stored=values).padding for values in (before, after)]
            moved += int(np.count_nonzero((pads[0] != pads[1]) | (pads[0] & (after != before))))
    found = (min(least for least, _ in extremes), max(most for _, most in extremes)) if extremes else (low, low)
    if found[0] < low or found[1] > high:
        raise RefusedError(f"the new values are {found[0]} to {found[1]}, the file holds {low:g} to {high:g}")
    if moved:
        raise RefusedError(f"{moved} values enter, leave or move within the padding range {source.padding_stored}")
    if target.exists() and target.samefile(source.header.path):
        raise RefusedError("the target is the source's own file; write to another folder")


def slabs(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Give an array in parts along its longest axis, as views, so that what is computed of them takes little memory;
    arrays of one shape and type are cut alike.
    """
    if values.nbytes <= _SLAB or values.ndim == 0:
        yield values
        return
    axis = int(np.argmax(values.shape))
    step = max(1, values.shape[axis] * _SLAB // values.nbytes)
    for start in range(0, values.shape[axis], step):
        yield values[(slice(None),) * axis + (slice(start, start + step),)]


_SLAB = 1 << 22
