# SPDX-License-Identifier: Apache-2.0
"""Pixel cells of decoded frames: the bits of a value in them, and its sign."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.io.dicom.codestreams import Codestream, FrameFormat

TO_NATIVE = "convert the file to Explicit VR Little Endian first, for example with gdcmconv --raw"


def cells_of(values: Any, stream: Codestream, frame: FrameFormat) -> NDArray[Any]:
    """Give decoded samples as pixel cells: their bits, extended by the sign that the dataset says they have, not the
    codestream.
    """
    if (
        not isinstance(values, np.ndarray)
        or values.shape != frame.shape
        or values.dtype.kind not in "iu"
        or values.dtype.itemsize > frame.dtype.itemsize
    ):
        got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise RefusedError(f"a frame decoded to {got}, expected {frame.dtype} {frame.shape}; the file is damaged")
    cells = np.ascontiguousarray(values).astype(f"{values.dtype.kind}{frame.dtype.itemsize}").view(frame.dtype)
    cells = cells & frame.dtype.type((1 << stream.precision) - 1)
    return sign_extended(cells, stream.precision) if frame.signed else cells


def sign_extended(cells: NDArray[Any], precision: int) -> NDArray[Any]:
    """Extend the sign of ``precision`` bits over the cell: unsigned words wrap around as two's complement does."""
    sign = cells.dtype.type(1 << precision - 1)
    extended: NDArray[Any] = (cells ^ sign) - sign
    return extended


def clipped(words: NDArray[Any], frame: FrameFormat) -> NDArray[Any]:
    """Bring values that a lossy codec overshot back into BitsStored."""
    half = 1 << frame.bits_stored - 1
    clipped: NDArray[Any] = words.clip(0, 2 * half - 1)
    if frame.signed:
        clipped = words.view(f"i{words.dtype.itemsize}").clip(-half, half - 1).view(words.dtype)
    return clipped


def chosen_precision(words: NDArray[Any], frame: FrameFormat, like: Codestream | None, limit: int) -> int:
    """Choose the bits of a sample: those of the old frame, else BitsStored, else the whole cell where overlays lie
    above the values.
    """
    for bits in ([] if like is None else [like.precision]) + [max(2, frame.bits_stored), frame.bits_allocated]:
        low = words & words.dtype.type((1 << bits) - 1)
        if bits <= limit and np.array_equal(sign_extended(low, bits) if frame.signed else low, words):
            return bits
    raise RefusedError(f"the words do not fit in the {limit} bits that this compression encodes; {TO_NATIVE}")
