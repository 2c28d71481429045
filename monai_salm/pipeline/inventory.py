# SPDX-License-Identifier: Apache-2.0
"""What is in a folder: every file with its header, or the reason why it cannot be protected."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from monai_salm.io import Document, ImageHeader, Judgement, Kind
from monai_salm.io.kinds import LABEL_MAP
from monai_salm.pipeline.choices import KindChoices
from monai_salm.pipeline.file_sets import meant_files

_WHOLE_FILES = (".nii", ".gz", ".nrrd", ".mha", "")
"""Suffixes of files that hold their own header."""


NO_CHOICES = KindChoices()


@dataclass(frozen=True, slots=True)
class Stamp:
    """By what a file that nobody changed can be known without reading it."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Stamp | None:
        """Look at a file; None where there is no regular one."""
        try:
            found = path.stat()
        except (OSError, ValueError):
            return None
        return cls(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of the input.

    Args:
        path: relative to the input, with forward slashes.
        header: of an image; None if the file is none, or is refused.
        document: what else may be handed out; None if the file is an image, or is refused.
        reason: why it is refused; empty otherwise.
        copy_of: path of an earlier image with the same bytes, whose fate it shares; empty otherwise.
        judgement: of a file of which it cannot be told whether it is an image or a label map.
        by_others: whether it is refused for what other files are.
        stamp: of the file, from before it was read; None for what is no regular file, and where nobody looked.
    """

    path: str
    header: ImageHeader | None = None
    document: Document | None = None
    reason: str = ""
    copy_of: str = ""
    judgement: Judgement | None = None
    by_others: bool = False
    stamp: Stamp | None = field(default=None, compare=False)


@dataclass
class Inventory:
    """All files of an input, ordered by path.

    Args:
        root: folder that the paths are relative to.
        files: one record a file.
        ignored: paths of files that an operating system left; they are never handed out.
        choices: what the user says of images and label maps.
        unchanged: paths of files that are as they were when they were looked at before, and were not read again.
        of_release: paths of files that the release has to which the others are added; no records are kept of them.
        copies_of_release: records of copies of images that the release has, which share their fate.
    """

    root: Path
    files: list[FileRecord] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    choices: KindChoices = NO_CHOICES
    unchanged: frozenset[str] = frozenset()
    of_release: frozenset[str] = frozenset()
    copies_of_release: tuple[FileRecord, ...] = ()

    @property
    def stamps(self) -> dict[str, Stamp | None]:
        """Stamps of the files, by path; None for what is no regular file."""
        return {record.path: record.stamp for record in self.files}

    @cached_property
    def headers(self) -> dict[str, ImageHeader]:
        """Headers of the images, by path."""
        return {record.path: record.header for record in self.files if record.header is not None}

    @cached_property
    def pictures(self) -> dict[str, ImageHeader]:
        """The same without copies."""
        if not self.copies:
            return self.headers
        return {path: header for path, header in self.headers.items() if path not in self.copies}

    @cached_property
    def documents(self) -> dict[str, Document]:
        """What is no image and may be handed out, by path."""
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

    def sizes(self) -> dict[str, int]:
        """Give the bytes of each file, by path; 0 of what is no regular one."""
        return {record.path: record.stamp.size if record.stamp is not None else 0 for record in self.files}

    def absolute(self, path: str) -> Path:
        """Give the place of a file on disk."""
        return self.root / path

    def output_path(self, path: str) -> str:
        """Give the path of the protected file, which differs from the source's where the format has to (a JPEG is
        written as PNG).
        """
        return written_path(path, self.headers.get(path))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Give what :meth:`to_json` has of each file."""
        return map(_entry, self.files)

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm scan --json`` prints."""
        files = list(self.entries())
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
        found = {"fate": "copy", "reason": f"no image ({document.kind})", "format": document.format, "modality": ""}
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


def holds_values_alone(path: str, header: ImageHeader) -> bool:
    """Say whether an image's header is a file of its own (``.img``, ``.raw``)."""
    return header.format in ("nifti", "itk") and PurePosixPath(path).suffix.lower() not in _WHOLE_FILES


def written_path(path: str, header: ImageHeader | None) -> str:
    """Give the path that a file is written to, which has another suffix where its header says so."""
    return (
        str(PurePosixPath(path).with_suffix(header.output_suffix))
        if header is not None and header.output_suffix
        else path
    )


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


def file_digest(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else hashlib.sha256(file.read()).hexdigest()
        )


def has_digest(path: Path, sha256: str) -> bool:
    """Say whether a regular file is there and has these bytes."""
    try:
        return path.is_file() and file_digest(path) == sha256
    except OSError:
        return False
