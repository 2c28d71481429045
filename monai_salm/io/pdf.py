# SPDX-License-Identifier: Apache-2.0
"""Whether a PDF has images in it; a PDF of text and lines has none."""

from __future__ import annotations

import re
import zlib
from base64 import a85decode
from collections.abc import Iterator

from monai_salm.io.leftovers import binary_holds_picture
from monai_salm.io.signatures import begins_picture

PICTURES_IN_PDF = (
    "the PDF has images in it, which are not protected; take it out of what you share, or look at them first"
)
NOT_SEARCHED = (
    "the PDF has parts that cannot be searched for images (encrypted, damaged, or of a rare encoding), which "
    "are not protected; "
    "take it out of what you share, or look at it first"
)
LOOKED_FOR = "no image was found in the PDF, whose lines and text are not looked at"
_MOST_INFLATED = 1 << 26

_BLANKS, _END = rb"(?:[\0\t\n\f\r ]|%[^\r\n]*[\r\n])*", rb"(?![^\0\t\n\f\r ()<>\[\]{}/%])"


def _name(name: str) -> bytes:
    """Give the pattern of a name, of whose letters each may be written in hexadecimal (ISO 32000-1 7.3.5)."""
    return b"/" + b"".join(rb"(?:%c|#(?i:%02x))" % (letter, letter) for letter in name.encode()) + _END


# Image objects (8.9.5), files within the PDF (7.11.4), and images in the midst of a page's content (8.9.7). Names are
# never encrypted (7.6.1).
_REFERENCE = rb"\d+[\0\t\n\f\r ]+\d+[\0\t\n\f\r ]+R"
_OF_INLINE = (
    "W", "Width", "H", "Height", "BPC", "BitsPerComponent", "CS", "ColorSpace", "F", "Filter", "DP", "DecodeParms", "D",
    "Decode", "IM", "ImageMask",
    "I", "Interpolate", "L", "Length",
)  # fmt: skip
_INLINE = b"|".join(map(_name, _OF_INLINE))
_PICTURE = re.compile(
    _name("Subtype") + _BLANKS + b"(?:" + _name("Image") + b"|" + _REFERENCE + b")"
    b"|" + _name("Type") + _BLANKS + _name("EmbeddedFile") + b"|" + _name("EF")
    + _BLANKS + b"(?:<<|" + _REFERENCE + b")"
    rb"|(?<![^\0\t\n\f\r )>\]}])BI" + _BLANKS + b"(?:" + _INLINE + b")"
)  # fmt: skip
_ENCRYPTED, _PREDICTED, _LINKS = (
    re.compile(pattern) for pattern in (_name("Encrypt"), _name("Predictor") + _BLANKS + rb"(?!1\b)\d", _name("XRef"))
)
_STREAM = re.compile(rb">>" + _BLANKS + rb"stream(?:\r\n|\n|\r)")
_FILTERS = re.compile(_name("Filter") + _BLANKS + rb"(\[[^\]]*\]|/[^\0\t\n\f\r ()<>\[\]{}/%]+|\d)")
_FILTER, _ESCAPE = re.compile(rb"/([^\0\t\n\f\r ()<>\[\]{}/%]+)"), re.compile(rb"#([0-9A-Fa-f]{2})")
_OF_PICTURES = frozenset({b"DCTDecode", b"DCT", b"JPXDecode", b"JBIG2Decode", b"CCITTFaxDecode", b"CCF"})


def unprotected_in(content: bytes) -> str:
    """Say that a PDF has images or files within it, or parts in which they cannot be looked for; empty where it has
    neither.

    Args:
        content: the whole PDF.
    """
    if _PICTURE.search(content) or binary_holds_picture(content, text=False):
        return PICTURES_IN_PDF
    searched = _ENCRYPTED.search(content) is None
    for dictionary, data in _streams(content):
        filters = _filters(dictionary)
        if filters is not None and _OF_PICTURES & set(filters):
            return PICTURES_IN_PDF
        plain = None if filters is None else _decoded(data, filters)
        if plain is None or (_PREDICTED.search(dictionary) and not _LINKS.search(dictionary)):
            searched = False
        elif _PICTURE.search(plain) or begins_picture(plain) or binary_holds_picture(plain):
            return PICTURES_IN_PDF
    return "" if searched else NOT_SEARCHED


def _streams(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give the dictionary and the data of each stream (7.3.8)."""
    end = 0
    while found := _STREAM.search(content, end):
        start = content.rfind(b"obj", end, found.start())
        dictionary = content[max(start, end) : found.start()]
        end = content.find(b"endstream", found.end())
        end = len(content) if end < 0 else end
        yield dictionary, content[found.end() : end]


def _filters(dictionary: bytes) -> list[bytes] | None:
    """Give the filters of a stream by their names; None if they are named elsewhere."""
    found = _FILTERS.search(dictionary)
    names = (
        [_ESCAPE.sub(lambda code: bytes.fromhex(code[1].decode()), name) for name in _FILTER.findall(found[1])]
        if found
        else []
    )
    return names if found is None or names or found[1].startswith(b"[") else None


def _decoded(data: bytes, filters: list[bytes]) -> bytes | None:
    """Undo the filters of a stream (7.4); None where that is not possible, or it is larger than is searched."""
    try:
        for name in filters:
            if name in (b"FlateDecode", b"Fl"):
                inflater = zlib.decompressobj()
                data = inflater.decompress(data, _MOST_INFLATED)
                if inflater.unconsumed_tail:
                    return None
            elif name in (b"ASCII85Decode", b"A85"):
                data = a85decode(data.strip().removeprefix(b"<~").partition(b"~")[0], ignorechars=b"\0\t\n\f\r ")
            elif name in (b"ASCIIHexDecode", b"AHx"):
                digits = b"".join(data.partition(b">")[0].split())
                data = bytes.fromhex((digits + b"0" * (len(digits) % 2)).decode("ascii"))
            else:
                return None
    except (zlib.error, ValueError):
        return None  # the caller says that it was not searched
    return data
