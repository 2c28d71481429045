# SPDX-License-Identifier: Apache-2.0
"""A folder of residuals: written aside and renamed, found by what their protected files are found by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from monai_salm.disk import remove_leftovers, write_atomically
from monai_salm.residuals.content import Residual
from monai_salm.residuals.sealing import MARK_DIGITS, ResidualKey

SUFFIX = ".residual"
_NAME = re.compile(rf"[0-9a-f]{{{2 * MARK_DIGITS}}}\{SUFFIX}")
_FOLDER_DIGITS = 2
"""Of a name, which its folder is called by, so that no folder has a million files."""


class ResidualStore:
    """The residuals of a release.

    Args:
        folder: where they lie; made when the first is written.
        key: that they are encrypted with.
    """

    def __init__(self, folder: Path, key: ResidualKey) -> None:
        self.folder, self.key = folder, key
        self._by_target: dict[str, list[Path]] = {}
        self._indexed: dict[str, int] = {}  # folders as they were then: a process may outlive what lies in them

    def write(self, residual: Residual) -> Path:
        """Encrypt and write one, and give where it lies; the disk is not waited for."""
        name = self._mark(residual.found_by) + self.key.mark("target", residual.target)
        place = self._place(name)
        sealed = self.key.seal(name, residual.to_bytes())
        write_atomically(place, sealed, private=True, synced=False)
        return place

    def read(self, place: Path) -> Residual:
        """Read and decrypt one.

        Raises:
            RefusedError: it is of another key, or of another name, or damaged.
            OSError: it cannot be read.
        """
        return Residual.from_bytes(self.key.open(place.name.removesuffix(SUFFIX), place.read_bytes()))

    def places(self) -> Iterator[Path]:
        """Give where all of them lie, folder by folder."""
        if not self.folder.is_dir():
            return
        for folder in sorted(self.folder.iterdir()):
            if folder.is_dir() and len(folder.name) == _FOLDER_DIGITS:
                yield from sorted(place for place in folder.iterdir() if _NAME.fullmatch(place.name))

    def found_by(self, text: str) -> list[Path]:
        """Give where those lie whose protected file is found by a SOP Instance UID or a digest; there is more than one
        where a file was there twice.
        """
        mark = self._mark(text)
        folder = self.folder / mark[:_FOLDER_DIGITS]
        return sorted(folder.glob(f"{mark}*{SUFFIX}"))

    def is_of(self, place: Path, target: str) -> bool:
        """Say whether a residual is of the file that was handed out under a path."""
        return place.name[MARK_DIGITS : 2 * MARK_DIGITS] == self.key.mark("target", target)

    def of_target(self, target: str) -> list[Path]:
        """Give where those lie whose protected file was handed out under a path, whatever is in it now."""
        folders = {folder.name: folder.stat().st_mtime_ns for folder in self._folders()}
        if folders != self._indexed:
            self._by_target, self._indexed = {}, folders
            for place in self.places():
                self._by_target.setdefault(place.name[MARK_DIGITS : 2 * MARK_DIGITS], []).append(place)
        return self._by_target.get(self.key.mark("target", target), [])

    def sweep(self) -> None:
        """Remove temporary files that killed runs left."""
        for folder in self._folders():
            remove_leftovers(folder)

    def _folders(self) -> Iterator[Path]:
        return self.folder.glob("[0-9a-f]" * _FOLDER_DIGITS)

    def _mark(self, found_by: str) -> str:
        return self.key.mark("found by", found_by)

    def _place(self, name: str) -> Path:
        return self.folder / name[:_FOLDER_DIGITS] / f"{name}{SUFFIX}"
