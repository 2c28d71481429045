# SPDX-License-Identifier: Apache-2.0
"""TIFF 6.0 of one picture: strips are replaced where they are, or compressed anew with deflate; all else keeps its
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
from monai_salm.io.raster.grid import Raster, check_claim, decode, frozen

SIGNATURES = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_BIG = (b"II+\0", b"MM\0+")
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SHORT, _LONG = 3, 4
_NUMBERS = {_SHORT: "H", _LONG: "I", 1: "B"}
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, DESCRIPTION = 256, 257, 258, 259, 262, 266, 270
OFFSETS, SAMPLES, ROWS_PER_STRIP, COUNTS, PLANAR, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 330, 338, 339
RENEWED = (COMPRESSION, OFFSETS, COUNTS)
"""Tags whose values differ once compressed strips were replaced."""
NONE, DEFLATE, PACKBITS = 1, 8, 32773
_COMPRESSIONS = {NONE: "none", 5: "LZW", DEFLATE: "deflate", 32946: "deflate", PACKBITS: "PackBits"}
_DIFFERENCES = 2
_PLANES = frozenset((33628, 33629, 33630, 33631, 34361, 34362, 34412, 43314))
"""Tags of MetaMorph, Media Cybernetics' and Olympus' stacks, Zeiss LSM and NIH Image."""
_NO_PICTURES = frozenset((OFFSETS, COUNTS, 301, 320, 347, 700, 33723, 34675, 50838, 50839))
"""Places and sizes of strips, curves, palette and tables; XMP, IPTC and the color profile; what ImageJ says of a
picture.
"""
_LEAST = 1 << 10
"""Bytes that are no picture worth protecting, however small the file's own is."""
_MOST_TAGS = 1024
_MOST_STRIPS = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One field of the directory (TIFF 6.0 section 2).

    Args:
        tag: what it is.
        type: of its values.
        count: of them.
        place: of its values in the file.
        data: their bytes.
    """

    tag: int
    type: int
    count: int
    place: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class TiffFile:
    """A TIFF that was read.

    Args:
        order: of bytes.
        directory: (first byte, byte behind the last) of the directory.
        entries: its fields by tag.
        strips: (first byte, number of bytes, rows) of each.
        compression, predictor: how strips are packed.
        raster: the picture.
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
        raise RefusedError("the file is a BigTIFF, which is not supported; convert it to a TIFF of one picture")
    order: Literal["<", ">"] = "<" if raw[:2] == b"II" else ">"
    directory, entries = _entries(raw, order)
    rows, columns, samples, width = _shape(entries, order)
    _check_kind(entries, order)
    check_claim(rows, columns, samples * width, len(raw))
    compression, predictor = _number(entries, COMPRESSION, order, 1), _number(entries, PREDICTOR, order, 1)
    strips = _strips(raw, entries, order, rows)
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
        "its metadata (layers, previews or private fields) may hold another picture, which is not protected"
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
        data = zlib.compress((_differences(strip) if file.predictor == _DIFFERENCES else strip).tobytes(), 6)
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
            _patch(content, file.entries[tag], values, file.order)
    return bytes(content)


def _differences(strip: StoredArray) -> StoredArray:
    """Give each sample's difference from its left neighbor, modulo its range (TIFF 6.0 section 14)."""
    changed = strip.copy()
    changed[:, 1:] = strip[:, 1:] - strip[:, :-1]
    return changed


def _patch(content: bytearray, entry: Entry, values: list[int], order: str) -> None:
    if max(values) >= 1 << 8 * _SIZES[entry.type]:
        raise RefusedError(
            f"tag {entry.tag} has values of {_SIZES[entry.type]} bytes, {max(values)} is too large for them; "
            "convert the file without compression"
        )
    struct.pack_into(f"{order}{len(values)}{_NUMBERS[entry.type]}", content, entry.place, *values)


def _entries(raw: bytes, order: str) -> tuple[tuple[int, int], dict[int, Entry]]:
    """Read the one directory of a file."""
    start = struct.unpack_from(f"{order}I", raw, 4)[0] if len(raw) >= 8 else 0
    count = struct.unpack_from(f"{order}H", raw, start)[0] if 8 <= start <= len(raw) - 2 else 0
    end = start + 2 + 12 * count + 4
    if not 1 <= count <= _MOST_TAGS or end > len(raw):
        raise RefusedError(
            f"damaged or truncated: the directory at byte {start} has {count} fields, the file {len(raw)} bytes; "
            "get a complete copy of the file"
        )
    if raw[end - 4 : end] != bytes(4):
        raise RefusedError("the TIFF has several pages; split it into files of one picture")
    entries: dict[int, Entry] = {}
    for place in range(start + 2, end - 4, 12):
        tag, kind, number = struct.unpack_from(f"{order}HHI", raw, place)
        size = _SIZES.get(kind, 0) * number
        where = place + 8 if size <= 4 else struct.unpack_from(f"{order}I", raw, place + 8)[0]
        if kind not in _SIZES or where + size > len(raw):
            raise RefusedError(
                f"damaged or truncated: tag {tag} has {number} values of type {kind} at byte {where}; get a "
                "complete copy of the file"
            )
        if tag in entries:
            raise RefusedError(f"tag {tag} is there twice; repair the file first")
        entries[tag] = Entry(tag, kind, number, where, raw[where : where + size])
    return (start, end), entries


def _numbers(entries: dict[int, Entry], tag: int, order: str) -> tuple[int, ...]:
    """Give the whole numbers of a field; none if it is absent."""
    entry = entries.get(tag)
    if entry is None:
        return ()
    if entry.type not in _NUMBERS or not 1 <= entry.count <= _MOST_STRIPS:
        raise RefusedError(
            f"tag {tag} has {entry.count} values of type {entry.type}; 1 to {_MOST_STRIPS} whole numbers are "
            "supported: repair the file first"
        )
    return struct.unpack(f"{order}{entry.count}{_NUMBERS[entry.type]}", entry.data)


def _number(entries: dict[int, Entry], tag: int, order: str, default: int) -> int:
    numbers = _numbers(entries, tag, order) or (default,)
    if len(numbers) != 1:
        raise RefusedError(f"tag {tag} has {len(numbers)} values, one is needed; repair the file first")
    return numbers[0]


def _shape(entries: dict[int, Entry], order: str) -> tuple[int, int, int, int]:
    """Give rows, columns, samples of a pixel and bytes of a sample."""
    rows, columns = _number(entries, LENGTH, order, 0), _number(entries, WIDTH, order, 0)
    samples, bits = _number(entries, SAMPLES, order, 1), set(_numbers(entries, BITS, order) or (1,))
    photometric = _number(entries, PHOTOMETRIC, order, -1)
    if (
        (samples, photometric) not in ((1, 0), (1, 1), (3, 2))
        or bits not in ({8}, {16})
        or (samples, bits) == (3, {16})
    ):
        raise RefusedError(
            f"pixels of {samples} samples of {sorted(bits)} bits with PhotometricInterpretation {photometric} are "
            "not supported; "
            "gray of 8 or 16 bits and RGB of 8 bits are: convert the file first"
        )
    return rows, columns, samples, bits.pop() // 8


def _check_kind(entries: dict[int, Entry], order: str) -> None:
    """Refuse what else a TIFF can be."""
    description = entries[DESCRIPTION].data if DESCRIPTION in entries else b""
    compression = _number(entries, COMPRESSION, order, 1)
    predictor = _number(entries, PREDICTOR, order, 1)
    packed = compression in (5, DEFLATE, 32946)
    for wrong, reason in (
        (
            compression not in _COMPRESSIONS,
            f"Compression is {compression}; {', '.join(dict.fromkeys(_COMPRESSIONS.values()))} are supported",
        ),
        (
            predictor not in ((1, _DIFFERENCES) if packed else (1,)),
            f"Predictor is {predictor}; 1 is supported, and 2 for LZW and deflate",
        ),
        (TILE_WIDTH in entries, "the pixels are in tiles; strips are supported"),
        (
            not _PLANES.isdisjoint(entries),
            "the file is a stack of MetaMorph (STK) or another microscope, of several planes behind one directory",
        ),
        (SUB_IFDS in entries, "the TIFF has pictures within the picture (SubIFDs)"),
        (EXTRA_SAMPLES in entries, "the pixels have extra samples such as alpha"),
        (_number(entries, PLANAR, order, 1) != 1, "colors are in planes of their own (PlanarConfiguration 2)"),
        (_number(entries, FILL_ORDER, order, 1) != 1, "FillOrder is not 1"),
        (
            set(_numbers(entries, SAMPLE_FORMAT, order) or (1,)) != {1},
            "the values are signed or floats; unsigned integers are supported",
        ),
        (b"<OME" in description, "the file is an OME-TIFF, one of several files or planes"),
        (description.startswith(b"ImageJ=") and b"images=" in description, "the file is a stack of ImageJ"),
    ):
        if wrong:
            raise RefusedError(f"{reason}; convert the file to a TIFF of one plain picture first")


def _strips(raw: bytes, entries: dict[int, Entry], order: str, rows: int) -> tuple[tuple[int, int, int], ...]:
    """Give place, bytes and rows of each strip."""
    offsets, counts = _numbers(entries, OFFSETS, order), _numbers(entries, COUNTS, order)
    height = min(_number(entries, ROWS_PER_STRIP, order, rows), rows)
    needed = -(-rows // height) if height else 0
    if not needed == len(offsets) == len(counts):
        raise RefusedError(
            f"{rows} rows by {height} need {needed} strips, StripOffsets has {len(offsets)}, StripByteCounts "
            f"{len(counts)}; repair the file first"
        )
    strips = tuple(
        (start, size, min(height, rows - index * height))
        for index, (start, size) in enumerate(zip(offsets, counts, strict=True))
    )
    for start, size, _ in strips:
        if start + size > len(raw) or not size:
            raise RefusedError(
                f"truncated: the strip at byte {start} has {size} bytes, the file {len(raw)}; get a complete copy "
                "of the file"
            )
    return strips


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
        tags[tag] = _number(entries, tag, order, 1)
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
            content += struct.pack(f"{order}HHII", tag, _LONG, len(values), values[0] if len(values) == 1 else place)
        elif tag == BITS and samples == 3:
            content += struct.pack(f"{order}HHII", tag, _SHORT, 3, head)
        else:
            content += struct.pack(f"{order}HHII", tag, _LONG, 1, tags[tag])
    content += bytes(4) + struct.pack(f"{order}3H", 8, 8, 8)
    for values, _ in lists.values():
        content += struct.pack(f"{order}{len(values)}I", *values)
    mode = "RGB" if samples == 3 else {1: "L", 2: "I;16" if order == "<" else "I;16B"}[width]
    return decode(
        bytes(content + data), "TIFF", {mode: f"u{width}"}, (rows, columns, 3) if samples == 3 else (rows, columns)
    )
