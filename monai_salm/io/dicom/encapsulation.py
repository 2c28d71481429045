# SPDX-License-Identifier: Apache-2.0
"""Encapsulated pixel data (PS3.5 A.4): from fragments to frames and back."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

from pydicom.uid import RLELossless

from monai_salm.errors import RefusedError

_ITEM = b"\xfe\xff\x00\xe0"
_ITEM_HEADER = 8
_OFFSET_LIMIT = 1 << 32
_END_OF_IMAGE = b"\xff\xd9"
_TAIL = 10
"""The marker and padding: as many bytes as pydicom looks at."""


def split_frames(
    value: memoryview, frames: int, offsets_extended: tuple[list[int], list[int]] | None, transfer_syntax: str
) -> list[bytes]:
    """Cut the value of encapsulated pixel data into its frames, each of which may lie in several fragments.

    Where a frame begins is said by the extended offset table, else by the basic one; without both by one fragment a
    frame, or by the end-of-image markers of JPEG, JPEG-LS and JPEG 2000.

    Args:
        value: the basic offset table and the fragments as items, without the sequence delimiter.
        frames: how many there are to be.
        offsets_extended: ExtendedOffsetTable and ExtendedOffsetTableLengths (PS3.3 C.7.6.3.1.8); None without them.
        transfer_syntax: its UID.

    Returns:
        The frames in their order, with their pad bytes where nothing tells them from the frame.

    Raises:
        RefusedError: damaged items, tables that do not fit them, or another number of frames.
    """
    items = _items(value)
    if len(items) < 2:
        raise RefusedError("encapsulated PixelData has no fragments; the file is truncated")
    table, fragments = bytes(items[0]), items[1:]
    if offsets_extended is not None:
        offsets, lengths = offsets_extended
        parts = _parts_at(offsets, fragments, frames, "ExtendedOffsetTable")
        if len(lengths) != len(parts) or any(
            not 0 < length <= len(part) for length, part in zip(lengths, parts, strict=False)
        ):
            raise RefusedError(
                "ExtendedOffsetTableLengths does not fit the fragments of PixelData; repair the file first"
            )
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]
    if frames == 1:
        return [b"".join(fragments)]
    if table:
        if len(table) % 4:
            raise RefusedError(
                f"the basic offset table has {len(table)} bytes, which is no multiple of 4; repair the file first"
            )
        return _parts_at(
            [offset for (offset,) in struct.iter_unpack("<I", table)], fragments, frames, "the basic offset table"
        )
    if len(fragments) == frames:
        return [bytes(fragment) for fragment in fragments]
    parts = [] if transfer_syntax == RLELossless else _parts_by_markers(fragments)
    if len(parts) != frames:
        found = f"{len(fragments)} fragments" + (f" of {len(parts)} images" if parts else "")
        raise RefusedError(
            f"PixelData without offset table has {found} for {frames} frames; where a frame begins is not known"
        )
    return parts


def encapsulate(frames: Sequence[bytes]) -> bytes:
    """Write frames as the value of encapsulated pixel data, one fragment each, without the sequence delimiter.

    The basic offset table is left empty where it has no room for the offsets, which PS3.5 A.4 allows.

    Args:
        frames: compressed frames; those of odd length get a pad byte.
    """
    sizes = [len(frame) + len(frame) % 2 for frame in frames]
    offsets = [0]
    for size in sizes[:-1]:
        offsets.append(offsets[-1] + _ITEM_HEADER + size)
    table = struct.pack(f"<{len(offsets)}I", *offsets) if offsets[-1] < _OFFSET_LIMIT else b""
    parts = [_ITEM, struct.pack("<I", len(table)), table]
    for frame, size in zip(frames, sizes, strict=True):
        parts += [_ITEM, struct.pack("<I", size), frame, bytes(size - len(frame))]
    return b"".join(parts)


def _items(value: memoryview) -> list[memoryview]:
    items: list[memoryview] = []
    start = 0
    while start < len(value):
        first = start + _ITEM_HEADER
        if bytes(value[start : start + 4]) != _ITEM or first > len(value):
            raise RefusedError(f"encapsulated PixelData has no item at byte {start}; repair the file first")
        (length,) = struct.unpack("<I", value[start + 4 : first])
        start = first + length
        if start > len(value):
            raise RefusedError(
                f"a fragment of PixelData says {length} bytes where {len(value) - first} are left; the file is "
                "truncated"
            )
        items.append(value[first:start])
    return items


def _parts_at(offsets: list[int], fragments: list[memoryview], frames: int, table: str) -> list[bytes]:
    """Join the fragments from each offset to the next; an offset counts from the first byte of the first fragment's
    item tag.
    """
    if len(offsets) != frames:
        raise RefusedError(f"{table} names {len(offsets)} frames, NumberOfFrames is {frames}; repair the file first")
    starts = {}
    position = 0
    for index, fragment in enumerate(fragments):
        starts[position] = index
        position += _ITEM_HEADER + len(fragment)
    found = [starts.get(offset, -1) for offset in offsets] + [len(fragments)]
    if found[0] != 0 or any(first < 0 or first >= second for first, second in pairwise(found)):
        raise RefusedError(f"{table} does not fit the fragments of PixelData; repair the file first")
    return [b"".join(fragments[first:second]) for first, second in pairwise(found)]


def _parts_by_markers(fragments: list[memoryview]) -> list[bytes]:
    """Join fragments up to each that ends an image; what lies behind the marker is padding."""
    parts: list[bytes] = []
    open_part: list[memoryview] = []
    for fragment in fragments:
        open_part.append(fragment)
        if _END_OF_IMAGE in bytes(fragment[-_TAIL:]):
            parts.append(b"".join(open_part))
            open_part = []
    return [*parts, b"".join(open_part)] if open_part else parts
