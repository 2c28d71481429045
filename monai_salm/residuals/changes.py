# SPDX-License-Identifier: Apache-2.0
"""What was changed in stored values, packed so that it can be undone to the last bit.

Values are taken as the integers that their bytes are, floats too: the change is a difference of unsigned integers that
wraps around, so nothing is rounded. First a byte that says whether the axes are reversed, so that neighbors in memory
are neighbors here. Then for each part (of :data:`monai_salm.slabs.SLAB` values) how many bytes a change has, and how
many different ones there are. Where these are few: which, and for each value the number of its change in 2 or 4 bits.
Where they are many, which is said as 0: a bit for each value that says whether it changed, and the changes of those
alone. All of it is one deflate stream (RFC 1951).
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
    reverse = not original.flags.c_contiguous and original.flags.f_contiguous
    if reverse:
        original, protected = original.T, protected.T
    stream, packed = None, []
    for part in _parts(original):
        difference = _as_integers(original[part]) - _as_integers(protected[part])
        few, pieces = _described(difference.ravel().view(_signed(difference.dtype)))
        if stream is None:
            stream = _deflater(few)
            packed.append(stream.compress(bytes([reverse])))
        packed += map(stream.compress, pieces)
    stream = stream or _deflater(few=True)
    return b"".join([*packed, stream.flush()])


def _deflater(few: bool) -> Any:
    """Give a deflate stream. Of few different changes it looks for runs alone: longer matches are chance, and take half
    of the time. Of many it looks for matches: cells repeat their changes, of several bytes, from row to row.
    """
    strategy = zlib.Z_RLE if few else zlib.Z_DEFAULT_STRATEGY
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)


def _described(steps: NDArray[Any]) -> tuple[bool, list[bytes]]:
    """Give a part's changes as they are deflated, and whether few of them are different."""
    width = _width_of(steps)
    whole = steps.astype(np.int8).view(np.uint8)
    symbols = _symbols(whole) if width == 1 else None
    if symbols is not None:
        return True, [bytes([width, len(symbols)]) + symbols.tobytes(), _coded(whole, symbols)]
    changed = steps != 0
    places = np.flatnonzero(changed)  # of booleans: of integers it takes ten times as long
    return False, [
        bytes([width, 0]),
        np.packbits(changed).tobytes(),
        steps[places].astype(f"<i{width}").tobytes(),
    ]


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
        if count:
            steps = _decoded(stream, stream.take(count), values.size)
            undone = values.ravel() + steps.astype(_signed(values.dtype)).view(values.dtype)
        else:
            bits = np.frombuffer(stream.take(-(-values.size // 8)), np.uint8)
            places = np.flatnonzero(np.unpackbits(bits, count=values.size).view(bool))
            steps = np.frombuffer(stream.take(width * len(places)), f"<i{width}")
            undone = values.ravel().copy()
            undone[places] += steps.astype(_signed(values.dtype)).view(values.dtype)
        original[part] = undone.reshape(values.shape).view(protected.dtype)
    stream.end()
    return original.T if reverse else original


def _symbols(whole: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Give the different values of bytes; None where they are not so few."""
    found = np.flatnonzero(np.bincount(whole, minlength=256)).astype(np.uint8)
    return found if len(found) <= _MOST_SYMBOLS else None


def _coded(whole: NDArray[np.uint8], symbols: NDArray[np.uint8]) -> bytes:
    """Give for each byte the number of its value in 2 or 4 bits."""
    number = np.zeros(256, dtype=np.uint8)
    number[symbols] = np.arange(len(symbols))
    bits = _bits_of(len(symbols))
    together = 8 // bits
    codes = whole.tobytes().translate(number.tobytes())  # a table of bytes: numpy makes numbers of 8 bytes first
    words = np.frombuffer(codes + bytes(-len(codes) % together), f"<u{together}")
    packed = words.copy()
    for place in range(1, together):
        packed |= words >> words.dtype.type((8 - bits) * place)
    return packed.astype(np.uint8).tobytes()


def _decoded(stream: _Inflated, symbols: bytes, count: int) -> NDArray[np.int8]:
    bits = _bits_of(len(symbols))
    together = 8 // bits
    values = np.zeros(1 << bits, dtype=np.int8)  # numbers that were not given stand for no change
    values[: len(symbols)] = np.frombuffer(symbols, np.int8)
    places = np.arange(together, dtype=np.uint8) * np.uint8(bits)
    of_byte = values[(np.arange(256, dtype=np.uint8)[:, None] >> places) & np.uint8((1 << bits) - 1)]
    packed = np.frombuffer(stream.take(-(-count // together)), np.uint8)
    steps: NDArray[np.int8] = of_byte.view(f"<u{together}").ravel().take(packed).view(np.int8)[:count]
    return steps


def _bits_of(symbols: int) -> int:
    return 2 if symbols <= 4 else 4


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
