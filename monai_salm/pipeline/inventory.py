# SPDX-License-Identifier: Apache-2.0
"""What is in a folder: every file with its header, or the reason why it cannot be protected."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import (
    Document,
    ImageHeader,
    Judgement,
    Kind,
    SourceImage,
    UndecidedError,
    identify,
    is_litter,
    read_source,
)
from monai_salm.io.kinds import KNOWN_BY, LABEL_MAP
from monai_salm.pipeline.archive import is_archive, unpack
from monai_salm.pipeline.choices import JudgedFile, KindChoices, judged_together
from monai_salm.pipeline.file_sets import ambiguity, files_beside, meant_files
from monai_salm.progress import track

_WHOLE_FILES = (".nii", ".gz", ".nrrd", ".mha", "")
"""Suffixes of files that hold their own header."""


NO_CHOICES = KindChoices()


@dataclass(frozen=True)
class FileRecord:
    """One file of the input.

    Args:
        path: relative to the input, with forward slashes.
        header: of a picture; None if the file is none, or is refused.
        document: what else may be handed out; None if the file is a picture, or is refused.
        reason: why it is refused; empty otherwise.
        copy_of: path of an earlier picture with the same bytes, whose fate it shares; empty otherwise.
        judgement: of a file of which it cannot be told whether it is a picture or a label map.
    """

    path: str
    header: ImageHeader | None = None
    document: Document | None = None
    reason: str = ""
    copy_of: str = ""
    judgement: Judgement | None = None


@dataclass
class Inventory:
    """All files of an input, ordered by path.

    Args:
        root: folder that the paths are relative to.
        files: one record a file.
        ignored: paths of files that an operating system left; they are never handed out.
        choices: what the user says of pictures and label maps.
    """

    root: Path
    files: list[FileRecord] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    choices: KindChoices = NO_CHOICES

    @cached_property
    def headers(self) -> dict[str, ImageHeader]:
        """Headers of the pictures, by path."""
        return {record.path: record.header for record in self.files if record.header is not None}

    @cached_property
    def pictures(self) -> dict[str, ImageHeader]:
        """The same without copies."""
        return {path: header for path, header in self.headers.items() if path not in self.copies}

    @cached_property
    def documents(self) -> dict[str, Document]:
        """What is no picture and may be handed out, by path."""
        return {record.path: record.document for record in self.files if record.document is not None}

    @property
    def refused(self) -> dict[str, str]:
        """Reasons of the refused files, by path."""
        return {record.path: record.reason for record in self.files if record.reason}

    @cached_property
    def copies(self) -> dict[str, str]:
        """Path of a copy -> path of the file that it is a copy of."""
        return {record.path: record.copy_of for record in self.files if record.copy_of}

    @cached_property
    def listed(self) -> dict[str, dict[str, list[str]]]:
        """Path of a DICOMDIR -> name in its records -> path of the file of the input that is meant; several where that
        cannot be told.
        """
        paths = [record.path for record in self.files]
        return {
            path: meant_files(found.files, PurePosixPath(path).parent.as_posix(), paths)
            for path, found in self.documents.items()
            if found.files
        }

    def absolute(self, path: str) -> Path:
        """Give the place of a file on disk."""
        return self.root / path

    def output_path(self, path: str) -> str:
        """Give the path of the protected file, which differs from the source's where the format has to (a JPEG is
        written as PNG).
        """
        return _renamed(path, self.headers.get(path))

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm scan --json`` prints."""
        files = [_entry(record) for record in self.files]
        counts = {fate: sum(file["fate"] == fate for file in files) for fate in ("protect", "copy", "refuse")}
        return {
            "input": str(self.root),
            "counts": counts | {"ignored": len(self.ignored)},
            "files": files,
            "ignored": self.ignored,
        }


def _entry(record: FileRecord) -> dict[str, Any]:
    header, document = record.header, record.document
    if header is not None:
        found = {
            "fate": "protect",
            "reason": record.copy_of and f"copy of {record.copy_of}",
            "format": header.format,
            "modality": header.modality,
        }
        return {"path": record.path, **found, "shape": [*header.shape, *header.trailing], "notes": _told(header)}
    if document is not None:
        found = {"fate": "copy", "reason": f"no picture ({document.kind})", "format": document.format, "modality": ""}
        return {"path": record.path, **found, "shape": [], "notes": _told(document)}
    return {
        "path": record.path,
        "fate": "refuse",
        "reason": record.reason,
        "format": "",
        "modality": "",
        "shape": [],
        "notes": [],
    }


def _told(found: ImageHeader | Document) -> list[str]:
    """Give all that whoever shares a file must know of it."""
    left_out = found.left_out if isinstance(found, ImageHeader) else ""
    return [*found.notes, *filter(None, (found.unprotected, left_out))]


def scan(
    source: Path, *, unpack_into: Path | None = None, choices: KindChoices = NO_CHOICES, show_progress: bool = False
) -> Inventory:
    """List a folder, the file-set of a DICOMDIR, a zip, or one file; links that lead out of the folder are refused, not
    followed.

    Args:
        source: what to list.
        unpack_into: folder that a zip is unpacked into, made anew; it has to stay while the inventory is used.
        choices: what the user says of pictures and label maps.
        show_progress: progress bars on standard error.

    Raises:
        UsageError: the input does not exist, or holds no file.
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
        root, paths, refused = unpacked.folder, sorted(_walk(unpacked.folder)), unpacked.refused
    elif source.is_file():
        root, paths = source.parent, _file_set(source, choices)
    else:
        root, paths = source, sorted(_walk(source))
    inventory = Inventory(root, ignored=[path for path in paths if is_litter(path)], choices=choices)
    paths = [path for path in paths if not is_litter(path)]
    if not paths and not refused:
        raise UsageError(f"{source}: there is no file in it; give the folder of the export")
    choices.check(paths)
    inventory.files += [FileRecord(name, reason=reason) for name, reason in refused.items()]
    seen: dict[object, dict[str, str]] = {}
    for path in track(paths, "scanning", "files", total=len(paths), show_progress=show_progress):
        inventory.files.append(_record(root, path, seen, choices.of(root, path)))
    _judge_folders(inventory)
    return _without_ambiguous(_without_collisions(inventory))


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
    """Name the two files beside each other that are one picture, its header and its values; nothing where it is one
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


def _without_collisions(inventory: Inventory) -> Inventory:
    """Refuse files that would be written under the name of another."""
    taken = {record.path: record.path for record in inventory.files}
    for number, record in enumerate(inventory.files):
        target = _renamed(record.path, record.header)
        other = taken.setdefault(target, record.path)
        if other != record.path:
            which = "which is another file" if other == target else f"and so would {other}"
            inventory.files[number] = FileRecord(
                record.path, reason=f"it would be written as {target}, {which}; rename one of the two"
            )
    return inventory


def _without_ambiguous(inventory: Inventory) -> Inventory:
    """Refuse a DICOMDIR where it cannot be told which files its records mean."""
    reasons = {
        path: ambiguity(meant, PurePosixPath(path).parent.as_posix()) for path, meant in inventory.listed.items()
    }
    files = [
        FileRecord(record.path, reason=reason) if (reason := reasons.get(record.path)) else record
        for record in inventory.files
    ]
    return replace(inventory, files=files) if any(reasons.values()) else inventory


def holds_values_alone(path: str, header: ImageHeader) -> bool:
    """Say whether a picture's header is a file of its own (``.img``, ``.raw``)."""
    return header.format in ("nifti", "itk") and PurePosixPath(path).suffix.lower() not in _WHOLE_FILES


def _renamed(path: str, header: ImageHeader | None) -> str:
    return (
        str(PurePosixPath(path).with_suffix(header.output_suffix))
        if header is not None and header.output_suffix
        else path
    )


def _walk(root: Path) -> Iterator[str]:
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


def kinds_found(inventory: Inventory) -> dict[str, Kind]:
    """Give what each file was taken for, under its own path and the one that it is written under; files that are
    neither are missing.
    """
    found: dict[str, Kind] = {
        record.path: "label map"
        for record in inventory.files
        if record.document is not None and record.document.kind == LABEL_MAP
    }
    for path in inventory.headers:
        found[path] = found[inventory.output_path(path)] = "picture"
    return found


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
                )
        elif kind == "cannot tell" and record.document is not None and record.document.judgement is not None:
            undecided = UndecidedError(
                replace(record.document.judgement, evidence="it has the values of files beside it that may be pictures")
            )
            inventory.files[number] = FileRecord(record.path, reason=str(undecided))


def _record(root: Path, path: str, seen: dict[object, dict[str, str]], said: Kind | None) -> FileRecord:
    """Look at one file; ``seen`` has the earlier pictures that it may be a copy of, with their digests as soon as one
    is needed.
    """
    absolute = root / path
    try:
        if absolute.is_symlink() and not absolute.resolve().is_relative_to(root.resolve()):
            return FileRecord(path, reason="a link that leads out of the input; copy the file into the input")
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
    try:
        found = identify(absolute, said)
    except UndecidedError as open_question:
        return FileRecord(path, reason=str(open_question), judgement=open_question.judgement)
    except RefusedError as refusal:
        return FileRecord(path, reason=str(refusal))
    except OSError as error:
        return FileRecord(path, reason=f"cannot be read: {error.strerror or error}")
    except MemoryError:
        return FileRecord(path, reason="it needs more memory than there is")
    if isinstance(found, Document):
        return FileRecord(path, document=found)
    header = found
    if holds_values_alone(path, header):
        return FileRecord(
            path, header
        )  # its bytes mean something only with its header's, so that equal ones are no copies
    # One picture has one SOP Instance UID; a NIfTI file has none, so its size says which others it may be a copy of.
    uid = header.identifiers.get("SOPInstanceUID")
    others = seen.setdefault(uid or absolute.stat().st_size, {})
    if not others:
        others[path] = ""
        return FileRecord(path, header)
    digest = file_digest(absolute)
    for other, known in others.items():
        others[other] = known or file_digest(root / other)
        if others[other] == digest:
            return FileRecord(path, header, copy_of=other)
    if uid:
        return FileRecord(path, reason=_why_two(root, path, min(others), uid))
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
        return f"{said}, and whether it is the same picture is not known ({error}); keep one of the two"
    if _same_picture(first, second):
        return f"{said}, and it is the same picture in another encoding, or with another header; keep one of the two"
    return f"{said}, but it is another picture; give it a UID of its own"


def _same_picture(first: SourceImage, second: SourceImage) -> bool:
    """Say whether two files hold the same values, whatever types and encodings they have."""
    same_scale = (first.slope, first.intercept, first.frame_rescale) == (
        second.slope,
        second.intercept,
        second.frame_rescale,
    )
    return same_scale and first.stored.shape == second.stored.shape and np.array_equal(first.stored, second.stored)


def file_digest(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(file.read()).hexdigest()
        )
