# SPDX-License-Identifier: Apache-2.0
"""What of a file is not its pixel cells, and the file again of that and values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from monai_salm.errors import RefusedError
from monai_salm.io.base import Casing, SourceImage, StoredArray
from monai_salm.io.dicom.comparing import kept_bytes
from monai_salm.io.dicom.elements import PIXEL_DATA
from monai_salm.io.dicom.files import PREFIX
from monai_salm.io.dicom.image_headers import has_embedded_overlays
from monai_salm.io.dicom.pixels import (
    PixelFormat,
    encode_words,
    picture_words,
    with_picture_words,
    words_of_values,
)
from monai_salm.io.dicom.stored_values import picture_behind
from monai_salm.io.dicom.transfer_syntaxes import NATIVE
from monai_salm.io.origins import Buffer


def casing(source: SourceImage) -> Casing | None:
    """Give what of an image's file is not its pixel cells: header, and what follows; None of a file that is compressed,
    for no encoder gives the bytes of another.

    Args:
        source: of ``read_source``.
    """
    picture = picture_behind(source)
    file, pixel_format, data = picture.file, picture.format, kept_bytes(source)
    if file.transfer_syntax not in NATIVE or file.after or data is None or pixel_format.swapped_bytes:
        return None
    place = next(number for number, element in enumerate(file.elements) if element.tag == PIXEL_DATA)
    element = file.elements[place]
    start = len(file.preamble) + len(PREFIX) * file.prefix
    start += sum(len(one.raw) for one in [*file.meta, *file.elements[:place]]) + len(element.raw) - element.size
    return Casing(
        before=bytes(data[:start]),
        after=bytes(data[start + pixel_format.size :]),
        coding=asdict(pixel_format),
    )


def cased(casing: Casing, template: SourceImage, stored: StoredArray) -> Iterator[Buffer]:
    """Give the bytes of the file that :func:`casing` was of, with values.

    Args:
        casing: of it.
        template: the file that was written for it, as ``read_source`` gives it, in whichever transfer syntax it is
            now: what is not the image in its pixel cells, chroma and overlays, is as in the original.
        stored: the values.

    Raises:
        RefusedError: the values are not of the file's shape and type.
    """
    picture = picture_behind(template)
    coding = dict(casing.coding)
    pixel_format = PixelFormat(**coding | {"tiles": tuple(coding["tiles"])})
    found = picture.format
    same = ("rows", "columns", "bits_allocated", "frames", "layout", "tiles")
    if (
        any(getattr(found, name) != getattr(pixel_format, name) for name in same)
        or stored.shape != template.stored.shape
    ):
        raise RefusedError(
            f"its pixels are not stored as those of the file that was written ({found.frames} x {found.rows} x "
            f"{found.columns}, {found.layout}, {found.bits_allocated} bits); get that file back as it was handed out"
        )
    old = picture_words(picture.words, pixel_format)
    overlays = has_embedded_overlays(picture.file)
    new = words_of_values(np.ascontiguousarray(stored), old, picture.words, pixel_format, overlays=overlays)
    words = with_picture_words(picture.words, new, pixel_format)
    yield casing.before
    yield memoryview(encode_words(words, bytes(pixel_format.size), pixel_format))
    yield casing.after
