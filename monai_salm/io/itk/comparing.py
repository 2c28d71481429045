# SPDX-License-Identifier: Apache-2.0
"""Every difference of two NRRD or MetaImage files outside the voxels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from monai_salm.io.base import HeaderChange, SourceImage
from monai_salm.io.itk.files import Content, find_layout, read_content, sniff, written_layout
from monai_salm.io.itk.packing import gzip_head
from monai_salm.io.origins import Buffer

_GZIP = b"\x1f\x8b"
_RENEWED = "CompressedDataSize"


def compare_headers(original: Path, other: Path) -> list[HeaderChange]:
    """List every difference outside the voxels; the size of the stream in a compressed MetaImage is the only one
    allowed.

    Args:
        original: an image, or the header of a detached one.
        other: the same; voxels that no header beside them names are read by the original's.

    Raises:
        RefusedError: one of the files cannot be read.
    """
    first = read_content(find_layout(original))
    second = read_content(find_layout(other) if sniff(other) else written_layout(original, other))
    return _compare(first, second)


def compare_sources(original: SourceImage, other: SourceImage) -> list[HeaderChange]:
    """List the same of two images as they were read."""
    first, second = original.kept(Content), other.kept(Content)
    if first is None or second is None:
        return compare_headers(original.header.path, other.header.path)
    return _compare(first, second)


def kept_bytes(source: SourceImage) -> Buffer | None:
    """Give the bytes of the file that an image was read from; None of one whose header is another file."""
    kept = source.kept(Content)
    return None if kept is None or kept.layout.detached else kept.raw


def _compare(first: Content, second: Content) -> list[HeaderChange]:
    changes = _lines(first, second)
    parts: dict[str, Callable[[Content], bytes]] = {
        "(bytes before the voxels)": lambda content: content.beside[0],
        "(bytes after the voxels)": lambda content: content.beside[1],
        "(gzip header)": _gzip_head,
    }
    for name, part in parts.items():
        if part(first) != part(second):
            changes.append(
                HeaderChange(name=name, original=part(first)[:32].hex(), other=part(second)[:32].hex(), allowed=False)
            )
    return changes


def _lines(first: Content, second: Content) -> list[HeaderChange]:
    """Compare the headers line by line."""
    before, after = dict(first.layout.fields), dict(second.layout.fields)
    changes = [
        HeaderChange(
            name=name,
            original=before.get(name, "")[:64],
            other=after.get(name, "")[:64],
            allowed=_is_renewed(name, first, second),
        )
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
    if not changes and first.layout.text != second.layout.text:
        changes.append(
            HeaderChange(name="(comments, order or line ends of the header)", original="", other="", allowed=False)
        )
    return changes


def _is_renewed(name: str, first: Content, second: Content) -> bool:
    """Say whether a line is the size of a stream, is there in both files, and says the truth in the second."""
    sizes = [content.layout.packed_size for content in (first, second)]
    texts = [
        content.layout.text[: content.layout.packed_span[0]] + content.layout.text[content.layout.packed_span[1] :]
        for content in (first, second)
    ]
    return name == _RENEWED and None not in sizes and texts[0] == texts[1]


def _gzip_head(content: Content) -> bytes:
    stream = bytes(content.raw[content.start : content.end])
    return gzip_head(stream) if content.layout.packing and stream.startswith(_GZIP) else b""
