# SPDX-License-Identifier: Apache-2.0
"""What lies in a file of an image beside the image: bytes that could be another one, which no noise would reach."""

from __future__ import annotations

from collections.abc import Iterable

from monai_salm.errors import RefusedError
from monai_salm.io.pictures_in_text import picture_in
from monai_salm.io.signatures import picture_within_binary, picture_within_metadata

_NO_TEXT = bytes(set(range(32)) - set(b"\t\n\r\x1b")) + bytes(range(127, 256))
_SHARE, _LEAST_TEXT = 8, 40


def holds_picture(data: bytes) -> bool:
    """Say whether metadata, or what follows an image, hold another one: as it is, or encoded as text."""
    return picture_within_metadata(data) or picture_in(data) != ""


def binary_holds_picture(data: bytes | memoryview, *, text: bool = True) -> bool:
    """Say the same of binary data of any size, in which a few bytes of an image occur by chance.

    Args:
        data: the whole of it.
        text: look for encoded images too, where most of it is text.
    """
    return picture_within_binary(data) or (
        text and len(data) >= _LEAST_TEXT and _is_text(bytes(data)) and picture_in(bytes(data)) != ""
    )


def may_be_picture(data: bytes, plane: int) -> bool:
    """Say whether metadata hold an image, or are binary and long enough to be one.

    Args:
        data: the metadata.
        plane: bytes of one plane of the image that they belong to.
    """
    return holds_picture(data) or (len(data.strip(b"\0")) >= plane and not _is_text(data))


def _is_text(data: bytes) -> bool:
    """Say whether nearly all of it is letters."""
    return (len(data) - len(data.translate(None, _NO_TEXT))) * _SHARE <= len(data)


def check_leftovers(parts: Iterable[bytes], plane: int, picture: int, place: str) -> None:
    """Refuse a file that holds more than its header speaks of, be it another volume, plane or page.

    Args:
        parts: bytes that nothing accounts for; those that are all zeros, and zeros at their ends, do not count.
        plane: bytes of one plane, the least that counts as more.
        picture: bytes of all that the header speaks of.
        place: where the bytes are, for the message.

    Raises:
        RefusedError: as many bytes as a plane, or more.
    """
    size = sum(len(part) for part in parts if part.strip(b"\0"))
    if size >= plane:
        raise RefusedError(
            f"the file holds {size} bytes {place}, as many as {size / picture:.3g} times the image that its "
            "header describes: they would go out unprotected; "
            "repair the header, or cut them off"
        )
