# SPDX-License-Identifier: Apache-2.0
"""Unpacking a zip file without trusting it."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

from monai_salm.disk import atomic_target, check_space, make_folder, told_when_full
from monai_salm.errors import RefusedError, UsageError
from monai_salm.pipeline.archive.members import CHUNK, DAMAGE, Member, members_of, one_line, open_archive, shown_name
from monai_salm.progress import track


@dataclass(frozen=True)
class UnpackedArchive:
    """What came out of an archive.

    Args:
        folder: where the members lie, under the names that they have in the archive.
        refused: name of each member that was not written, made printable -> reason.
    """

    folder: Path
    refused: dict[str, str] = field(default_factory=dict)


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
    with open_archive(archive) as opened:
        members = members_of(opened)
        check_space({folder: sum(member.info.file_size for member in members if not member.reason)})
        make_folder(folder, private=True)
        for member in track(members, "unpacking", "files", total=len(members), show_progress=show_progress):
            reason = member.reason or _extract(opened, member, folder)
            if reason:
                result.refused[shown_name(member.info.orig_filename)] = reason
    return result


def _extract(opened: zipfile.ZipFile, member: Member, folder: Path) -> str:
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
    except DAMAGE as error:
        return f"damaged: {one_line(error)}; copy or pack it again"
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
