# SPDX-License-Identifier: Apache-2.0
"""Native pixel cells (PS3.5 8.1): from bytes to words to values and back, keeping what is not the image in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How one frame is stored.

    Args:
        rows: lines.
        columns: pixels of a line.
        bits_allocated: size of a pixel cell.
        bits_stored: how many of its low bits are the value; overlays of old files are in the others.
        signed: whether the value is two's complement.
        swapped_bytes: cells of 8 bits in big endian words, so that neighbors are swapped (PS3.5 8.1.1).
        little: byte order.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    swapped_bytes: bool
    little: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of the frame, without pad byte."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def mask(self) -> int:
        """The bits of a cell that are the value."""
        return (1 << self.bits_stored) - 1

    @property
    def unused_mask(self) -> int:
        """The bits of a cell above the value."""
        return ((1 << self.bits_allocated) - 1) & ~self.mask

    @property
    def range_stored(self) -> tuple[float, float]:
        """Lowest and highest value of BitsStored bits."""
        if self.signed:
            return -float(1 << self.bits_stored - 1), float((1 << self.bits_stored - 1) - 1)
        return 0.0, float(self.mask)


def decode_words(value: memoryview, pixel_format: PixelFormat) -> NDArray[Any]:
    """Give the pixel cells of the frame as unsigned words in native byte order, with all their bits."""
    size = pixel_format.frame_bytes
    shape = (pixel_format.rows, pixel_format.columns)
    if pixel_format.swapped_bytes:
        _check_even(value, size)
        pairs = np.frombuffer(value[: size + size % 2], dtype=np.uint8).reshape(-1, 2)
        straight: NDArray[Any] = pairs[:, ::-1].ravel()[:size].reshape(shape)
        return straight
    width = pixel_format.bits_allocated // 8
    order = "<" if pixel_format.little else ">"
    words = np.frombuffer(value[:size], dtype=f"{order}u{width}").astype(f"u{width}")
    return words.reshape(shape)


def encode_words(words: NDArray[Any], value: memoryview, pixel_format: PixelFormat) -> bytes:
    """Put words into a copy of the pixel data's value; a pad byte and bytes after the frame stay."""
    size = pixel_format.frame_bytes
    encoded = bytearray(value)
    if pixel_format.swapped_bytes:
        _check_even(value, size)
        pairs = np.frombuffer(encoded, dtype=np.uint8)[: size + size % 2].reshape(-1, 2)
        straight = pairs[:, ::-1].ravel()
        straight[:size] = words.ravel()
        pairs[:] = straight.reshape(-1, 2)[:, ::-1]
        return bytes(encoded)
    order = "<" if pixel_format.little else ">"
    encoded[:size] = words.astype(f"{order}u{pixel_format.bits_allocated // 8}").tobytes()
    return bytes(encoded)


def bytes_after_frame(value: memoryview, pixel_format: PixelFormat) -> bytes:
    """Give the pad byte and whatever else the pixel data holds after the frame."""
    size = pixel_format.frame_bytes
    if pixel_format.swapped_bytes and size % 2:
        return bytes(value[size - 1 : size]) + bytes(value[size + 1 :])
    return bytes(value[size:])


def values_of_words(words: NDArray[Any], pixel_format: PixelFormat) -> NDArray[Any]:
    """Give the values: the low BitsStored bits, sign-extended where they are signed."""
    values = words & words.dtype.type(pixel_format.mask)
    if pixel_format.signed:
        sign = words.dtype.type(1 << pixel_format.bits_stored - 1)
        # Unsigned words wrap around as two's complement does, so flipping and subtracting the sign bit extends it.
        values = (values ^ sign) - sign
    signed_values: NDArray[Any] = values.view(pixel_format.dtype)
    return signed_values


def extends_sign(words: NDArray[Any], pixel_format: PixelFormat, *, overlays: bool) -> bool:
    """Say whether the bits above the values repeat the sign, as is usual in signed pixels; else they are kept.

    Args:
        words: the pixel cells.
        pixel_format: of the frame.
        overlays: whether the dataset declares overlays in those bits.

    Raises:
        RefusedError: signed words in which those bits follow no convention.
    """
    values = values_of_words(words, pixel_format)
    if not pixel_format.signed:
        return False
    if np.array_equal(values.view(words.dtype), words):
        # So it is in a frame without negative values too, where nothing tells sign extensions from zeros.
        return True
    if overlays or not (words & words.dtype.type(pixel_format.unused_mask)).any():
        return False
    raise RefusedError(
        f"signed pixels of {pixel_format.bits_stored} bits in {pixel_format.bits_allocated}: the unused bits "
        "are in part sign extensions and in part not, so that readers disagree on the values"
    )


def words_of_values(values: NDArray[Any], words: NDArray[Any], pixel_format: PixelFormat, *, overlays: bool) -> NDArray[Any]:
    """Give words with other values, and above them what the convention of the old words asks (``extends_sign``)."""
    new: NDArray[Any] = values.view(words.dtype)
    if extends_sign(words, pixel_format, overlays=overlays):
        return new.copy()
    new = new & words.dtype.type(pixel_format.mask)
    new |= words & words.dtype.type(pixel_format.unused_mask)
    return new


def padding_range(value: int | None, limit: int | None, words: NDArray[Any], pixel_format: PixelFormat) -> tuple[float, float] | None:
    """Give the inclusive range of padding values (PS3.3 C.7.5.1.1.2).

    Args:
        value: PixelPaddingValue as the 16 bits that are written: real files have it as US where pixels are signed.
        limit: PixelPaddingRangeLimit likewise.
        words: the pixel cells, to see whether a value that BitsStored bits cannot hold is used all the same.
        pixel_format: of the frame.

    Raises:
        RefusedError: there are pixels that have the padding value only with the bits above BitsStored.
    """
    if value is None:
        return None
    low, high = pixel_format.range_stored
    ends = [_as_stored(bits, pixel_format) for bits in (value, value if limit is None else limit)]
    if all(low <= end <= high for end in ends):
        return float(min(ends)), float(max(ends))
    if pixel_format.bits_stored < pixel_format.bits_allocated and (words == value).any():
        raise RefusedError(
            f"PixelPaddingValue {value} does not fit in BitsStored {pixel_format.bits_stored}, but pixels have it; readers disagree on their values"
        )
    clipped = max(min(ends), low), min(max(ends), high)
    return clipped if clipped[0] <= clipped[1] else None


def _as_stored(bits: int, pixel_format: PixelFormat) -> int:
    """Read the 16 bits of a padding value as the pixels are read."""
    if not pixel_format.signed:
        return bits
    full = bits - (1 << 16) if bits >> 15 else bits
    if pixel_format.bits_stored < 16 and not pixel_format.range_stored[0] <= full <= pixel_format.range_stored[1]:
        sign = 1 << pixel_format.bits_stored - 1
        return ((bits ^ sign) - sign) if bits <= pixel_format.mask else full
    return full


def _check_even(value: memoryview, size: int) -> None:
    if len(value) < size + size % 2:
        raise RefusedError(f"PixelData has an odd length of {len(value)} bytes in words of two; it is truncated")
