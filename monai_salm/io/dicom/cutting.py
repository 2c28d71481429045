# SPDX-License-Identifier: Apache-2.0
"""From the bytes of a file, in whichever transfer syntax, to its elements; what they show is for others to judge."""

from __future__ import annotations

import zlib
from pathlib import Path

from pydicom.uid import DeflatedExplicitVRLittleEndian

from monai_salm.errors import RefusedError
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import (
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    PIXEL_DATA,
    Element,
    Encoding,
    encode,
    encode_fragments,
    read_elements,
    tag_text,
)
from monai_salm.io.dicom.files import PREAMBLE, PREFIX, DicomFile, ascii_values, meta_text
from monai_salm.io.dicom.pydicom_check import check_with_pydicom
from monai_salm.io.dicom.transfer_syntaxes import NATIVE, is_known
from monai_salm.io.dicom.wording import uid_name
from monai_salm.io.origins import first_bytes

_LENGTH_BYTES = 4
HEAD = 512
"""Bytes that tell how a dataset begins."""
_INFLATE_LIMIT = 1 << 26
_INFLATE_RATIO = 50
"""Deflated datasets of images expand by less than ten; what expands much more, and is large, is a bomb."""
_FIRST_VRS = ("UL", "OB", "CS", "UI", "DA", "TM", "DT", "LO", "SH")
"""Of the elements that a dataset may begin with."""


def sniff(path: Path, head: bytes | None = None) -> bool:
    """Say from the first bytes whether a file is DICOM: by its prefix, or by a plausible first element without one."""
    head = first_bytes(path, HEAD) if head is None else head[:HEAD]
    return head[PREAMBLE : PREAMBLE + len(PREFIX)] == PREFIX or _starts_like_dataset(head)


def _starts_like_dataset(head: bytes) -> bool:
    """Recognize a dataset without preamble by how it begins."""
    return encoding_of(memoryview(head)) is not None


def encoding_of(head: memoryview) -> Encoding | None:
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
    return checked(path.read_bytes())


def checked(data: bytes) -> DicomFile:
    """Cut the bytes of a file, as :func:`read_file` does."""
    view = memoryview(data)
    file = cut(view)
    try:
        check_with_pydicom(file, without_pixels(file, view))
    except RefusedError:
        check_with_pydicom(file, view)  # says where in the file, not in what is left of it
        raise
    return file


def without_pixels(file: DicomFile, view: memoryview) -> bytes | memoryview:
    """Give a file's bytes with its pixel data emptied, for which no reader looks for elements; all of them where the
    pixel data is out of the ordinary.
    """
    places = [number for number, element in enumerate(file.elements) if element.tag == PIXEL_DATA]
    if len(places) != 1 or not file.prefix or file.transfer_syntax in ("", DeflatedExplicitVRLittleEndian):
        return view
    element = file.elements[places[0]]
    if not has_plain_pixels(element, file.transfer_syntax):
        return view
    start = PREAMBLE + len(PREFIX) + sum(len(one.raw) for one in [*file.meta, *file.elements[: places[0]]])
    return b"".join((view[:start], emptied(element), view[start + len(element.raw) :]))


def has_plain_pixels(element: Element, syntax: str) -> bool:
    """Say whether pixel data is written as its transfer syntax wants it."""
    return element.vr in ("OB", "OW") and element.undefined == (syntax not in NATIVE)


def emptied(element: Element) -> bytes:
    """Encode pixel data without a byte in it."""
    return encode_fragments(b"") if element.undefined else encode(PIXEL_DATA, element.vr, b"", element.encoding)


def cut(view: memoryview) -> DicomFile:
    """Cut a file's bytes into elements, as :func:`read_file` does, but hold nothing against pydicom: for a file that
    was read before.
    """
    first = PREAMBLE + len(PREFIX)
    prefix = bytes(view[PREAMBLE:first]) == PREFIX
    meta, repeated = read_meta(view, first if prefix else 0)
    start = (first if prefix else 0) + sum(len(element.raw) for element in meta + repeated)
    syntax = meta_text(meta, tags.TRANSFER_SYNTAX_UID)
    if not syntax:
        return _without_transfer_syntax(view, prefix, meta, start)
    if not is_known(syntax):
        raise RefusedError(
            f"transfer syntax {uid_name(syntax)} is not known; let the software that wrote the file write it as "
            "Explicit VR Little Endian"
        )
    dataset, after = view[start:], b""
    if syntax == DeflatedExplicitVRLittleEndian:
        inflated, after = _inflate(bytes(dataset))
        dataset = memoryview(inflated)
    encoding = NATIVE.get(syntax, EXPLICIT_LITTLE)
    _check_repeated(repeated, syntax)
    found = encoding_of(dataset[:HEAD])
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


def read_meta(view: memoryview, start: int) -> tuple[list[Element], list[Element]]:
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
    deflated = syntax == DeflatedExplicitVRLittleEndian
    if repeated and (deflated or NATIVE.get(syntax, EXPLICIT_LITTLE) != EXPLICIT_LITTLE):
        raise RefusedError(
            f"{tag_text(repeated[0].tag)} is behind the end of the file meta information, where a dataset of "
            f"{uid_name(syntax)} should start, "
            "so readers disagree on how to read it; get another copy of the file, or leave it out"
        )
    second = next((element for element in repeated if element.tag == tags.TRANSFER_SYNTAX_UID), None)
    if second is not None and ascii_values(second) != [syntax]:
        raise RefusedError(
            f"TransferSyntaxUID is there more than once: {uid_name(syntax)} in the file meta information and "
            f"{uid_name(','.join(ascii_values(second)))} behind it, and readers disagree on which counts; "
            "remove the second, for example with dcmodify -nb -e '(0002,0010)'"
        )


def _without_transfer_syntax(view: memoryview, prefix: bool, meta: list[Element], start: int) -> DicomFile:
    if prefix:
        raise RefusedError("the file meta information has no TransferSyntaxUID; write one first, as dcmconv does")
    encoding = encoding_of(view[start : start + HEAD])
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
