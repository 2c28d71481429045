# SPDX-License-Identifier: Apache-2.0
"""TIFF 6.0 of one image: strips are replaced where they are, or compressed anew with deflate; all else keeps its
place.

Strips that no longer fit go to the end of the file, and zeros to where they were: the pixels before noise are nowhere
left.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from monai_salm.errors import RefusedError
from monai_salm.io.base import StoredArray
from monai_salm.io.leftovers import check_leftovers, holds_picture, may_be_picture
from monai_salm.io.raster.decoding import Raster, check_claim, decode, frozen
from monai_salm.io.raster.tiff_directory import (
    BITS,
    COMPRESSION,
    COUNTS,
    DEFLATE,
    DIFFERENCES,
    LENGTH,
    LONG,
    NONE,
    OFFSETS,
    PACKBITS,
    PHOTOMETRIC,
    PLANAR,
    PREDICTOR,
    ROWS_PER_STRIP,
    SAMPLES,
    SHORT,
    WIDTH,
    Entry,
    check_kind,
    number_of,
    patch,
    read_directory,
    shape_of,
    strips_of,
)

SIGNATURES = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_BIG = (b"II+\0", b"MM\0+")
RENEWED = (COMPRESSION, OFFSETS, COUNTS)
"""Tags whose values differ once compressed strips were replaced."""
_NO_PICTURES = frozenset((OFFSETS, COUNTS, 301, 320, 347, 700, 33723, 34675, 50838, 50839))
"""Places and sizes of strips, curves, palette and tables; XMP, IPTC and the color profile; what ImageJ says of an
image.
"""
_LEAST = 1 << 10
"""Bytes that are no image worth protecting, however small the file's own is."""


@dataclass(frozen=True, kw_only=True)
class TiffFile:
    """A TIFF that was read.

    Args:
        order: of bytes.
        directory: (first byte, byte behind the last) of the directory.
        entries: its fields by tag.
        strips: (first byte, number of bytes, rows) of each.
        compression, predictor: how strips are packed.
        raster: the image.
    """

    order: Literal["<", ">"]
    directory: tuple[int, int]
    entries: dict[int, Entry]
    strips: tuple[tuple[int, int, int], ...]
    compression: int
    predictor: int
    raster: Raster


def read(raw: bytes) -> TiffFile:
    """Read a TIFF.

    Raises:
        RefusedError: damaged, truncated, or of a kind that is not supported.
    """
    if raw[:4] in _BIG:
        raise RefusedError("the file is a BigTIFF, which is not supported; convert it to a TIFF of one image")
    order: Literal["<", ">"] = "<" if raw[:2] == b"II" else ">"
    directory, entries = read_directory(raw, order)
    rows, columns, samples, width = shape_of(entries, order)
    check_kind(entries, order)
    check_claim(rows, columns, samples * width, len(raw))
    compression, predictor = number_of(entries, COMPRESSION, order, 1), number_of(entries, PREDICTOR, order, 1)
    strips = strips_of(raw, entries, order, rows)
    plane = rows * columns * samples * width
    parts = _check_apart(raw, directory, entries, strips)
    packed = sum(size for _, size, _ in strips)
    check_leftovers(
        _between(raw, parts), max(min(plane, packed), _LEAST), plane, "that no strip and no field accounts for"
    )
    dtype = np.dtype(f"{order}u{width}")
    row_bytes = columns * samples * width
    if compression == NONE:
        for start, size, height in strips:
            if size < height * row_bytes:
                raise RefusedError(
                    f"truncated: the strip at byte {start} has {size} bytes, {height * row_bytes} are needed; "
                    "repair the file first"
                )
        flat = np.frombuffer(b"".join(raw[start : start + height * row_bytes] for start, _, height in strips), dtype)
    else:
        flat = _decode(raw, entries, order, strips, (rows, columns, samples, width)).reshape(-1)
    stored = flat.reshape((rows, columns, samples) if samples > 1 else (rows, columns))
    outside = b"\0".join(_between(raw, [(start, start + size) for start, size, _ in strips]))
    shown = holds_picture(outside) or any(
        may_be_picture(entry.data, _LEAST) for tag, entry in entries.items() if tag not in _NO_PICTURES
    )
    unprotected = (
        "its metadata (layers, previews or private fields) may hold another image, which is not protected"
        if shown
        else ""
    )
    raster = Raster(raw=raw, stored=frozen(stored), unprotected=unprotected)
    return TiffFile(
        order=order,
        directory=directory,
        entries=entries,
        strips=strips,
        compression=compression,
        predictor=predictor,
        raster=raster,
    )


def write(file: TiffFile, stored: StoredArray) -> bytes:
    """Give the file's bytes with other values.

    Raises:
        RefusedError: places or sizes of strips that their fields cannot hold.
    """
    content = bytearray(file.raster.raw)
    pixels = stored.astype(stored.dtype.newbyteorder(file.order))
    offsets, counts, row = [], [], 0
    for start, size, height in file.strips:
        strip = pixels[row : row + height]
        row += height
        if file.compression == NONE:
            data = strip.tobytes()
            content[start : start + len(data)] = data
            continue
        data = zlib.compress((_differences(strip) if file.predictor == DIFFERENCES else strip).tobytes(), 6)
        content[start : start + size] = bytes(size)
        if len(data) > size:
            content += bytes(len(content) % 2)
            start = len(content)
            content += bytes(len(data))
        content[start : start + len(data)] = data
        offsets.append(start)
        counts.append(len(data))
    if offsets:
        for tag, values in ((COMPRESSION, [DEFLATE]), (OFFSETS, offsets), (COUNTS, counts)):
            patch(content, file.entries[tag], values, file.order)
    return bytes(content)


def _differences(strip: StoredArray) -> StoredArray:
    """Give each sample's difference from its left neighbor, modulo its range (TIFF 6.0 section 14)."""
    changed = strip.copy()
    changed[:, 1:] = strip[:, 1:] - strip[:, :-1]
    return changed


def _check_apart(
    raw: bytes, directory: tuple[int, int], entries: dict[int, Entry], strips: tuple[tuple[int, int, int], ...]
) -> list[tuple[int, int]]:
    """Make sure that no strip lies over another or over the header, so that replacing it changes nothing else, and give
    all parts of the file.
    """
    parts = [(0, 8), directory, *((start, start + size) for start, size, _ in strips)]
    parts += [(entry.place, entry.place + len(entry.data)) for entry in entries.values() if len(entry.data) > 4]
    for (_, end), (start, _) in pairwise(sorted(parts)):
        if start < end:
            raise RefusedError(f"parts of the file overlap at byte {start} of {len(raw)}; repair the file first")
    return parts


def _between(raw: bytes, parts: list[tuple[int, int]]) -> list[bytes]:
    """Give the bytes of a file without some parts of it."""
    return [raw[end:start] for (_, end), (start, _) in pairwise([(0, 0), *sorted(parts), (len(raw), len(raw))])]


def _check_packbits(strip: bytes, row_bytes: int, rows: int) -> None:
    """Hold a strip against TIFF 6.0 section 9: rows are packed each on their own; decoders differ in what they make of
    others.
    """
    place = length = 0
    while place < len(strip) and length < row_bytes * rows:
        code = strip[place]
        run = code + 1 if code < 128 else 257 - code if code > 128 else 0
        place += 1 + (run if code < 128 else code > 128)
        if run > row_bytes - length % row_bytes or place > len(strip):
            raise RefusedError(
                f"damaged: a run of {run} bytes does not end with its row; convert the file to a TIFF without "
                "compression first"
            )
        length += run
    if length != row_bytes * rows:
        raise RefusedError(
            f"truncated: a strip holds {length} bytes, {row_bytes * rows} are needed; get a complete copy of the file"
        )


def _decode(
    raw: bytes,
    entries: dict[int, Entry],
    order: str,
    strips: tuple[tuple[int, int, int], ...],
    shape: tuple[int, int, int, int],
) -> StoredArray:
    """Decode compressed strips with Pillow, from a TIFF that has nothing but them."""
    rows, columns, samples, width = shape
    tags = {
        WIDTH: columns,
        LENGTH: rows,
        BITS: 8 * width,
        PHOTOMETRIC: 2 if samples == 3 else 1,
        SAMPLES: samples,
        PLANAR: 1,
    }
    tags[ROWS_PER_STRIP] = strips[0][2]
    for tag in (COMPRESSION, PREDICTOR):
        tags[tag] = number_of(entries, tag, order, 1)
    data = b"".join(raw[start : start + size] for start, size, _ in strips)
    if tags[COMPRESSION] == PACKBITS:
        for start, size, height in strips:
            _check_packbits(raw[start : start + size], columns * samples * width, height)
    fields = len(tags) + 2
    head = 8 + 2 + 12 * fields + 4
    arrays = head + 6
    offsets = arrays + 8 * len(strips)
    starts = [offsets, *(offsets + int(end) for end in np.cumsum([size for _, size, _ in strips])[:-1])]
    lists = {OFFSETS: (starts, arrays), COUNTS: ([size for _, size, _ in strips], arrays + 4 * len(strips))}
    content = bytearray(struct.pack(f"{order}2sHIH", b"II" if order == "<" else b"MM", 42, 8, fields))
    for tag in sorted([*tags, *lists]):
        if tag in lists:
            values, place = lists[tag]
            content += struct.pack(f"{order}HHII", tag, LONG, len(values), values[0] if len(values) == 1 else place)
        elif tag == BITS and samples == 3:
            content += struct.pack(f"{order}HHII", tag, SHORT, 3, head)
        else:
            content += struct.pack(f"{order}HHII", tag, LONG, 1, tags[tag])
    content += bytes(4) + struct.pack(f"{order}3H", 8, 8, 8)
    for values, _ in lists.values():
        content += struct.pack(f"{order}{len(values)}I", *values)
    mode = "RGB" if samples == 3 else {1: "L", 2: "I;16" if order == "<" else "I;16B"}[width]
    return decode(
        bytes(content + data), "TIFF", {mode: f"u{width}"}, (rows, columns, 3) if samples == 3 else (rows, columns)
    )
