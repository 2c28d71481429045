# SPDX-License-Identifier: Apache-2.0
"""DICOM files cut into their elements, in whichever transfer syntax; what they show is for ``reading`` to judge."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise, takewhile
from pathlib import Path

from pydicom import dcmread
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.config import IGNORE
from pydicom.uid import UID

from monai_salm.errors import RefusedError
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Element,
    Encoding,
    read_elements,
    tag_text,
)

META_GROUP = 0x0002
PREAMBLE = 128
PREFIX = b"DICM"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = {
    "1.2.840.10008.1.2": IMPLICIT_LITTLE,
    EXPLICIT_VR_LITTLE_ENDIAN: EXPLICIT_LITTLE,
    "1.2.840.10008.1.2.2": EXPLICIT_BIG,
    DEFLATED: EXPLICIT_LITTLE,
}
_COMPRESSED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")
_LENGTH_BYTES = 4
_SHORT = 64
_HEAD = 512
_INFLATE_LIMIT = 1 << 26
_INFLATE_RATIO = 50
"""Deflated datasets of images expand by less than ten; what expands much more, and is large, is a bomb."""
_FIRST_VRS = ("UL", "OB", "CS", "UI", "DA", "TM", "DT", "LO", "SH")
"""Of the elements that a dataset may begin with."""

_IDENTIFIERS = {
    tags.SOP_INSTANCE_UID: "SOPInstanceUID",
    tags.SERIES_INSTANCE_UID: "SeriesInstanceUID",
    tags.STUDY_INSTANCE_UID: "StudyInstanceUID",
    tags.FRAME_OF_REFERENCE_UID: "FrameOfReferenceUID",
    tags.PATIENT_ID: "PatientID",
    tags.ACCESSION_NUMBER: "AccessionNumber",
}


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

    def find(self, tag: int) -> Element | None:
        """Give the top-level element with this tag."""
        return next((element for element in self.elements if element.tag == tag), None)

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
    return [value.strip("\0 ") for value in text.split("\\")] if text else []


def sniff(path: Path) -> bool:
    """Say from the first bytes whether a file is DICOM: by its prefix, or by a plausible first element without one."""
    with path.open("rb") as handle:
        head = handle.read(_HEAD)
    return head[PREAMBLE : PREAMBLE + len(PREFIX)] == PREFIX or _starts_like_dataset(head)


def _starts_like_dataset(head: bytes) -> bool:
    """Recognize a dataset without preamble by how it begins."""
    return _encoding_of(memoryview(head)) is not None


def _encoding_of(head: memoryview) -> Encoding | None:
    """Find how a dataset is encoded by trying: its first element must be one of group 0002 or 0008 that the dictionary
    knows.
    """
    for encoding in (EXPLICIT_LITTLE, EXPLICIT_BIG, IMPLICIT_LITTLE):
        try:
            first = next(read_elements(head, encoding), None)
        except RefusedError:
            continue
        if first is None or first.tag >> 16 not in (0x0002, 0x0008) or first.tag & 0xFFFF > 0x20:
            continue
        known = not first.name.startswith("(") or first.tag & 0xFFFF == 0
        if known and first.vr in _FIRST_VRS and not first.undefined:
            return encoding
    return None


def read_file(path: Path) -> DicomFile:
    """Cut a file into elements, and hold them against pydicom's reading of it.

    Raises:
        RefusedError: no DICOM file with a known transfer syntax, or a malformed one.

    DICOM: PS3.10 7.1 demands preamble and file meta information. Where both are missing, the encoding is found by
    trying and ``transfer_syntax`` is empty; whether that is good enough is for the caller to say.
    """
    data = path.read_bytes()
    file = cut(memoryview(data))
    _check_with_pydicom(file, data)
    return file


def cut(view: memoryview) -> DicomFile:
    """Cut a file's bytes into elements, as :func:`read_file` does, but hold nothing against pydicom: for a file that
    was read before.
    """
    first = PREAMBLE + len(PREFIX)
    prefix = bytes(view[PREAMBLE:first]) == PREFIX
    meta, repeated = _read_meta(view, first if prefix else 0)
    start = (first if prefix else 0) + sum(len(element.raw) for element in meta + repeated)
    syntax = meta_text(meta, tags.TRANSFER_SYNTAX_UID)
    if not syntax:
        return _without_transfer_syntax(view, prefix, meta, start)
    if syntax not in NATIVE and not syntax.startswith(_COMPRESSED):
        raise RefusedError(
            f"transfer syntax {uid_name(syntax)} is not known; let the software that wrote the file write it as "
            "Explicit VR Little Endian"
        )
    dataset, after = view[start:], b""
    if syntax == DEFLATED:
        inflated, after = _inflate(bytes(dataset))
        dataset = memoryview(inflated)
    encoding = NATIVE.get(syntax, EXPLICIT_LITTLE)
    _check_repeated(repeated, syntax)
    found = _encoding_of(dataset[:_HEAD])
    if found not in (None, encoding):
        raise RefusedError(
            f"the transfer syntax is {uid_name(syntax)}, but the dataset begins like one of "
            f"{uid_name(_uid_of(found))}; correct the one or the other first"
        )
    return DicomFile(
        preamble=view[: PREAMBLE if prefix else 0],
        prefix=prefix,
        meta=meta,
        transfer_syntax=syntax,
        encoding=encoding,
        elements=repeated + list(read_elements(dataset, encoding)),
        after=after,
    )


def _uid_of(encoding: Encoding | None) -> str:
    return next(uid for uid, known in NATIVE.items() if known == encoding)


def _read_meta(view: memoryview, start: int) -> tuple[list[Element], list[Element]]:
    """Give the file meta information, and what follows of its group behind the end that FileMetaInformationGroupLength
    states.

    pydicom and GDCM take no notice of the length. It counts where an element ends there and the transfer syntax is
    before it; else it is wrong.
    """
    group: list[Element] = []
    ends: list[int] = []
    place = start
    while bytes(view[place : place + 2]) == b"\x02\x00":
        element = next(read_elements(view, EXPLICIT_LITTLE, start=place))
        group.append(element)
        place += len(element.raw)
        ends.append(place)
    stated = meta_end(group, start)
    count = ends.index(stated) + 1 if stated in ends else len(group)
    if not meta_text(group[:count], tags.TRANSFER_SYNTAX_UID):
        count = len(group)
    return group[:count], group[count:]


def meta_end(meta: list[Element], start: int = 0) -> int | None:
    """Give where FileMetaInformationGroupLength lets the group end that begins at ``start``; None without one."""
    if not meta or meta[0].tag != tags.META_LENGTH or meta[0].size != _LENGTH_BYTES:
        return None
    return start + len(meta[0].raw) + int.from_bytes(meta[0].value, "little")


def _check_repeated(repeated: list[Element], syntax: str) -> None:
    """Refuse file meta information that goes on behind its end where readers disagree on the file for it: dcmtk and
    GDCM take the first, pydicom the last.
    """
    if repeated and (syntax == DEFLATED or NATIVE.get(syntax, EXPLICIT_LITTLE) != EXPLICIT_LITTLE):
        raise RefusedError(
            f"{tag_text(repeated[0].tag)} is behind the end of the file meta information, where a dataset of "
            f"{uid_name(syntax)} should start, "
            "so readers disagree on how to read it; get another copy of the file, or leave it out"
        )
    second = next((element for element in repeated if element.tag == tags.TRANSFER_SYNTAX_UID), None)
    if second is not None and ascii_values(second) != [syntax]:
        raise RefusedError(
            f"TransferSyntaxUID is there more than once: {uid_name(syntax)} in the file meta information and "
            f"{uid_name(','.join(ascii_values(second)))} "
            "behind it, and readers disagree on which counts; remove the second, for example with dcmodify -nb -e "
            "'(0002,0010)'"
        )


def _without_transfer_syntax(view: memoryview, prefix: bool, meta: list[Element], start: int) -> DicomFile:
    if prefix:
        raise RefusedError("the file meta information has no TransferSyntaxUID; write one first, as dcmconv does")
    encoding = _encoding_of(view[start : start + _HEAD])
    if encoding is None:
        raise RefusedError(
            "no DICOM file: there is neither preamble and file meta information nor a dataset that starts with "
            "group 0008"
        )
    elements = list(read_elements(view[start:], encoding))
    return DicomFile(
        preamble=view[:0], prefix=False, meta=meta, transfer_syntax="", encoding=encoding, elements=elements
    )


def _inflate(data: bytes) -> tuple[bytes, bytes]:
    """Inflate a dataset (PS3.5 A.5); give it and what follows the stream."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    limit = max(_INFLATE_LIMIT, _INFLATE_RATIO * len(data))
    try:
        inflated = inflater.decompress(data, limit)
    except zlib.error as error:
        raise RefusedError(f"the deflated dataset is damaged: {error}") from error
    if not inflater.eof:
        reason = f"holds more than {limit >> 20} MiB in {len(data)} bytes" if len(inflated) >= limit else "is truncated"
        raise RefusedError(f"the deflated dataset {reason}")
    return inflated, inflater.unused_data


def _check_with_pydicom(file: DicomFile, data: bytes) -> None:
    """Refuse a file in which pydicom, which most training code reads with, sees other elements than we do, or other
    file meta information.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(BytesIO(data), force=not file.prefix)
            theirs = [int(element.tag) for element in dataset.elements()]
            their_meta = {int(element.tag): element.value for element in dataset.file_meta.elements()}
    except Exception as error:  # whatever a damaged file makes it raise
        _check_character_set(file)
        raise RefusedError(
            f"pydicom cannot read the file: {' '.join(str(error).split())[:200]}; repair the file first"
        ) from error
    _check_unique(file.meta, "")
    _check_unique(file.elements, "")
    repeated = list(takewhile(lambda element: element.tag >> 16 == META_GROUP, file.elements))
    # pydicom leaves out retired group lengths, which hold nothing of the image.
    ours = [tag for tag in dict.fromkeys(element.tag for element in file.elements[len(repeated) :]) if tag & 0xFFFF]
    theirs = [tag for tag in theirs if tag & 0xFFFF]
    if ours != theirs:
        odd = min(set(ours) ^ set(theirs), default=0)
        if not odd:
            odd = next(after for before, after in pairwise(ours) if after < before)
            raise RefusedError(
                f"the elements are not in the order of their tags, as {tag_text(odd)} shows; write the file anew "
                "first, for example with dcmconv"
            )
        raise RefusedError(f"pydicom reads other elements, first at {tag_text(odd)}; repair the file first")
    last = {element.tag: element for element in [*file.meta, *repeated]}  # pydicom takes the last, wherever it is
    odd = next(
        (
            tag
            for tag in sorted(last.keys() | their_meta.keys())
            if tag not in last or not _same_meta(last[tag], their_meta.get(tag))
        ),
        0,
    )
    if odd:
        raise RefusedError(
            f"pydicom reads other file meta information, first at {tag_text(odd)}; repair the file first"
        )


def _same_meta(ours: Element, theirs: object) -> bool:
    """Say whether pydicom has the same value; it has bytes, or what they mean."""
    if isinstance(theirs, bytes):
        return theirs == bytes(ours.value)
    if isinstance(theirs, int):
        return theirs == int.from_bytes(ours.value, "little")
    return str(theirs or "") == "\\".join(ascii_values(ours))


def _check_character_set(file: DicomFile) -> None:
    """Refuse a SpecificCharacterSet that makes pydicom fail, by its name."""
    texts = file.texts(tags.SPECIFIC_CHARACTER_SET)
    try:
        convert_encodings(texts or ["ISO_IR 6"])
    except (LookupError, ValueError) as error:
        said = "\\".join(texts)
        said = (
            said
            if said.isascii() and said.isprintable()
            else f"in hexadecimal {said[:_SHORT].encode('latin-1').hex(' ')}"
        )
        raise RefusedError(
            f"SpecificCharacterSet (0008,0005) is {said}, which names no character set, so that pydicom cannot "
            "read the file; "
            "set the one that its texts are in, for example with dcmodify -nb -m '(0008,0005)=ISO_IR 100'"
        ) from error


def _check_unique(elements: Iterable[Element], path: str, depth: int = 0) -> None:
    """Refuse elements that are there twice with different bytes, at any depth: pydicom takes the last, dcmtk and GDCM
    the first.
    """
    seen: dict[int, Element] = {}
    for element in elements:
        if seen.setdefault(element.tag, element).raw != element.raw:
            name = path + (element.name if element.name.startswith("(") else f"{element.name} {tag_text(element.tag)}")
            raise RefusedError(
                f"{name} is there more than once with different values, and readers disagree on which counts; "
                "repair the file first, for example with dcmconv, which keeps the first"
            )
        for number, item in enumerate(element.items(2 * depth) or []):
            _check_unique(item.elements(2 * depth + 1), f"{path}{element.name}[{number}].", depth + 1)


def identifiers(file: DicomFile) -> dict[str, str]:
    """Give the identifiers that planning uses, as far as the file has them."""
    found = {name: decoded_text(file, tag) for tag, name in _IDENTIFIERS.items()}
    return {name: value for name, value in found.items() if value}


def decoded_text(file: DicomFile, tag: int) -> str:
    """Decode an element that may be in any character set (PS3.3 C.12.1.1.2); what is in none is read as Latin-1."""
    element = file.find(tag)
    if element is None:
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            encodings = convert_encodings(file.texts(tags.SPECIFIC_CHARACTER_SET) or ["ISO_IR 6"])
            return str(decode_bytes(bytes(element.value), encodings, set())).strip("\0 ")
    except (LookupError, ValueError):
        return bytes(element.value).decode("latin-1").strip("\0 ")


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


def uid_name(uid: str) -> str:
    """Give a UID with its name in the dictionary, if it has one."""
    name = class_name(uid)
    return f"{name} ({uid})" if name else shown(uid)


def shown(text: str) -> str:
    """Make what a file says fit for one line of print."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= _SHORT else f"{line[:_SHORT]}..."


def class_name(uid: str) -> str:
    """Give a UID's name in the dictionary (PS3.6 A), or nothing."""
    name = str(UID(uid, validation_mode=IGNORE).name)
    return "" if name == uid else name
