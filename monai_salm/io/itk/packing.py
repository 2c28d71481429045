# SPDX-License-Identifier: Apache-2.0
"""Deflate streams inside a file: unpacked no further than a header claims, and packed anew under the
same gzip header.
"""

from __future__ import annotations

import zlib
from typing import Literal

from monai_salm.errors import RefusedError
from monai_salm.io.deflating import HAS_CRC, head_size

_GZIP = b"\x1f\x8b\x08"
_EITHER = zlib.MAX_WBITS | 32


def unpack(stream: memoryview, size: int, packing: Literal["gzip", "zlib"]) -> tuple[bytes, int]:
    """Unpack a stream of as many bytes as a header claims, and give them with the length of the stream.

    Args:
        stream: bytes that start with it.
        size: of what is packed; not more than that is taken into memory.
        packing: ``zlib`` may be a gzip stream too, as it may for MetaIO.

    Raises:
        RefusedError: a damaged stream, or one that holds more or fewer bytes.
    """
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 16 if packing == "gzip" else _EITHER)
    try:
        data = inflater.decompress(stream, size)
        surplus = inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as error:
        raise RefusedError(f"the {packing} stream is damaged: {error}; get a complete copy of the file") from error
    if surplus:
        raise RefusedError(
            f"the {packing} stream holds more than the {size} bytes that the header needs; repair the header first"
        )
    if not inflater.eof:
        raise RefusedError(f"the {packing} stream is truncated; get a complete copy of the file")
    if len(data) != size:
        raise RefusedError(
            f"the {packing} stream holds {len(data)} bytes, the header needs {size}; streams of several parts are "
            "not supported"
        )
    return data, len(stream) - len(inflater.unused_data)


def pack(data: bytes, like: bytes) -> bytes:
    """Pack bytes as another stream does: zlib, or gzip with that stream's name and time; no clock is read."""
    if not like.startswith(_GZIP):
        return zlib.compress(data, 6)
    deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = deflater.compress(data) + deflater.flush()
    return (
        gzip_head(like)
        + packed
        + zlib.crc32(data).to_bytes(4, "little")
        + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    )


def gzip_head(stream: bytes) -> bytes:
    """Give the header of a gzip stream (RFC 1952 2.3), which must be whole, without the optional checksum of the
    header.
    """
    flags = stream[3]
    end = head_size(stream) - (2 if flags & HAS_CRC else 0)
    return stream[:3] + bytes([flags & ~HAS_CRC]) + stream[4:end]
