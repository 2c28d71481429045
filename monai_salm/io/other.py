# SPDX-License-Identifier: Apache-2.0
"""Files that no module for images reads: text and PDF go out as they are, all that may hold images is refused by
name.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from codecs import IncrementalDecoder, getincrementaldecoder
from pathlib import Path

from monai_salm.errors import RefusedError
from monai_salm.io import pdf
from monai_salm.io.base import Document
from monai_salm.io.pictures_in_text import OVERLAP, picture_in
from monai_salm.io.signatures import Use, signatures

OPERATING_SYSTEM_FILES = (
    ".ds_store",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    ".spotlight-v100",
    ".trashes",
    ".fseventsd",
    "$recycle.bin",
    "__macosx",
)
"""Names, in lowercase, of files and folders that operating systems leave behind; some hold small images of the files
beside them.
"""
_APPLE_DOUBLE = "._"

ZIP_SIGNATURES = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
"""First bytes of a zip file with members, of an empty one, and of one in several parts."""
_MOST_DIRECTORY = 64 << 20

_MAY_BE_EMPTY = re.compile(
    r".*\.(txt|md|rst|log|csv|tsv|jsonl?|xml|html?|css|js|ya?ml|toml|ini|cfg|conf|py|sh|bval|bvec|md5|sha\d+|done|ok|ready|completed?|finished|success"
    r"|failed|skip|lock|flag|marker|keep|placeholder|git[a-z]+|nojekyll|nomedia|nobackup|[a-z]+ignore)"
    r"|done|ok|ready|completed?|finished|_?success|failed|lock|readme|license|changelog",
    re.IGNORECASE | re.DOTALL,
)
"""Names of files that are empty on purpose, or lose no image by it; DICOM files often have no suffix."""

_PIECE = 1 << 20
_PDF_WITHIN = 1024
"""A PDF may have other bytes before its header (ISO 32000-1 annex H.3.4.1)."""
_NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_NO_LATIN_1 = re.compile(rb"[\x80-\x9f]")
"""Control characters of Latin-1: text of Windows has letters there, but every binary file has such bytes too."""

_SIGNATURES = signatures(Use.FILE)
_PIXMAP = re.compile(rb"P[1-6](\s|#[^\n]*\n)+\d+(\s|#[^\n]*\n)+\d+|P7\nWIDTH ")
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_ANALYZE_SIZE = 348
_BINARY = "unknown binary format, which may hold images; --copy-unprotected copies it as it is"


def identify(path: Path) -> Document:
    """Say of a file that no module for images knows what it is, if it can go out as it is.

    Raises:
        RefusedError: the file is empty, holds images, or may hold some.
    """
    with path.open("rb") as handle:
        head = handle.read(4096)
    if not head:
        return _empty(path)
    if head.startswith(ZIP_SIGNATURES):
        raise RefusedError(_zip_fault(path) or "a zip file inside the input is not opened; unpack it first")
    if b"%PDF-" in head[:_PDF_WITHIN] and not _known(path, head):
        found = pdf.unprotected_in(path.read_bytes())
        return Document(
            path=path, format="other", kind="PDF", notes=() if found else (pdf.LOOKED_FOR,), unprotected=found
        )
    name = _known(path, head)
    if name:
        raise RefusedError(
            f"{name}, which may hold unprotected images; convert them to a supported format, or "
            "--copy-unprotected copies it as it is"
        )
    return _text(path)


def is_litter(name: str) -> bool:
    """Say whether a file or folder name is one that operating systems leave behind, such as ``Thumbs.db``.

    Args:
        name: of one file or folder, or a path with slashes, of which any part counts.

    Example:
        >>> from monai_salm.io import is_litter
        >>> is_litter("study1/.DS_Store"), is_litter("study1/IM000001")
        (True, False)
    """
    parts = name.replace("\\", "/").split("/")
    return any(part.lower() in OPERATING_SYSTEM_FILES or part.startswith(_APPLE_DOUBLE) for part in parts)


class ZipBytes(io.FileIO):
    """A file for zipfile to read, which does not follow it into a list of members of any size.

    Args:
        path: the file.
        most: bytes that are read at once.
    """

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        """Read some bytes, or refuse to."""
        if size is not None and size > self._most:
            raise zipfile.BadZipFile(f"its list of members has {size} bytes, at most {self._most} are read")
        return super().read(size) or b""


def _zip_fault(path: Path) -> str:
    """Say that a zip file cannot be unpacked, if it cannot; its members are not looked at."""
    try:
        with ZipBytes(path, _MOST_DIRECTORY) as source, zipfile.ZipFile(source):
            return ""
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, struct.error) as error:
        return f"the zip file is damaged or cut ({error}); get a complete copy, and unpack it"


def _empty(path: Path) -> Document:
    """Let a file without a byte go out if its name says that no image was lost with its bytes, such as ``.gitkeep``
    or ``job.done``.
    """
    if _MAY_BE_EMPTY.fullmatch(path.name):
        return Document(path=path, format="other", kind="empty file")
    raise RefusedError("the file is empty, and may have been an image; get a complete copy, or remove it")


def _known(path: Path, head: bytes) -> str:
    """Name a format that may hold images by its first bytes; empty if they are of none."""
    for signature in _SIGNATURES:
        if head.startswith(signature.first, signature.place):
            return signature.name
    if _PIXMAP.match(head):
        return "a portable pixmap"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS:
        return "a BMP image"
    if _ANALYZE_SIZE in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")):
        return "the header of an Analyze 7.5 image"
    if path.suffix.lower() == ".img" and path.with_suffix(".hdr").exists():
        return "the voxels of an image whose header is beside it"
    return ""


def _text(path: Path) -> Document:
    """Make sure that a file is text to its end: UTF-8, or Latin-1 without control characters."""
    decoder = getincrementaldecoder("utf-8")()
    unicode, latin, before = True, True, b""
    with path.open("rb") as handle:
        while piece := handle.read(_PIECE):
            latin = latin and _NO_LATIN_1.search(piece) is None
            unicode = unicode and _decodes(decoder, piece)
            if _NO_TEXT.search(piece) or not (unicode or latin):
                raise RefusedError(_BINARY)
            found = picture_in(before + piece)
            if found:
                raise RefusedError(
                    f"the text has an image in it ({found}), which is not protected; --copy-unprotected copies "
                    "it as it is"
                )
            before = piece[-OVERLAP:]
    if not latin and not (unicode and _decodes(decoder, b"", final=True)):
        raise RefusedError(_BINARY)
    return Document(path=path, format="other", kind="text")


def _decodes(decoder: IncrementalDecoder, piece: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(piece, final)
    except UnicodeDecodeError:
        return False
    return True
