# SPDX-License-Identifier: Apache-2.0
"""The pixels of a picture: from its file to stored values, and from new values to the elements that hold them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.io.base import Document, HeaderChange, ImageHeader, SourceImage, StoredArray
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.codecs import (
    LOSSY,
    FrameFormat,
    decode_frame,
    encapsulate,
    encode_frame,
    is_reversible,
    split_frames,
)
from monai_salm.io.dicom.documents import document_of, label_map_of
from monai_salm.io.dicom.elements import EXPLICIT_LITTLE, PIXEL_DATA, Element, encode, encode_fragments
from monai_salm.io.dicom.files import NATIVE, DicomFile, read_file
from monai_salm.io.dicom.frames import frame_rescales
from monai_salm.io.dicom.pixels import (
    PixelFormat,
    bytes_after_frames,
    decode_words,
    encode_words,
    extends_sign,
    padding_range,
    picture_words,
    values_of_words,
    with_picture_words,
    words_of_values,
)
from monai_salm.io.dicom.reading import check_picture, has_embedded_overlays, picture_header
from monai_salm.io.kinds import NOT_LOOKED_AT, Kind, UndecidedError, judge

SEGMENTED = "its Modality is SEG"
_LOSSY_METHODS = {
    "1.2.840.10008.1.2.4.5": "ISO_10918_1",
    "1.2.840.10008.1.2.4.8": "ISO_14495_1",
    "1.2.840.10008.1.2.4.9": "ISO_15444_1",
}
"""LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5.1) by the beginning of the transfer syntax; that of HTJ2K is
ISO_15444_15.
"""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture with what its writer needs.

    Args:
        file: its elements.
        source: its values.
        format: how its pixels are stored.
        words: its pixel cells, with all their bits, as :func:`~monai_salm.io.dicom.pixels.decode_words` gives them.
        frames: its compressed frames; empty where it is native.
    """

    file: DicomFile
    source: SourceImage
    format: PixelFormat
    words: NDArray[Any]
    frames: Sequence[bytes] = ()


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


def identify(path: Path, said: Kind | None = None) -> ImageHeader | Document:
    """Read what planning needs of a file: the header of a picture, or what it is instead.

    An image object is a picture by its class, unless its Modality is SEG or the user says otherwise; whether its values
    are those of labels all the same is seen where they are read.

    Args:
        path: the file.
        said: what the user says that it is.

    Raises:
        RefusedError: the file is a picture that cannot be protected faithfully, or no DICOM object that is known.
        UndecidedError: its Modality is SEG, and its values are those of a picture.
    """
    file = read_file(path)
    document = document_of(path, file)
    if document is None and said == "label map":
        document = label_map_of(path, file, "the user says so")
    elif document is None and said is None and file.text(tags.MODALITY).upper() == "SEG":
        unseen = _check_labels(path, file)
        document = label_map_of(path, file, SEGMENTED)
        document = replace(document, unprotected=", ".join(filter(None, (document.unprotected, unseen))))
    return document or picture_header(path, file, check_picture(file))


def _check_labels(path: Path, file: DicomFile) -> str:
    """Refuse the values of a picture in what is said to be a segmentation; say so if they cannot be read (of one bit, a
    palette).
    """
    try:
        source = picture_of(path, file).source
    except RefusedError:
        return NOT_LOOKED_AT
    color = source.header.trailing == (3,)
    for part in source.pictures():
        found = judge(
            part.stored,
            slope=part.slope,
            intercept=part.intercept,
            trailing=len(source.header.trailing),
            color=color,
            declared="label map",
            by=SEGMENTED,
        )
        if found.kind == "cannot tell" and found.foreground:
            raise UndecidedError(found)
    return ""


def read_source(path: Path) -> SourceImage:
    """Read a picture's stored values: the BitsStored bits of each pixel, sign-extended where they are signed.

    Raises:
        RefusedError: the file is no picture that can be protected faithfully.
    """
    return read_picture(path).source


def read_picture(path: Path) -> Picture:
    """Read a picture with its elements and its raw words, for the writer.

    Raises:
        RefusedError: the file is no picture that can be protected faithfully.
    """
    file = read_file(path)
    document = document_of(path, file)
    if document is not None:
        raise RefusedError(f"not a picture ({document.kind})")
    return picture_of(path, file)


def picture_of(path: Path, file: DicomFile) -> Picture:
    """Read the pixels of a file that is known to be no document.

    Raises:
        RefusedError: it is no picture that can be protected faithfully.
    """
    pixel_format = check_picture(file)
    frames = _compressed_frames(file, pixel_format)
    words = (
        _decoded(frames, file, pixel_format) if frames else decode_words(_value(file.find(PIXEL_DATA)), pixel_format)
    )
    extends_sign(words, pixel_format, overlays=has_embedded_overlays(file))
    stored = np.ascontiguousarray(picture_words(values_of_words(words, pixel_format), pixel_format))
    stored.setflags(write=False)
    scales = frame_rescales(file, pixel_format.frames)
    slope, intercept = scales[0]
    padding = (file.unsigned(tags.PIXEL_PADDING_VALUE), file.unsigned(tags.PIXEL_PADDING_RANGE_LIMIT))
    source = SourceImage(
        header=picture_header(path, file, pixel_format),
        stored=stored,
        slope=slope,
        intercept=intercept,
        range_stored=pixel_format.range_stored,
        # Padding is defined of monochrome images alone (PS3.3 C.7.5.1.1.2).
        padding_stored=padding_range(*padding, words, pixel_format) if pixel_format.layout == "gray" else None,
        frame_rescale=tuple(scales) if len(set(scales)) > 1 else (),
    )
    return Picture(file=file, source=source, format=pixel_format, words=words, frames=frames)


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
                _frame_format(file, pixel_format),
                like=like,
            )
            for frame, like in zip(words, picture.frames, strict=True)
        ]
        elements[PIXEL_DATA] = encode_fragments(encapsulate(encoded))
    else:
        element = _pixel_element(file)
        value = encode_words(words, element.value, pixel_format)
        elements[PIXEL_DATA] = bytes(element.raw[: len(element.raw) - len(value)]) + value
    for element in file.elements:
        if element.tag in (tags.EXTENDED_OFFSET_TABLE, tags.EXTENDED_OFFSET_TABLE_LENGTHS):
            elements[element.tag] = b""  # stale, and not needed beside a basic one
        elif element.tag == tags.SMALLEST_PIXEL:
            elements[element.tag] = _extreme(element.tag, picture, stored, np.min)
        elif element.tag == tags.LARGEST_PIXEL:
            elements[element.tag] = _extreme(element.tag, picture, stored, np.max)
    return PixelReplacement(transfer_syntax=syntax or file.transfer_syntax, elements=elements)


def _frame_format(file: DicomFile, pixel_format: PixelFormat) -> FrameFormat:
    return FrameFormat(
        rows=pixel_format.rows,
        columns=pixel_format.columns,
        samples=pixel_format.samples,
        bits_allocated=pixel_format.bits_allocated,
        bits_stored=pixel_format.bits_stored,
        signed=pixel_format.signed,
        photometric=file.text(tags.PHOTOMETRIC_INTERPRETATION),
    )


def _compressed_frames(file: DicomFile, pixel_format: PixelFormat) -> list[bytes]:
    if file.transfer_syntax in NATIVE:
        return []
    tables = [file.find(tag) for tag in (tags.EXTENDED_OFFSET_TABLE, tags.EXTENDED_OFFSET_TABLE_LENGTHS)]
    extended = None
    if tables[0] is not None and tables[1] is not None and tables[0].size:
        offsets, lengths = (
            np.frombuffer(table.value[: table.size // 8 * 8], "<u8").tolist() for table in tables if table is not None
        )
        extended = (offsets, lengths)
    return split_frames(_pixel_element(file).value, pixel_format.frames, extended, file.transfer_syntax)


def _decoded(frames: Sequence[bytes], file: DicomFile, pixel_format: PixelFormat) -> NDArray[Any]:
    """Decode all frames to words, ``(frames, rows, columns, samples)``."""
    one = _frame_format(file, pixel_format)
    shape = (pixel_format.rows, pixel_format.columns, pixel_format.samples)
    words = np.empty((len(frames), *shape), dtype=f"u{pixel_format.bits_allocated // 8}")
    for target, frame in zip(words, frames, strict=True):
        target[:] = decode_frame(frame, file.transfer_syntax, one).reshape(shape)
    return words


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
            (tags.LOSSY_IMAGE_COMPRESSION_METHOD, "CS", lossy_method(file.transfer_syntax)),
        ):
            if not file.texts(tag):
                elements[tag] = encode(tag, vr, text.encode("ascii"), EXPLICIT_LITTLE)
    return elements


def is_lossy(picture: Picture) -> bool:
    """Say whether a compressed picture lost something: its transfer syntax allows it, unless the file denies it and its
    frames can be true to that.

    Frames of a reversible process alone prove nothing: JPEG 2000 may leave out the last layers of such a frame.
    """
    syntax = picture.file.transfer_syntax
    one = _frame_format(picture.file, picture.format)
    denied = picture.file.text(tags.LOSSY_IMAGE_COMPRESSION) == "00" and all(
        is_reversible(frame, syntax, one) for frame in picture.frames
    )
    return syntax in LOSSY and not denied


def lossy_method(transfer_syntax: str) -> str:
    """Name the method of a lossy transfer syntax as LossyImageCompressionMethod does."""
    return _LOSSY_METHODS.get(transfer_syntax[:-1], "ISO_15444_15")


def compare_cells(original: Picture, other: Picture) -> list[HeaderChange]:
    """List what differs in the pixel data besides the values: bits above BitsStored, bytes after the frame."""
    changes: list[HeaderChange] = []
    pixel_format = original.format
    if original.words.dtype != other.words.dtype or original.words.shape != other.words.shape:
        return changes  # BitsAllocated, Rows or Columns differ and are listed.
    if original.format.layout in ("ybr", "ybr422") and original.file.transfer_syntax == other.file.transfer_syntax:
        chroma = [picture.words[..., 2 if original.format.layout == "ybr422" else 1 :] for picture in (original, other)]
        if not np.array_equal(chroma[0], chroma[1]):
            changes.append(
                HeaderChange(
                    name="PixelData (chroma)",
                    original="",
                    other=f"{np.count_nonzero(chroma[0] != chroma[1])} differ",
                    allowed=False,
                )
            )
    both = (original.words, other.words)
    high = [words & words.dtype.type(pixel_format.unused_mask) for words in both]
    extended = pixel_format.signed and all(_is_extended(words, pixel_format.mask) for words in both)
    if not extended and not np.array_equal(*high):
        count = int(np.count_nonzero(high[0] != high[1]))
        changes.append(
            HeaderChange(name="PixelData (bits above BitsStored)", original="", other=f"{count} differ", allowed=False)
        )
    if original.frames or other.frames:
        return changes
    ends = [bytes_after_frames(_value(picture.file.find(PIXEL_DATA)), pixel_format) for picture in (original, other)]
    if ends[0] != ends[1]:
        shown = [end[:32].hex(" ") for end in ends]
        changes.append(
            HeaderChange(name="PixelData (bytes after the frame)", original=shown[0], other=shown[1], allowed=False)
        )
    return changes


def _pixel_element(file: DicomFile) -> Element:
    element = file.find(PIXEL_DATA)
    if element is None:
        raise RefusedError("there is no PixelData")
    return element


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
    return encode(
        tag, "SS" if signed else "US", struct.pack(file.encoding.order + ("h" if signed else "H"), value), file.encoding
    )
