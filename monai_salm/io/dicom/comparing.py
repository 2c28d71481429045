# SPDX-License-Identifier: Apache-2.0
"""Every difference of two DICOM files outside the pixel values, and whether a derived image may have it.

Written from the list of what may change, not from the writer, so that a file which any software wrote can be judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_salm.io.base import HeaderChange, SourceImage
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import PIXEL_DATA, Element, Item
from monai_salm.io.dicom.files import DicomFile, ascii_values
from monai_salm.io.dicom.pictures import compare_cells, read_picture
from monai_salm.io.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_valid_uid

_SHORT = 64
_TIFF = (b"II*\0", b"MM\0*")
_REFERENCES = frozenset(
    {
        "ReferencedSOPInstanceUID",
        "SOPInstanceUIDOfConcatenationSource",
        "SeriesInstanceUID",
        "SOPInstanceUID",
        "UID",
    }
)
"""Keywords under which a UID may stand for an image or a series; "UID" is that of SR content (0040,A124)."""

_APPENDED = {
    tags.DERIVATION_CODE_SEQUENCE: ((tags.CODE_VALUE,), tags.PIXEL_ADDITION[0]),
    tags.SOURCE_IMAGE_SEQUENCE: (
        (tags.PURPOSE_OF_REFERENCE_CODE_SEQUENCE, tags.CODE_VALUE),
        tags.IMAGE_PROCESSING[0],
    ),
    tags.CONTRIBUTING_EQUIPMENT_SEQUENCE: (
        (tags.PURPOSE_OF_REFERENCE_CODE_SEQUENCE, tags.CODE_VALUE),
        tags.MODIFYING_EQUIPMENT[0],
    ),
}
"""Sequences to which one item may be appended, where the item says what it is, and what it must say."""


@dataclass(frozen=True)
class _Pair:
    """Two files with their pictures."""

    original: DicomFile
    other: DicomFile
    other_source: SourceImage

    def new_uids(self) -> dict[str, str]:
        """Map the original's own UIDs to the other file's."""
        return {self.original.text(tag): self.other.text(tag) for tag in (tags.SOP_INSTANCE_UID, tags.SERIES_INSTANCE_UID)}


def compare_headers(original: Path, other: Path) -> list[HeaderChange]:
    """List every difference outside the pixel values: preamble, meta information, dataset at any depth, unused bits.

    Raises:
        RefusedError: one of the files is no picture that can be read.
    """
    first, second = read_picture(original), read_picture(other)
    pair = _Pair(first.file, second.file, second.source)
    return [
        *_compare_frame(pair),
        *_compare_meta(pair),
        *_compare(pair, first.file.elements, second.file.elements, ""),
        *compare_cells(first, second),
    ]


def _compare_frame(pair: _Pair) -> Iterator[HeaderChange]:
    """Compare what is around the dataset."""
    before, after = bytes(pair.original.preamble), bytes(pair.other.preamble)
    if before != after:
        zeroed = before[:4] in _TIFF and not any(after)
        yield _change("Preamble", _shown_bytes(before), _shown_bytes(after), allowed=zeroed)
    ends = (pair.original.after.strip(b"\0"), pair.other.after.strip(b"\0"))
    if ends[0] != ends[1]:
        yield _change("(bytes after the deflated dataset)", *map(_shown_bytes, ends), allowed=False)


def _compare_meta(pair: _Pair) -> Iterator[HeaderChange]:
    allowed = {
        tags.MEDIA_STORAGE_SOP_INSTANCE_UID: pair.other.text(tags.SOP_INSTANCE_UID),
        tags.IMPLEMENTATION_CLASS_UID: IMPLEMENTATION_CLASS_UID,
        tags.IMPLEMENTATION_VERSION_NAME: IMPLEMENTATION_VERSION_NAME,
    }
    for before, after in _paired(pair.original.meta, pair.other.meta):
        element = after or before
        if element is None or _same(before, after):
            continue
        right = after is not None and ascii_values(after) == [allowed.get(element.tag)]
        length = before is not None and after is not None and element.tag == tags.META_LENGTH
        yield _change(element.name, _shown(before), _shown(after), allowed=right or length)
    stated = next((element for element in pair.other.meta if element.tag == tags.MEDIA_STORAGE_SOP_INSTANCE_UID), None)
    renamed = pair.original.text(tags.SOP_INSTANCE_UID) != pair.other.text(tags.SOP_INSTANCE_UID)
    if renamed and ascii_values(stated) != [pair.other.text(tags.SOP_INSTANCE_UID)]:
        yield _change("MediaStorageSOPInstanceUID (not the new SOPInstanceUID)", "", _shown(stated), allowed=False)


def _compare(pair: _Pair, original: list[Element], other: list[Element], path: str) -> Iterator[HeaderChange]:
    """Compare two datasets, at any depth; ``path`` is empty or ends with a dot."""
    for before, after in _paired(original, other):
        element = after or before
        if element is None or _same(before, after) or (element.tag == PIXEL_DATA and _same_pixels(before, after)):
            continue
        name = path + element.name
        if before is not None and after is not None and before.vr == after.vr:
            items = (before.items(), after.items())
            if items[0] is not None and items[1] is not None and (items[0] or items[1]):
                yield from _compare_items(pair, element, items[0], items[1], path)
                continue
        if before is None and after is not None and not path and after.tag in _APPENDED:
            yield from _compare_items(pair, after, [], after.items() or [], path)
            continue
        yield _change(name, _shown(before), _shown(after), allowed=_is_allowed(pair, before, after, path))


def _compare_items(pair: _Pair, element: Element, before: list[Item], after: list[Item], path: str) -> Iterator[HeaderChange]:
    name = path + element.name
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        yield from _compare(pair, old.elements(), new.elements(), f"{name}[{index}].")
    for index in range(len(after), len(before)):
        yield _change(f"{name}[{index}]", f"{len(before[index].content)} bytes", "", allowed=False)
    for index in range(len(before), len(after)):
        allowed = not path and index == len(before) and _is_own_item(pair, element.tag, after[index])
        yield _change(f"{name}[{index}]", "", f"{len(after[index].content)} bytes", allowed=allowed)


def _is_own_item(pair: _Pair, tag: int, item: Item) -> bool:
    """Say whether an appended item is the one that a derived image has; a source image must be the original."""
    if tag not in _APPENDED:
        return False
    place, code = _APPENDED[tag]
    if _nested_text(item, place) != code:
        return False
    if tag != tags.SOURCE_IMAGE_SEQUENCE:
        return True
    return all(
        _nested_text(item, (reference,)) == pair.original.text(own)
        for reference, own in (
            (tags.REFERENCED_SOP_CLASS_UID, tags.SOP_CLASS_UID),
            (tags.REFERENCED_SOP_INSTANCE_UID, tags.SOP_INSTANCE_UID),
        )
    )


def _nested_text(item: Item, place: tuple[int, ...]) -> str:
    """Give the text at a path of tags, through the first item of each sequence."""
    element = next((element for element in item.elements() if element.tag == place[0]), None)
    if element is None:
        return ""
    if len(place) == 1:
        return next(iter(ascii_values(element)), "")
    items = element.items() or []
    return _nested_text(items[0], place[1:]) if items else ""


def _is_allowed(pair: _Pair, before: Element | None, after: Element | None, path: str) -> bool:
    """Say whether an element that is no sequence may differ as it does."""
    if after is None:
        return before is not None and _may_vanish(before.tag, path)
    if before is not None and _is_reference(after, path):
        return before.vr == after.vr and _is_mapped(pair, ascii_values(before), ascii_values(after))
    if path:
        return False
    old, new = ascii_values(before), ascii_values(after)
    if after.tag == tags.IMAGE_TYPE:
        return new == ["DERIVED", *(old[1:] or ["PRIMARY"])] and after.vr == "CS"
    if after.tag == tags.DERIVATION_DESCRIPTION:
        kept = b"" if before is None else bytes(before.value).rstrip(b"\0 ")
        return bytes(after.value).startswith(kept) and after.vr == "ST"
    if before is None:
        return False
    if after.tag == tags.CONTENT_QUALIFICATION:
        return new == ["RESEARCH"]
    if after.tag in (tags.SMALLEST_PIXEL, tags.LARGEST_PIXEL):
        return _is_extreme(pair.other_source, after)
    return False


def _may_vanish(tag: int, path: str) -> bool:
    """Say whether an element may be removed: what is wrong of a changed image, and retired lengths."""
    if tag == tags.ICON_IMAGE_SEQUENCE or tag & 0xFFFF == 0 or tag == tags.LENGTH_TO_END:
        return True
    return not path and (tag in tags.REMOVED or tag in (tags.SMALLEST_PIXEL, tags.LARGEST_PIXEL))


def _is_reference(element: Element, path: str) -> bool:
    """Say whether an element may hold the UID of an image or a series; of private ones only the value can tell."""
    if "ReferencedStudySequence" in path:
        return False
    return element.name in _REFERENCES or element.name.startswith("(")


def _is_mapped(pair: _Pair, before: list[str], after: list[str]) -> bool:
    """Say whether UIDs were replaced one by one by valid ones, the file's own by its own new ones."""
    own = pair.new_uids()
    for old, new in zip(before, after, strict=False):
        if old != new and not (is_valid_uid(new) and own.get(old, new) == new):
            return False
    return len(before) == len(after)


def _is_extreme(source: SourceImage, element: Element) -> bool:
    """Say whether a value is the smallest or largest of the pixels, with or without padding."""
    value = int.from_bytes(element.value, "little" if element.encoding.little else "big")
    extreme = np.min if element.tag == tags.SMALLEST_PIXEL else np.max
    image = source.stored[~source.padding]
    return any(int(extreme(values)) & 0xFFFF == value for values in (source.stored, image) if values.size)


def _paired(original: Iterable[Element], other: Iterable[Element]) -> Iterator[tuple[Element | None, Element | None]]:
    """Pair elements by tag, in tag order."""
    first = {element.tag: element for element in original}
    second = {element.tag: element for element in other}
    for tag in sorted(first.keys() | second.keys()):
        yield first.get(tag), second.get(tag)


def _same(before: Element | None, after: Element | None) -> bool:
    return before is not None and after is not None and before.raw == after.raw


def _same_pixels(before: Element | None, after: Element | None) -> bool:
    """Say whether pixel data differ in the values only, which are not compared here."""
    return before is not None and after is not None and (before.vr, before.size) == (after.vr, after.size)


def _change(name: str, original: str, other: str, *, allowed: bool) -> HeaderChange:
    return HeaderChange(name=name, original=original, other=other, allowed=allowed)


def _shown(element: Element | None) -> str:
    """Show a value in print: text as it is, all else in hexadecimal."""
    if element is None:
        return ""
    value = bytes(element.value[: _SHORT + 1])
    text = value.decode("ascii", errors="replace").strip("\0 ")
    shown = text if text.isprintable() and "\ufffd" not in text else value.hex(" ")
    return f"{element.vr} {shown[:_SHORT]}{'...' if len(shown) > _SHORT else ''}"


def _shown_bytes(value: bytes) -> str:
    return value[: _SHORT // 2].hex(" ") + ("..." if len(value) > _SHORT // 2 else "")
