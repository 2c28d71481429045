# SPDX-License-Identifier: Apache-2.0
"""Real values of a pipeline as what their files can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.io import SourceImage
from monai_salm.slabs import slabs

Outside = Literal["refuse", "clip"]


def real_into(source: SourceImage, target: NDArray[Any]) -> None:
    """Write the real values of an image into an array of the shape of its stored ones, part by part."""
    for part, place in _parts(source, target):
        with np.errstate(all="ignore"):
            place[...] = part.real


def fits_32_bits(source: SourceImage) -> bool:
    """Say whether every stored value of an image comes back from its real one as float32."""
    for part, stored in _parts(source, source.stored):
        with np.errstate(over="ignore", invalid="ignore"):
            real = part.real.astype(np.float32).astype(np.float64)
            back = _nearest(part, real).astype(stored.dtype)
        if not np.array_equal(back, stored, equal_nan=stored.dtype.kind == "f"):
            return False
    return True


def _parts(source: SourceImage, array: NDArray[Any]) -> Iterator[tuple[SourceImage, NDArray[Any]]]:
    """Cut an image, and an array of its shape, so that no part takes much memory in 64 bits."""
    pictures = source.pictures() if source.frame_rescale else [source]
    for picture, whole in zip(pictures, array if source.frame_rescale else [array], strict=True):
        for slab in slabs(picture.stored):
            yield replace(picture, stored=picture.stored[slab], origin=None), whole[slab]


def stored_values(source: SourceImage, real: NDArray[np.float64], *, outside: Outside = "refuse") -> NDArray[Any]:
    """Undo the rescaling of an image's file: the nearest values that the file can hold.

    Args:
        source: of the file.
        real: real units, of the shape of ``source.stored``.
        outside: what becomes of values beyond those that the file can hold: ``refuse`` them, or ``clip`` them.

    Returns:
        Array of the shape and dtype of ``source.stored``.

    Raises:
        RefusedError: values are beyond the file's range, not finite, or would become padding.
    """
    if not source.frame_rescale:
        return _stored(source, real, outside)
    return np.stack(
        [_stored(part, values, outside) for part, values in zip(source.pictures(), real, strict=True)]
    ).astype(source.header.dtype)


def _nearest(source: SourceImage, real: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the stored values that are nearest to real ones, whether or not the file can hold them."""
    exact = (real - source.intercept) / source.slope
    return exact if source.header.dtype.kind == "f" else np.rint(exact)


def _stored(source: SourceImage, real: NDArray[np.float64], outside: Outside) -> NDArray[Any]:
    dtype = source.header.dtype
    with np.errstate(all="ignore"):
        whole = _nearest(source, real)
        if dtype.kind == "f":
            held: NDArray[Any] = whole.astype(dtype)
            if outside == "refuse" and (lost := int((np.isinf(held) & np.isfinite(real)).sum())):
                raise RefusedError(f"{lost} values are beyond what {dtype} can hold")
            return held
    if lost := int((~np.isfinite(whole)).sum()):
        raise RefusedError(f"{lost} values are not finite, and its file holds whole numbers; give them a value first")
    low, high = source.range_stored
    beyond = (whole < low) | (whole > high)
    if outside == "refuse" and beyond.any():
        ends = sorted((low * source.slope + source.intercept, high * source.slope + source.intercept))
        raise RefusedError(
            f"{int(beyond.sum())} values lie outside of {ends[0]:g} to {ends[1]:g}, which its file can hold (they "
            f"reach from {float(real.min()):g} to {float(real.max()):g}); bring them into real units of the file "
            "again, or give outside='clip'"
        )
    stored = np.clip(whole, low, high).astype(dtype)
    if source.padding_stored is not None:
        first, last = source.padding_stored
        entered = (stored >= first) & (stored <= last) & ~source.padding
        if entered.any():
            raise RefusedError(
                f"{int(entered.sum())} values would become its padding ({first:g} to {last:g}), which means that there "
                "is no image; change them by one step"
            )
    return stored
