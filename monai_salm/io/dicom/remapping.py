# SPDX-License-Identifier: Apache-2.0
"""Rewriting elements in their place: every UID of a map replaced at any depth, some elements edited, all others byte
for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import PIXEL_DATA, Element, Encoding, encode, read_elements
from monai_salm.io.dicom.files import ascii_values
from monai_salm.io.dicom.uids import UidMap

Bytes = bytes | memoryview

Chunk = tuple[int, Bytes, Bytes]
"""A tag, and the bytes of its element before and after."""

Edit = Callable[[Element | None, Encoding], Bytes]
"""Gives the bytes in place of an element, which may be absent; nothing to remove it."""


ICONS = frozenset({tags.ICON_IMAGE_SEQUENCE})
"""Removed of every file: they show unprotected pixels."""

STALE = ICONS | {tags.MAC_PARAMETERS_SEQUENCE, tags.DIGITAL_SIGNATURES_SEQUENCE}
"""Removed, at any depth, of every file that changes: signatures no longer hold."""


def constant(encoded: bytes | memoryview) -> Edit:
    """Give the edit that puts these bytes in place of an element."""
    return lambda _element, _encoding: encoded


def rewritten(
    elements: Iterable[Element],
    encoding: Encoding,
    uid_map: UidMap,
    edits: Mapping[int, Edit],
    removed: frozenset[int] = STALE,
) -> list[Bytes]:
    """Apply the UID map at any depth and the edits at this one; new elements go to their place in tag order.

    Args:
        elements: of the dataset or item.
        encoding: theirs.
        uid_map: from old to new UIDs.
        edits: by tag.
        removed: tags of elements that are left out at any depth.
    """
    chunks: list[Chunk] = []
    left = dict(edits)
    for element in elements:
        after = remapped(element, uid_map, removed)
        left.pop(element.tag, None)
        edit = edits.get(element.tag)  # also of one that is there twice, with the same bytes
        if edit is not None:
            mapped = element if after is element.raw else _parsed(after, element.encoding)
            after = edit(mapped, encoding)
        chunks.append((element.tag, element.raw, after))
    for tag, edit in sorted(left.items()):
        after = edit(None, encoding)
        place = next((i for i, chunk in enumerate(chunks) if chunk[0] > tag), len(chunks))
        chunks.insert(place, (tag, b"", after))
    return without_stale_lengths(chunks)


def without_stale_lengths(chunks: list[Chunk]) -> list[Bytes]:
    """Drop the retired lengths (PS3.5 7.2: group length; Length to End) of groups that changed, which are now wrong."""
    groups = {tag >> 16 for tag, before, after in chunks if len(before) != len(after)}
    stale = {group << 16 for group in groups} | ({tags.LENGTH_TO_END} if groups else set())
    return [after for tag, _, after in chunks if tag not in stale]


def remapped(element: Element, uid_map: UidMap, removed: frozenset[int] = STALE, depth: int = 0) -> Bytes:
    """Give the element with every UID of the map replaced at any depth, and without those to be removed."""
    if element.tag in removed:
        return b""
    if element.tag in tags.NOT_REMAPPED or element.tag == PIXEL_DATA:
        return element.raw
    items = element.items(depth)
    if items is None:
        return _remapped_value(element, uid_map) if element.vr in ("UI", "UN") else element.raw
    changed = False
    parts: list[Bytes] = []
    for item in items:
        chunks: list[Chunk] = [
            (inner.tag, inner.raw, remapped(inner, uid_map, removed, depth + 2)) for inner in item.elements(depth + 1)
        ]
        if any(after is not before for _, before, after in chunks):
            changed = True
            parts.append(item.with_content(b"".join(without_stale_lengths(chunks))))
        else:
            parts.append(item.raw)
    return element.with_items(parts) if changed else element.raw


def leaves(
    elements: Iterable[Element], closed: frozenset[int] = frozenset(), depth: int = 0
) -> Iterator[tuple[Element, int]]:
    """Give the elements at any depth that are no sequences, with the number of sequences around them.

    Args:
        elements: of the dataset or item.
        closed: tags of sequences that are given themselves, not looked into.
        depth: the number of sequences around ``elements``.
    """
    for element in elements:
        may_have_items = (element.undefined or element.vr in ("SQ", "UN")) and element.tag not in closed
        items = element.items(2 * depth) if may_have_items else None
        if items is None:
            yield element, depth
        for item in items or []:
            yield from leaves(item.elements(2 * depth + 1), closed, depth + 1)


def _remapped_value(element: Element, uid_map: UidMap) -> Bytes:
    """Replace UIDs in a value: of VR UI, or of an unknown one whose whole value is a UID of the map."""
    if element.vr not in ("UI", "UN") or element.size > tags.MAX_UIDS_BYTES:
        return element.raw
    values = ascii_values(element)
    new = [uid_map.new(value) for value in values]
    if new == values:
        return element.raw
    value = "\\".join(new).encode("latin-1")
    return encode(element.tag, element.vr, value + bytes(len(value) % 2), element.encoding)


def _parsed(encoded: Bytes, encoding: Encoding) -> Element | None:
    return next(read_elements(memoryview(encoded), encoding), None)
