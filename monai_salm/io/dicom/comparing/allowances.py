# SPDX-License-Identifier: Apache-2.0
"""What may differ in a derived image, and in what goes along with it.

Written from the list of what may change, not from the writer, so that a file which any software wrote can be judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import numpy as np
from pydicom.datadict import keyword_for_tag
from pydicom.uid import ExplicitVRLittleEndian

from monai_salm.io.dicom import tags
from monai_salm.io.dicom.comparing.pair import Pair, is_mapped
from monai_salm.io.dicom.elements import Element, Item, tag_text
from monai_salm.io.dicom.files import ascii_values
from monai_salm.io.dicom.remapping import STALE

_REFERENCES = ("SOPInstanceUID", "SeriesInstanceUID", "SOPInstanceUIDInFile", "SOPInstanceUIDOfConcatenationSource")
"""Ends of the keywords under which a UID may stand for an object or a series."""

_SR_REFERENCE = "UID"
"""Keyword of (0040,A124), a UID in the content of a structured report."""

_TRANSFER_SYNTAX_IN_FILE = 0x00041512


def is_allowed(pair: Pair, before: Element | None, after: Element | None, path: str) -> bool:
    """Say whether an element that is no sequence may differ as it does."""
    if after is None:
        return before is not None and _may_vanish(pair, before.tag, path)
    if before is not None and _is_reference(after, path):
        return before.vr == after.vr and is_mapped(pair, ascii_values(before), ascii_values(after))
    if before is not None and after.tag == _TRANSFER_SYNTAX_IN_FILE:
        return ascii_values(after) == [ExplicitVRLittleEndian]
    allowance = _ALLOWANCES.get((_place_of(path), after.tag)) if pair.pictures is not None else None
    return allowance is not None and allowance(pair, before, after)


def _may_vanish(pair: Pair, tag: int, path: str) -> bool:
    """Say whether an element may be removed: what is wrong of a changed object, and retired lengths."""
    if tag in STALE or tag & 0xFFFF == 0 or tag == tags.LENGTH_TO_END:
        return True
    return pair.pictures is not None and not path and tag in _VANISHING


def _is_reference(element: Element, path: str) -> bool:
    """Say whether an element may hold the UID of an object or a series; of private ones only the value can tell."""
    if re.search(r"(^|\.)ReferencedStudySequence\[", path) or element.tag in tags.NOT_REMAPPED:
        return False
    return element.name.endswith(_REFERENCES) or element.name == _SR_REFERENCE or element.name.startswith("(")


def may_append(pair: Pair, tag: int, path: str) -> bool:
    """Say whether a sequence may be there that the original lacks, with one item that a derived image has."""
    return pair.pictures is not None and (_place_of(path), tag) in _APPENDED


def is_own_item(pair: Pair, item: Item, tag: int, path: str) -> bool:
    """Say whether an appended item is the one that a derived image has; what names the source must name
    the original.
    """
    said = _APPENDED.get((_place_of(path), tag)) if pair.pictures is not None else None
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


def _place_of(path: str) -> str:
    """Give a path without the numbers of items."""
    return re.sub(r"\[\d+\]", "[]", path)


_Allowance = Callable[[Pair, "Element | None", Element], bool]


def _is_derived(_pair: Pair, before: Element | None, after: Element) -> bool:
    return ascii_values(after) == ["DERIVED", *(ascii_values(before)[1:] or ["PRIMARY"])] and after.vr == "CS"


def _is_described(_pair: Pair, before: Element | None, after: Element) -> bool:
    kept = b"" if before is None else bytes(before.value).rstrip(b"\0 ")
    return bytes(after.value).startswith(kept) and after.vr == "ST"


def _is_research(_pair: Pair, before: Element | None, after: Element) -> bool:
    return before is not None and ascii_values(after) == ["RESEARCH"]


def _is_extreme(pair: Pair, before: Element | None, after: Element) -> bool:
    """Say whether a value is the smallest or largest of the pixels, with or without padding."""
    if before is None or pair.pictures is None:
        return False
    source = pair.pictures[1].source
    value = int.from_bytes(after.value, "little" if after.encoding.little else "big")
    extreme = np.min if after.tag == tags.SMALLEST_PIXEL else np.max
    image = source.stored[~source.padding]
    return any(int(extreme(values)) & 0xFFFF == value for values in (source.stored, image) if values.size)


def _is_of_native(pair: Pair, before: Element | None, after: Element) -> bool:
    """Say whether an element is one that follows from writing a compressed image native."""
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
"""(place, tag) -> how the element of an image may differ there; a place is a path without the numbers of items."""

_VANISHING = tags.REMOVED | {
    tags.SMALLEST_PIXEL,
    tags.LARGEST_PIXEL,
    tags.EXTENDED_OFFSET_TABLE,
    tags.EXTENDED_OFFSET_TABLE_LENGTHS,
}
"""What may be removed from the top level of an image."""

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
