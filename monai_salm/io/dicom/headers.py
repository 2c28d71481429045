# SPDX-License-Identifier: Apache-2.0
"""The elements of a file without its pixel data, which stays on the disk: all that scanning needs."""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom.uid import DeflatedExplicitVRLittleEndian

from monai_salm.errors import RefusedError
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.cutting import HEAD, emptied, encoding_of, has_plain_pixels, read_file, read_meta
from monai_salm.io.dicom.elements import (
    EXPLICIT_LITTLE,
    ITEM,
    PIXEL_DATA,
    SEQUENCE_END,
    UNDEFINED,
    Element,
    Encoding,
    read_elements,
    read_head,
)
from monai_salm.io.dicom.files import PREAMBLE, PREFIX, DicomFile, meta_text
from monai_salm.io.dicom.pydicom_check import check_with_pydicom
from monai_salm.io.dicom.transfer_syntaxes import NATIVE, is_known
from monai_salm.io.origins import OpenFile, opened

_BLOCK = 1 << 12
_LONGEST_HEAD = 12
_DELIMITER = 8


def read_header(path: Path) -> DicomFile:
    """Cut a file into elements as ``read_file`` does, but leave the pixel data in the file; of encapsulated ones only
    the lengths of the fragments are read.

    What is out of the ordinary, and so every file that is refused, is read whole: it is judged in one place.

    Raises:
        RefusedError: as ``read_file``.
    """
    with opened(path) as file:
        return header_of(file)


def header_of(file: OpenFile) -> DicomFile:
    """Cut the same of a file that is open; errors as of :func:`read_header`."""
    found = _Beginning(file).file()
    return read_file(file.path) if found is None else found


class _Beginning:
    """The first bytes of an open file: as many as were asked for, and up to a block more."""

    def __init__(self, file: OpenFile) -> None:
        self.handle, self.size = file.handle, file.state.size
        self.view = memoryview(file.head)

    def reach(self, end: int) -> memoryview:
        """Have bytes up to a place, or all there are."""
        if end > len(self.view) < self.size:
            self.handle.seek(len(self.view))
            self.view = memoryview(b"".join((self.view, self._read(end + _BLOCK - len(self.view)))))
        return self.view

    def _read(self, count: int) -> bytes:
        """Read so many of the next bytes, or those that there are: what a damaged file says of its lengths is no
        reason to make room for it.
        """
        pieces, count = [], min(count, self.size - self.handle.tell())
        while count > 0 and (piece := self.handle.read(count)):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def file(self) -> DicomFile | None:
        """Cut the file, and hold it against pydicom's reading; None for one that has to be read whole."""
        first = PREAMBLE + len(PREFIX)
        view = self.reach(first)
        if bytes(view[PREAMBLE:first]) != PREFIX:
            return None
        try:
            meta, repeated = read_meta(view, first)
            syntax, start = meta_text(meta, tags.TRANSFER_SYNTAX_UID), first + sum(len(one.raw) for one in meta)
            if repeated or start + HEAD > len(view) or not is_known(syntax) or syntax == DeflatedExplicitVRLittleEndian:
                return None
            encoding = NATIVE.get(syntax, EXPLICIT_LITTLE)
            if encoding_of(view[start : start + HEAD]) not in (None, encoding):
                return None
            elements, end = self._elements(start, encoding)
            pixels, empty, behind = elements[-1], b"", b""
            if pixels.tag == PIXEL_DATA:
                if not has_plain_pixels(pixels, syntax):
                    return None
                empty, behind = emptied(pixels), self._behind(pixels, end)
                after = list(read_elements(memoryview(behind), encoding))
                if any(element.tag == PIXEL_DATA for element in after):
                    return None
                elements += after
            file = DicomFile(
                preamble=self.view[:PREAMBLE], meta=meta, transfer_syntax=syntax, encoding=encoding, elements=elements
            )
            check_with_pydicom(file, b"".join((self.view[: end - len(pixels.raw) if empty else end], empty, behind)))
        except RefusedError:
            return None
        return file

    def _elements(self, start: int, encoding: Encoding) -> tuple[list[Element], int]:
        """Cut the elements up to pixel data, which is the last of them, without a value; and give where they end."""
        elements: list[Element] = []
        place = start
        while place < self.size:
            view = self.view
            if place + _LONGEST_HEAD > len(view):
                view = self.reach(place + _LONGEST_HEAD)
            tag, vr, length, head = read_head(view, place, encoding)
            last = place + head
            if length == UNDEFINED and tag != PIXEL_DATA:
                element = self._sequence(place, encoding)
            else:
                if tag != PIXEL_DATA:
                    last += length
                if last > len(view):
                    view = self.reach(last)
                if last > len(view):
                    raise RefusedError("truncated")
                element = Element(
                    tag=tag, vr=vr, encoding=encoding, raw=view[place:last], value=view[place + head : last],
                    undefined=length == UNDEFINED, unread=length if tag == PIXEL_DATA and length != UNDEFINED else 0,
                )  # fmt: skip
            elements.append(element)
            place += len(element.raw)
            if tag == PIXEL_DATA:
                break
        return elements, place

    def _sequence(self, place: int, encoding: Encoding) -> Element:
        """Cut a sequence of undefined length, whose end is not known before it is read."""
        while True:
            try:
                return next(read_elements(self.view, encoding, start=place))
            except RefusedError:
                if len(self.view) >= self.size:
                    raise
            self.reach(len(self.view) + max(1, len(self.view) // 2))

    def _behind(self, pixels: Element, place: int) -> bytes:
        """Give the bytes behind pixel data whose value begins at a place, and note its length."""
        end = place + pixels.unread
        if pixels.undefined:
            end = self._end_of_fragments(place)
            pixels.unread = end - _DELIMITER - place
        if end > self.size:
            raise RefusedError("truncated")
        self.handle.seek(end)
        return self._read(self.size - end)

    def _end_of_fragments(self, place: int) -> int:
        """Give the end of the delimiter behind the fragments of encapsulated pixel data (PS3.5 A.4)."""
        while True:
            self.handle.seek(place)
            head = self._read(_DELIMITER)
            if len(head) < _DELIMITER:
                raise RefusedError("truncated")
            group, number, length = struct.unpack("<HHI", head)
            place += _DELIMITER
            tag = group << 16 | number
            if tag == SEQUENCE_END:
                return place
            if tag != ITEM:
                raise RefusedError("no fragment")
            place += length
