# SPDX-License-Identifier: Apache-2.0
"""What was changed in stored values, packed so that it can be undone to the last bit.

Values are taken as the integers that their bytes are, floats too: the change is a difference of unsigned integers that
wraps around, so nothing is rounded. First a byte that says whether the axes are reversed, so that neighbors in memory
are neighbors here. Then for each part (of :data:`monai_salm.slabs.SLAB` values): how many bytes a change has, how many
values there are of changes and which, or 0 where they are many; a bit for each value that says whether it changed; and
the changes alone, as the numbers of these values in 1, 2 or 4 bits, or as they are. All of it is one deflate stream
(RFC 1951).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.slabs import SLAB

_LEVEL = 1
_WIDTHS = (1, 2, 4, 8)
_MOST_SYMBOLS = 16
_DAMAGED = "what the residual holds is not of an image of this shape; get the residuals of the run that protected it"


def packed_changes(original: NDArray[Any], protected: NDArray[Any]) -> bytes:
    """Pack what leads from the protected values to the original ones.

    Args:
        original, protected: stored values of one shape and type.
    """
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    reverse = not original.flags.c_contiguous and original.flags.f_contiguous
    parts = [stream.compress(bytes([reverse]))]
    if reverse:
        original, protected = original.T, protected.T
    for part in _parts(original):
        difference = _as_integers(original[part]) - _as_integers(protected[part])
        changed = difference != 0
        places = np.flatnonzero(changed)  # of booleans: of integers it takes ten times as long
        steps = difference.ravel()[places].view(_signed(difference.dtype))
        width = _width_of(steps)
        symbols, codes = _coded(steps.astype(f"<i{width}"))
        parts += [
            stream.compress(bytes([width, len(symbols)]) + symbols),
            stream.compress(np.packbits(changed).tobytes()),
            stream.compress(codes),
        ]
    return b"".join([*parts, stream.flush()])


def with_changes_undone(protected: NDArray[Any], packed: bytes) -> NDArray[Any]:
    """Give the original values.

    Args:
        protected: as they were given to :func:`packed_changes`.
        packed: what that gave.

    Raises:
        RefusedError: it is of other values than these.
    """
    stream = _Inflated(packed)
    reverse = stream.take(1)[0]
    if reverse:
        protected = protected.T
    original = np.empty(protected.shape, protected.dtype)
    for part in _parts(protected):
        values = _as_integers(protected[part])
        width, count = stream.take(2)
        if width not in _WIDTHS or width > values.itemsize or count > _MOST_SYMBOLS:
            raise RefusedError(_DAMAGED)
        symbols = stream.take(count)
        bits = np.frombuffer(stream.take(-(-values.size // 8)), np.uint8)
        places = np.flatnonzero(np.unpackbits(bits, count=values.size).view(bool))
        steps = _decoded(stream, symbols, width, len(places))
        undone = values.ravel().copy()
        undone[places] += steps.astype(_signed(values.dtype)).view(values.dtype)
        original[part] = undone.reshape(values.shape).view(protected.dtype)
    stream.end()
    return original.T if reverse else original


def _coded(steps: NDArray[Any]) -> tuple[bytes, bytes]:
    """Give the few values that there are, and for each step the number of its value in 1, 2 or 4 bits; no values, and
    the steps themselves, where they are not so few, or wider than a byte.
    """
    if steps.itemsize > 1:
        return b"", steps.tobytes()
    whole = steps.view(np.uint8)
    symbols = np.flatnonzero(np.bincount(whole, minlength=256)).astype(np.uint8)
    if not 0 < len(symbols) <= _MOST_SYMBOLS:
        return b"", steps.tobytes()
    number = np.zeros(256, dtype=np.uint8)
    number[symbols] = np.arange(len(symbols))
    bits = _bits_of(len(symbols))
    together = 8 // bits
    codes = np.zeros(-(-len(whole) // together) * together, dtype=np.uint8)
    codes[: len(whole)] = number.take(whole)
    packed = np.zeros(len(codes) // together, dtype=np.uint8)
    for place in range(together):
        packed |= codes[place::together] << np.uint8(bits * place)
    return symbols.tobytes(), packed.tobytes()


def _decoded(stream: _Inflated, symbols: bytes, width: int, count: int) -> NDArray[Any]:
    if not symbols:
        return np.frombuffer(stream.take(width * count), f"<i{width}")
    bits = _bits_of(len(symbols))
    together = 8 // bits
    packed = np.frombuffer(stream.take(-(-count // together)), np.uint8)
    codes = np.empty(len(packed) * together, dtype=np.uint8)
    for place in range(together):
        codes[place::together] = (packed >> np.uint8(bits * place)) & np.uint8((1 << bits) - 1)
    values = np.zeros(1 << bits, dtype=np.int8)  # numbers that were not given stand for no change
    values[: len(symbols)] = np.frombuffer(symbols, np.int8)
    return values.take(codes[:count])


def _bits_of(symbols: int) -> int:
    return 1 if symbols <= 2 else 2 if symbols <= 4 else 4


class _Inflated:
    """A deflate stream that gives as many bytes as are asked for, and no more than these are ever in memory."""

    def __init__(self, packed: bytes) -> None:
        self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._rest = packed

    def take(self, size: int) -> bytes:
        parts = []
        while size and (part := self._next(size)):
            parts.append(part)
            size -= len(part)
        if size:
            raise RefusedError(_DAMAGED)
        return b"".join(parts)

    def end(self) -> None:
        if self._next(1) or not self._stream.eof or self._stream.unused_data:
            raise RefusedError(_DAMAGED)

    def _next(self, size: int) -> bytes:
        try:
            part = self._stream.decompress(self._rest, size)
        except zlib.error as error:
            raise RefusedError(_DAMAGED) from error
        self._rest = self._stream.unconsumed_tail
        return part


def _parts(values: NDArray[Any]) -> Iterator[slice]:
    """Cut an array along its first axis, whatever its layout in memory, which a file read back may not share."""
    count = len(values)
    thick = max(1, SLAB * count // max(1, values.size))
    return (slice(start, start + thick) for start in range(0, count, thick))


def _as_integers(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")


def _signed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"i{dtype.itemsize}")


def _width_of(steps: NDArray[Any]) -> int:
    low, high = int(steps.min(initial=0)), int(steps.max(initial=0))
    return next(width for width in _WIDTHS if -(1 << 8 * width - 1) <= low and high < 1 << 8 * width - 1)
