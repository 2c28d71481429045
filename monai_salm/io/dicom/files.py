# SPDX-License-Identifier: Apache-2.0
"""DICOM files cut into their elements, in whichever transfer syntax; what they show is for ``reading`` to judge."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.config import IGNORE
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from monai_salm.errors import RefusedError
from monai_salm.io.dicom.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    Element,
    Encoding,
    MoreNeededError,
    read_elements,
    tag_text,
)

PREAMBLE = 128
PREFIX = b"DICM"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = {
    "1.2.840.10008.1.2": IMPLICIT_LITTLE,
    "1.2.840.10008.1.2.1": EXPLICIT_LITTLE,
    "1.2.840.10008.1.2.2": EXPLICIT_BIG,
    DEFLATED: EXPLICIT_LITTLE,
}
_COMPRESSED = ("1.2.840.10008.1.2.4.", "1.2.840.10008.1.2.5")
_WINDOW = 1 << 16
_SHORT = 64
_INFLATE_LIMIT = 1 << 30

_TRANSFER_SYNTAX = 0x00020010


@dataclass(frozen=True, kw_only=True)
class DicomFile:
    """A file cut into its elements; of the pixel data perhaps only the head (see ``read_file``).

    Args:
        preamble: the 128 bytes before the prefix, which may be a TIFF header.
        meta: elements of group 0002, Explicit VR Little Endian (PS3.10 7.1).
        transfer_syntax: UID of how the dataset is encoded.
        encoding: the same, for the elements.
        elements: top level of the dataset, in file order.
        after: bytes behind the dataset: those after a deflated stream.
    """

    preamble: memoryview
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
        head = handle.read(PREAMBLE + len(PREFIX) + 8)
    return head[PREAMBLE : PREAMBLE + len(PREFIX)] == PREFIX or _starts_like_dataset(head)


def _starts_like_dataset(head: bytes) -> bool:
    """Recognize a dataset without preamble by an element of group 0002 or 0008 that the dictionary knows."""
    for encoding in (EXPLICIT_LITTLE, EXPLICIT_BIG, IMPLICIT_LITTLE):
        try:
            first = next(read_elements(memoryview(head), encoding, total=len(head)), None)
        except (RefusedError, MoreNeededError):
            continue
        if first is None or first.tag >> 16 not in (0x0002, 0x0008) or first.tag & 0xFFFF > 0x20:
            continue
        known = not first.name.startswith("(") or first.tag & 0xFFFF == 0
        if known and first.vr in ("UL", "OB", "CS", "UI", "DA", "TM", "DT", "LO", "SH") and not first.undefined:
            return True
    return False


def read_file(path: Path, *, pixels: bool) -> DicomFile:
    """Cut a file into elements.

    Args:
        path: the file.
        pixels: read the whole file, and hold the elements against pydicom's reading of it. Otherwise read no further
            than to the pixel data, whose length is still held against the file's.

    Raises:
        RefusedError: no DICOM file with a known transfer syntax, or a malformed one.
    """
    with path.open("rb") as handle:
        total = os.fstat(handle.fileno()).st_size
        size = total if pixels else _WINDOW
        data = b""
        while True:
            data += handle.read(size - len(data))
            try:
                file = _cut(memoryview(data), total)
            except MoreNeededError:
                if len(data) < size:
                    raise RefusedError("the file became shorter while it was read") from None
                size *= 4
            else:
                break
    if pixels:
        _check_with_pydicom(file, data)
    return file


def _cut(view: memoryview, total: int) -> DicomFile:
    first = PREAMBLE + len(PREFIX)
    if bytes(view[PREAMBLE:first]) != PREFIX:
        raise RefusedError(
            "DICOM without preamble and file meta information: its transfer syntax is not known; write it as a DICOM file first, for example with dcmconv"
        )
    meta: list[Element] = []
    start = first
    while start < total:
        if start + 2 > len(view):
            raise MoreNeededError
        if bytes(view[start : start + 2]) != b"\x02\x00":
            break
        element = next(read_elements(view, EXPLICIT_LITTLE, start=start, total=total))
        meta.append(element)
        start += len(element.raw)
    syntax = next(iter(ascii_values(find(meta, _TRANSFER_SYNTAX))), "")
    if not syntax:
        raise RefusedError("the file meta information has no TransferSyntaxUID; write one first, as dcmconv does")
    if syntax not in NATIVE and not syntax.startswith(_COMPRESSED):
        raise RefusedError(f"transfer syntax {uid_name(syntax)} is not known; convert to Explicit Little Endian first")
    after = b""
    if syntax == DEFLATED:
        if len(view) < total:
            raise MoreNeededError
        inflated, after = _inflate(bytes(view[start:]))
        dataset, start, total = memoryview(inflated), 0, len(inflated)
    else:
        dataset = view
    encoding = NATIVE.get(syntax, EXPLICIT_LITTLE)
    elements = list(read_elements(dataset, encoding, start=start, total=total))
    return DicomFile(
        preamble=view[:PREAMBLE],
        meta=meta,
        transfer_syntax=syntax,
        encoding=encoding,
        elements=elements,
        after=after,
    )


def _inflate(data: bytes) -> tuple[bytes, bytes]:
    """Inflate a dataset (PS3.5 A.5); give it and what follows the stream."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, _INFLATE_LIMIT)
    except zlib.error as error:
        raise RefusedError(f"the deflated dataset is damaged: {error}") from error
    if not inflater.eof:
        reason = "is longer than 1 GiB" if len(inflated) >= _INFLATE_LIMIT else "is truncated"
        raise RefusedError(f"the deflated dataset {reason}")
    return inflated, inflater.unused_data


def _check_with_pydicom(file: DicomFile, data: bytes) -> None:
    """Refuse a file in which pydicom, which most training code reads with, sees other elements than we do."""
    if file.transfer_syntax not in NATIVE:
        return
    try:
        dataset = dcmread(BytesIO(data))
        theirs = [int(element.tag) for element in dataset.elements()]
    except (
        InvalidDicomError, OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError,
        RecursionError,
    ) as error:  # fmt: skip
        raise RefusedError(f"pydicom cannot read the file: {' '.join(str(error).split())[:200]}") from error
    ours = [element.tag for element in file.elements]
    if len(set(ours)) < len(ours):
        twice = next(tag for tag in ours if ours.count(tag) > 1)
        raise RefusedError(f"{tag_text(twice)} is there more than once; repair the file first")
    # pydicom leaves out retired group lengths, which hold nothing of the image.
    ours, theirs = ([tag for tag in tags if tag & 0xFFFF] for tags in (ours, theirs))
    if ours != theirs:
        odd = min(set(ours) ^ set(theirs), default=0)
        raise RefusedError(f"pydicom reads other elements, first at {tag_text(odd)}; repair the file first")


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
