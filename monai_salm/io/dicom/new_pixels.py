# SPDX-License-Identifier: Apache-2.0
"""From new values to the elements that hold them, and to those that depend on them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.base import StoredArray
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.codecs import encode_frame
from monai_salm.io.dicom.elements import EXPLICIT_LITTLE, PIXEL_DATA, encode, encode_fragments
from monai_salm.io.dicom.encapsulation import encapsulate
from monai_salm.io.dicom.image_headers import has_embedded_overlays
from monai_salm.io.dicom.pixels import (
    encode_words,
    picture_words,
    with_picture_words,
    words_of_values,
)
from monai_salm.io.dicom.stored_values import Picture, frame_format_of, is_lossy, pixel_element
from monai_salm.io.dicom.transfer_syntaxes import LOSSY_METHODS


@dataclass(frozen=True, kw_only=True)
class PixelReplacement:
    """What new values change in a file.

    Args:
        transfer_syntax: UID of how the new file is encoded.
        elements: tag -> encoded element of the top level in place of the old one; nothing removes it. Pixel data is
            always among them.
    """

    transfer_syntax: str
    elements: Mapping[int, bytes | memoryview]


def replaced_pixels(picture: Picture, stored: StoredArray) -> PixelReplacement:
    """Encode new values as the source's are, with the attributes that depend on them.

    Args:
        picture: the source.
        stored: values of its shape and dtype.
    """
    file, pixel_format = picture.file, picture.format
    old = picture_words(picture.words, pixel_format)
    new = words_of_values(
        np.ascontiguousarray(stored), old, picture.words, pixel_format, overlays=has_embedded_overlays(file)
    )
    words = with_picture_words(picture.words, new, pixel_format)
    syntax = picture.source.header.output_transfer_syntax
    elements: dict[int, bytes | memoryview] = {}
    if syntax:
        elements.update(_native(picture, words))
    elif picture.frames:
        encoded = [
            encode_frame(
                frame[..., 0] if pixel_format.samples == 1 else frame,
                file.transfer_syntax,
                frame_format_of(file, pixel_format),
                like=like,
            )
            for frame, like in zip(words, picture.frames, strict=True)
        ]
        elements[PIXEL_DATA] = encode_fragments(encapsulate(encoded))
    else:
        element = pixel_element(file)
        head = element.raw[: len(element.raw) - element.size]
        elements[PIXEL_DATA] = memoryview(encode_words(words, element.value, pixel_format, head=head))
    for element in file.elements:
        if element.tag in (tags.EXTENDED_OFFSET_TABLE, tags.EXTENDED_OFFSET_TABLE_LENGTHS):
            elements[element.tag] = b""  # stale, and not needed beside a basic one
        elif element.tag == tags.SMALLEST_PIXEL:
            elements[element.tag] = _extreme(element.tag, picture, stored, np.min)
        elif element.tag == tags.LARGEST_PIXEL:
            elements[element.tag] = _extreme(element.tag, picture, stored, np.max)
    return PixelReplacement(transfer_syntax=syntax or file.transfer_syntax, elements=elements)


def _native(picture: Picture, words: NDArray[Any]) -> dict[int, bytes | memoryview]:
    """Write decoded frames as Explicit VR Little Endian; what was lossy once stays marked so (PS3.3 C.7.6.1.1.5)."""
    file, pixel_format = picture.file, picture.format
    value = words.astype(words.dtype.newbyteorder("<")).tobytes()
    wide = pixel_format.bits_allocated > 8
    elements: dict[int, bytes | memoryview] = {
        PIXEL_DATA: encode(PIXEL_DATA, "OW" if wide else "OB", value + bytes(len(value) % 2), EXPLICIT_LITTLE),
    }
    if pixel_format.layout == "rgb":
        elements[tags.PHOTOMETRIC_INTERPRETATION] = encode(
            tags.PHOTOMETRIC_INTERPRETATION, "CS", b"RGB", EXPLICIT_LITTLE
        )
    if pixel_format.samples > 1:
        elements[tags.PLANAR_CONFIGURATION] = encode(tags.PLANAR_CONFIGURATION, "US", bytes(2), EXPLICIT_LITTLE)
    if is_lossy(picture):
        elements[tags.LOSSY_IMAGE_COMPRESSION] = encode(tags.LOSSY_IMAGE_COMPRESSION, "CS", b"01", EXPLICIT_LITTLE)
        ratio = f"{pixel_format.size / max(1, sum(map(len, picture.frames))):.2f}"
        for tag, vr, text in (
            (tags.LOSSY_IMAGE_COMPRESSION_RATIO, "DS", ratio),
            (tags.LOSSY_IMAGE_COMPRESSION_METHOD, "CS", LOSSY_METHODS[file.transfer_syntax]),
        ):
            if not file.texts(tag):
                elements[tag] = encode(tag, vr, text.encode("ascii"), EXPLICIT_LITTLE)
    return elements


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
    return encode(
        tag, "SS" if signed else "US", struct.pack(file.encoding.order + ("h" if signed else "H"), value), file.encoding
    )
