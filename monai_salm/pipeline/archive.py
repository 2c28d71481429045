# SPDX-License-Identifier: Apache-2.0
"""Zip files as input and output: unpacked without trusting them, packed again with the same members."""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import time
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from monai_salm.disk import atomic_target, check_space, make_folder, told_when_full
from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import ZIP_SIGNATURES, ZipBytes
from monai_salm.progress import track

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
_UTF8 = 0x0800
_LASTING_EXTRAS = {0x000A, 0x5455, 0x5855, 0x7855, 0x7875, 0x7075, 0x6375}
"""Times, owners and Unicode names: what stays true of a member whose content changes."""
_LOCAL_HEADER = 30
_FOLDER_ATTRIBUTE = 0x10
_DAMAGE = (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, MemoryError, OverflowError, struct.error, zlib.error)
"""What zipfile raises for damaged or strange bytes, OSError aside."""


@dataclass(frozen=True)
class UnpackedArchive:
    """What came out of an archive.

    Args:
        folder: where the members lie, under the names that they have in the archive.
        refused: name of each member that was not written, made printable -> reason.
    """

    folder: Path
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Member:
    """One entry of an archive; ``path`` is relative, with forward slashes, and empty for a member that is refused for
    its ``reason``.
    """

    info: zipfile.ZipInfo
    path: str = ""
    reason: str = ""

    @property
    def is_folder(self) -> bool:
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
    with _opened(archive) as opened:
        return sum(member.info.file_size for member in _members(opened) if not member.reason)


# Unpacking -----------------------------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path, *, show_progress: bool = False) -> UnpackedArchive:
    """Write the members of a zip file into an empty folder, nothing outside it; a member that cannot be trusted or read
    is left out, with its reason.

    Args:
        archive: the zip file.
        folder: made if absent.
        show_progress: a progress bar on standard error.

    Raises:
        UsageError: the archive cannot be used at all, or the folder is not empty.
        DiskError: its disk cannot hold the members.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: not an empty folder; give one that is empty or does not exist")
    result = UnpackedArchive(folder)
    with _opened(archive) as opened:
        members = _members(opened)
        check_space({folder: sum(member.info.file_size for member in members if not member.reason)})
        make_folder(folder, private=True)
        for member in track(members, "unpacking", "files", total=len(members), show_progress=show_progress):
            reason = member.reason or _extract(opened, member, folder)
            if reason:
                result.refused[_shown(member.info.orig_filename)] = reason
    return result


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
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
        except _DAMAGE as error:
            raise UsageError(
                f"{archive}: the zip file is damaged or cut ({_line(error)}); get a complete copy, or pack it again"
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
        end = start + _LOCAL_HEADER + len(_raw_name(info)) + info.compress_size
        if start < least or end > opened.start_dir:
            name = _shown(info.orig_filename)
            raise UsageError(
                f"{archive}: {name} shares bytes {start} to {end} with its neighbor or the list of members; copy "
                "or pack the zip file again"
            )


def _members(opened: zipfile.ZipFile) -> list[_Member]:
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
            members[number] = _Member(
                member.info,
                reason=f"{files[key]} members have this name, case aside, and which is meant is not known; rename them",
            )
        elif key in folders:
            members[number] = _Member(
                member.info, reason="another member has this name as its folder; rename one of them"
            )
    return members


def _member(info: zipfile.ZipInfo) -> _Member:
    """Look at one entry by itself."""
    name = info.orig_filename
    reason = _name_fault(name) or _kind_fault(info)
    return _Member(info, reason=reason) if reason else _Member(info, str(PurePosixPath(_disk_name(info))))


def _disk_name(info: zipfile.ZipInfo) -> str:
    """Give the name that a member has on disk: in UTF-8 where its bytes are that, also where no flag says so, else as
    the code page of DOS has it.

    Letters of that code page take up to three bytes in UTF-8; a name that would become too long by it keeps its bytes,
    whatever they mean.
    """
    raw = _raw_name(info)
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


def _extract(opened: zipfile.ZipFile, member: _Member, folder: Path) -> str:
    """Write one member; gives the reason if that is not possible, and then leaves nothing."""
    target = folder / member.path
    try:
        if member.is_folder:
            with told_when_full(target):
                make_folder(target, private=True)
        else:
            _extract_file(opened, member.info, target)
    except RefusedError as refusal:
        return str(refusal)
    except OSError as error:
        return f"cannot be unpacked: {error.strerror or error}; pack it again, under a shorter name if that is why"
    except _DAMAGE as error:
        return f"damaged: {_line(error)}; copy or pack it again"
    return ""


def _extract_file(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    # zipfile drops what a member has beyond its declared size, without a word; one byte more, and it shows.
    generous = copy(info)
    generous.file_size += 1
    with atomic_target(target, private=True, needed=info.file_size) as temporary:
        with opened.open(generous) as source, temporary.open("wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK)
            written = sink.tell()
        if written != info.file_size:
            raise zipfile.BadZipFile(
                f"it holds {'more' if written > info.file_size else 'less'} than the {info.file_size} bytes declared"
            )
        modified = time.mktime((*info.date_time, 0, 0, -1))
        os.utime(temporary, (modified, modified))


def _key(path: str) -> str:
    """Give what a path is the same as on a system that ignores case and how accents are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _suffix(raw: bytes) -> bytes:
    return os.fsencode(PurePosixPath(os.fsdecode(raw)).suffix)


def _is_utf8(raw: bytes) -> bool:
    return raw == raw.decode("utf-8", "ignore").encode()


def _raw_name(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")


def _shown(name: str) -> str:
    return (
        "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in name)
        or "(no name)"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# Packing -------------------------------------------------------------------------------------------------------------


def pack(folder: Path, like: Path, target: Path, *, show_progress: bool = False) -> None:
    """Write a zip file with the files of a folder, in the order, under the names and with the attributes that they have
    in another zip file.

    Members that the folder lacks are left out, entries of folders are kept, and files that ``like`` lacks come last,
    dated 1980-01-01. No clock is read, so the same files give the same bytes.

    Args:
        folder: of the files, under the paths that :func:`unpack` gave them; links are left out.
        like: the zip file that they came from.
        target: to be written, outside the folder.
        show_progress: a progress bar on standard error.

    Raises:
        UsageError: ``like`` cannot be read any more.
    """
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    entries: dict[str, tuple[_Entry, Path | None]] = {}
    with _opened(like) as opened:
        comment = opened.comment
        # What unpack refused is not in the folder; a file that now has such a name must not become the link or whatever
        # else that member was.
        for member in _members(opened):
            if not member.reason and (member.is_folder or member.path in files):
                entries[member.info.orig_filename] = (
                    _Entry.like(member.info),
                    None if member.is_folder else files.pop(member.path),
                )
        renamed = {
            _stem(member.path): _raw_name(member.info)
            for member in _members(opened)
            if member.path and not member.is_folder
        }
    for name in sorted(files):
        entries[name] = _Entry.new(name, renamed.get(_stem(name))), files[name]
    with atomic_target(target, needed=like.stat().st_size) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        packed.comment = comment
        for entry, path in track(entries.values(), "packing", "files", total=len(entries), show_progress=show_progress):
            _add(packed, entry, path)


class _Entry(zipfile.ZipInfo):
    """An entry to write, under the very bytes that its name has elsewhere: some systems write UTF-8 without saying so,
    which zipfile reads as cp437.
    """

    raw_name: bytes
    name_flag: int

    @classmethod
    def like(cls, info: zipfile.ZipInfo) -> _Entry:
        entry = cls(info.orig_filename, info.date_time)
        entry.raw_name, entry.name_flag = _raw_name(info), info.flag_bits & _UTF8
        entry.compress_type = zipfile.ZIP_STORED if info.orig_filename.endswith("/") else info.compress_type
        entry.create_system, entry.create_version, entry.extract_version = (
            info.create_system,
            info.create_version,
            info.extract_version,
        )
        entry.external_attr, entry.internal_attr = info.external_attr, info.internal_attr
        entry.comment, entry.extra = info.comment, _lasting(info.extra)
        return entry

    @classmethod
    def new(cls, name: str, before: bytes | None = None) -> _Entry:
        """Make an entry for a file that the other zip file lacks, or has under the name ``before`` with
        another suffix.
        """
        entry = cls(name)
        raw = name.encode("utf-8", "surrogateescape")
        if before is not None:
            raw = before[: len(before) - len(_suffix(before))] + _suffix(raw)
        entry.raw_name, entry.name_flag = raw, 0 if raw.isascii() or not _is_utf8(raw) else _UTF8
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
        return entry

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - zipfile calls it so
        return self.raw_name, self.flag_bits | self.name_flag


def _lasting(extra: bytes) -> bytes:
    """Keep those extra fields that stay true of other content."""
    kept = b""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if kind in _LASTING_EXTRAS:
            kept += extra[: 4 + size]
        extra = extra[4 + size :]
    return kept


def _add(packed: zipfile.ZipFile, entry: _Entry, path: Path | None) -> None:
    """Add a file, or a folder if there is no path."""
    attributes = entry.external_attr
    entry.file_size = path.stat().st_size if path else 0  # says whether zip64 is needed
    with packed.open(entry, "w") as sink:
        if path:
            with path.open("rb") as source:
                shutil.copyfileobj(source, sink, CHUNK)
    entry.external_attr = attributes  # zipfile puts rights of its own in place of none
