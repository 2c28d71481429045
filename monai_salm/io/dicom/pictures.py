# SPDX-License-Identifier: Apache-2.0
"""The pixels of a picture: from its file to stored values, and from new values to the elements that hold them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.base import HeaderChange, SourceImage, StoredArray
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import PIXEL_DATA, Element, encode
from monai_salm.io.dicom.files import DicomFile, read_file
from monai_salm.io.dicom.pixels import bytes_after_frame, decode_words, encode_words, extends_sign, padding_range, values_of_words, words_of_values
from monai_salm.io.dicom.reading import check_picture, has_embedded_overlays, picture_header, rescale


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with what its writer needs.

    Args:
        file: its elements.
        source: its values.
        words: its pixel cells, with all their bits.
    """

    file: DicomFile
    source: SourceImage
    words: NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PixelReplacement:
    """What new values change in a file.

    Args:
        transfer_syntax: UID of how the new file is encoded.
        elements: tag -> encoded element of the top level in place of the old one; nothing removes it. Pixel data is always among them.
    """

    transfer_syntax: str
    elements: Mapping[int, bytes | memoryview]


def read_source(path: Path) -> SourceImage:
    """Read a picture's stored values: the BitsStored bits of each pixel, sign-extended where they are signed.

    Raises:
        RefusedError: the file is no picture that can be protected faithfully.
    """
    return read_picture(path).source


def read_back(source: SourceImage, written: Path) -> SourceImage:
    """Read what ``write_like`` wrote."""
    del source
    return read_source(written)


def read_picture(path: Path) -> Picture:
    """Read a picture with its elements and its raw words, for the writer.

    Raises:
        RefusedError: the file is no picture that can be protected faithfully.
    """
    file = read_file(path, pixels=True)
    pixel_format = check_picture(file)
    element = file.find(PIXEL_DATA)
    words = decode_words(element.value if element is not None else memoryview(b""), pixel_format)
    extends_sign(words, pixel_format, overlays=has_embedded_overlays(file))
    stored = values_of_words(words, pixel_format)
    stored.setflags(write=False)
    slope, intercept = rescale(file)
    source = SourceImage(
        header=picture_header(path, file, pixel_format),
        stored=stored,
        slope=slope,
        intercept=intercept,
        range_stored=pixel_format.range_stored,
        padding_stored=padding_range(file.unsigned(0x00280120), file.unsigned(0x00280121), words, pixel_format),
    )
    return Picture(file=file, source=source, words=words)


def replaced_pixels(picture: Picture, stored: StoredArray) -> PixelReplacement:
    """Encode new values as the source's are, with the attributes that depend on them.

    Args:
        picture: the source.
        stored: values of its shape and dtype.
    """
    file = picture.file
    pixel_format = check_picture(file)
    words = words_of_values(np.ascontiguousarray(stored), picture.words, pixel_format, overlays=has_embedded_overlays(file))
    elements: dict[int, bytes] = {}
    for element in file.elements:
        if element.tag == PIXEL_DATA:
            value = encode_words(words, element.value, pixel_format)
            elements[PIXEL_DATA] = bytes(element.raw[: len(element.raw) - len(value)]) + value
        elif element.tag == tags.SMALLEST_PIXEL:
            elements[element.tag] = _extreme(element.tag, picture, stored, np.min)
        elif element.tag == tags.LARGEST_PIXEL:
            elements[element.tag] = _extreme(element.tag, picture, stored, np.max)
    return PixelReplacement(transfer_syntax=file.transfer_syntax, elements=elements)


def compare_cells(original: Picture, other: Picture) -> list[HeaderChange]:
    """List what differs in the pixel data besides the values: bits above BitsStored, bytes after the frame."""
    changes: list[HeaderChange] = []
    pixel_format = check_picture(original.file)
    if original.words.dtype != other.words.dtype or original.words.shape != other.words.shape:
        return changes  # BitsAllocated, Rows or Columns differ and are listed.
    both = (original.words, other.words)
    high = [words & words.dtype.type(pixel_format.unused_mask) for words in both]
    extended = pixel_format.signed and all(_is_extended(words, pixel_format.mask) for words in both)
    if not extended and not np.array_equal(*high):
        count = int(np.count_nonzero(high[0] != high[1]))
        changes.append(HeaderChange(name="PixelData (bits above BitsStored)", original="", other=f"{count} differ", allowed=False))
    ends = [bytes_after_frame(_value(picture.file.find(PIXEL_DATA)), pixel_format) for picture in (original, other)]
    if ends[0] != ends[1]:
        shown = [end[:32].hex(" ") for end in ends]
        changes.append(HeaderChange(name="PixelData (bytes after the frame)", original=shown[0], other=shown[1], allowed=False))
    return changes


def _value(element: Element | None) -> memoryview:
    return memoryview(b"") if element is None else element.value


def _is_extended(words: NDArray[Any], mask: int) -> bool:
    """Say whether the bits above the value repeat its sign in every word."""
    sign = words.dtype.type(mask + 1 >> 1)
    low = words & words.dtype.type(mask)
    return np.array_equal((low ^ sign) - sign, words)


def _extreme(tag: int, picture: Picture, stored: StoredArray, extreme: Callable[[Any], Any]) -> bytes:
    """Recompute SmallestImagePixelValue or LargestImagePixelValue the way the source did, with or without padding.

    What no 16 bits can hold is removed (VR is US or SS, by PixelRepresentation).
    """
    file, source = picture.file, picture.source
    image = ~source.padding
    old = file.unsigned(tag)
    whole = old is None or not image.any() or int(extreme(source.stored)) & 0xFFFF == old
    value = int(extreme(stored if whole else stored[image]))
    signed = stored.dtype.kind == "i"
    info = np.iinfo(np.int16 if signed else np.uint16)
    if not info.min <= value <= info.max:
        return b""
    return encode(tag, "SS" if signed else "US", struct.pack(file.encoding.order + ("h" if signed else "H"), value), file.encoding)
