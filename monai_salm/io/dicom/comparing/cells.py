# SPDX-License-Identifier: Apache-2.0
"""What differs in the pixel data of two images besides the values."""

from __future__ import annotations

import numpy as np

from monai_salm.io.base import HeaderChange
from monai_salm.io.dicom.elements import PIXEL_DATA
from monai_salm.io.dicom.pixels import are_values, bytes_after_frames
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
    if not all(are_values(words, pixel_format) for words in both):
        high = [words & words.dtype.type(pixel_format.unused_mask) for words in both]
        count = int(np.count_nonzero(high[0] != high[1]))
        if count:
            name = "PixelData (bits above BitsStored)"
            changes.append(HeaderChange(name=name, original="", other=f"{count} differ", allowed=False))
    if original.frames or other.frames:
        return changes
    ends = [bytes_after_frames(value_of(picture.file.find(PIXEL_DATA)), pixel_format) for picture in (original, other)]
    if ends[0] != ends[1]:
        shown = [end[:32].hex(" ") for end in ends]
        changes.append(
            HeaderChange(name="PixelData (bytes after the frame)", original=shown[0], other=shown[1], allowed=False)
        )
    return changes
