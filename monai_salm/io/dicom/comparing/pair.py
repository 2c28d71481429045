# SPDX-License-Identifier: Apache-2.0
"""Two files that are compared, and how a difference of them is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from monai_salm.io.base import HeaderChange
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import Element
from monai_salm.io.dicom.files import DicomFile
from monai_salm.io.dicom.stored_values import Picture
from monai_salm.io.dicom.uids import is_valid_uid
from monai_salm.io.origins import same_bytes

_SHORT = 64


@dataclass(frozen=True)
class Pair:
    """Two files, with their images if they are some, and the new UIDs that were met."""

    original: DicomFile
    other: DicomFile
    pictures: tuple[Picture, Picture] | None = None
    uids: dict[str, str] = field(default_factory=dict)

    def with_own_uids(self) -> Pair:
        """Note that the original's own UIDs became the other file's."""
        pairs = [
            (self.original.text(tag), self.other.text(tag)) for tag in (tags.SOP_INSTANCE_UID, tags.SERIES_INSTANCE_UID)
        ]
        self.uids.update({old: new for old, new in pairs if old})
        return self


def is_mapped(pair: Pair, before: list[str], after: list[str]) -> bool:
    """Say whether UIDs were replaced one by one by valid ones, each always by the same, the file's own by its own new
    ones.
    """
    for old, new in zip(before, after, strict=False):
        if old != new and not (is_valid_uid(new) and pair.uids.setdefault(old, new) == new):
            return False
    return len(before) == len(after)


def paired(original: Iterable[Element], other: Iterable[Element]) -> Iterator[tuple[Element | None, Element | None]]:
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


def is_same(before: Element | None, after: Element | None) -> bool:
    """Say whether both are there, with the same bytes."""
    return before is not None and after is not None and same_bytes(before.raw, after.raw)


def change_of(name: str, original: str, other: str, *, allowed: bool) -> HeaderChange:
    """Tell one difference."""
    return HeaderChange(name=name, original=original, other=other, allowed=allowed)


def shown_element(element: Element | None) -> str:
    """Show a value in print: text as it is, all else in hexadecimal; of what names a person its length alone."""
    if element is None:
        return ""
    if element.vr == "PN" or element.tag >> 16 == tags.PATIENT_ID >> 16 or element.tag == tags.ACCESSION_NUMBER:
        return f"{element.vr} of {len(element.value)} bytes, which is not shown"
    value = bytes(element.value[: _SHORT + 1])
    text = value.decode("ascii", errors="replace").strip("\0 ")
    shown = text if text.isprintable() and "\ufffd" not in text else value.hex(" ")
    return f"{element.vr} {shown[:_SHORT]}{'...' if len(shown) > _SHORT else ''}"


def shown_bytes(value: bytes) -> str:
    """Show the first bytes in hexadecimal."""
    return value[: _SHORT // 2].hex(" ") + ("..." if len(value) > _SHORT // 2 else "")
