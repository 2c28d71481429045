# SPDX-License-Identifier: Apache-2.0
"""Data elements as the bytes of the file (PS3.5 7), so that what is not changed is written back byte for byte.

Libraries that decode a file and encode it again drop retired elements, change length forms or repair values. Here an
element keeps its bytes; only those that a derived image must change are encoded anew, in the encoding of their place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from monai_salm.errors import RefusedError

ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF
_MAX_DEPTH = 32


class MoreNeededError(Exception):
    """The window on the file ends inside an element; read more of the file and try again."""


@dataclass(frozen=True)
class Encoding:
    """How elements are encoded: by the transfer syntax, or Implicit VR Little Endian inside UN (PS3.5 6.2.2)."""

    explicit: bool
    little: bool

    @property
    def order(self) -> str:
        """Byte order in the notation of :mod:`struct`."""
        return "<" if self.little else ">"


IMPLICIT_LITTLE = Encoding(explicit=False, little=True)
EXPLICIT_LITTLE = Encoding(explicit=True, little=True)
EXPLICIT_BIG = Encoding(explicit=True, little=False)


@dataclass(frozen=True, kw_only=True)
class Element:
    """One data element.

    Args:
        tag: group in the upper, element in the lower 16 bits.
        vr: value representation as written; for implicit VR that of the dictionary, "UN" where unknown.
        encoding: how the element itself is encoded.
        raw: its bytes, from the tag to the last byte of the value or of the delimiter.
        value: its value field, without delimiter.
        undefined: whether its length is undefined.
        size: length of the value field, which of the pixel data may lie beyond ``value`` in a window.
    """

    tag: int
    vr: str
    encoding: Encoding
    raw: memoryview
    value: memoryview
    undefined: bool
    size: int

    @property
    def name(self) -> str:
        """Keyword, or ``(gggg,eeee)`` of a private or unknown element."""
        return keyword_for_tag(self.tag) or tag_text(self.tag)

    def items(self, depth: int = 0) -> list[Item] | None:
        """Give the items of a sequence; None if this is none.

        Private sequences in implicit VR and sequences written as UN are only known by their looks: those that parse
        to the last byte are taken for sequences.

        Raises:
            RefusedError: a sequence that cannot be parsed.
        """
        if self.tag == PIXEL_DATA:
            return None
        inner = IMPLICIT_LITTLE if self.vr == "UN" else self.encoding
        public = _dictionary_vr(self.tag) if self.vr == "UN" else self.vr
        if self.vr == "SQ" or self.undefined:
            return list(_read_items(self.value, inner, depth))
        if public in ("SQ", "UN") and bytes(self.value[:4]) == _tag_bytes(ITEM, inner):
            try:
                items = list(_read_items(self.value, inner, depth))
                for item in items:
                    item.elements(depth + 1)
            except RefusedError:
                return None
            return items
        return None

    def with_value(self, value: bytes) -> bytes:
        """Encode this element with another value and its old VR, padded to even length (PS3.5 7.1)."""
        return encode(self.tag, self.vr, value, self.encoding)

    def with_items(self, items: Sequence[bytes | memoryview]) -> bytes:
        """Encode this sequence with other items, in its old length form."""
        content = b"".join(items)
        if not self.undefined:
            return _header(self.tag, self.vr, len(content), self.encoding) + content
        inner = IMPLICIT_LITTLE if self.vr == "UN" else self.encoding
        end = _tag_bytes(SEQUENCE_END, inner) + bytes(4)
        return _header(self.tag, self.vr, UNDEFINED, self.encoding) + content + end


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item of a sequence: its bytes with tag and delimiter, and its content without."""

    encoding: Encoding
    raw: memoryview
    content: memoryview
    undefined: bool

    def elements(self, depth: int = 1) -> list[Element]:
        """Parse the content.

        Raises:
            RefusedError: it cannot be parsed.
        """
        return list(read_elements(self.content, self.encoding, depth=depth))

    def with_content(self, content: bytes) -> bytes:
        """Encode this item with another content, in its old length form."""
        if not self.undefined:
            return encode_item(content, self.encoding)
        start = _tag_bytes(ITEM, self.encoding) + struct.pack(self.encoding.order + "I", UNDEFINED)
        return start + content + _tag_bytes(ITEM_END, self.encoding) + bytes(4)


def tag_text(tag: int) -> str:
    """Write a tag as ``(gggg,eeee)``."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def read_elements(view: memoryview, encoding: Encoding, *, start: int = 0, total: int | None = None, depth: int = 0) -> Iterator[Element]:
    """Parse elements one after the other, not into sequences.

    Args:
        view: the bytes, or the first of them.
        encoding: how they are encoded.
        start: where to start.
        total: length of all the bytes where ``view`` is a window that may end before. Of an element that is cut
            by the window the pixel data is given without its value, and is the last.
        depth: how many sequences are around.

    Raises:
        RefusedError: an element is cut or malformed.
        MoreNeededError: an element is cut by the window only.
    """
    end = len(view) if total is None else total
    offset = start
    while offset < end:
        element = _read_element(view, offset, end, encoding, depth)
        yield element
        if element.size > len(element.value):
            return
        offset += len(element.raw)


def encode(tag: int, vr: str, value: bytes, encoding: Encoding) -> bytes:
    """Encode an element that is no sequence of undefined length; an odd value gets its pad byte (PS3.5 6.2)."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "UN", "OB") else b" "
    return _header(tag, vr, len(value), encoding) + value


def encode_item(content: bytes, encoding: Encoding) -> bytes:
    """Encode an item of defined length."""
    return _tag_bytes(ITEM, encoding) + struct.pack(encoding.order + "I", len(content)) + content


def _read_element(view: memoryview, offset: int, end: int, encoding: Encoding, depth: int) -> Element:
    tag = _read_tag(view, offset, end, encoding)
    vr, length, head = _read_vr_and_length(view, offset, end, encoding, tag)
    first = offset + head
    if length == UNDEFINED and tag == PIXEL_DATA and depth == 0:
        # Encapsulated frames (PS3.5 A.4) are for a reader of compressed images; nothing behind them is looked at.
        nothing = view[first:first]
        return Element(tag=tag, vr=vr, encoding=encoding, raw=nothing, value=nothing, undefined=True, size=UNDEFINED)
    if length == UNDEFINED:
        inner = IMPLICIT_LITTLE if vr == "UN" else encoding
        last = _skip_items(view, first, end, inner, depth + 1)
        return Element(
            tag=tag,
            vr=vr,
            encoding=encoding,
            raw=view[offset:last],
            value=view[first : last - 8],
            undefined=True,
            size=last - 8 - first,
        )
    last = first + length
    if last > end:
        raise RefusedError(
            f"truncated: {keyword_for_tag(tag) or tag_text(tag)} should have {length} bytes, {end - first} are left; get a complete copy of the file"
        )
    if last > len(view) and (tag != PIXEL_DATA or depth > 0):
        raise MoreNeededError
    return Element(
        tag=tag,
        vr=vr,
        encoding=encoding,
        raw=view[offset:last],
        value=view[first:last],
        undefined=False,
        size=length,
    )


def _read_vr_and_length(view: memoryview, offset: int, end: int, encoding: Encoding, tag: int) -> tuple[str, int, int]:
    """Give VR, length and length of the element's head (PS3.5 7.1.2, 7.1.3)."""
    if not encoding.explicit:
        return _dictionary_vr(tag), _read_number(view, offset + 4, end, encoding), 8
    _need(view, offset + 8, end)
    letters = bytes(view[offset + 4 : offset + 6])
    if not (letters.isalpha() and letters.isupper()):
        raise RefusedError(
            f"{tag_text(tag)} has the value representation {letters!r}, which is none (PS3.5 6.2); repair the file first, for example with dcmconv"
        )
    vr = letters.decode("ascii")
    if vr in EXPLICIT_VR_LENGTH_32:
        return vr, _read_number(view, offset + 8, end, encoding), 12
    (length,) = struct.unpack_from(encoding.order + "H", view, offset + 6)
    return vr, length, 8


def _skip_items(view: memoryview, offset: int, end: int, encoding: Encoding, depth: int) -> int:
    """Give the offset after the delimiter of a sequence of undefined length (PS3.5 7.5.2)."""
    _check_depth(depth)
    while True:
        tag = _read_tag(view, offset, end, encoding)
        length = _read_number(view, offset + 4, end, encoding)
        offset += 8
        if tag == SEQUENCE_END:
            return offset
        if tag != ITEM:
            raise RefusedError(f"malformed: {tag_text(tag)} stands where an item of a sequence should (PS3.5 7.5)")
        if length == UNDEFINED:
            offset = _skip_item(view, offset, end, encoding, depth)
        else:
            offset += length
            if offset > end:
                raise RefusedError(f"truncated: an item of {length} bytes runs over the end of the file")


def _skip_item(view: memoryview, offset: int, end: int, encoding: Encoding, depth: int) -> int:
    """Give the offset after the delimiter of an item of undefined length."""
    while True:
        if _read_tag(view, offset, end, encoding) == ITEM_END:
            _need(view, offset + 8, end)
            return offset + 8
        offset += len(_read_element(view, offset, end, encoding, depth).raw)


def _read_items(view: memoryview, encoding: Encoding, depth: int) -> Iterator[Item]:
    _check_depth(depth)
    offset, end = 0, len(view)
    while offset < end:
        tag = _read_tag(view, offset, end, encoding)
        length = _read_number(view, offset + 4, end, encoding)
        first = offset + 8
        if tag == SEQUENCE_END and length == 0 and first == end:
            return
        if tag != ITEM:
            raise RefusedError(f"malformed: {tag_text(tag)} stands where an item of a sequence should (PS3.5 7.5)")
        undefined = length == UNDEFINED
        last = _skip_item(view, first, end, encoding, depth + 1) if undefined else first + length
        if last > end:
            raise RefusedError(f"malformed: an item of {length} bytes runs over the end of its sequence")
        content = view[first : last - 8] if undefined else view[first:last]
        yield Item(encoding=encoding, raw=view[offset:last], content=content, undefined=undefined)
        offset = last


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise RefusedError(f"sequences are nested more than {_MAX_DEPTH} deep")


def _need(view: memoryview, last: int, end: int) -> None:
    if last > end:
        raise RefusedError("truncated: the file ends inside the head of an element; get a complete copy of the file")
    if last > len(view):
        raise MoreNeededError


def _read_tag(view: memoryview, offset: int, end: int, encoding: Encoding) -> int:
    _need(view, offset + 4, end)
    group, element = struct.unpack_from(encoding.order + "HH", view, offset)
    return int(group) << 16 | int(element)


def _read_number(view: memoryview, offset: int, end: int, encoding: Encoding) -> int:
    _need(view, offset + 4, end)
    return int(struct.unpack_from(encoding.order + "I", view, offset)[0])


def _dictionary_vr(tag: int) -> str:
    """VR of a public element, "UN" of others; of several possible ones ("US or SS") the first."""
    if tag & 0xFFFF == 0:
        return "UL"
    if tag >> 16 & 1 or not dictionary_has_tag(tag):
        return "UN"
    return dictionary_VR(tag)[:2]


def _tag_bytes(tag: int, encoding: Encoding) -> bytes:
    return struct.pack(encoding.order + "HH", tag >> 16, tag & 0xFFFF)


def _header(tag: int, vr: str, length: int, encoding: Encoding) -> bytes:
    start = _tag_bytes(tag, encoding)
    if not encoding.explicit:
        return start + struct.pack(encoding.order + "I", length)
    if vr in EXPLICIT_VR_LENGTH_32:
        return start + vr.encode("ascii") + bytes(2) + struct.pack(encoding.order + "I", length)
    return start + vr.encode("ascii") + struct.pack(encoding.order + "H", length)
