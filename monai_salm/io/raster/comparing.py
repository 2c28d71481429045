# SPDX-License-Identifier: Apache-2.0
"""Every difference of two raster files outside the pixels, and whether a written image may have it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

import numpy as np

from monai_salm.io.base import HeaderChange
from monai_salm.io.raster import png, tiff, tiff_directory
from monai_salm.io.raster.exif import without_preview
from monai_salm.io.raster.jpeg import JpegFile
from monai_salm.io.raster.png import PngFile
from monai_salm.io.raster.tiff import TiffFile

_SHORT = 32


def compare(first: PngFile | JpegFile | TiffFile, second: PngFile | JpegFile | TiffFile) -> list[HeaderChange]:
    """List the differences; a JPEG may become a PNG, and compressed strips of a TIFF other strips of deflate."""
    changes = list(_compare_grid(first, second))
    if isinstance(first, PngFile) and isinstance(second, PngFile):
        changes += _compare_png(first, second)
    elif isinstance(first, TiffFile) and isinstance(second, TiffFile):
        changes += _compare_tiff(first, second)
    elif isinstance(first, JpegFile):
        changes += _compare_jpeg(first, second)
    else:
        changes.append(_change("(format)", _name(first), _name(second)))
    return changes


def _name(file: PngFile | JpegFile | TiffFile) -> str:
    return type(file).__name__.removesuffix("File").upper()


def _change(name: str, original: object, other: object, *, allowed: bool = False) -> HeaderChange:
    words = [value[:_SHORT].hex() if isinstance(value, bytes) else str(value)[:64] for value in (original, other)]
    return HeaderChange(name=name, original=words[0], other=words[1], allowed=allowed)


def _compare_grid(
    first: PngFile | JpegFile | TiffFile, second: PngFile | JpegFile | TiffFile
) -> Iterator[HeaderChange]:
    facts = [(file.raster.stored.shape, str(file.raster.stored.dtype)) for file in (first, second)]
    if facts[0] != facts[1]:
        yield _change("(shape and type)", *facts)


def _compare_png(first: PngFile, second: PngFile) -> Iterator[HeaderChange]:
    chunks = [
        [chunk for index, chunk in enumerate(file.chunks) if chunk.kind != b"IDAT" or _begins(file, index)]
        for file in (first, second)
    ]
    if all(map(png.is_kept, chunks[1])):
        for chunk in chunks[0]:
            if not png.is_kept(chunk):
                yield _change(chunk.kind.decode("latin-1"), chunk.data, b"", allowed=True)
        chunks[0] = list(filter(png.is_kept, chunks[0]))
    for pair in zip_longest(*chunks):
        old, new = [(chunk.kind, chunk.data) if chunk else (b"", b"") for chunk in pair]
        if old != new and not old[0] == new[0] == b"IDAT":
            removed = old[0] == new[0] == b"eXIf" and new[1] == without_preview(old[1])
            yield _change((old[0] or new[0]).decode("latin-1"), old[1], new[1], allowed=removed)
    before, after = (
        file.pixels[..., -1:] if file.pixels.shape[-1] in (2, 4) else file.pixels[..., :0] for file in (first, second)
    )
    if not np.array_equal(before, after):
        yield _change("(alpha)", before.shape, after.shape)
    if first.tail != second.tail:
        yield _change(
            "(bytes after the picture)", first.tail, second.tail, allowed=second.tail == png.kept_tail(first.tail)
        )


def _begins(file: PngFile, index: int) -> bool:
    """Say whether a chunk is the first of its run."""
    return file.chunks[index - 1].kind != file.chunks[index].kind


def _compare_jpeg(first: JpegFile, second: PngFile | JpegFile | TiffFile) -> Iterator[HeaderChange]:
    """Compare a JPEG with another, or with the PNG that it became."""
    if isinstance(second, JpegFile):
        for before, after in zip_longest(first.segments, second.segments):
            if before != after and (before or after)[0] & 0xF0 in (0xE0, 0xF0):
                yield _change(f"(segment {(before or after)[0]:X})", before and before[1], after and after[1])
        return
    yield _change("(format)", "JPEG", _name(second), allowed=isinstance(second, PngFile))
    if not isinstance(second, PngFile):
        return
    for name in first.lost:
        yield _change(f"(segment {name})", "present", "", allowed=True)
    data = {chunk.kind: chunk.data for chunk in second.chunks}
    for name, before, after in (
        ("(EXIF)", without_preview(first.exif), data.get(b"eXIf", b"")),
        ("(ICC profile)", first.profile, png.profile(second.chunks)),
        ("(density)", first.density, data.get(b"pHYs", b"")),
        (
            "(other chunks)",
            b"",
            b" ".join(kind for kind in data if kind not in (b"IHDR", b"pHYs", b"iCCP", b"eXIf", b"IDAT", b"IEND")),
        ),
        ("(bytes after the picture)", b"", second.tail),
    ):
        if before != after:
            yield _change(name, before, after)


def _compare_tiff(first: TiffFile, second: TiffFile) -> Iterator[HeaderChange]:
    if first.order != second.order:
        yield _change("(byte order)", first.order, second.order)
        return
    renewed = first.compression != tiff_directory.NONE and second.compression == tiff_directory.DEFLATE
    for tag in sorted(first.entries.keys() | second.entries.keys()):
        before, after = first.entries.get(tag), second.entries.get(tag)
        facts = [entry and (entry.type, entry.count, entry.data) for entry in (before, after)]
        if facts[0] != facts[1]:
            alike = (
                before is not None
                and after is not None
                and (before.type, before.count, before.place) == (after.type, after.count, after.place)
            )
            yield _change(
                f"(tag {tag})",
                before and before.data,
                after and after.data,
                allowed=tag in tiff.RENEWED and renewed and alike,
            )
    rests = [_rest(file, first, second) for file in (first, second)]
    length = max(map(len, rests))
    if rests[0].ljust(length, b"\0") != rests[1].ljust(length, b"\0"):
        yield _change("(bytes outside the strips)", f"{len(rests[0])} bytes", f"{len(rests[1])} bytes")


def _rest(file: TiffFile, *both: TiffFile) -> bytes:
    """Give a file's bytes with zeros for the strips of both files and for the values that may be renewed."""
    rest = bytearray(file.raster.raw)
    parts = [(start, size) for other in both for start, size, _ in other.strips]
    parts += [
        (entry.place, len(entry.data)) for other in both for tag, entry in other.entries.items() if tag in tiff.RENEWED
    ]
    for start, size in parts:
        if start < len(rest):
            rest[start : start + size] = bytes(min(size, len(rest) - start))
    return bytes(rest)
