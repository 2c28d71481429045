# SPDX-License-Identifier: Apache-2.0
"""Native pixel cells (PS3.5 8.1): from bytes to words to values and back, keeping what is not the image in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError

Bytes = bytes | memoryview


Layout = Literal["gray", "rgb", "ybr", "ybr422"]
"""What the samples of a pixel are: one value, three colors, luminance and two chroma, or two of luminance to one pair
of chroma.
"""


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """How the frames of an image are stored (PS3.3 C.7.6.3, PS3.5 8.1).

    Args:
        rows: lines.
        columns: pixels of a line.
        bits_allocated: size of a pixel cell.
        bits_stored: how many of its low bits are the value; overlays of old files are in the others.
        signed: whether the value is two's complement.
        frames: how many.
        layout: what the samples of a pixel are.
        planar: whether the samples of a frame lie plane by plane (PlanarConfiguration 1).
        tiles: rows and columns of images that one frame is divided into (a mosaic has several, PS3.3 knows none).
        swapped_bytes: cells of 8 bits in big endian words, so that neighbors are swapped (PS3.5 8.1.1).
        little: byte order.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    frames: int = 1
    layout: Layout = "gray"
    planar: bool = False
    tiles: tuple[int, int] = (1, 1)
    swapped_bytes: bool = False
    little: bool = True

    @property
    def samples(self) -> int:
        """Samples of a pixel."""
        return 1 if self.layout == "gray" else 3

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        samples = 2 if self.layout == "ybr422" else self.samples
        return self.rows * self.columns * samples * self.bits_allocated // 8

    @property
    def size(self) -> int:
        """Bytes of all frames, without pad byte."""
        return self.frames * self.frame_bytes

    @property
    def stacked(self) -> bool:
        """Whether the file holds several images: frames, or tiles of a mosaic."""
        return self.frames > 1 or self.tiles != (1, 1)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Shape of the values without their samples: (rows, columns), with the number of images before it where there
        are several.
        """
        down, across = self.tiles
        one = (self.rows // down, self.columns // across)
        return (self.frames * down * across, *one) if self.stacked else one

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
    """Give the pixel cells as unsigned words in native byte order, with all their bits; a read-only view of the bytes
    where they allow one.

    Returns:
        ``(frames, rows, columns, samples)``; of YBR_FULL_422 ``(frames, rows, columns / 2, 4)`` with two of luminance
        first.
    """
    size = pixel_format.size
    if pixel_format.swapped_bytes:
        _check_even(value, size)
        pairs = np.frombuffer(value[: size + size % 2], dtype=np.uint8).reshape(-1, 2)
        flat: NDArray[Any] = pairs[:, ::-1].ravel()[:size]
    else:
        width = pixel_format.bits_allocated // 8
        order = "<" if pixel_format.little else ">"
        flat = np.frombuffer(value[:size], dtype=f"{order}u{width}").astype(f"u{width}", copy=False)
    frames, rows, columns, samples = pixel_format.frames, pixel_format.rows, pixel_format.columns, pixel_format.samples
    if pixel_format.layout == "ybr422":
        return flat.reshape(frames, rows, columns // 2, 4)
    if pixel_format.planar:
        return np.moveaxis(flat.reshape(frames, samples, rows, columns), 1, -1)
    return flat.reshape(frames, rows, columns, samples)


def encode_words(words: NDArray[Any], value: Bytes, pixel_format: PixelFormat, *, head: Bytes = b"") -> bytearray:
    """Put words, as :func:`decode_words` gives them, into a copy of the pixel data's value; a pad byte and bytes after
    the frames stay.

    Args:
        words: the pixel cells.
        value: of the old pixel data.
        pixel_format: of both.
        head: bytes to put before the value.
    """
    size, start = pixel_format.size, len(head)
    flat = (np.moveaxis(words, -1, 1) if pixel_format.planar else words).ravel()
    encoded = bytearray(start + len(value))
    encoded[:start] = head
    if pixel_format.swapped_bytes:
        _check_even(value, size)
        encoded[start:] = value
        pairs = np.frombuffer(encoded, dtype=np.uint8, offset=start)[: size + size % 2].reshape(-1, 2)
        straight = pairs[:, ::-1].ravel()
        straight[:size] = flat
        pairs[:] = straight.reshape(-1, 2)[:, ::-1]
        return encoded
    encoded[start + size :] = value[size:]
    order = "<" if pixel_format.little else ">"
    cells = np.frombuffer(encoded, f"{order}u{pixel_format.bits_allocated // 8}", count=flat.size, offset=start)
    cells[:] = flat
    return encoded


def bytes_after_frames(value: memoryview, pixel_format: PixelFormat) -> bytes:
    """Give the pad byte and whatever else the pixel data holds after the frames."""
    size = pixel_format.size
    if pixel_format.swapped_bytes and size % 2:
        return bytes(value[size - 1 : size]) + bytes(value[size + 1 :])
    return bytes(value[size:])


def picture_words(words: NDArray[Any], pixel_format: PixelFormat) -> NDArray[Any]:
    """Give the words that are the image: gray, red, green and blue, or luminance.

    Of color that is stored as luminance and chroma the chroma is left alone: a step of luminance is the same step of
    red, green and blue.

    Args:
        words: of :func:`decode_words`.
        pixel_format: of the image.

    Returns:
        ``picture_shape``, with a trailing axis of 3 for RGB.
    """
    if pixel_format.layout == "ybr422":
        chosen = words[..., :2].reshape(pixel_format.frames, pixel_format.rows, pixel_format.columns)
    else:
        chosen = words if pixel_format.layout == "rgb" else words[..., 0]
    down, across = pixel_format.tiles
    rows, columns = pixel_format.picture_shape[-2:]
    trailing = chosen.shape[3:]
    tiled = chosen.reshape(pixel_format.frames, down, rows, across, columns, *trailing).swapaxes(2, 3)
    return tiled.reshape(*pixel_format.picture_shape, *trailing)


def with_picture_words(words: NDArray[Any], picture: NDArray[Any], pixel_format: PixelFormat) -> NDArray[Any]:
    """Give the words with others in place of those that :func:`picture_words` gives; those themselves where there are
    no more.
    """
    if pixel_format.layout == "gray" and pixel_format.tiles == (1, 1):
        return picture.reshape(words.shape)
    down, across = pixel_format.tiles
    rows, columns = pixel_format.picture_shape[-2:]
    trailing = picture.shape[len(pixel_format.picture_shape) :]
    whole = picture.reshape(pixel_format.frames, down, across, rows, columns, *trailing).swapaxes(2, 3)
    whole = whole.reshape(pixel_format.frames, pixel_format.rows, pixel_format.columns, *trailing)
    new = words.copy()
    if pixel_format.layout == "ybr422":
        new[..., :2] = whole.reshape(*words.shape[:-1], 2)
    elif pixel_format.layout == "rgb":
        new[:] = whole
    else:
        new[..., 0] = whole
    return new


def values_of_words(words: NDArray[Any], pixel_format: PixelFormat) -> NDArray[Any]:
    """Give the values: the low BitsStored bits, sign-extended where they are signed; a view of the words where they
    are that already.
    """
    if are_values(words, pixel_format):
        return words.view(pixel_format.dtype)
    values = words & words.dtype.type(pixel_format.mask)
    if pixel_format.signed:
        sign = words.dtype.type(1 << pixel_format.bits_stored - 1)
        # Unsigned words wrap around as two's complement does, so flipping and subtracting the sign bit extends it.
        values = (values ^ sign) - sign
    signed_values: NDArray[Any] = values.view(pixel_format.dtype)
    return signed_values


def are_values(words: NDArray[Any], pixel_format: PixelFormat) -> bool:
    """Say whether words are the values as they stand: with zeros above them, or with their sign where they are
    signed.
    """
    if not pixel_format.unused_mask:
        return True
    low, high = pixel_format.range_stored
    values = words.view(pixel_format.dtype)
    return bool(low <= values.min() and values.max() <= high)  # no array is made for it


def extends_sign(words: NDArray[Any], pixel_format: PixelFormat, *, overlays: bool) -> bool:
    """Say whether the bits above the values repeat the sign, as is usual in signed pixels; else they are kept.

    Args:
        words: the pixel cells.
        pixel_format: of the frame.
        overlays: whether the dataset declares overlays in those bits.

    Raises:
        RefusedError: signed words in which those bits follow no convention.
    """
    if not pixel_format.signed:
        return False
    if are_values(words, pixel_format):
        # So it is in a frame without negative values too, where nothing tells sign extensions from zeros.
        return True
    if overlays or not (words & words.dtype.type(pixel_format.unused_mask)).any():
        return False
    raise RefusedError(
        f"signed pixels of {pixel_format.bits_stored} bits in {pixel_format.bits_allocated}: the unused bits "
        "are in part sign extensions and in part not, so that readers disagree on the values"
    )


def words_of_values(
    values: NDArray[Any], old: NDArray[Any], words: NDArray[Any], pixel_format: PixelFormat, *, overlays: bool
) -> NDArray[Any]:
    """Give words with other values, and above them what the convention of the old words asks (``extends_sign``).

    Args:
        values: new values.
        old: words that they replace, of the same shape.
        words: all words of the image, which show the convention.
        pixel_format: of the image.
        overlays: whether the dataset declares overlays in those bits.
    """
    new: NDArray[Any] = values.view(old.dtype)
    if are_values(words, pixel_format) and are_values(new, pixel_format):
        return new
    if extends_sign(words, pixel_format, overlays=overlays):
        return new.copy()
    new = new & old.dtype.type(pixel_format.mask)
    new |= old & old.dtype.type(pixel_format.unused_mask)
    return new


def padding_range(
    value: int | None, limit: int | None, words: NDArray[Any], pixel_format: PixelFormat
) -> tuple[float, float] | None:
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
            f"PixelPaddingValue {value} does not fit in BitsStored {pixel_format.bits_stored}, but pixels have "
            "it; readers disagree on their values"
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


def _check_even(value: Bytes, size: int) -> None:
    if len(value) < size + size % 2:
        raise RefusedError(f"PixelData has an odd length of {len(value)} bytes in words of two; it is truncated")
