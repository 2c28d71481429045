# SPDX-License-Identifier: Apache-2.0
"""The directory of a TIFF (TIFF 6.0 section 2): its fields by tag, and what they say of the pixels."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from monai_salm.errors import RefusedError

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SHORT, LONG = 3, 4
_NUMBERS = {SHORT: "H", LONG: "I", 1: "B"}
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, DESCRIPTION = 256, 257, 258, 259, 262, 266, 270
OFFSETS, SAMPLES, ROWS_PER_STRIP, COUNTS, PLANAR, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, SUB_IFDS, EXTRA_SAMPLES, SAMPLE_FORMAT = 322, 330, 338, 339
NONE, DEFLATE, PACKBITS = 1, 8, 32773
_COMPRESSIONS = {NONE: "none", 5: "LZW", DEFLATE: "deflate", 32946: "deflate", PACKBITS: "PackBits"}
DIFFERENCES = 2
_PLANES = frozenset((33628, 33629, 33630, 33631, 34361, 34362, 34412, 43314))
"""Tags of MetaMorph, Media Cybernetics' and Olympus' stacks, Zeiss LSM and NIH Image."""
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


def read_directory(raw: bytes, order: str) -> tuple[tuple[int, int], dict[int, Entry]]:
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
        raise RefusedError("the TIFF has several pages; split it into files of one image")
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


def number_of(entries: dict[int, Entry], tag: int, order: str, default: int) -> int:
    """Give the one whole number of a field, or what it is where the field is absent."""
    numbers = _numbers(entries, tag, order) or (default,)
    if len(numbers) != 1:
        raise RefusedError(f"tag {tag} has {len(numbers)} values, one is needed; repair the file first")
    return numbers[0]


def shape_of(entries: dict[int, Entry], order: str) -> tuple[int, int, int, int]:
    """Give rows, columns, samples of a pixel and bytes of a sample."""
    rows, columns = number_of(entries, LENGTH, order, 0), number_of(entries, WIDTH, order, 0)
    samples, bits = number_of(entries, SAMPLES, order, 1), set(_numbers(entries, BITS, order) or (1,))
    photometric = number_of(entries, PHOTOMETRIC, order, -1)
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


def check_kind(entries: dict[int, Entry], order: str) -> None:
    """Refuse what else a TIFF can be."""
    description = entries[DESCRIPTION].data if DESCRIPTION in entries else b""
    compression = number_of(entries, COMPRESSION, order, 1)
    predictor = number_of(entries, PREDICTOR, order, 1)
    packed = compression in (5, DEFLATE, 32946)
    for wrong, reason in (
        (
            compression not in _COMPRESSIONS,
            f"Compression is {compression}; {', '.join(dict.fromkeys(_COMPRESSIONS.values()))} are supported",
        ),
        (
            predictor not in ((1, DIFFERENCES) if packed else (1,)),
            f"Predictor is {predictor}; 1 is supported, and 2 for LZW and deflate",
        ),
        (TILE_WIDTH in entries, "the pixels are in tiles; strips are supported"),
        (
            not _PLANES.isdisjoint(entries),
            "the file is a stack of MetaMorph (STK) or another microscope, of several planes behind one directory",
        ),
        (SUB_IFDS in entries, "the TIFF has images within the image (SubIFDs)"),
        (EXTRA_SAMPLES in entries, "the pixels have extra samples such as alpha"),
        (number_of(entries, PLANAR, order, 1) != 1, "colors are in planes of their own (PlanarConfiguration 2)"),
        (number_of(entries, FILL_ORDER, order, 1) != 1, "FillOrder is not 1"),
        (
            set(_numbers(entries, SAMPLE_FORMAT, order) or (1,)) != {1},
            "the values are signed or floats; unsigned integers are supported",
        ),
        (b"<OME" in description, "the file is an OME-TIFF, one of several files or planes"),
        (description.startswith(b"ImageJ=") and b"images=" in description, "the file is a stack of ImageJ"),
    ):
        if wrong:
            raise RefusedError(f"{reason}; convert the file to a TIFF of one plain image first")


def strips_of(raw: bytes, entries: dict[int, Entry], order: str, rows: int) -> tuple[tuple[int, int, int], ...]:
    """Give place, bytes and rows of each strip."""
    offsets, counts = _numbers(entries, OFFSETS, order), _numbers(entries, COUNTS, order)
    height = min(number_of(entries, ROWS_PER_STRIP, order, rows), rows)
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


def patch(content: bytearray, entry: Entry, values: list[int], order: str) -> None:
    """Put other numbers in the place of a field's.

    Raises:
        RefusedError: one is too large for the field's type.
    """
    if max(values) >= 1 << 8 * _SIZES[entry.type]:
        raise RefusedError(
            f"tag {entry.tag} has values of {_SIZES[entry.type]} bytes, {max(values)} is too large for them; "
            "convert the file without compression"
        )
    struct.pack_into(f"{order}{len(values)}{_NUMBERS[entry.type]}", content, entry.place, *values)
