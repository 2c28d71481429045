# SPDX-License-Identifier: Apache-2.0
"""The members of a zip file: which of them can be trusted, and under which name they lie on disk."""

from __future__ import annotations

import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from monai_salm.errors import UsageError
from monai_salm.io import ZIP_SIGNATURES, ZipBytes

MOST_MEMBERS = 1_000_000
"""Of one archive."""
LARGEST_DIRECTORY = 256 * 2**20
"""Bytes that the list of members may take; zipfile reads it at once, whatever its size."""
BOMB_SIZE = 2**30
BOMB_RATIO = 200
"""A member that unpacks to more than so many bytes, and to more than so many times its own, is taken for a bomb."""
LONGEST_NAME = 255
"""Bytes that the name of a file or folder may have on common disks."""
CHUNK = 2**20
"""Bytes that are held in memory at once."""

# Of bzip2 and LZMA zipfile holds in memory all that a few bytes unpack to: gigabytes, if somebody wants it so.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Flag bits and extra fields of PKWARE's APPNOTE 6.3.10, sections 4.4.4 and 4.5.
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_PATCH = 0x0020
UTF8_NAME = 0x0800
_LOCAL_HEADER = 30
_FOLDER_ATTRIBUTE = 0x10
DAMAGE = (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, MemoryError, OverflowError, struct.error, zlib.error)
"""What zipfile raises for damaged or strange bytes, OSError aside."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive; ``path`` is relative, with forward slashes, and empty for a member that is refused for
    its ``reason``.
    """

    info: zipfile.ZipInfo
    path: str = ""
    reason: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.info.orig_filename.endswith("/")


def is_archive(path: Path) -> bool:
    """Say from the first bytes whether a file is a zip file, or the beginning of one; one with a zip file at its end
    alone is none.
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) in ZIP_SIGNATURES


def unpacked_size(archive: Path) -> int:
    """Give the bytes that a zip file unpacks to; errors as of :func:`unpack`."""
    with open_archive(archive) as opened:
        return sum(member.info.file_size for member in members_of(opened) if not member.reason)


@contextmanager
def open_archive(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file to read and check its list of members."""
    if not archive.is_file():
        raise UsageError(f"{archive}: no such file; give a zip file")
    with ExitStack() as stack:
        try:
            source = stack.enter_context(ZipBytes(archive, LARGEST_DIRECTORY))
            opened = stack.enter_context(zipfile.ZipFile(source))
        except OSError as error:
            raise UsageError(
                f"{archive}: cannot be read ({error.strerror or error}); give a zip file that can"
            ) from error
        except DAMAGE as error:
            raise UsageError(
                f"{archive}: the zip file is damaged or cut ({one_line(error)}); get a complete copy, or pack it again"
            ) from error
        _check_layout(archive, opened)
        yield opened


def _check_layout(archive: Path, opened: zipfile.ZipFile) -> None:
    """Check that there are members, not too many, and each with bytes of its own: a few shared bytes could unpack to
    any size.
    """
    infos = opened.infolist()
    if not infos:
        raise UsageError(f"{archive}: the zip file is empty; give one with the images of the export")
    if len(infos) > MOST_MEMBERS:
        raise UsageError(
            f"{archive}: {len(infos)} members, at most {MOST_MEMBERS} are unpacked; pack parts of it as zip files "
            "of their own"
        )
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        start, least = info.header_offset, end
        end = start + _LOCAL_HEADER + len(raw_name(info)) + info.compress_size
        if start < least or end > opened.start_dir:
            name = shown_name(info.orig_filename)
            raise UsageError(
                f"{archive}: {name} shares bytes {start} to {end} with its neighbor or the list of members; copy "
                "or pack the zip file again"
            )


def members_of(opened: zipfile.ZipFile) -> list[Member]:
    """Look at all entries, in order, without reading their content."""
    members = [_member(info) for info in opened.infolist()]
    files = Counter(_key(member.path) for member in members if member.path and not member.is_folder)
    folders: set[str] = set()
    for member in members:
        key = _key(member.path)
        parent = key if member.is_folder else key.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    for number, member in enumerate(members):
        key = _key(member.path)
        if not member.path or member.is_folder:
            continue
        if files[key] > 1:
            members[number] = Member(
                member.info,
                reason=f"{files[key]} members have this name, case aside, and which is meant is not known; rename them",
            )
        elif key in folders:
            members[number] = Member(
                member.info, reason="another member has this name as its folder; rename one of them"
            )
    return members


def _member(info: zipfile.ZipInfo) -> Member:
    """Look at one entry by itself."""
    name = info.orig_filename
    reason = _name_fault(name) or _kind_fault(info)
    return Member(info, reason=reason) if reason else Member(info, str(PurePosixPath(_disk_name(info))))


def _disk_name(info: zipfile.ZipInfo) -> str:
    """Give the name that a member has on disk: in UTF-8 where its bytes are that, also where no flag says so, else as
    the code page of DOS has it.

    Letters of that code page take up to three bytes in UTF-8; a name that would become too long by it keeps its bytes,
    whatever they mean.
    """
    raw = raw_name(info)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        name = info.orig_filename
        return (
            name
            if max(len(part.encode()) for part in name.split("/")) <= LONGEST_NAME
            else raw.decode("utf-8", "surrogateescape")
        )


def _name_fault(name: str) -> str:
    """Say why a name is not that of a file below a folder, on any system; empty if it is."""
    parts = PurePosixPath(name).parts
    if not parts and not name.endswith("/"):
        return "it has no name; pack it again under a plain relative name"
    if "\0" in name or "\\" in name:
        return "a name with a backslash or a NUL character; pack it again with forward slashes between plain names"
    if name.startswith("/") or any(re.match("[A-Za-z]:", part) for part in parts):
        return "an absolute name; pack it again under a plain relative name"
    # Windows ignores dots and spaces at the end of a name.
    if any(not part.rstrip(" .") for part in parts):
        return "a name that leads out of its folder; pack it again under a plain relative name"
    return ""


def _kind_fault(info: zipfile.ZipInfo) -> str:
    """Say why an entry is not to be unpacked, whatever its name; empty if it is."""
    kind, is_folder = stat.S_IFMT(info.external_attr >> 16), info.orig_filename.endswith("/")
    if kind not in (0, stat.S_IFDIR if is_folder else stat.S_IFREG) or (
        not is_folder and info.external_attr & _FOLDER_ATTRIBUTE
    ):
        return "a link or another special member, not a regular file; pack the file itself"
    if is_folder:
        return "a folder with content; pack the file under a name without a slash at its end" if info.file_size else ""
    if info.flag_bits & _ENCRYPTED:
        return "encrypted; pack it again without a password"
    if info.flag_bits & _PATCH or info.compress_type not in _METHODS:
        return (
            f"compressed by method {info.compress_type}, only stored and deflated members are read; pack it again "
            "with deflate"
        )
    if info.file_size > BOMB_SIZE and info.file_size > BOMB_RATIO * info.compress_size:
        return (
            f"{info.compress_size} bytes that unpack to {info.file_size}, more than {BOMB_SIZE} and {BOMB_RATIO} "
            "times as many, as a bomb would; "
            "unpack it by hand if it is none"
        )
    return ""


def _key(path: str) -> str:
    """Give what a path is the same as on a system that ignores case and how accents are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def raw_name(info: zipfile.ZipInfo) -> bytes:
    """Give the bytes that a name has in the archive."""
    return info.orig_filename.encode("utf-8" if info.flag_bits & UTF8_NAME else "cp437")


def shown_name(name: str) -> str:
    """Make a name printable."""
    return (
        "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in name)
        or "(no name)"
    )


def one_line(error: BaseException) -> str:
    """Give what an error says in one line."""
    return " ".join(str(error).split()) or type(error).__name__
