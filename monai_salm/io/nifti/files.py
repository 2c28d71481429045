# SPDX-License-Identifier: Apache-2.0
"""Bytes of files, compressed or not: no more of them is taken than a header claims, and gzip headers
outlive a rewrite.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import FileIO
from itertools import product
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

from monai_salm.errors import RefusedError
from monai_salm.io.origins import FileState, HashingReader, digest_of, read_into

_GZIP = b"\x1f\x8b\x08"
_HAS_CRC, _HAS_EXTRA, _HAS_NAME, _HAS_COMMENT = 2, 4, 8, 16
_BLOCK_SIZES = (b"BC", b"RA")
"""Extra fields of BGZF (SAM specification 4.1) and dictzip: they give the sizes of compressed blocks, which a rewrite
does not keep.
"""
_MAX_RATIO = 1032
"""No deflate stream expands more than this (zlib's technical notes): what a header claims beyond it is a lie."""
_MAX_CLAIM = 16 << 30
_LARGE, _LARGE_RATIO = 1 << 28, 200
"""Label maps are compressed up to a thousand times, but large files with images are not."""
_MAX_TAIL = 16 << 20
_PIECE = 1 << 20


Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True)
class GzipHead:
    """The lasting part of the header of a first gzip member (RFC 1952 2.3).

    Args:
        fixed: the first ten bytes, with time and system; the flag of the header's own checksum, which is optional, is
            taken out.
        extra: extra fields, but for those that give sizes of blocks.
        name: of the file that was compressed.
        comment: as its writer left it.
    """

    fixed: bytes
    extra: bytes
    name: bytes
    comment: bytes

    def facts(self) -> dict[str, str]:
        """Give what it says, by the names of RFC 1952."""
        words = {
            "name": self.name.decode("latin-1"),
            "comment": self.comment.decode("latin-1"),
            "extra": self.extra.hex(),
        }
        return {"mtime": str(int.from_bytes(self.fixed[4:8], "little")), "system": str(self.fixed[9]), **words}

    def __bytes__(self) -> bytes:
        """Give the header to write."""
        flags = self.fixed[3]
        extra = len(self.extra).to_bytes(2, "little") + self.extra if flags & _HAS_EXTRA else b""
        words = [word + b"\0" for flag, word in ((_HAS_NAME, self.name), (_HAS_COMMENT, self.comment)) if flags & flag]
        return self.fixed + extra + b"".join(words)


@dataclass(frozen=True)
class Content:
    """The bytes of a file, decompressed, and its gzip header if it is compressed.

    Args:
        data: the bytes.
        head: the gzip header.
        digest: gives the SHA-256, hexadecimal, of the file as it lies on the disk.
        state: of the file, as it was read.
    """

    data: bytearray
    head: GzipHead | None
    digest: Callable[[], str]
    state: FileState


def read_head(path: Path, size: int) -> bytes:
    """Read the first bytes of a file, decompressed; fewer where the file ends or its gzip stream breaks.

    Raises:
        RefusedError: a gzip stream that breaks before its first byte.
    """
    head = b""
    try:
        for piece in _pieces(path, size):
            head += piece
            if len(head) >= size:
                break
    except RefusedError:
        if not head:
            raise
    return head[:size]


def read_content(path: Path, needed: int) -> Content:
    """Read a file, decompressed, once its size allows for what a header claims.

    Args:
        path: the file.
        needed: bytes that must be there, decompressed.

    Raises:
        RefusedError: fewer bytes than needed, many more, or more than is supported; a damaged gzip stream.
    """
    with path.open("rb", buffering=0) as handle:
        state = FileState.of(path, handle)
        packed = _is_packed(handle)
        _check_claim(state.size, needed, packed=packed)
        if packed:
            data, digest = _unpacked(handle, needed)
        elif state.size > needed + _MAX_TAIL:
            raise _too_long()
        else:
            data = bytearray(state.size)
            del data[read_into(handle, memoryview(data)) :]
            digest = partial(digest_of, data)
        if len(data) < needed:
            raise RefusedError(
                f"truncated: the header needs {needed} bytes, there are only {len(data)}; get a complete copy of the "
                "file"
            )
        return Content(data, _gzip_head(handle) if packed else None, digest, state)


def read_around(path: Path, first: int, end: int) -> tuple[bytes, bytes] | None:
    """Read what lies before and behind the voxels of a file, without them; None for a compressed one, which has to be
    read whole.

    Args:
        path: the file.
        first, end: where the voxels begin, and where they end.

    Raises:
        RefusedError: as :func:`read_content`.
    """
    with path.open("rb", buffering=0) as handle:
        size = FileState.of(path, handle).size
        if _is_packed(handle):
            return None
        _check_claim(size, end, packed=False)
        if size > end + _MAX_TAIL:
            raise _too_long()
        before, behind = bytearray(first), bytearray(size - end)
        read_into(handle, memoryview(before))
        handle.seek(end)
        read_into(handle, memoryview(behind))
    return bytes(before), bytes(behind)


def _check_claim(size: int, needed: int, *, packed: bool) -> None:
    """Hold what a header claims against the size of the file, before any memory is taken."""
    if needed > _MAX_CLAIM:
        raise RefusedError(
            f"the header claims {needed} bytes, at most {_MAX_CLAIM >> 30} GiB are supported; repair the header "
            "or split the image"
        )
    if packed and needed > max(_LARGE, size * _LARGE_RATIO):
        raise RefusedError(
            f"the header claims {needed} bytes in {size} compressed ones, more than {_LARGE_RATIO} times as many; "
            "it is damaged, or a bomb"
        )
    if needed > (size * _MAX_RATIO if packed else size):
        have = f"at most {size * _MAX_RATIO} can be compressed in" if packed else "there are only"
        raise RefusedError(
            f"truncated: the header needs {needed} bytes, {have} {size} bytes; get a complete copy of the file"
        )


def _too_long() -> RefusedError:
    return RefusedError(
        f"more than {_MAX_TAIL >> 20} MiB follow the voxels; the header does not describe the file, repair it first"
    )


def _unpacked(handle: FileIO, needed: int) -> tuple[bytearray, Callable[[], str]]:
    """Decompress a file from its first byte, and give what gives its digest.

    Piece by piece: a read of as much as a header claims would take that memory before there is anything to put there.
    """
    data, source = bytearray(), HashingReader(handle)
    for piece in _unpacked_pieces(source, _PIECE):
        data += piece
        if len(data) > needed + _MAX_TAIL:
            raise _too_long()
    return data, source.digest


def write_content(target: Path, parts: Iterable[Buffer], head: GzipHead | None) -> None:
    """Write bytes, compressed into one gzip member if there is a header for it; no clock is read."""
    with target.open("wb") as handle:
        if head is None:
            handle.writelines(parts)
            return
        handle.write(bytes(head))
        deflater, checksum, size = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS), 0, 0
        for piece in (
            memoryview(part)[start : start + _PIECE] for part in parts for start in range(0, len(part), _PIECE)
        ):
            handle.write(deflater.compress(piece))
            checksum, size = zlib.crc32(piece, checksum), size + len(piece)
        handle.write(deflater.flush() + checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little"))


def header_beside(path: Path) -> Path | None:
    """Find the other half of a pair: the ``.hdr`` beside an ``.img``, either compressed or not, in any letter case."""
    name, packing = (path.name[:-3], path.name[-3:]) if path.name.lower().endswith(".gz") else (path.name, "")
    stem, suffix = name[:-4], name[-4:]
    if suffix.lower() != ".img":
        return None
    like = "".join(letter.upper() if twin.isupper() else letter for letter, twin in zip(".hdr", suffix, strict=True))
    endings = [like, *("".join(letters) for letters in product(*zip(".hdr", ".HDR", strict=True)))]
    candidates = (
        path.with_name(stem + ending + packed)
        for packed in dict.fromkeys((packing, "", ".gz", ".GZ"))
        for ending in endings
    )
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def is_packed(head: bytes) -> bool:
    """Say from its first bytes whether a file is compressed."""
    return head.startswith(_GZIP)


def _is_packed(handle: FileIO) -> bool:
    """Say whether a file is compressed; the next byte read is its first again."""
    head = handle.read(len(_GZIP))
    handle.seek(0)
    return is_packed(head)


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed, in pieces of at most ``size``."""
    with path.open("rb", buffering=0) as handle:
        if _is_packed(handle):
            yield from _unpacked_pieces(handle, size)
        else:
            yield from iter(lambda: handle.read(size), b"")


def _unpacked_pieces(handle: FileIO | HashingReader, size: int) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=cast("BinaryIO", handle)) as stream:
        try:
            yield from iter(lambda: stream.read1(size), b"")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            reason = (
                f"the gzip stream is damaged, truncated or followed by something else ({error}); get a clean "
                "copy of the file"
            )
            raise RefusedError(reason) from error


def _gzip_head(handle: FileIO) -> GzipHead:
    """Read the header of the first gzip member of a file that was decompressed before."""
    handle.seek(0)
    fixed = bytearray(handle.read(10))
    extra = handle.read(int.from_bytes(handle.read(2), "little")) if fixed[3] & _HAS_EXTRA else b""
    words = [
        b"".join(iter(lambda: handle.read(1).strip(b"\0"), b"")) if fixed[3] & flag else b""
        for flag in (_HAS_NAME, _HAS_COMMENT)
    ]
    extra = _without_block_sizes(extra)
    fixed[3] &= ~(_HAS_CRC if extra else _HAS_CRC | _HAS_EXTRA)
    return GzipHead(bytes(fixed), extra, *words)


def _without_block_sizes(extra: bytes) -> bytes:
    """Leave the block sizes out of extra fields (RFC 1952 2.3.1.1); fields of another form stay whole."""
    kept, place = b"", 0
    while place + 4 <= len(extra):
        end = place + 4 + int.from_bytes(extra[place + 2 : place + 4], "little")
        if extra[place : place + 2] not in _BLOCK_SIZES:
            kept += extra[place:end]
        place = end
    return kept if place == len(extra) else extra
