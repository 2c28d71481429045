# SPDX-License-Identifier: Apache-2.0
"""Storing files in an archive, one by one, so that none is sent twice, and then looking whether all are there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import TYPE_CHECKING, Any

from monai_salm.dicomweb.connecting import connect
from monai_salm.dicomweb.fetching import told_of
from monai_salm.dicomweb.instances import WAITS, Instance, LostError
from monai_salm.dicomweb.messages import CHUNK
from monai_salm.dicomweb.places import ArchivePlace
from monai_salm.disk import make_folder, sync, told_when_full
from monai_salm.errors import RefusedError
from monai_salm.io.dicom import object_uids
from monai_salm.progress import Progress
from monai_salm.seals import sealed_json, unsealed_json

if TYPE_CHECKING:
    from monai_salm.dicomweb.client import Archive

LATE = (1.0, 3.0, 9.0)
"""Seconds that an archive gets to list what it has stored."""


@dataclass
class StoreResult:
    """What became of the files.

    Args:
        place: archive.
        stored: how many are there now, found again in their series.
        sent: how many of these were sent now; the others were there.
        problems: path -> why the file is not there, or may not be.
        notes: path -> what the archive says of a file that it stored.
        found: place of the series that they are in.
        original: what they are to be verified against, as a command takes it.
    """

    place: ArchivePlace
    stored: int = 0
    sent: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    found: ArchivePlace | None = None
    original: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give plain types."""
        return {
            "archive": str(self.place), "stored": self.stored, "sent": self.sent,
            "found": None if self.found is None else str(self.found), "original": self.original,
        }  # fmt: skip


def store(
    place: ArchivePlace,
    folder: Path,
    files: Mapping[str, str],
    journal: Path,
    *,
    advice: str = "",
    show_progress: bool = False,
) -> StoreResult:
    """Store files in an archive.

    Args:
        place: the archive; where it names studies, only files of these are stored.
        folder: of the files.
        files: path below the folder -> SHA-256 that the file must have; in the order in which they are sent.
        journal: private file that says what was stored; one from before is gone on with.
        advice: how to go on where the archive goes away.
        show_progress: a progress bar on standard error.

    Raises:
        SalmError: the archive goes away, or takes no files from us. What was stored is in the journal.
    """
    make_folder(journal.parent, private=True)
    storing = _Storing(connect(place), StoreResult(place), journal)
    known = dict(storing.known(folder, files))
    with Progress("storing", len(known), "files", show_progress=show_progress) as bar:
        for done, (path, instance) in enumerate(known.items()):
            with told_of(done, len(known), "stored", advice):
                storing.settle(path, instance, folder / path, files[path])
            bar.update()
    storing.look_again({path: one for path, one in known.items() if path not in storing.result.problems})
    return storing.result


class _Storing:
    """One call of :func:`store`."""

    def __init__(self, archive: Archive, result: StoreResult, journal: Path) -> None:
        self.archive, self.result = archive, result
        self.journal = _Journal(journal, archive.url)
        self._listed: dict[tuple[str, str], set[str]] = {}

    def known(self, folder: Path, files: Mapping[str, str]) -> Iterator[tuple[str, Instance]]:
        """Give the instances that files are; one that is none, or of another study, is a problem."""
        for path in files:
            try:
                uids = object_uids(folder / path)
                instance = Instance(uids["StudyInstanceUID"], uids["SeriesInstanceUID"], uids["SOPInstanceUID"])
            except (RefusedError, KeyError):
                self.result.problems[path] = "no DICOM object with the UIDs that an archive needs, so it is not stored"
                continue
            except OSError as error:
                self.result.problems[path] = f"cannot be read: {error.strerror or error}"
                continue
            if self.result.place.studies and instance.study not in self.result.place.studies:
                self.result.problems[path] = f"of study {instance.study}, which is not that of {self.result.place}"
                continue
            yield path, instance

    def settle(self, path: str, instance: Instance, file: Path, digest: str) -> None:
        """Store a file, unless it is there."""
        if _file_digest(file) != digest:
            self.result.problems[path] = "it was changed since it was written, so it is not stored; run again"
            return
        if self._is_listed(instance):
            self._meet(path, instance, digest)
            return
        for wait in (*WAITS, None):
            try:
                answer = self.archive.send(file, instance)
                break
            except LostError:
                if wait is None:
                    raise
                sleep(wait)
                self._listed.clear()
                if self._is_listed(instance):  # its answer alone was lost
                    self._meet(path, instance, digest)
                    return
        if answer.refused:
            self.result.problems[path] = answer.refused
            return
        if answer.note:
            self.result.notes[path] = answer.note
        self.journal.add(instance, digest)
        self._listed[instance.study, instance.series].add(instance.sop)
        self.result.sent += 1

    def _is_listed(self, instance: Instance) -> bool:
        key = instance.study, instance.series
        if key not in self._listed:
            self._listed[key] = self.archive.listed(*key)
        return instance.sop in self._listed[key]

    def _meet(self, path: str, instance: Instance, digest: str) -> None:
        """Look whether an instance that the archive has is the file."""
        if self.journal.has(instance, digest):
            return
        with TemporaryDirectory(dir=self.journal.path.parent) as spare:
            there = Path(spare) / "there"
            self.archive.retrieve(instance, there)
            same = _file_digest(there) == digest
        if same:
            self.journal.add(instance, digest)
        else:
            self.result.problems[path] = (
                f"the archive has an instance {instance.sop} already, with other bytes, and keeps that: an original "
                "(--uids keep), another run's, or this one as the archive changed it; compare the two, or take "
                "that out of the archive, and give the command again with --resume"
            )

    def look_again(self, stored: Mapping[str, Instance]) -> None:
        """Find every instance again in its series; those that are not there are problems."""
        waiting = dict(stored)
        for wait in (0.0, *LATE):
            if not waiting:
                break
            sleep(wait)
            self._listed.clear()
            waiting = {path: one for path, one in waiting.items() if not self._is_listed(one)}
        for path, instance in waiting.items():
            self.result.problems[path] = (
                f"the archive took {instance.sop} and does not list it in series {instance.series}; see its log, and "
                "give the command again with --resume"
            )
        there = [one for path, one in stored.items() if path not in waiting]
        self.result.stored = len(there)
        if there:
            studies, series = sorted({one.study for one in there}), sorted({one.series for one in there})
            self.result.found = ArchivePlace(self.archive.url, tuple(studies), tuple(series))


class _Journal:
    """What was stored, line by line."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self._url = path, url
        self._lines = _lines_of(path)
        path.touch(mode=0o600)
        if path.read_bytes()[-1:] not in (b"", b"\n"):
            self._write(b"\n")  # a line that a crash cut short must not swallow the next one

    def has(self, instance: Instance, digest: str) -> bool:
        return (self._url, instance.sop, digest) in self._lines

    def add(self, instance: Instance, digest: str) -> None:
        self._lines.add((self._url, instance.sop, digest))
        line = {"url": self._url, "sop": instance.sop, "sha256": digest}
        self._write(f"{sealed_json(line)}\n".encode("ascii"))

    def _write(self, content: bytes) -> None:
        with told_when_full(self.path, len(content)):
            with self.path.open("ab") as file:
                file.write(content)
            sync([self.path])


def _lines_of(journal: Path) -> set[tuple[str, str, str]]:
    """Read a journal: URL, SOP Instance UID and digest of each file; a line that is damaged says nothing."""
    found = set()
    for line in journal.read_bytes().splitlines() if journal.is_file() else ():
        with suppress(ValueError, KeyError):
            said = unsealed_json(line.decode("ascii"))
            found.add((said["url"], said["sop"], said["sha256"]))
    return found


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def uids_below(folder: Path) -> set[str]:
    """Give the SOP Instance UIDs of the DICOM objects below a folder, which need not be there."""
    found = set()
    for path in folder.rglob("*"):
        with suppress(RefusedError, OSError):
            found.add(object_uids(path)["SOPInstanceUID"])
    return found


def uids_stored(journal: Path) -> set[str]:
    """Give the SOP Instance UIDs that a journal says were stored, in whichever archive; changes nothing."""
    return {sop for _, sop, _ in _lines_of(journal)}
