# SPDX-License-Identifier: Apache-2.0
"""PNG (www.w3.org/TR/png-3): every chunk stays but the pixels, which become one zlib stream where the first of theirs
was.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_salm.errors import RefusedError
from monai_salm.io.base import StoredArray
from monai_salm.io.leftovers import holds_picture
from monai_salm.io.raster.decoding import Raster, check_claim, decode, frozen
from monai_salm.io.raster.exif import PREVIEW_REMOVED, without_preview

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _GRAY_ALPHA, _RGBA = 0, 2, 4, 6
_CHANNELS = {_GRAY: 1, _RGB: 3, _GRAY_ALPHA: 2, _RGBA: 4}
_MODES = {(_GRAY, 8): "L", (_GRAY, 16): "I;16", (_RGB, 8): "RGB", (_GRAY_ALPHA, 8): "LA", (_RGBA, 8): "RGBA"}
_NAMES = {_GRAY: "gray", _RGB: "RGB", 3: "palette", _GRAY_ALPHA: "gray with alpha", _RGBA: "RGB with alpha"}
_UP = 2
_KNOWN_CRITICAL = (b"IHDR", b"IDAT", b"IEND", b"PLTE")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_STANDARD = frozenset(
    (
        *_KNOWN_CRITICAL,
        *_TEXTS,
        *b"cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI tRNS bKGD hIST pHYs sPLT eXIf tIME oFFs pCAL sCAL sTER dSIG".split(),
    )
)
"""Chunks of PNG and of its registered extensions that describe an image and are none."""
_MOST = 1 << 10
"""Bytes of a private chunk, or behind the last, that are kept: more of them may be an image."""
_MOST_TEXT = 1 << 24
_DIGITS = re.compile(rb"(?:[0-9A-Fa-f]{2})+")


@dataclass(frozen=True)
class Chunk:
    """One chunk (PNG 5.3).

    Args:
        kind: its four letters.
        start, end: place in the file, with length and checksum.
        data: what is in it.
    """

    kind: bytes
    start: int
    end: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class PngFile:
    """A PNG that was read.

    Args:
        chunks: all, in order.
        tail: bytes after the last.
        pixels: (rows, columns, channels), with alpha.
        raster: the image.
    """

    chunks: tuple[Chunk, ...]
    tail: bytes
    pixels: StoredArray
    raster: Raster


def read(raw: bytes) -> PngFile:
    """Read a PNG.

    Raises:
        RefusedError: damaged, truncated, or of a kind that is not supported.
    """
    chunks, tail = _chunks(raw)
    rows, columns, depth, color = _head(chunks)
    _check_kinds(chunks)
    channels, width = _CHANNELS[color], depth // 8
    check_claim(rows, columns, channels * width, len(raw))
    _check_stream(chunks, rows * (1 + columns * channels * width))
    # Pillow sees the pixels alone: what is in other chunks can neither change nor stop it.
    plain = SIGNATURE + b"".join(
        raw[chunk.start : chunk.end] for chunk in chunks if chunk.kind in (b"IHDR", b"IDAT", b"IEND")
    )
    shape = (rows, columns) if channels == 1 else (rows, columns, channels)
    pixels = decode(plain, "PNG", {_MODES[color, depth]: f"u{width}"}, shape).reshape(rows, columns, channels)
    colors = pixels[..., :3] if channels >= 3 else pixels[..., 0]
    exif = _data(chunks, b"eXIf")
    kept = without_preview(exif)
    shown = any(
        map(holds_picture, (kept, profile(chunks), *(_text(chunk) for chunk in chunks if chunk.kind in _TEXTS)))
    )
    raster = Raster(
        raw=raw, stored=frozen(colors), key=_transparent(chunks, color),
        notes=(PREVIEW_REMOVED,) if kept != exif else (), left_out=_left_out(chunks, tail),
        unprotected="its metadata hold another image, which is not protected" if shown else "",
    )  # fmt: skip
    return PngFile(chunks=chunks, tail=tail, pixels=pixels, raster=raster)


def write(file: PngFile, stored: StoredArray) -> bytes:
    """Give the file's bytes with other values; alpha stays."""
    pixels = file.pixels.copy()
    pixels[..., : 3 if stored.ndim == 3 else 1] = stored.reshape(*stored.shape[:2], -1)
    parts = [SIGNATURE]
    first = True
    for chunk in filter(is_kept, file.chunks):
        if chunk.kind == b"eXIf":
            parts.append(make_chunk(b"eXIf", without_preview(chunk.data)))
        elif chunk.kind != b"IDAT":
            parts.append(file.raster.raw[chunk.start : chunk.end])
        elif first:
            parts.append(make_chunk(b"IDAT", pack(pixels)))
            first = False
    return b"".join([*parts, kept_tail(file.tail)])


def is_kept(chunk: Chunk) -> bool:
    """Say whether a written file has a chunk: not one of a private kind that is, or may be, a copy of the image (PNG
    14.2).
    """
    return chunk.kind in _STANDARD or (len(chunk.data) <= _MOST and not holds_picture(chunk.data))


def kept_tail(tail: bytes) -> bytes:
    """Give what of the bytes behind the last chunk a written file has: nothing where they are, or may be, of another
    image or of an older one.
    """
    kept = not tail.strip(b"\0") or (
        len(tail) <= _MOST and not holds_picture(tail) and b"IDAT" not in tail and b"IEND" not in tail
    )
    return tail if kept else b""


def _left_out(chunks: tuple[Chunk, ...], tail: bytes) -> str:
    """Say what of a file a written one has not."""
    parts = [
        f"{len(chunk.data)} bytes of the private chunk {chunk.kind.decode('latin-1')!r}"
        for chunk in chunks
        if not is_kept(chunk)
    ]
    parts += [f"{len(tail)} bytes behind the end of the PNG"] if kept_tail(tail) != tail else []
    return f"{', '.join(parts)}, which may be another image" if parts else ""


def _text(chunk: Chunk) -> bytes:
    """Give what a text chunk says, decompressed, and bytes in place of the hexadecimal numbers that
    ImageMagick writes.
    """
    keyword, _, text = chunk.data.partition(b"\0")
    packed = (
        text[1:]
        if chunk.kind == b"zTXt"
        else text[2:].split(b"\0", 2)[-1]
        if chunk.kind == b"iTXt" and text[:1] == b"\1"
        else b""
    )
    if packed:
        try:
            text = zlib.decompressobj().decompress(packed, _MOST_TEXT)
        except zlib.error:
            return chunk.data  # no reader finds anything in it either
    digits = b"".join(text.split(b"\n")[3:]) if keyword.startswith(b"Raw profile") else b""
    return bytes.fromhex(digits.decode()) if digits and _DIGITS.fullmatch(digits) else text


def compose(stored: StoredArray, extra: Iterable[bytes]) -> bytes:
    """Make a PNG from nothing but values and chunks between header and pixels."""
    rows, columns, color = *stored.shape[:2], _RGB if stored.ndim == 3 else _GRAY
    head = four_bytes(columns) + four_bytes(rows) + bytes([8 * stored.dtype.itemsize, color, 0, 0, 0])
    pixels = stored.reshape(rows, columns, -1)
    return b"".join(
        [SIGNATURE, make_chunk(b"IHDR", head), *extra, make_chunk(b"IDAT", pack(pixels)), make_chunk(b"IEND", b"")]
    )


def make_chunk(kind: bytes, data: bytes) -> bytes:
    """Give a chunk with its length and checksum."""
    return four_bytes(len(data)) + kind + data + four_bytes(zlib.crc32(kind + data))


def four_bytes(value: int) -> bytes:
    """Give a number in four bytes, as PNG writes it."""
    return value.to_bytes(4, "big")


def pack(pixels: StoredArray) -> bytes:
    """Compress pixels, each row as its difference from the row above (PNG 9.2, filter type Up)."""
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(len(pixels), -1).view(np.uint8)
    lines = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    lines[:, 0] = _UP
    lines[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=lines[1:, 1:])
    return zlib.compress(lines.tobytes(), 6)


def profile(chunks: Iterable[Chunk]) -> bytes:
    """Give the ICC profile in an iCCP chunk, decompressed; empty if there is none that can be read."""
    packed = _data(chunks, b"iCCP").partition(b"\0")[2][1:]
    try:
        return zlib.decompressobj().decompress(packed, _MOST_TEXT) if packed else b""
    except zlib.error:
        return b""


def _data(chunks: Iterable[Chunk], kind: bytes) -> bytes:
    return next((chunk.data for chunk in chunks if chunk.kind == kind), b"")


def _chunks(raw: bytes) -> tuple[tuple[Chunk, ...], bytes]:
    """Part a file into chunks, whose checksums must be right, and what follows the last."""
    chunks: list[Chunk] = []
    place = len(SIGNATURE)
    while not chunks or chunks[-1].kind != b"IEND":
        length, kind = int.from_bytes(raw[place : place + 4], "big"), raw[place + 4 : place + 8]
        end = place + length + 12
        if end > len(raw) or len(raw) < place + 12:
            raise RefusedError(
                f"truncated: a chunk of {length} bytes begins at byte {place} of {len(raw)}; get a complete copy "
                "of the file"
            )
        if zlib.crc32(raw[place + 4 : end - 4]) != int.from_bytes(raw[end - 4 : end], "big"):
            raise RefusedError(
                f"damaged: the checksum of chunk {kind!r} at byte {place} is wrong; get a complete copy of the file"
            )
        chunks.append(Chunk(kind, place, end, raw[place + 8 : end - 4]))
        place = end
    return tuple(chunks), raw[place:]


def _head(chunks: tuple[Chunk, ...]) -> tuple[int, int, int, int]:
    """Give rows, columns, bits and color type."""
    head = chunks[0]
    if head.kind != b"IHDR" or len(head.data) != 13:
        raise RefusedError(
            f"damaged: the first chunk is {head.kind!r} of {len(head.data)} bytes, not IHDR of 13; get a complete "
            "copy of the file"
        )
    columns, rows = int.from_bytes(head.data[:4], "big"), int.from_bytes(head.data[4:8], "big")
    depth, color, method, filters, interlace = head.data[8:]
    if (color, depth) not in _MODES:
        name = _NAMES.get(color, f"color type {color}")
        raise RefusedError(
            f"the PNG is {name} of {depth} bits; gray of 8 or 16 bits, and gray with alpha, RGB and RGB with "
            "alpha of 8 bits are supported; "
            "a label map is copied with --label-maps PATTERN, a picture has to be converted"
        )
    if (method, filters) != (0, 0):
        raise RefusedError(
            f"compression and filter method are {method} and {filters}; 0 and 0 are supported: repair the file first"
        )
    if interlace:
        raise RefusedError("the PNG is interlaced; convert it to one that is not")
    return rows, columns, depth, color


def _check_kinds(chunks: tuple[Chunk, ...]) -> None:
    kinds = [chunk.kind for chunk in chunks]
    animated = next((kind for kind in kinds if kind in _ANIMATION), b"")
    if animated:
        raise RefusedError(f"the PNG has the chunk {animated.decode()}, so it is an animation; split it into images")
    unknown = next((kind for kind in kinds if not kind[0] & 0x20 and kind not in _KNOWN_CRITICAL), b"")
    if unknown:
        raise RefusedError(f"the PNG has the critical chunk {unknown!r}, which is not known; convert it to a plain PNG")
    where = [index for index, kind in enumerate(kinds) if kind == b"IDAT"]
    if kinds.count(b"IHDR") != 1 or not where or where != list(range(where[0], where[-1] + 1)):
        raise RefusedError("damaged: a PNG has one IHDR and its IDAT chunks in one run; repair the file first")


def _check_stream(chunks: tuple[Chunk, ...], size: int) -> None:
    """Make sure that the pixels are all there, and nothing more."""
    inflater = zlib.decompressobj()
    length = 0
    pending = b"".join(chunk.data for chunk in chunks if chunk.kind == b"IDAT")
    try:
        while pending and length <= size:
            length += len(inflater.decompress(pending, 1 << 20))
            pending = inflater.unconsumed_tail
    except zlib.error as error:
        raise RefusedError(f"damaged: {error} in the pixels; get a complete copy of the file") from error
    if length != size or not inflater.eof or inflater.unused_data:
        raise RefusedError(
            f"damaged or truncated: the pixels are {length} bytes, the header needs {size}; get a complete copy "
            "of the file"
        )


def _transparent(chunks: tuple[Chunk, ...], color: int) -> int | None:
    """Give the gray value that a tRNS chunk makes transparent."""
    key: Any = next((chunk.data for chunk in chunks if chunk.kind == b"tRNS"), None)
    if key is None:
        return None
    if color != _GRAY or len(key) != 2:
        raise RefusedError(
            "the PNG makes one color transparent (tRNS), which noise would break; convert it to one with alpha or "
            "without"
        )
    return int.from_bytes(key, "big")
