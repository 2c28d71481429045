# SPDX-License-Identifier: Apache-2.0
"""Multipart messages of one DICOM file (RFC 2387, PS3.18 8.6), read and written piece by piece: no file is ever held
in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message
from pathlib import Path
from uuid import uuid4

CHUNK = 1 << 20
"""Bytes that are held at once, about."""

_MOST_HEAD = 1 << 16
"""Bytes before a file begins."""
_HEAD_END = b"\r\n\r\n"


class MessageError(ValueError):
    """A message is not one whole file; says what it is instead."""


def only_part(pieces: Iterable[bytes], content_type: str) -> Iterator[bytes]:
    """Give the bytes of the one part of a message, as they come.

    Args:
        pieces: of the message.
        content_type: of it.

    Raises:
        MessageError: it ends before its last line, or has no part, or several.
    """
    delimiter = b"\r\n--" + _boundary(content_type)
    rest, pieces = b"\r\n", iter(pieces)  # the first delimiter needs no line before it
    rest = _behind(delimiter, rest, pieces)
    if rest[:2] == b"--":
        raise MessageError("sent an empty message")
    rest = _behind(_HEAD_END, rest, pieces)
    kept = len(delimiter) - 1
    while (end := rest.find(delimiter)) < 0:
        if len(rest) > kept:
            yield rest[:-kept]
            rest = rest[-kept:]
        rest += _next(pieces)
    yield rest[:end]
    rest = rest[end + len(delimiter) :]
    while len(rest) < 2:
        rest += _next(pieces)
    if rest[:2] != b"--":
        raise MessageError("sent several files where one was asked for")
    for _ in pieces:  # what a connection still has to give before it can be used again
        pass


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if not boundary:
        raise MessageError("sent a message without a boundary between its parts")
    return boundary.encode("latin-1", "replace")


def _behind(mark: bytes, rest: bytes, pieces: Iterator[bytes]) -> bytes:
    """Give what comes after a mark, at least two bytes of it."""
    while (place := rest.find(mark)) < 0 or len(rest) < place + len(mark) + 2:
        if len(rest) > _MOST_HEAD + CHUNK:
            raise MessageError("sent a message that is not what its Content-Type says")
        rest += _next(pieces)
    return rest[place + len(mark) :]


def _next(pieces: Iterator[bytes]) -> bytes:
    piece = next(pieces, None)
    if piece is None:
        raise MessageError("sent a message that is cut off")
    return piece


class Upload:
    """A message of one DICOM file, which knows its length before it is read, so that no server has to take it in
    chunks.

    Args:
        file: to be sent.
    """

    def __init__(self, file: Path) -> None:
        boundary = uuid4().hex
        self.content_type = f'multipart/related; type="application/dicom"; boundary={boundary}'
        self._file = file
        self._before = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode("ascii")
        self._after = f"\r\n--{boundary}--\r\n".encode("ascii")
        self._length = len(self._before) + file.stat().st_size + len(self._after)

    def __len__(self) -> int:
        """Give the bytes of the message."""
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        """Give the message from its beginning."""
        yield self._before
        with self._file.open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece
        yield self._after
