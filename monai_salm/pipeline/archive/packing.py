# SPDX-License-Identifier: Apache-2.0
"""Packing a zip file with the members of another."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath

from monai_salm.disk import atomic_target
from monai_salm.pipeline.archive.members import CHUNK, UTF8_NAME, members_of, open_archive, raw_name
from monai_salm.progress import track

_LASTING_EXTRAS = {0x000A, 0x5455, 0x5855, 0x7855, 0x7875, 0x7075, 0x6375}
"""Times, owners and Unicode names: what stays true of a member whose content changes."""


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
    with open_archive(like) as opened:
        comment = opened.comment
        # What unpack refused is not in the folder; a file that now has such a name must not become the link or whatever
        # else that member was.
        for member in members_of(opened):
            if not member.reason and (member.is_folder or member.path in files):
                entries[member.info.orig_filename] = (
                    _Entry.like(member.info),
                    None if member.is_folder else files.pop(member.path),
                )
        renamed = {
            _stem(member.path): raw_name(member.info)
            for member in members_of(opened)
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
        entry.raw_name, entry.name_flag = raw_name(info), info.flag_bits & UTF8_NAME
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
        entry.raw_name, entry.name_flag = raw, 0 if raw.isascii() or not _is_utf8(raw) else UTF8_NAME
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


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _suffix(raw: bytes) -> bytes:
    return os.fsencode(PurePosixPath(os.fsdecode(raw)).suffix)


def _is_utf8(raw: bytes) -> bool:
    return raw == raw.decode("utf-8", "ignore").encode()
