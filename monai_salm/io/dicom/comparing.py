# SPDX-License-Identifier: Apache-2.0
"""Every difference of two DICOM files outside the pixel values, and whether a derived image may have it.

Written from the list of what may change, not from the writer, so that a file which any software wrote can be judged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.datadict import keyword_for_tag

from monai_salm.errors import RefusedError, VerificationError
from monai_salm.io.base import HeaderChange, SourceImage
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.dicomdir import (
    DIRECTORY_RECORDS,
    OFFSETS,
    Directory,
    Record,
    directory_of,
    is_directory,
    removed_records,
)
from monai_salm.io.dicom.documents import document_of
from monai_salm.io.dicom.elements import PIXEL_DATA, Element, Item, tag_text
from monai_salm.io.dicom.files import EXPLICIT_VR_LITTLE_ENDIAN, DicomFile, ascii_values, cut, find, read_file
from monai_salm.io.dicom.meta import has_tiff_preamble, media_storage_uid, meta_length_is_right
from monai_salm.io.dicom.pictures import Picture, compare_cells, is_lossy, picture_of, read_picture
from monai_salm.io.dicom.remapping import STALE
from monai_salm.io.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, is_valid_uid

_SHORT = 64
_REFERENCES = ("SOPInstanceUID", "SeriesInstanceUID", "SOPInstanceUIDInFile", "SOPInstanceUIDOfConcatenationSource")
"""Ends of the keywords under which a UID may stand for an object or a series."""

_SR_REFERENCE = "UID"
"""Keyword of (0040,A124), a UID in the content of a structured report."""

_TRANSFER_SYNTAX_IN_FILE = 0x00041512


@dataclass(frozen=True)
class _Pair:
    """Two files, with their pictures if they are some, and the new UIDs that were met."""

    original: DicomFile
    other: DicomFile
    pictures: tuple[Picture, Picture] | None = None
    uids: dict[str, str] = field(default_factory=dict)

    def with_own_uids(self) -> _Pair:
        """Note that the original's own UIDs became the other file's."""
        pairs = [
            (self.original.text(tag), self.other.text(tag)) for tag in (tags.SOP_INSTANCE_UID, tags.SERIES_INSTANCE_UID)
        ]
        self.uids.update({old: new for old, new in pairs if old})
        return self


def compare_headers(original: Path, other: Path) -> list[HeaderChange]:
    """List every difference outside the pixel values: preamble, meta information, dataset at any depth, unused bits.

    Of documents the pixel data belongs to what may not differ; so does it of an original whose pixels are not
    supported, such as a label map of colors.

    Raises:
        RefusedError: one of the files cannot be read, or one is a picture and the other is none.
    """
    files = read_file(original), read_file(other)
    documents = [document_of(path, file) for path, file in zip((original, other), files, strict=True)]
    first = None if any(documents) else _readable(original, files[0])
    if all(documents) or (first is None and not any(documents)):
        pair = _Pair(*files).with_own_uids()
        dataset = (
            _compare_directories(pair)
            if all(map(is_directory, files))
            else _compare(pair, files[0].elements, files[1].elements, "")
        )
        return [*_compare_frame(pair), *_compare_meta(pair), *dataset]
    if first is None:
        kinds = [document.kind if document else "a picture" for document in documents]
        raise RefusedError(f"{kinds[0]} and {kinds[1]} cannot be compared")
    pictures = first, picture_of(other, files[1])
    pair = _Pair(pictures[0].file, pictures[1].file, pictures).with_own_uids()
    return [
        *_compare_frame(pair),
        *_compare_meta(pair),
        *_compare(pair, pair.original.elements, pair.other.elements, ""),
        *_compare_statements(pair),
        *compare_cells(*pictures),
    ]


def _readable(path: Path, file: DicomFile) -> Picture | None:
    """Read a picture; None where its pixels are not supported, so that only their bytes can be compared."""
    try:
        return picture_of(path, file)
    except RefusedError:
        return None


def read_back(source: SourceImage, written: Path) -> SourceImage:
    """Read what ``write_like`` wrote, and hold its file meta information, without which no value is read right, against
    the source's.

    Raises:
        VerificationError: it differs where it may not.
    """
    picture = read_picture(written)
    pair = _Pair(cut(memoryview(source.header.path.read_bytes())), picture.file).with_own_uids()
    allowed = {"TransferSyntaxUID"} if source.header.output_transfer_syntax == picture.file.transfer_syntax else set()
    wrong = next((change for change in _compare_meta(pair) if not change.allowed and change.name not in allowed), None)
    if wrong is not None:
        raise VerificationError(
            f"{wrong.name} of the written file is {wrong.other or 'absent'}, of the source {wrong.original or 'absent'}"
        )
    return picture.source


def _compare_frame(pair: _Pair) -> Iterator[HeaderChange]:
    """Compare what is around the dataset."""
    before, after = bytes(pair.original.preamble), bytes(pair.other.preamble)
    if before != after:
        zeroed = has_tiff_preamble(pair.original) and len(before) == len(after) and not any(after)
        yield _change("Preamble", _shown_bytes(before), _shown_bytes(after), allowed=zeroed)
    ends = (pair.original.after.strip(b"\0"), pair.other.after.strip(b"\0"))
    if ends[0] != ends[1]:
        yield _change("(bytes after the deflated dataset)", *map(_shown_bytes, ends), allowed=False)


def _compare_meta(pair: _Pair) -> Iterator[HeaderChange]:
    """Compare the file meta information, in which only the instance, its encoding and its writer may change, and the
    length must be right.
    """
    allowed = {
        tags.IMPLEMENTATION_CLASS_UID: IMPLEMENTATION_CLASS_UID,
        tags.IMPLEMENTATION_VERSION_NAME: IMPLEMENTATION_VERSION_NAME,
    }
    own = [media_storage_uid(file) for file in (pair.original, pair.other)]
    if own[0] != own[1] and _is_mapped(pair, own[:1], own[1:]):
        allowed[tags.MEDIA_STORAGE_SOP_INSTANCE_UID] = own[1]
    if pair.pictures is not None and pair.pictures[0].source.header.output_transfer_syntax:
        allowed[tags.TRANSFER_SYNTAX_UID] = pair.pictures[0].source.header.output_transfer_syntax
    for before, after in _paired(pair.original.meta, pair.other.meta):
        element = after or before
        if element is None or _same(before, after):
            continue
        right = after is not None and ascii_values(after) == [allowed.get(element.tag)]
        length = (
            before is not None
            and after is not None
            and element.tag == tags.META_LENGTH
            and meta_length_is_right(pair.other.meta)
        )
        yield _change(element.name, _shown(before), _shown(after), allowed=right or length)
    stated = find(pair.other.meta, tags.MEDIA_STORAGE_SOP_INSTANCE_UID)
    if own[0] != own[1] and pair.other.meta and ascii_values(stated) != own[1:]:
        yield _change("MediaStorageSOPInstanceUID (not the new SOPInstanceUID)", "", _shown(stated), allowed=False)


def _compare_directories(pair: _Pair) -> Iterator[HeaderChange]:
    """Compare two DICOMDIRs: records of absent files may be missing, and the links must be those of the original
    without them.
    """
    first, second = directory_of(pair.original), directory_of(pair.other)
    around = [
        [element for element in file.elements if element.tag not in OFFSETS | {DIRECTORY_RECORDS}]
        for file in (pair.original, pair.other)
    ]
    yield from _compare(pair, around[0], around[1], "")
    removed = removed_records(
        first, frozenset(record.file for record in first.records) - {record.file for record in second.records} - {""}
    )
    kept = [number for number in range(len(first.records)) if number not in removed]
    for number in sorted(removed):
        record = first.records[number]
        yield _change(f"DirectoryRecordSequence[{number}]", f"{record.kind} {record.file}".strip(), "", allowed=True)
    if len(kept) != len(second.records):
        yield _change(
            "DirectoryRecordSequence", f"{len(kept)} records remain", f"{len(second.records)} records", allowed=False
        )
        return
    for number, after in zip(kept, second.records, strict=True):
        yield from _compare(
            pair, _without_links(first.records[number]), _without_links(after), f"DirectoryRecordSequence[{number}]."
        )
    old, new = [(depth, number) for depth, number in first.walk() if number not in removed], list(second.walk())
    if old != [(depth, kept[number]) for depth, number in new] or not _ends_right(second):
        yield _change(
            "DirectoryRecordSequence (links)",
            f"{len(old)} records are reached",
            f"{len(new)} records are reached, or in another order",
            allowed=False,
        )


def _without_links(record: Record) -> list[Element]:
    return [element for element in record.elements if element.tag not in OFFSETS]


def _ends_right(directory: Directory) -> bool:
    """Say whether the link to the last record of the first level is right."""
    return directory.last == next(iter(list(directory.chain(directory.first))[-1:]), None)


def _compare(pair: _Pair, original: list[Element], other: list[Element], path: str) -> Iterator[HeaderChange]:
    """Compare two datasets, at any depth; ``path`` is empty or ends with a dot."""
    for before, after in _paired(original, other):
        element = after or before
        if (
            element is None
            or _same(before, after)
            or (element.tag == PIXEL_DATA and not path and _same_pixels(pair, before, after))
        ):
            continue
        name = path + element.name
        if before is not None and after is not None and before.vr == after.vr:
            items = (before.items(), after.items())
            if items[0] is not None and items[1] is not None and (items[0] or items[1]):
                yield from _compare_items(pair, element, items[0], items[1], path)
                continue
        if (
            before is None
            and after is not None
            and (_place(path), after.tag) in _APPENDED
            and pair.pictures is not None
        ):
            yield from _compare_items(pair, after, [], after.items() or [], path)
            continue
        yield _change(name, _shown(before), _shown(after), allowed=_is_allowed(pair, before, after, path))


def _compare_items(
    pair: _Pair, element: Element, before: list[Item], after: list[Item], path: str
) -> Iterator[HeaderChange]:
    name = path + element.name
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        yield from _compare(pair, old.elements(), new.elements(), f"{name}[{index}].")
    for index in range(len(after), len(before)):
        yield _change(f"{name}[{index}]", f"{len(before[index].content)} bytes", "", allowed=False)
    for index in range(len(before), len(after)):
        allowed = index == len(before) and _is_own_item(pair, _place(path), element.tag, after[index])
        yield _change(f"{name}[{index}]", "", f"{len(after[index].content)} bytes", allowed=allowed)


def _place(path: str) -> str:
    """Give a path without the numbers of items."""
    return re.sub(r"\[\d+\]", "[]", path)


def _is_own_item(pair: _Pair, place: str, tag: int, item: Item) -> bool:
    """Say whether an appended item is the one that a derived image has; what names the source must name
    the original.
    """
    said = _APPENDED.get((place, tag)) if pair.pictures is not None else None
    return said is not None and all(
        _nested_text(item, where) == (pair.original.text(what) if isinstance(what, int) else what)
        for where, what in said.items()
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
        return before is not None and _may_vanish(pair, before.tag, path)
    if before is not None and _is_reference(after, path):
        return before.vr == after.vr and _is_mapped(pair, ascii_values(before), ascii_values(after))
    if before is not None and after.tag == _TRANSFER_SYNTAX_IN_FILE:
        return ascii_values(after) == [EXPLICIT_VR_LITTLE_ENDIAN]
    allowance = _ALLOWANCES.get((_place(path), after.tag)) if pair.pictures is not None else None
    return allowance is not None and allowance(pair, before, after)


def _may_vanish(pair: _Pair, tag: int, path: str) -> bool:
    """Say whether an element may be removed: what is wrong of a changed object, and retired lengths."""
    if tag in STALE or tag & 0xFFFF == 0 or tag == tags.LENGTH_TO_END:
        return True
    return pair.pictures is not None and not path and tag in _VANISHING


def _is_reference(element: Element, path: str) -> bool:
    """Say whether an element may hold the UID of an object or a series; of private ones only the value can tell."""
    if re.search(r"(^|\.)ReferencedStudySequence\[", path) or element.tag in tags.NOT_REMAPPED:
        return False
    return element.name.endswith(_REFERENCES) or element.name == _SR_REFERENCE or element.name.startswith("(")


def _is_mapped(pair: _Pair, before: list[str], after: list[str]) -> bool:
    """Say whether UIDs were replaced one by one by valid ones, each always by the same, the file's own by its own new
    ones.
    """
    for old, new in zip(before, after, strict=False):
        if old != new and not (is_valid_uid(new) and pair.uids.setdefault(old, new) == new):
            return False
    return len(before) == len(after)


# What only pictures may differ in.

_Allowance = Callable[[_Pair, "Element | None", Element], bool]


def _is_derived(_pair: _Pair, before: Element | None, after: Element) -> bool:
    return ascii_values(after) == ["DERIVED", *(ascii_values(before)[1:] or ["PRIMARY"])] and after.vr == "CS"


def _is_described(_pair: _Pair, before: Element | None, after: Element) -> bool:
    kept = b"" if before is None else bytes(before.value).rstrip(b"\0 ")
    return bytes(after.value).startswith(kept) and after.vr == "ST"


def _is_research(_pair: _Pair, before: Element | None, after: Element) -> bool:
    return before is not None and ascii_values(after) == ["RESEARCH"]


def _is_extreme(pair: _Pair, before: Element | None, after: Element) -> bool:
    """Say whether a value is the smallest or largest of the pixels, with or without padding."""
    if before is None or pair.pictures is None:
        return False
    source = pair.pictures[1].source
    value = int.from_bytes(after.value, "little" if after.encoding.little else "big")
    extreme = np.min if after.tag == tags.SMALLEST_PIXEL else np.max
    image = source.stored[~source.padding]
    return any(int(extreme(values)) & 0xFFFF == value for values in (source.stored, image) if values.size)


def _compare_statements(pair: _Pair) -> Iterator[HeaderChange]:
    """Say what a picture that was decoded once and written native does not say of itself, though it must (PS3.3
    C.7.6.1.1.5, C.7.6.3.1.2).
    """
    if pair.pictures is None or pair.original.transfer_syntax == pair.other.transfer_syntax:
        return
    required = {tags.LOSSY_IMAGE_COMPRESSION: "01"} if is_lossy(pair.pictures[0]) else {}
    if pair.pictures[0].format.layout == "rgb":
        required[tags.PHOTOMETRIC_INTERPRETATION] = "RGB"
    for tag, wanted in required.items():
        before, after = pair.original.find(tag), pair.other.find(tag)
        if ascii_values(after) != [wanted] and ((before is None and after is None) or _same(before, after)):
            yield _change(keyword_for_tag(tag), _shown(before), _shown(after), allowed=False)


def _is_of_native(pair: _Pair, before: Element | None, after: Element) -> bool:
    """Say whether an element is one that follows from writing a compressed picture native."""
    if pair.pictures is None or not pair.pictures[0].source.header.output_transfer_syntax:
        return False
    if after.tag == tags.PHOTOMETRIC_INTERPRETATION:
        return ascii_values(after) == ["RGB"]
    if after.tag == tags.PLANAR_CONFIGURATION:
        return not any(after.value)
    if after.tag == tags.LOSSY_IMAGE_COMPRESSION:
        return ascii_values(after) == ["01"]
    return not ascii_values(before)


_ALLOWANCES: Mapping[tuple[str, int], _Allowance] = {
    ("", tags.IMAGE_TYPE): _is_derived,
    ("", tags.DERIVATION_DESCRIPTION): _is_described,
    ("", tags.CONTENT_QUALIFICATION): _is_research,
    ("", tags.SMALLEST_PIXEL): _is_extreme,
    ("", tags.LARGEST_PIXEL): _is_extreme,
    ("", tags.PHOTOMETRIC_INTERPRETATION): _is_of_native,
    ("", tags.PLANAR_CONFIGURATION): _is_of_native,
    ("", tags.LOSSY_IMAGE_COMPRESSION): _is_of_native,
    ("", tags.LOSSY_IMAGE_COMPRESSION_RATIO): _is_of_native,
    ("", tags.LOSSY_IMAGE_COMPRESSION_METHOD): _is_of_native,
    **{
        (f"{groups}FunctionalGroupsSequence[].{keyword_for_tag(tag) or tag_text(tag)}[].", tags.FRAME_TYPE): _is_derived
        for groups in ("Shared", "PerFrame")
        for tag in tags.FRAME_TYPE_SEQUENCES
    },
}
"""(place, tag) -> how the element of a picture may differ there; a place is a path without the numbers of items."""

_VANISHING = tags.REMOVED | {
    tags.SMALLEST_PIXEL,
    tags.LARGEST_PIXEL,
    tags.EXTENDED_OFFSET_TABLE,
    tags.EXTENDED_OFFSET_TABLE_LENGTHS,
}
"""What may be removed from the top level of a picture."""

_APPENDED: Mapping[tuple[str, int], Mapping[tuple[int, ...], str | int]] = {
    ("", tags.DERIVATION_CODE_SEQUENCE): {(tags.CODE_VALUE,): tags.PIXEL_ADDITION[0]},
    ("", tags.SOURCE_IMAGE_SEQUENCE): {
        (tags.PURPOSE_OF_REFERENCE_CODE_SEQUENCE, tags.CODE_VALUE): tags.IMAGE_PROCESSING[0],
        (tags.REFERENCED_SOP_CLASS_UID,): tags.SOP_CLASS_UID,
        (tags.REFERENCED_SOP_INSTANCE_UID,): tags.SOP_INSTANCE_UID,
    },
    ("", tags.CONTRIBUTING_EQUIPMENT_SEQUENCE): {
        (tags.PURPOSE_OF_REFERENCE_CODE_SEQUENCE, tags.CODE_VALUE): tags.MODIFYING_EQUIPMENT[0]
    },
    ("", tags.REFERENCED_SERIES_SEQUENCE): {
        (tags.SERIES_INSTANCE_UID,): tags.SERIES_INSTANCE_UID,
        (tags.REFERENCED_INSTANCE_SEQUENCE, tags.REFERENCED_SOP_INSTANCE_UID): tags.SOP_INSTANCE_UID,
    },
    ("", tags.SOURCE_IMAGE_EVIDENCE_SEQUENCE): {
        (tags.REFERENCED_SERIES_SEQUENCE, tags.SERIES_INSTANCE_UID): tags.SERIES_INSTANCE_UID,
        (
            tags.REFERENCED_SERIES_SEQUENCE,
            tags.REFERENCED_SOP_SEQUENCE,
            tags.REFERENCED_SOP_INSTANCE_UID,
        ): tags.SOP_INSTANCE_UID,
    },
    ("SharedFunctionalGroupsSequence[].", tags.DERIVATION_IMAGE_SEQUENCE): {
        (tags.DERIVATION_CODE_SEQUENCE, tags.CODE_VALUE): tags.PIXEL_ADDITION[0],
        (tags.SOURCE_IMAGE_SEQUENCE, tags.REFERENCED_SOP_INSTANCE_UID): tags.SOP_INSTANCE_UID,
    },
}
"""(place, tag) of a sequence to which one item may be appended -> what that must say, by the path to it: a text, or
what the original has there.
"""


def _paired(original: Iterable[Element], other: Iterable[Element]) -> Iterator[tuple[Element | None, Element | None]]:
    """Pair elements by tag, in tag order; those that are there more than once in the order of the file."""
    first, second = _by_occurrence(original), _by_occurrence(other)
    for key in sorted(first.keys() | second.keys()):
        yield first.get(key), second.get(key)


def _by_occurrence(elements: Iterable[Element]) -> dict[tuple[int, int], Element]:
    """Give elements by their tag and how often it was there before."""
    counts: Counter[int] = Counter()
    found = {}
    for element in elements:
        found[element.tag, counts[element.tag]] = element
        counts[element.tag] += 1
    return found


def _same(before: Element | None, after: Element | None) -> bool:
    return before is not None and after is not None and before.raw == after.raw


def _same_pixels(pair: _Pair, before: Element | None, after: Element | None) -> bool:
    """Say whether the pixel data of pictures differ in the values only, which are not compared here; compressed values
    have any length.
    """
    if pair.pictures is None or before is None or after is None:
        return False
    return bool(pair.pictures[0].frames) or (before.vr, before.size) == (after.vr, after.size)


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
