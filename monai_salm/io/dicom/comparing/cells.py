# SPDX-License-Identifier: Apache-2.0
"""What differs in the pixel data of two images besides the values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.base import HeaderChange
from monai_salm.io.dicom.elements import PIXEL_DATA
from monai_salm.io.dicom.pixels import bytes_after_frames
from monai_salm.io.dicom.stored_values import Picture, value_of


def compare_cells(original: Picture, other: Picture) -> list[HeaderChange]:
    """List what differs in the pixel data besides the values: bits above BitsStored, bytes after the frame."""
    changes: list[HeaderChange] = []
    pixel_format = original.format
    if original.words.dtype != other.words.dtype or original.words.shape != other.words.shape:
        return changes  # BitsAllocated, Rows or Columns differ and are listed.
    if original.format.layout in ("ybr", "ybr422") and original.file.transfer_syntax == other.file.transfer_syntax:
        chroma = [picture.words[..., 2 if original.format.layout == "ybr422" else 1 :] for picture in (original, other)]
        if not np.array_equal(chroma[0], chroma[1]):
            changes.append(
                HeaderChange(
                    name="PixelData (chroma)",
                    original="",
                    other=f"{np.count_nonzero(chroma[0] != chroma[1])} differ",
                    allowed=False,
                )
            )
    both = (original.words, other.words)
    high = [words & words.dtype.type(pixel_format.unused_mask) for words in both]
    extended = pixel_format.signed and all(_is_extended(words, pixel_format.mask) for words in both)
    if not extended and not np.array_equal(*high):
        count = int(np.count_nonzero(high[0] != high[1]))
        changes.append(
            HeaderChange(name="PixelData (bits above BitsStored)", original="", other=f"{count} differ", allowed=False)
        )
    if original.frames or other.frames:
        return changes
    ends = [bytes_after_frames(value_of(picture.file.find(PIXEL_DATA)), pixel_format) for picture in (original, other)]
    if ends[0] != ends[1]:
        shown = [end[:32].hex(" ") for end in ends]
        changes.append(
            HeaderChange(name="PixelData (bytes after the frame)", original=shown[0], other=shown[1], allowed=False)
        )
    return changes


def _is_extended(words: NDArray[Any], mask: int) -> bool:
    """Say whether the bits above the value repeat its sign in every word."""
    sign = words.dtype.type(mask + 1 >> 1)
    low = words & words.dtype.type(mask)
    return np.array_equal((low ^ sign) - sign, words)
