# SPDX-License-Identifier: Apache-2.0
"""The preview in an EXIF block (CIPA DC-008 4.6.5): a small copy of the image that no noise reaches, so a written
file has none.
"""

from __future__ import annotations

from typing import Literal

PREVIEW_REMOVED = "the preview in its EXIF block, a small copy of the image, is removed"
_PLACES = ((0x0201, 0x0202), (0x0111, 0x0117))
"""JPEGInterchangeFormat and its length, StripOffsets and StripByteCounts, of the second directory."""
_ENTRY = 12


def without_preview(exif: bytes) -> bytes:
    """Give an EXIF block without its preview: the link to the second directory and the preview's bytes become zeros,
    all else stays in its place.

    Args:
        exif: from its byte order mark on; one that cannot be read is given back as it is.
    """
    order: Literal["little", "big"] = "little" if exif[:2] == b"II" else "big"
    first = _number(exif, 4, 4, order)
    link = first + 2 + _ENTRY * _number(exif, first, 2, order)
    second = _number(exif, link, 4, order)
    if exif[:2] not in (b"II", b"MM") or not 8 <= first < link < len(exif) or not 8 <= second < len(exif):
        return exif
    places = [second + 2 + _ENTRY * entry for entry in range(_number(exif, second, 2, order))]
    values = {_number(exif, place, 2, order): _number(exif, place + 8, 4, order) for place in places}
    changed = bytearray(exif)
    for place, size in _PLACES:
        start, length = values.get(place, 0), values.get(size, 0)
        if 8 <= start <= start + length <= len(exif) and place in values:
            changed[link : link + 4] = bytes(4)
            changed[start : start + length] = bytes(length)
    return bytes(changed)


def _number(data: bytes, place: int, size: int, order: Literal["little", "big"]) -> int:
    return int.from_bytes(data[place : place + size], order) if 0 <= place <= len(data) - size else 0
