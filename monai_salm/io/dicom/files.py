# SPDX-License-Identifier: Apache-2.0
"""DICOM files as their elements, and the values that are read out of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from pydicom.charset import convert_encodings, decode_bytes

from monai_salm.errors import RefusedError
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import (
    Element,
    Encoding,
)
from monai_salm.io.sharing import TextMapping

META_GROUP = 0x0002
PREAMBLE = 128
PREFIX = b"DICM"

_IDENTIFIERS = {
    tags.SOP_INSTANCE_UID: "SOPInstanceUID",
    tags.SERIES_INSTANCE_UID: "SeriesInstanceUID",
    tags.STUDY_INSTANCE_UID: "StudyInstanceUID",
    tags.FRAME_OF_REFERENCE_UID: "FrameOfReferenceUID",
    tags.PATIENT_ID: "PatientID",
    tags.ACCESSION_NUMBER: "AccessionNumber",
}

_OWN = frozenset({"SOPInstanceUID"})

_ASCII_SETS = frozenset({"ISO_IR 6", "ISO_IR 100", "ISO_IR 101", "ISO_IR 144", "ISO_IR 192"})
"""Character sets of which ASCII is a part, so that text of nothing else is known without decoding."""


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """A file cut into its elements.

    Args:
        preamble: the 128 bytes before the prefix, which may be a TIFF header; empty where there is no prefix.
        prefix: whether the file has a preamble and the prefix "DICM" (PS3.10 7.1); files from before DICOM had files
            have not.
        meta: elements of group 0002, Explicit VR Little Endian (PS3.10 7.1); none in a file without file meta
            information. They end where their length says, if that can be.
        transfer_syntax: UID of how the dataset is encoded; empty where the file does not say and ``encoding`` is found
            by trying.
        encoding: the same, for the elements.
        elements: top level of the dataset, in file order; those of group 0002 that some writers leave behind the file
            meta information are the first.
        after: bytes behind the dataset: those after a deflated stream.
    """

    preamble: memoryview
    prefix: bool = True
    meta: list[Element]
    transfer_syntax: str
    encoding: Encoding
    elements: list[Element]
    after: bytes = b""

    @cached_property
    def _first(self) -> dict[int, Element]:
        """The first top-level element of each tag."""
        return {element.tag: element for element in reversed(self.elements)}

    def find(self, tag: int) -> Element | None:
        """Give the top-level element with this tag."""
        return self._first.get(tag)

    def texts(self, tag: int) -> list[str]:
        """Give the values of an element of a VR that is ASCII (CS, DS, IS, UI); empty if absent or without a value."""
        return ascii_values(self.find(tag))

    def text(self, tag: int) -> str:
        """Give the first of :meth:`texts`, or nothing."""
        return next(iter(self.texts(tag)), "")

    def number(self, tag: int) -> float | None:
        """Give the only value of a DS or IS; None if absent, NaN if there are more or it is no number."""
        texts = self.texts(tag)
        if not texts:
            return None
        return floats(texts)[0] if len(texts) == 1 else float("nan")

    def unsigned(self, tag: int) -> int | None:
        """Give the value of a US or SS as the unsigned 16 bits that are written; None if absent or without a value.

        Raises:
            RefusedError: there is more than one value.
        """
        element = self.find(tag)
        if element is None or element.size == 0:
            return None
        if len(element.value) != 2:
            raise RefusedError(f"{element.name} has {element.size} bytes; one number of 2 is needed")
        return int.from_bytes(element.value, "little" if element.encoding.little else "big")


def ascii_values(element: Element | None) -> list[str]:
    """Split an element of ASCII text into its values, without padding (PS3.5 6.2, 6.4)."""
    if element is None:
        return []
    # Latin-1 gives every byte back when it is encoded again, legal here or not.
    text = bytes(element.value).decode("latin-1").rstrip("\0 ")
    if "\\" not in text:
        return [text.strip("\0 ")] if text else []
    return [value.strip("\0 ") for value in text.split("\\")]


def floats(texts: list[str]) -> list[float]:
    """Convert decimal strings; NaN for what is none."""
    numbers = []
    for text in texts:
        try:
            numbers.append(float(text))
        except ValueError:
            numbers.append(float("nan"))
    return numbers


def find(elements: list[Element], tag: int) -> Element | None:
    """Give the element with a tag, or None."""
    return next((element for element in elements if element.tag == tag), None)


def meta_text(meta: list[Element], tag: int) -> str:
    """Give the first value of an element of the file meta information, or nothing."""
    return next(iter(ascii_values(find(meta, tag))), "")


def identifiers(file: DicomFile) -> Mapping[str, str]:
    """Give the identifiers that planning uses, as far as the file has them."""
    found = {name: decoded_text(file, tag) for tag, name in _IDENTIFIERS.items()}
    return TextMapping({name: value for name, value in found.items() if value}, own=_OWN)


def decoded_text(file: DicomFile, tag: int) -> str:
    """Decode an element that may be in any character set (PS3.3 C.12.1.1.2); what is in none is read as Latin-1."""
    element = file.find(tag)
    if element is None:
        return ""
    value, sets = bytes(element.value), tuple(file.texts(tags.SPECIFIC_CHARACTER_SET))
    if value.isascii() and b"\x1b" not in value and (not sets or sets[0] in _ASCII_SETS):
        return value.decode("ascii").strip("\0 ")
    try:
        return _decoded(value, sets or ("ISO_IR 6",)).strip("\0 ")
    except (LookupError, ValueError):
        return value.decode("latin-1").strip("\0 ")


@lru_cache(maxsize=1 << 10)
def _decoded(value: bytes, sets: tuple[str, ...]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(decode_bytes(value, convert_encodings(list(sets)), set()))
