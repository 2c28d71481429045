# SPDX-License-Identifier: Apache-2.0
"""How files begin that hold images or can: the one list of it, and how such beginnings are told amid other bytes."""

from __future__ import annotations

import re
from enum import Flag, auto
from typing import NamedTuple


class Use(Flag):
    """Where a signature is looked for.

    Attributes:
        FILE: at the beginning of a file that no module for images reads.
        TEXT: at the beginning of what is encoded in text, where there are many beginnings.
        VALUE: at the beginning of what a file of an image, or a PDF, holds besides.
    """

    FILE = auto()
    TEXT = auto()
    VALUE = auto()


class Signature(NamedTuple):
    """First bytes of a format.

    Args:
        place: of the bytes.
        first: the bytes.
        name: of the format, with an article.
        use: where it is looked for.
    """

    place: int
    first: bytes
    name: str
    use: Use


_WITHIN, _PACKED, _ALL = Use.TEXT | Use.VALUE, Use.FILE | Use.TEXT, Use.FILE | Use.TEXT | Use.VALUE
_SIGNATURES = tuple(
    Signature(*row)
    for row in (
        (0, b"\xff\xd8\xff", "a JPEG image", _WITHIN),
        (0, b"\x89PNG\r\n", "a PNG", _WITHIN),
        (0, b"II*\0", "a TIFF", _WITHIN),
        (0, b"MM\0*", "a TIFF", _WITHIN),
        (0, b"II+\0", "a BigTIFF", _WITHIN),
        (0, b"MM\0+", "a BigTIFF", _WITHIN),
        (128, b"DICM", "a DICOM file", _WITHIN),
        (0, b"GIF8", "a GIF", _ALL),
        (8, b"WEBP", "a WebP image", _ALL),
        (8, b"AVI ", "an AVI video", _ALL),
        (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image", _ALL),
        (0, b"\0\0\0\x0cJXL ", "a JPEG XL image", _ALL),
        (0, b"\xff\x0a", "a JPEG XL image", Use.FILE),
        (0, b"\xff\x4f\xff\x51", "a JPEG 2000 codestream", _ALL),
        (4, b"ftypavif", "an AVIF image", _ALL),
        (4, b"ftyphei", "a HEIF image", _ALL),
        (4, b"ftypmif1", "a HEIF image", _ALL),
        (4, b"ftyp", "an MP4 video", _ALL),
        (4, b"moov", "a QuickTime video", _ALL),
        (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video", _ALL),
        (0, b"OggS", "an Ogg stream", _ALL),
        (0, b"\0\0\1\xba", "an MPEG video", Use.FILE | Use.VALUE),
        (0, b"\0\0\1\xb3", "an MPEG video", Use.FILE | Use.VALUE),
        (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media video", _ALL),
        (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (MINC 2, MATLAB 7.3 or another)", _PACKED),
        (0, b"CDF\1", "a NetCDF file (MINC 1 or another)", _PACKED),
        (0, b"CDF\2", "a NetCDF file (MINC 1 or another)", _PACKED),
        (0, b"CDF\5", "a NetCDF file (MINC 1 or another)", _PACKED),
        (0, b"\x93NUMPY", "a NumPy array", _PACKED),
        (0, b"MATLAB 5.0 MAT-file", "a MATLAB file", _PACKED),
        (0, b"\x5c\1\0\0", "an Analyze or NIfTI image", Use.TEXT),
        (0, b"\0\0\1\x5c", "an Analyze or NIfTI image", Use.TEXT),
        (0, b"\x1c\2\0\0", "a NIfTI-2 image", Use.TEXT),
        (0, b"NRRD000", "an NRRD image", Use.TEXT),
        (0, b"ObjectType", "a MetaImage", Use.TEXT),
        (0, b"PK\3\4", "a zip file", Use.TEXT),
        (0, b"%PDF", "a PDF", Use.TEXT),
        (0, b"\x1f\x8b", "a gzip file", Use.FILE),
        (0, b"\x1f\x8b\x08", "a gzip file", Use.TEXT),
        (0, b"BZh", "a bzip2 file", _PACKED),
        (0, b"\xfd7zXZ\0", "an xz file", _PACKED),
        (0, b"\x28\xb5\x2f\xfd", "a Zstandard file", _PACKED),
        (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _PACKED),
        (0, b"Rar!\x1a\7", "a RAR archive", _PACKED),
        (257, b"ustar", "a tar archive", _PACKED),
        (0, b"8BPS", "a Photoshop image", _ALL),
        (0, b"\0\0\1\0", "an icon", Use.FILE),
        (0, b"SQLite format 3\0", "an SQLite database", _PACKED),
        (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office file", _PACKED),
        (0, b"%!PS", "PostScript", Use.FILE),
        (0, b"{\\rtf", "rich text", Use.FILE),
        (0, b"SIMPLE  =", "a FITS image", _ALL),
        (0, b"# vtk DataFile", "a VTK file", _PACKED),
        # BMP, whose own two letters are too few to know it by.
        (6, b"\0\0\0\0\x36\0\0\0\x28\0", "a BMP image", _WITHIN),
        (6, b"\0\0\0\0\x36\4\0\0\x28\0", "a BMP image", _WITHIN),
    )
)
_HEAD = 512

_IN_METADATA = re.compile(
    rb"\xff\xd8\xff[\xc0-\xcf\xdb\xdd\xe0-\xef\xf7\xfe]|\x89PNG\r\n\x1a\n|GIF8[79]a|\0\0\0\x0cjP  "
    rb"|\xff\x4f\xff\x51\0|WEBPVP8|\0\0\0.ftyp|\0\0DICM|\xe0\x7f\x10\0",
    re.DOTALL,
)
"""The last is the tag of DICOM's pixels."""
_IN_BINARY = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        # A JPEG's first segment is one with a name, or tables or a frame, whose lengths are known, or a comment.
        rb"\xff\xd8\xff(?:[\xe0-\xef]..[A-Za-z]{4}|\xdb\0[\x43\x84\xc5]|[\xc0-\xc3\xf7]\0[\x0b\x11]|\xc4\0.[\0\x01\x10\x11]|\xfe\0[\x02-\xff])",
        rb"\x89PNG\r\n\x1a\n",
        rb"GIF8[79]a",
        rb"jP  \r\n\x87\n",
        rb"\xff\x4f\xff\x51\0[\x29-\x7f]",
        rb"WEBPVP8[ LX]",
        rb"ftyp(?:avif|avis|hei[cfsxm]|mif1|msf1|isom|iso\d|mp4\d|avc1|qt  |M4V )",
        rb"II\*\0\x08\0\0\0",
        rb"MM\0\*\0\0\0\x08",
        rb"DICM\x02\0.\0[A-Z]{2}",
    )
)
"""Each of so many bytes that it does not occur by chance, and each with a fixed beginning, which makes
the search fast.
"""


def signatures(use: Use) -> tuple[Signature, ...]:
    """Give the signatures that are looked for at one kind of place, in the order in which they count."""
    return tuple(signature for signature in _SIGNATURES if use in signature.use)


_OF_VALUES = signatures(Use.VALUE)


def begins_picture(data: bytes | memoryview) -> bool:
    """Say whether data begin as an image or video does."""
    head = bytes(data[:_HEAD])
    return any(head.startswith(signature.first, signature.place) for signature in _OF_VALUES)


def picture_within_metadata(data: bytes) -> bool:
    """Say whether an image begins anywhere in data that are few, so that three or four bytes are enough to know one
    by.
    """
    return _IN_METADATA.search(data) is not None


def picture_within_binary(data: bytes | memoryview) -> bool:
    """Say whether an image begins anywhere in data of any size, in which three bytes occur by chance."""
    return any(pattern.search(data) for pattern in _IN_BINARY)
