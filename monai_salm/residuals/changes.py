# SPDX-License-Identifier: Apache-2.0
"""What was changed in stored values, packed so that it can be undone to the last bit.

Values are taken as the integers that their bytes are, floats too: the change is a difference of unsigned integers that
wraps around, so nothing is rounded. First a byte that says whether the axes are reversed, so that neighbors in memory
are neighbors here; then for each part (of :data:`monai_salm.slabs.SLAB` values) the bytes of a change, a bit for each
value that says whether it changed, and the changes alone. All of it is one deflate stream (RFC 1951).
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
        before, after = _as_integers(original[part]), _as_integers(protected[part])
        changed = before != after
        steps = (before[changed] - after[changed]).view(_signed(before.dtype))
        width = _width_of(steps)
        parts.append(stream.compress(bytes([width])))
        parts.append(stream.compress(np.packbits(changed).tobytes()))
        parts.append(stream.compress(steps.astype(f"<i{width}").tobytes()))
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
        width = stream.take(1)[0]
        if width not in _WIDTHS or width > values.itemsize:
            raise RefusedError(_DAMAGED)
        bits = np.frombuffer(stream.take(-(-values.size // 8)), np.uint8)
        changed = np.unpackbits(bits, count=values.size).view(bool).reshape(values.shape)
        steps = np.frombuffer(stream.take(width * int(np.count_nonzero(changed))), f"<i{width}")
        undone = values.copy()
        undone[changed] += steps.astype(_signed(values.dtype)).view(values.dtype)
        original[part] = undone.view(protected.dtype)
    stream.end()
    return original.T if reverse else original


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
