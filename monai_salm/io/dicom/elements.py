# SPDX-License-Identifier: Apache-2.0
"""Data elements as the bytes of the file (PS3.5 7), so that what is not changed is written back byte for byte.

Libraries that decode a file and encode it again drop retired elements, change length forms or repair values. Here an
element keeps its bytes; only those that a derived image must change are encoded anew, in the encoding of their place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, STANDARD_VR

from monai_salm.errors import RefusedError

ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF
_MAX_DEPTH = 64
_EXPLICIT = {order: struct.Struct(f"{order}HH2sH") for order in "<>"}
_NUMBER = {order: struct.Struct(f"{order}I") for order in "<>"}
_VRS: Mapping[bytes, tuple[str, bool]] = {
    str(vr).encode("ascii"): (str(vr), vr in EXPLICIT_VR_LENGTH_32) for vr in STANDARD_VR
}
"""Value representations by their two bytes, and whether four bytes of length follow two of none (PS3.5 7.1.2)."""


@dataclass(frozen=True)
class Encoding:
    """How elements are encoded: by the transfer syntax, or Implicit VR Little Endian inside UN (PS3.5 6.2.2)."""

    explicit: bool
    little: bool

    @cached_property
    def order(self) -> str:
        """Byte order in the notation of :mod:`struct`."""
        return "<" if self.little else ">"


IMPLICIT_LITTLE = Encoding(explicit=False, little=True)
EXPLICIT_LITTLE = Encoding(explicit=True, little=True)
EXPLICIT_BIG = Encoding(explicit=True, little=False)


@dataclass(kw_only=True, slots=True)  # a frozen one takes five times as long to make, and a file has hundreds
class Element:
    """One data element, which nobody changes.

    Args:
        tag: group in the upper, element in the lower 16 bits.
        vr: value representation as written; for implicit VR that of the dictionary, "UN" where unknown.
        encoding: how the element itself is encoded.
        raw: its bytes, from the tag to the last byte of the value or of the delimiter.
        value: its value field, without delimiter.
        undefined: whether its length is undefined; of pixel data that it is encapsulated (PS3.5 A.4).
        parsed: items of a sequence, kept once they were parsed; where its length is undefined that is at once, for its
            end is not found otherwise.
        unread: bytes of the value field that were left in the file, which is all of them or none; ``raw`` and ``value``
            are without them.
    """

    tag: int
    vr: str
    encoding: Encoding
    raw: memoryview
    value: memoryview
    undefined: bool
    parsed: tuple[Item, ...] | None = field(default=None, repr=False, compare=False)
    unread: int = 0

    @property
    def size(self) -> int:
        """Length of the value field."""
        return len(self.value) + self.unread

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
        if self.tag == PIXEL_DATA or not (self.undefined or self.vr in ("SQ", "UN")):
            return None
        inner = IMPLICIT_LITTLE if self.vr == "UN" else self.encoding
        public = _dictionary_vr(self.tag) if self.vr == "UN" else self.vr
        if self.parsed is not None:
            return list(self.parsed)
        if self.vr == "SQ":
            return list(self._keep(_read_all_items(self.value, inner, depth)))
        if public in ("SQ", "UN") and bytes(self.value[:4]) == _tag_bytes(ITEM, inner):
            try:
                items = list(_read_all_items(self.value, inner, depth))
                for item in items:
                    item.elements(depth + 1)
            except RefusedError:
                return None
            return list(self._keep(items))
        return None

    def _keep(self, items: Iterable[Item]) -> tuple[Item, ...]:
        self.parsed = tuple(items)  # what the bytes mean does not change, and functional groups are asked for often
        return self.parsed

    def with_items(self, items: Sequence[bytes | memoryview]) -> bytes:
        """Encode this sequence with other items, in its old length form."""
        content = b"".join(items)
        if not self.undefined:
            return _header(self.tag, self.vr, len(content), self.encoding) + content
        inner = IMPLICIT_LITTLE if self.vr == "UN" else self.encoding
        end = _tag_bytes(SEQUENCE_END, inner) + bytes(4)
        return _header(self.tag, self.vr, UNDEFINED, self.encoding) + content + end


@dataclass(kw_only=True, slots=True)
class Item:
    """One item of a sequence: its bytes with tag and delimiter, its content without, and that once it was parsed."""

    encoding: Encoding
    raw: memoryview
    content: memoryview
    undefined: bool
    parsed: tuple[Element, ...] | None = field(default=None, repr=False, compare=False)

    def elements(self, depth: int = 1) -> list[Element]:
        """Parse the content.

        Raises:
            RefusedError: it cannot be parsed.
        """
        if self.parsed is None:
            self.parsed = tuple(read_elements(self.content, self.encoding, depth=depth))
        return list(self.parsed)

    def with_content(self, content: bytes) -> bytes:
        """Encode this item with another content, in its old length form."""
        if not self.undefined:
            return encode_item(content, self.encoding)
        start = _tag_bytes(ITEM, self.encoding) + struct.pack(self.encoding.order + "I", UNDEFINED)
        return start + content + _tag_bytes(ITEM_END, self.encoding) + bytes(4)


def tag_text(tag: int) -> str:
    """Write a tag as ``(gggg,eeee)``."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def read_elements(view: memoryview, encoding: Encoding, *, start: int = 0, depth: int = 0) -> Iterator[Element]:
    """Parse elements one after the other, not into sequences.

    Args:
        view: the bytes.
        encoding: how they are encoded.
        start: where to start.
        depth: how many sequences are around.

    Raises:
        RefusedError: an element is cut or malformed.
    """
    offset = start
    while offset < len(view):
        element = _read_element(view, offset, encoding, depth)
        yield element
        offset += len(element.raw)


def encode(tag: int, vr: str, value: bytes, encoding: Encoding) -> bytes:
    """Encode an element that is no sequence of undefined length; an odd value gets its pad byte (PS3.5 6.2)."""
    if len(value) % 2:
        value += b"\0" if vr in ("UI", "UN", "OB") else b" "
    return _header(tag, vr, len(value), encoding) + value


def encode_item(content: bytes, encoding: Encoding) -> bytes:
    """Encode an item of defined length."""
    return _tag_bytes(ITEM, encoding) + struct.pack(encoding.order + "I", len(content)) + content


def encode_fragments(value: bytes) -> bytes:
    """Encode encapsulated pixel data around its items (PS3.5 A.4); compressed transfer syntaxes are Explicit VR Little
    Endian.
    """
    return (
        _header(PIXEL_DATA, "OB", UNDEFINED, EXPLICIT_LITTLE)
        + value
        + _tag_bytes(SEQUENCE_END, EXPLICIT_LITTLE)
        + bytes(4)
    )


def _read_element(view: memoryview, offset: int, encoding: Encoding, depth: int) -> Element:
    tag, vr, length, head = read_head(view, offset, encoding)
    first = offset + head
    if length == UNDEFINED:
        items = None
        if tag == PIXEL_DATA and depth == 0:
            last = _skip_fragments(view, first, encoding)
        else:
            items, last = _read_items(view, first, IMPLICIT_LITTLE if vr == "UN" else encoding, depth + 1)
        return Element(
            tag=tag,
            vr=vr,
            encoding=encoding,
            raw=view[offset:last],
            value=view[first : last - 8],
            undefined=True,
            parsed=items,
        )
    last = first + length
    if last > len(view):
        raise RefusedError(
            f"truncated: {keyword_for_tag(tag) or tag_text(tag)} should have {length} bytes, {len(view) - first} "
            "are left; get a complete copy of the file"
        )
    return Element(tag=tag, vr=vr, encoding=encoding, raw=view[offset:last], value=view[first:last], undefined=False)


def read_head(view: memoryview, offset: int, encoding: Encoding) -> tuple[int, str, int, int]:
    """Give tag, VR, length of the value and length of the element's head (PS3.5 7.1.2, 7.1.3).

    Raises:
        RefusedError: the bytes end within it, or it has no VR of the standard where it should.
    """
    if not encoding.explicit:
        tag = _read_tag(view, offset, encoding)
        return tag, _dictionary_vr(tag), _read_number(view, offset + 4, encoding), 8
    order = encoding.order
    if offset + 8 > len(view):
        _need(view, offset + 4)
        _need(view, offset + 8)
    group, number, written, length = _EXPLICIT[order].unpack_from(view, offset)
    tag = group << 16 | number
    known = _VRS.get(written)
    if known is None:
        vr = written.decode("latin-1")
        shown = (
            vr
            if vr.isascii() and vr.isprintable() and vr.strip()
            else f"in hexadecimal {vr.encode('latin-1').hex(' ')}"
        )
        right = _dictionary_vr(tag)
        raise RefusedError(
            f"the value representation of {keyword_for_tag(tag) or 'the element'} {tag_text(tag)} is {shown}, "
            "which is none (PS3.5 6.2), so readers guess "
            f"where the element ends; {f'correct it to {right}, or ' if right != 'UN' else ''}let the software "
            "that wrote the file write it again"
        )
    vr, is_long = known
    if not is_long:
        return tag, vr, length, 8
    if offset + 12 > len(view):
        _need(view, offset + 12)
    return tag, vr, _NUMBER[order].unpack_from(view, offset + 8)[0], 12


def _skip_fragments(view: memoryview, offset: int, encoding: Encoding) -> int:
    """Give the offset after the delimiter of encapsulated pixel data: fragments, which hold no elements (PS3.5 A.4)."""
    while True:
        tag, length = _read_tag(view, offset, encoding), _read_number(view, offset + 4, encoding)
        offset += 8
        if tag == SEQUENCE_END:
            return offset
        if tag != ITEM:
            raise RefusedError(
                f"malformed: {tag_text(tag)} stands where a fragment of the pixel data should (PS3.5 A.4)"
            )
        offset += length
        if offset > len(view):
            raise RefusedError(
                f"truncated: a fragment of the pixel data of {length} bytes runs over the end of the file; get a "
                "complete copy of the file"
            )


def _read_items(view: memoryview, offset: int, encoding: Encoding, depth: int) -> tuple[tuple[Item, ...], int]:
    """Parse the items of a sequence of undefined length; give them and the offset after its delimiter (PS3.5 7.5.2)."""
    _check_depth(depth)
    items = []
    while _read_tag(view, offset, encoding) != SEQUENCE_END:
        items.append(_read_item(view, offset, encoding, depth))
        offset += len(items[-1].raw)
    _need(view, offset + 8)
    return tuple(items), offset + 8


def _read_all_items(view: memoryview, encoding: Encoding, depth: int) -> Iterator[Item]:
    """Parse the items of a sequence of defined length, which may end with a delimiter all the same."""
    _check_depth(depth)
    offset, end = 0, len(view)
    while offset < end:
        if (
            offset + 8 == end
            and _read_tag(view, offset, encoding) == SEQUENCE_END
            and _read_number(view, offset + 4, encoding) == 0
        ):
            return
        item = _read_item(view, offset, encoding, depth)
        yield item
        offset += len(item.raw)


def _read_item(view: memoryview, offset: int, encoding: Encoding, depth: int) -> Item:
    _need(view, offset + 8)
    group, element, length = struct.unpack_from(encoding.order + "HHI", view, offset)
    if (tag := group << 16 | element) != ITEM:
        raise RefusedError(f"malformed: {tag_text(tag)} stands where an item of a sequence should (PS3.5 7.5)")
    first = offset + 8
    if length != UNDEFINED:
        last = first + length
        if last > len(view):
            raise RefusedError(
                f"truncated: an item of {length} bytes runs over the end of the file or of its sequence; get a "
                "complete copy of the file"
            )
        return Item(encoding=encoding, raw=view[offset:last], content=view[first:last], undefined=False)
    elements, last = [], first
    while _read_tag(view, last, encoding) != ITEM_END:
        elements.append(_read_element(view, last, encoding, depth))
        last += len(elements[-1].raw)
    _need(view, last + 8)
    return Item(
        encoding=encoding, raw=view[offset : last + 8], content=view[first:last], undefined=True, parsed=tuple(elements)
    )


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise RefusedError(f"sequences are nested more than {_MAX_DEPTH} deep; repair the file first")


def _need(view: memoryview, last: int) -> None:
    if last > len(view):
        raise RefusedError("truncated: the file ends inside the head of an element; get a complete copy of the file")


def _read_tag(view: memoryview, offset: int, encoding: Encoding) -> int:
    _need(view, offset + 4)
    group, element = struct.unpack_from(encoding.order + "HH", view, offset)
    return int(group) << 16 | int(element)


def _read_number(view: memoryview, offset: int, encoding: Encoding) -> int:
    _need(view, offset + 4)
    return int(struct.unpack_from(encoding.order + "I", view, offset)[0])


@lru_cache(maxsize=1 << 14)
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
