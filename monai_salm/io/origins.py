# SPDX-License-Identifier: Apache-2.0
"""Files as they were read: their bytes or what was made of them, their digest, and whether they are still the same."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

Buffer = bytes | bytearray | memoryview

FIRST_BYTES = 4096
"""As many as tell what a file is."""
_FEW, _MANY = 256, 16
_ALIGNED = 16
"""Bytes that the first byte of an array in Python is aligned to."""

_SETTLED_NS = 2_000_000_000
"""Some file systems count time in steps of two seconds: a file that changed just before it was read may change once
more unseen.
"""


@dataclass(frozen=True)
class FileState:
    """What tells, without reading it again, that a file did not change since it was read.

    Args:
        path: the file.
        size, mtime_ns, inode: of it, from before its first byte was read.
        settled: whether it had not been written just before, so that these can tell.
    """

    path: Path
    size: int
    mtime_ns: int
    inode: int
    settled: bool

    @classmethod
    def of(cls, path: Path, handle: BinaryIO | FileIO) -> FileState:
        """Look at an open file."""
        found = os.fstat(handle.fileno())
        settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED_NS
        return cls(path, found.st_size, found.st_mtime_ns, found.st_ino, settled)

    @classmethod
    def at(cls, path: Path) -> FileState:
        """Look at a file that is not open."""
        with path.open("rb", buffering=0) as handle:
            return cls.of(path, handle)

    def is_same(self) -> bool:
        """Say whether the file is surely as it was; False also where that is not known."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        same = (found.st_size, found.st_mtime_ns, found.st_ino) == (self.size, self.mtime_ns, self.inode)
        return self.settled and same


@dataclass(frozen=True)
class Origin:
    """A file as it was read, with what its module needs to write another like it.

    Args:
        content: what the module made of it; nobody else looks into it.
        header, stored: of the image as it was read.
        digest: gives the SHA-256, hexadecimal, of the very bytes that were decoded.
        states: of the file, and of another that was read with it.
    """

    content: object
    header: object
    stored: object
    digest: Callable[[], str]
    states: tuple[FileState, ...]

    @cached_property
    def sha256(self) -> str:
        """The digest, computed when it is asked for first."""
        return self.digest()

    def __reduce__(self) -> tuple[type[Origin], tuple[object, ...]]:
        """Leave the content behind where an image is sent to another process or copied: it can be read again."""
        return Origin, (None, None, None, partial(str, self.sha256), self.states)

    def is_same(self) -> bool:
        """Say whether the files are surely as they were when they were read."""
        return all(state.is_same() for state in self.states)


class OpenFile:
    """An open file whose first bytes were read.

    Args:
        path: the file.
        handle: of it, at its first byte.

    Attributes:
        state: of the file, from before its first byte was read.
        head: as many of its bytes as tell what it is.
    """

    def __init__(self, path: Path, handle: FileIO) -> None:
        self.path, self.handle = path, handle
        self.state = FileState.of(path, handle)
        self.head = handle.read(FIRST_BYTES) or b""

    def whole(self) -> bytes:
        """Read what was not read, and give all of it."""
        if self.state.size < _MANY * len(self.head):
            self.handle.seek(len(self.head))
            return self.head + self.handle.readall()
        self.handle.seek(0)  # a few bytes are sooner read again than so many copied
        return self.handle.readall()


@contextmanager
def opened(path: Path) -> Iterator[OpenFile]:
    """Open a file, and read its first bytes."""
    with path.open("rb", buffering=0) as handle:
        yield OpenFile(path, handle)


def first_bytes(path: Path, size: int = FIRST_BYTES) -> bytes:
    """Read the first bytes of a file."""
    with path.open("rb", buffering=0) as handle:
        return handle.read(size)


def read_whole(path: Path) -> tuple[bytes, FileState]:
    """Read a file at once."""
    with path.open("rb", buffering=0) as handle:
        state = FileState.of(path, handle)
        return handle.readall(), state


def aligned_bytes(handle: FileIO, size: int, place: int) -> memoryview:
    """Read a file's bytes, fewer where there are fewer, into memory in which those from a place on are aligned as
    arrays want them, so that they need not be copied.

    Args:
        handle: the file, at its first byte.
        size: how many bytes it has.
        place: of the array in it.
    """
    spare = -place % _ALIGNED
    view = memoryview(bytearray(spare + size))[spare:]
    return view[: read_into(handle, view)].toreadonly()


def read_into(handle: FileIO, view: memoryview) -> int:
    """Fill memory from a file, and give how many bytes there were; fewer where the file ends before."""
    count = 0
    while count < len(view) and (more := handle.readinto(view[count:])):
        count += more
    return count


class HashingReader:
    """A file that is read from where it stands to its end, and hashed on the way.

    Args:
        handle: the file, at its first byte.
    """

    def __init__(self, handle: FileIO) -> None:
        self._handle = handle
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read and hash some bytes."""
        data = self._handle.read(size) or b""
        self._hash.update(data)
        return data

    def digest(self) -> str:
        """Give the SHA-256, hexadecimal, of what was read."""
        return self._hash.hexdigest()


def same_bytes(first: bytes | bytearray | memoryview, second: bytes | bytearray | memoryview) -> bool:
    """Say whether bytes are the same; of a memoryview Python compares one after the other, which takes a millisecond
    for a slice.
    """
    if len(first) != len(second) or len(first) < _FEW:
        return first == second
    return np.array_equal(np.frombuffer(first, np.uint8), np.frombuffer(second, np.uint8))


def digest_of(data: bytes | bytearray | memoryview) -> str:
    """Give the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()
