# SPDX-License-Identifier: Apache-2.0
"""A file that is cut into elements, held against pydicom's reading of it: most training code reads with pydicom."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from io import BytesIO
from itertools import pairwise, takewhile
from typing import BinaryIO

from pydicom import dcmread
from pydicom.charset import convert_encodings, default_encoding
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from monai_salm.errors import RefusedError
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import (
    Element,
    tag_text,
)
from monai_salm.io.dicom.files import META_GROUP, PREAMBLE, PREFIX, DicomFile, ascii_values
from monai_salm.io.origins import same_bytes

_SHORT = 64


def check_with_pydicom(file: DicomFile, data: bytes | memoryview) -> None:
    """Refuse a file in which pydicom, which most training code reads with, sees other elements than we do, or other
    file meta information.

    Args:
        file: as we cut it.
        data: its bytes; those of pixel data may be left out.

    Raises:
        RefusedError: they differ, or pydicom cannot read them.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            their_meta, tags_found = _as_pydicom_reads(file, BytesIO(data))
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
    theirs = sorted(tag for tag in tags_found if tag & 0xFFFF)
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


def _as_pydicom_reads(file: DicomFile, stream: BinaryIO) -> tuple[dict[int, object], list[int]]:
    """Give the values of the file meta information, and the tags of the dataset, as ``dcmread`` finds them; by the
    steps that it takes for a plain file, without what it does around them for its caller, which takes as long.
    """
    first = next(iter(file.elements), None)
    if (
        not file.prefix
        or not file.meta
        or file.transfer_syntax in ("", DeflatedExplicitVRLittleEndian)
        or first is None
        or first.tag >> 16 in (0, META_GROUP)
    ):
        whole = dcmread(stream, force=not file.prefix)
        return {int(one.tag): one.value for one in whole.file_meta.elements()}, [int(tag) for tag in whole.keys()]  # noqa: SIM118 (a dataset iterates over elements)
    stream.seek(PREAMBLE + len(PREFIX))
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != META_GROUP)
    found = {int(one.tag): one for one in meta.elements()}
    values = {tag: one.value for tag, one in found.items()}
    for tag in {min(found), tags.META_LENGTH, tags.TRANSFER_SYNTAX_UID} & found.keys():
        one = found[tag]
        if isinstance(one, RawDataElement):
            values[tag] = convert_raw_data_element(one, encoding=default_encoding, ds=meta).value
    dataset = read_dataset(stream, not file.encoding.explicit, file.encoding.little)
    return values, [int(tag) for tag in dataset.keys()]  # noqa: SIM118


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
        first = seen.setdefault(element.tag, element)
        if first is not element and not same_bytes(first.raw, element.raw):
            name = path + (element.name if element.name.startswith("(") else f"{element.name} {tag_text(element.tag)}")
            raise RefusedError(
                f"{name} is there more than once with different values, and readers disagree on which counts; "
                "repair the file first, for example with dcmconv, which keeps the first"
            )
        if not element.undefined and element.vr not in ("SQ", "UN"):
            continue
        for number, item in enumerate(element.items(2 * depth) or []):
            _check_unique(item.elements(2 * depth + 1), f"{path}{element.name}[{number}].", depth + 1)
