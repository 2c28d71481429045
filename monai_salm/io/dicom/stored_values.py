# SPDX-License-Identifier: Apache-2.0
"""From a file to the stored values of its image, with what a writer needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.io.base import SourceImage
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.codecs import FrameFormat, decode_frame, is_reversible
from monai_salm.io.dicom.cutting import checked, cut, read_file
from monai_salm.io.dicom.documents import document_of
from monai_salm.io.dicom.elements import PIXEL_DATA, Element
from monai_salm.io.dicom.encapsulation import split_frames
from monai_salm.io.dicom.files import DicomFile
from monai_salm.io.dicom.frames import frame_rescales
from monai_salm.io.dicom.image_headers import check_picture, has_embedded_overlays, picture_header
from monai_salm.io.dicom.pixels import (
    PixelFormat,
    decode_words,
    extends_sign,
    padding_range,
    picture_words,
    values_of_words,
)
from monai_salm.io.dicom.transfer_syntaxes import LOSSY, NATIVE
from monai_salm.io.origins import OpenFile, digest_of, opened


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image with what its writer needs.

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


def read_source(path: Path) -> SourceImage:
    """Read an image's stored values: the BitsStored bits of each pixel, sign-extended where they are signed.

    Raises:
        RefusedError: the file is no image that can be protected faithfully.
    """
    with opened(path) as file:
        return read_opened(file)


def read_opened(file: OpenFile, seen: str = "") -> SourceImage:
    """Read the same of a file that is open.

    Args:
        file: at any byte.
        seen: digest of bytes that were held against pydicom's reading before, which takes as long as all else that is
            done with a header.
    """
    data = file.whole()
    digest = partial(digest_of, data)
    if seen and (found := digest()) == seen:
        elements, digest = cut(memoryview(data)), partial(str, found)
    else:
        elements = checked(data)
    picture = _picture_in(file.path, elements)
    return picture.source.with_origin(picture, digest, file.state)


def read_picture(path: Path) -> Picture:
    """Read an image with its elements and its raw words, for the writer.

    Raises:
        RefusedError: the file is no image that can be protected faithfully.
    """
    return _picture_in(path, read_file(path))


def picture_behind(source: SourceImage, *, unchanged: bool = False) -> Picture:
    """Give the picture that a source was read as, which is read again only where it was not kept.

    Args:
        source: of :func:`read_source`.
        unchanged: read it again also where its file may have changed since.

    Raises:
        RefusedError: as :func:`read_picture`.
    """
    return source.kept(Picture, unchanged=unchanged) or read_picture(source.header.path)


def _picture_in(path: Path, file: DicomFile) -> Picture:
    document = document_of(path, file)
    if document is not None:
        raise RefusedError(f"not an image ({document.kind})")
    return picture_of(path, file)


def picture_of(path: Path, file: DicomFile) -> Picture:
    """Read the pixels of a file that is known to be no document.

    Raises:
        RefusedError: it is no image that can be protected faithfully.
    """
    pixel_format = check_picture(file)
    frames = _compressed_frames(file, pixel_format)
    words = (
        _decoded(frames, file, pixel_format) if frames else decode_words(value_of(file.find(PIXEL_DATA)), pixel_format)
    )
    extends_sign(words, pixel_format, overlays=has_embedded_overlays(file))
    # Pixel data may begin anywhere in a file, and libraries want arrays at even places.
    stored = np.require(picture_words(values_of_words(words, pixel_format), pixel_format), requirements=("C", "A"))
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
    return split_frames(pixel_element(file).value, pixel_format.frames, extended, file.transfer_syntax)


def _decoded(frames: Sequence[bytes], file: DicomFile, pixel_format: PixelFormat) -> NDArray[Any]:
    """Decode all frames to words, ``(frames, rows, columns, samples)``."""
    one = frame_format_of(file, pixel_format)
    shape = (pixel_format.rows, pixel_format.columns, pixel_format.samples)
    words = np.empty((len(frames), *shape), dtype=f"u{pixel_format.bits_allocated // 8}")
    for target, frame in zip(words, frames, strict=True):
        target[:] = decode_frame(frame, file.transfer_syntax, one).reshape(shape)
    return words


def is_lossy(picture: Picture) -> bool:
    """Say whether a compressed image lost something: its transfer syntax allows it, unless the file denies it and its
    frames can be true to that.

    Frames of a reversible process alone prove nothing: JPEG 2000 may leave out the last layers of such a frame.
    """
    syntax = picture.file.transfer_syntax
    one = frame_format_of(picture.file, picture.format)
    denied = picture.file.text(tags.LOSSY_IMAGE_COMPRESSION) == "00" and all(
        is_reversible(frame, syntax, one) for frame in picture.frames
    )
    return syntax in LOSSY and not denied


def frame_format_of(file: DicomFile, pixel_format: PixelFormat) -> FrameFormat:
    """Give what a codec needs to know of a frame."""
    return FrameFormat(
        rows=pixel_format.rows,
        columns=pixel_format.columns,
        samples=pixel_format.samples,
        bits_allocated=pixel_format.bits_allocated,
        bits_stored=pixel_format.bits_stored,
        signed=pixel_format.signed,
        photometric=file.text(tags.PHOTOMETRIC_INTERPRETATION),
    )


def pixel_element(file: DicomFile) -> Element:
    """Give the pixel data.

    Raises:
        RefusedError: there is none.
    """
    element = file.find(PIXEL_DATA)
    if element is None:
        raise RefusedError("there is no PixelData")
    return element


def value_of(element: Element | None) -> memoryview:
    """Give the bytes of an element that was read; none if it is absent."""
    if element is not None and element.unread:
        raise ValueError(f"the value of {element.name} was left in the file")
    return memoryview(b"") if element is None else element.value
