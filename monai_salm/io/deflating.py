# SPDX-License-Identifier: Apache-2.0
"""Deflate streams that come out byte for byte as they once were: made with the settings of zlib that made them.

A stream does not say its settings, but they are few, and those that give its first bytes give all of it, or another
library made it, such as pigz or libdeflate, and none do.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from monai_salm.io.origins import Buffer

_GZIP = b"\x1f\x8b\x08"
HAS_CRC, _HAS_EXTRA, _HAS_NAME, _HAS_COMMENT = 2, 4, 8, 16
_LEVELS = (6, 1, 9, 5, 2, 3, 4, 7, 8)
_MEMORY = (8, 9)
PROBE = 1 << 18
"""Bytes that settings are tried on."""
_LEAST = 64
"""Fewer packed bytes than these tell nothing yet."""
_PIECE = 1 << 20
_MAX_HEAD = 1 << 17


def settings_of(stream: Buffer, first: Buffer) -> dict[str, Any] | None:
    """Find the settings that a stream was made with; None where none are found.

    Args:
        stream: of zlib or gzip, as much of it as :data:`PROBE` packed bytes and a header are.
        first: the first bytes that are packed in it; :data:`PROBE` of them are enough.

    Returns:
        plain types, for :func:`deflated`.
    """
    size = head_size(stream)
    for level in _LEVELS:
        for memory in _MEMORY:
            trial = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, memory)
            found = trial.compress(first[:PROBE])
            if len(found) < _LEAST:
                found += trial.copy().flush()
            if bytes(stream[size : size + len(found)]) == found:
                return {"head": bytes(stream[:size]).hex(), "level": level, "memory": memory}
    return None


def head_size(stream: Buffer) -> int:
    """Give how long the header of a stream of zlib (RFC 1950) or gzip (RFC 1952 2.3) is, which must be whole."""
    start = bytes(stream[:_MAX_HEAD])
    if not start.startswith(_GZIP):
        return 2
    flags, end = start[3], 10
    if flags & _HAS_EXTRA:
        end += 2 + int.from_bytes(start[end : end + 2], "little")
    for flag in (_HAS_NAME, _HAS_COMMENT):
        if flags & flag:
            end = start.index(b"\0", end) + 1
    return end + (2 if flags & HAS_CRC else 0)


def deflated(parts: Iterable[Buffer], settings: Mapping[str, Any]) -> Iterator[bytes]:
    """Pack bytes with the settings of :func:`settings_of`.

    Args:
        parts: the bytes.
        settings: header, level and memory.
    """
    head = bytes.fromhex(settings["head"])
    stream = zlib.compressobj(settings["level"], zlib.DEFLATED, -zlib.MAX_WBITS, settings["memory"])
    gzip = head.startswith(_GZIP)
    sum_up: Callable[[Buffer, int], int] = zlib.crc32 if gzip else zlib.adler32
    checksum, size = (0 if gzip else 1), 0
    yield head
    for part in parts:
        view = memoryview(part).cast("B")
        for start in range(0, len(view), _PIECE):
            piece = view[start : start + _PIECE]
            checksum, size = sum_up(piece, checksum), size + len(piece)
            yield stream.compress(piece)
    yield stream.flush()
    yield (
        checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")
        if gzip
        else checksum.to_bytes(4, "big")
    )
