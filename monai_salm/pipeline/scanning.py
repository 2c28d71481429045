# SPDX-License-Identifier: Apache-2.0
"""Looking at the files of a folder, a zip, a DICOMDIR or a pair: what each of them is, and what some say of others."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import Document, ImageHeader, SourceImage, UndecidedError, identify, is_litter, read_source
from monai_salm.io.kinds import KNOWN_BY
from monai_salm.io.sharing import shared
from monai_salm.pipeline.archive import is_archive, unpack
from monai_salm.pipeline.choices import JudgedFile, KindChoices, judged_together
from monai_salm.pipeline.file_sets import ambiguity, files_beside, meant_files
from monai_salm.pipeline.identification import IdentifyJob, identified, not_identified
from monai_salm.pipeline.inventory import (
    NO_CHOICES,
    FileRecord,
    Inventory,
    Stamp,
    file_digest,
    holds_values_alone,
    written_path,
)
from monai_salm.pipeline.kept_once import found_kept_once
from monai_salm.pipeline.known_files import NOTHING_KNOWN, KnownFiles
from monai_salm.progress import track
from monai_salm.workers import IN_THIS_PROCESS, Workers

LINK_OUT = "a link that leads out of the input; copy the file into the input"

_HEADER = re.compile(r"\.(hdr|hdr\.gz|nhdr|mhd)$")
"""Names of files that are the header of values beside them."""


def scan(
    source: Path,
    *,
    unpack_into: Path | None = None,
    choices: KindChoices = NO_CHOICES,
    known: KnownFiles = NOTHING_KNOWN,
    workers: Workers = IN_THIS_PROCESS,
    show_progress: bool = False,
) -> Inventory:
    """List a folder, the file-set of a DICOMDIR, a zip, or one file; links that lead out of the folder are refused, not
    followed.

    Args:
        source: what to list.
        unpack_into: folder that a zip is unpacked into, made anew; it has to stay while the inventory is used.
        choices: what the user says of images and label maps.
        known: what an earlier look found; files that did not change since are not read again.
        workers: that read the files.
        show_progress: progress bars on standard error.

    Raises:
        UsageError: the input does not exist, or holds no file.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import scan
        >>> found = scan(Path("EXPORT"))
        >>> print(len(found.pictures), "images,", len(found.documents), "other files,", found.refused)
        4 images, 1 other files, {}
    """
    if not source.exists():
        raise UsageError(
            f"{source}: no such file or folder; give the folder of the export, a zip of it, its DICOMDIR, or one "
            "image file"
        )
    refused: dict[str, str] = {}
    if source.is_file() and unpack_into is not None and is_archive(source):
        shutil.rmtree(unpack_into, ignore_errors=True)
        unpacked = unpack(source, unpack_into, show_progress=show_progress)
        root, paths, refused = unpacked.folder, sorted(walk(unpacked.folder)), unpacked.refused
    elif source.is_file():
        root, paths = source.parent, _file_set(source, choices)
    else:
        root, paths = source, sorted(walk(source))
    inventory = Inventory(root, ignored=[path for path in paths if is_litter(path)], choices=choices)
    paths = [path for path in paths if not is_litter(path)]
    if not paths and not refused:
        raise UsageError(f"{source}: there is no file in it; give the folder of the export")
    choices.check(paths)
    inventory.files += [FileRecord(name, reason=reason) for name, reason in refused.items()]
    seen: _Seen = {}
    unchanged: set[str] = set()
    whole = known.is_of_archive(source)
    stamps = [_looked_at(root, path) for path in paths]  # from before anything is read
    at_once: list[FileRecord | None] = []
    for path, (stamp, is_link) in zip(paths, stamps, strict=True):
        record = known.unchanged(root, path, stamp, whole=whole)
        unchanged |= {path} if record is not None else set()
        at_once.append(record or (None if stamp is not None and not is_link else _odd_record(root, path)))
    waiting = [path for path, record in zip(paths, at_once, strict=True) if record is None]
    unsaid = choices == NO_CHOICES
    jobs = (IdentifyJob(root.absolute(), path, None if unsaid else choices.of(root, path)) for path in waiting)
    found = workers.map(identified, jobs, lost=not_identified, chunk=workers.fair_chunk(len(waiting)))
    for path, (stamp, _), record in track(
        zip(paths, stamps, at_once, strict=True), "scanning", "files", total=len(paths), show_progress=show_progress
    ):
        record = record or _beside_others(root, _placed(next(found), root / path), seen)
        inventory.files.append(record if record.stamp == stamp else replace(record, stamp=stamp))
    inventory = replace(inventory, unchanged=frozenset(unchanged))
    _judge_folders(inventory)
    return _without_ambiguous(_without_collisions(_without_headers_outside(inventory)))


def _file_set(source: Path, choices: KindChoices) -> list[str]:
    """Name what belongs to one file: the files that a DICOMDIR lists, the other half of a pair of header and values;
    and the file itself.
    """
    try:
        found = identify(source, choices.of(source.parent, source.name))
    except (RefusedError, OSError):
        return [source.name]
    if found.format in ("nifti", "itk"):
        return sorted(_companions(source, choices) | {source.name})
    names = found.files if isinstance(found, Document) else frozenset()
    meant = meant_files(names, "", files_beside(source, names)) if names else {}
    return sorted({path for paths in meant.values() for path in paths} | {source.name})


def _companions(source: Path, choices: KindChoices) -> set[str]:
    """Name the two files beside each other that are one image, its header and its values; nothing where it is one
    file.
    """
    pair: dict[bool, set[str]] = {True: set(), False: set()}
    for sibling in source.parent.glob(f"{glob.escape(source.name.partition('.')[0])}.*"):
        with contextlib.suppress(RefusedError, OSError):
            found = identify(sibling, choices.of(source.parent, sibling.name))
            if isinstance(found, Document) and found.kind.startswith("header of"):
                pair[True].add(sibling.name)
            elif isinstance(found, ImageHeader) and holds_values_alone(sibling.name, found):
                pair[False].add(sibling.name)
    return pair[True] | pair[False] if source.name in pair[True] | pair[False] else set()


def _without_headers_outside(inventory: Inventory) -> Inventory:
    """Refuse values whose header is a link that leads out of the input: what it says is nobody's but the owner's."""
    headers = [PurePosixPath(record.path) for record in inventory.files if _HEADER.search(record.path.lower())]
    outside = {PurePosixPath(record.path) for record in inventory.files if record.reason == LINK_OUT}
    for number, record in enumerate(inventory.files if outside.intersection(headers) else ()):
        path = PurePosixPath(record.path)
        if record.header is None or not holds_values_alone(record.path, record.header):
            continue
        beside = [header for header in headers if header.parent == path.parent]
        own = [header for header in beside if header.name.partition(".")[0] == path.name.partition(".")[0]]
        linked = [header.name for header in own or beside if header in outside]
        if linked:
            reason = f"its header {linked[0]} is a link that leads out of the input; copy it into the input"
            inventory.files[number] = FileRecord(record.path, reason=reason, by_others=True, stamp=record.stamp)
    return inventory


def _without_collisions(inventory: Inventory) -> Inventory:
    """Refuse files that would be written under the name of another."""
    taken = {record.path: record.path for record in inventory.files}
    for number, record in enumerate(inventory.files):
        target = written_path(record.path, record.header)
        other = taken.setdefault(target, record.path)
        if other != record.path:
            which = "which is another file" if other == target else f"and so would {other}"
            inventory.files[number] = FileRecord(
                record.path,
                reason=f"it would be written as {target}, {which}; rename one of the two",
                by_others=True,
                stamp=record.stamp,
            )
    return inventory


def _without_ambiguous(inventory: Inventory) -> Inventory:
    """Refuse a DICOMDIR where it cannot be told which files its records mean."""
    reasons = {
        path: ambiguity(meant, PurePosixPath(path).parent.as_posix()) for path, meant in inventory.listed.items()
    }
    files = [
        FileRecord(record.path, reason=reason, by_others=True, stamp=record.stamp)
        if (reason := reasons.get(record.path))
        else record
        for record in inventory.files
    ]
    return replace(inventory, files=files) if any(reasons.values()) else inventory


def walk(root: Path) -> Iterator[str]:
    """Give the paths of all files below a folder, and of the folders that are not entered: links, and those that cannot
    be read.
    """
    unreadable: list[str] = []
    for folder, folders, names in os.walk(
        root, onerror=lambda error: unreadable.append(error.filename), followlinks=False
    ):
        linked = [name for name in folders if os.path.islink(Path(folder) / name)]  # noqa: PTH114 (False for a path that is too long)
        for name in names + linked:
            yield (Path(folder) / name).relative_to(root).as_posix()
    for folder in unreadable:
        yield Path(folder).relative_to(root).as_posix()


def _judge_folders(inventory: Inventory) -> None:
    """Look at the files of each folder together where the values of one are not enough to tell a label map."""
    judged = []
    for record in inventory.files:
        judgement = record.judgement or (record.document.judgement if record.document is not None else None)
        if judgement is not None:
            judged.append(JudgedFile(record.path, judgement, record.document))
    changed = judged_together(judged)
    for number, record in enumerate(inventory.files):
        kind = changed.get(record.path)
        if kind == "label map":
            found = identify(inventory.absolute(record.path), "label map")
            if isinstance(found, Document):
                inventory.files[number] = FileRecord(
                    record.path,
                    document=replace(found, notes=(f"{KNOWN_BY}the label maps beside it have the same values",)),
                    stamp=record.stamp,
                )
        elif kind == "cannot tell" and record.document is not None and record.document.judgement is not None:
            undecided = UndecidedError(
                replace(record.document.judgement, evidence="it has the values of files beside it that may be images")
            )
            inventory.files[number] = FileRecord(record.path, reason=str(undecided), by_others=True, stamp=record.stamp)


def _looked_at(root: Path, path: str) -> tuple[Stamp | None, bool]:
    """Give the stamp of a file, None where there is no regular one, and whether the path is a link."""
    try:
        found = os.lstat(os.path.join(root, path))  # noqa: PTH118 (a Path for each of a million files is slow)
    except (OSError, ValueError):
        return None, False
    if stat.S_ISREG(found.st_mode):
        return Stamp(shared(found.st_size), found.st_mtime_ns), False
    is_link = stat.S_ISLNK(found.st_mode)
    return (Stamp.of(root / path) if is_link else None), is_link


def _odd_record(root: Path, path: str) -> FileRecord | None:
    """Say why a path is refused that is no regular file inside the input; None if it is one after all."""
    absolute = root / path
    try:
        if absolute.is_symlink() and not absolute.resolve().is_relative_to(root.resolve()):
            return FileRecord(path, reason=LINK_OUT)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            size = len(os.fsencode(absolute))
            return FileRecord(
                path,
                reason=f"its path has {size} bytes, more than the system opens; call with a shorter INPUT, or move it "
                "up",
            )
        return FileRecord(path, reason="a link that leads to itself")
    if absolute.is_dir():
        return FileRecord(path, reason="a folder that is not entered: a link, or one that cannot be read")
    if not absolute.is_file():
        return FileRecord(path, reason="not a regular file")
    return None


def _placed(record: FileRecord, place: Path) -> FileRecord:
    """Give a record with the place of its file as this process names it; what other files have too is kept once."""
    header, document = record.header, record.document
    return replace(
        record,
        header=None if header is None else found_kept_once(header, place),
        document=None if document is None else found_kept_once(document, place),
    )


_Seen = dict[object, "str | dict[str, str]"]
"""What an image may be a copy by -> path of the one image that there is, or the paths of several with their digests."""


def _beside_others(root: Path, record: FileRecord, seen: _Seen) -> FileRecord:
    """Give the record of a file as what it is beside those before it; one that vanishes meanwhile is refused."""
    try:
        return _as_copy(root, record, seen)
    except OSError as error:
        return FileRecord(record.path, reason=f"cannot be read: {error.strerror or error}")


def _as_copy(root: Path, record: FileRecord, seen: _Seen) -> FileRecord:
    """Give the record of an image as what it is beside those before it: perhaps a copy, or another with the same UID;
    ``seen`` has the earlier ones that it may be a copy of, with their digests as soon as one is needed.
    """
    path, header = record.path, record.header
    if header is None or holds_values_alone(path, header):
        return record  # whose bytes mean something only with its header's, so that equal ones are no copies
    absolute = root / path
    # One image has one SOP Instance UID; a NIfTI file has none, so its size says which others it may be a copy of.
    uid = header.identifiers.get("SOPInstanceUID")
    key = uid or absolute.stat().st_size
    others = seen.setdefault(key, path)
    if others is path:
        return FileRecord(path, header)
    if isinstance(others, str):
        others = seen[key] = {others: ""}
    digest = file_digest(absolute)
    for other, known in others.items():
        with contextlib.suppress(OSError):  # it is gone, so this is no copy of it
            others[other] = known or file_digest(root / other)
            if others[other] == digest:
                return FileRecord(path, header, copy_of=other)
    if uid:
        return FileRecord(path, reason=_why_two(root, path, min(others), uid), by_others=True)
    others[path] = digest
    return FileRecord(path, header)


def _why_two(root: Path, path: str, other: str, uid: str) -> str:
    """Say what is wrong with a file whose SOP Instance UID another one has: lossless recompression keeps it (PS3.4 B),
    a change does not.
    """
    said = f"its SOPInstanceUID {uid} is that of {other}"
    try:
        first, second = read_source(root / other), read_source(root / path)
    except (RefusedError, OSError, MemoryError) as error:
        return f"{said}, and whether it is the same image is not known ({error}); keep one of the two"
    if _same_picture(first, second):
        return f"{said}, and it is the same image in another encoding, or with another header; keep one of the two"
    return f"{said}, but it is another image; give it a UID of its own"


def _same_picture(first: SourceImage, second: SourceImage) -> bool:
    """Say whether two files hold the same values, whatever types and encodings they have."""
    same_scale = (first.slope, first.intercept, first.frame_rescale) == (
        second.slope,
        second.intercept,
        second.frame_rescale,
    )
    return same_scale and first.stored.shape == second.stored.shape and np.array_equal(first.stored, second.stored)
