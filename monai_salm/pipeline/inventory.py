# SPDX-License-Identifier: Apache-2.0
"""What is in a folder: every file with its header, or the reason why it cannot be protected."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import ImageHeader, read_header

SERIES_MODALITIES = ("CT", "MR", "PT", "NM")
"""Modalities whose series is one volume; a series of others is a collection of separate views."""


@dataclass(frozen=True)
class FileRecord:
    """One file of the input.

    Args:
        path: relative to the input, with forward slashes.
        header: None if the file is refused.
        reason: why it is refused; empty otherwise.
        copy_of: path of an earlier file with the same bytes, whose fate it shares; empty otherwise.
    """

    path: str
    header: ImageHeader | None = None
    reason: str = ""
    copy_of: str = ""


@dataclass
class Inventory:
    """All files of an input, ordered by path.

    Args:
        root: folder that the paths are relative to.
        files: one record a file.
    """

    root: Path
    files: list[FileRecord] = field(default_factory=list)

    @property
    def pictures(self) -> dict[str, ImageHeader]:
        """Headers of the files that are not refused, by path, without copies."""
        return {record.path: record.header for record in self.files if record.header is not None and not record.copy_of}

    @property
    def refused(self) -> dict[str, str]:
        """Reasons of the refused files, by path."""
        return {record.path: record.reason for record in self.files if record.header is None}

    @property
    def copies(self) -> dict[str, str]:
        """Path of a copy -> path of the file that it is a copy of."""
        return {record.path: record.copy_of for record in self.files if record.copy_of}

    def absolute(self, path: str) -> Path:
        """Give the place of a file on disk."""
        return self.root / path

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm scan --json`` prints."""
        files = [
            {
                "path": record.path,
                "fate": "protect",
                "reason": record.copy_of and f"copy of {record.copy_of}",
                "format": header.format,
                "modality": header.modality,
                "shape": list(header.shape),
            }
            if (header := record.header) is not None
            else {"path": record.path, "fate": "refuse", "reason": record.reason, "format": "", "modality": "", "shape": []}
            for record in self.files
        ]
        counts = {fate: sum(file["fate"] == fate for file in files) for fate in ("protect", "refuse")}
        return {"input": str(self.root), "counts": counts, "files": files}


def scan(source: Path, *, show_progress: bool = False) -> Inventory:
    """List a folder or one file; links that lead out of the folder are refused, not followed.

    Raises:
        UsageError: the input does not exist, is of a kind that is not read yet, or holds no file.
    """
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder; give the folder of the export, or one image file")
    if source.is_file():
        if source.suffix.lower() == ".zip":
            raise UsageError(f"{source}: zip files are not read yet; unpack it and give the folder")
        if source.name.upper() == "DICOMDIR":
            raise UsageError(f"{source}: a DICOMDIR is not read yet; give the folder {source.parent} that it lies in")
        root, paths = source.parent, [source.name]
    else:
        root, paths = source, sorted(_walk(source))
    if not paths:
        raise UsageError(f"{source}: the folder is empty; give the folder of the export")
    inventory = Inventory(root)
    seen: dict[object, dict[str, str]] = {}
    for path in tqdm(paths, desc="scanning", unit="file", disable=not show_progress):
        inventory.files.append(_record(root, path, seen))
    return inventory


def _walk(root: Path) -> Iterator[str]:
    """Give the paths of all files below a folder, and of the folders that are not entered: links, and those that cannot be read."""
    unreadable: list[str] = []
    for folder, folders, names in os.walk(root, onerror=lambda error: unreadable.append(error.filename), followlinks=False):
        linked = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in names + linked:
            yield (Path(folder) / name).relative_to(root).as_posix()
    for folder in unreadable:
        yield Path(folder).relative_to(root).as_posix()


def _record(root: Path, path: str, seen: dict[object, dict[str, str]]) -> FileRecord:
    """Look at one file; ``seen`` has the earlier pictures that it may be a copy of, with their digests as soon as one is needed."""
    absolute = root / path
    if absolute.is_symlink() and not absolute.resolve().is_relative_to(root.resolve()):
        return FileRecord(path, reason="a link that leads out of the input; copy the file into the input")
    if absolute.is_dir():
        return FileRecord(path, reason="a folder that is not entered: a link, or one that cannot be read")
    if not absolute.is_file():
        return FileRecord(path, reason="not a regular file")
    try:
        header = read_header(absolute)
    except RefusedError as refusal:
        return FileRecord(path, reason=str(refusal))
    except OSError as error:
        return FileRecord(path, reason=f"cannot be read: {error.strerror or error}")
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
        return FileRecord(path, reason=f"its SOPInstanceUID {uid} is that of {min(others)}, but it is another picture; give it a UID of its own")
    others[path] = digest
    return FileRecord(path, header)


def file_digest(path: Path) -> str:
    """Give the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(file.read()).hexdigest()
