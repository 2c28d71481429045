# SPDX-License-Identifier: Apache-2.0
"""Fetching what an archive holds into a private folder, instance by instance, each as the archive gives it.

What is there already is not fetched again. The names of the files lead nobody back to the UIDs of originals, for what
a run hands out has the names of its input.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Set
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from monai_salm.dicomweb.connecting import connect
from monai_salm.dicomweb.instances import Instance
from monai_salm.dicomweb.places import ArchivePlace
from monai_salm.disk import atomic_target, make_private, remove_leftovers, write_atomically
from monai_salm.errors import DiskError, RefusedError, SalmError, UsageError
from monai_salm.io.dicom import object_uids
from monai_salm.progress import Progress
from monai_salm.seals import sealed_json, unsealed_json

if TYPE_CHECKING:
    from monai_salm.dicomweb.client import Archive

FETCHED = "fetched"
"""Folder of the files, below that which is given."""
_RECORD = "fetched.json"
"""What the archive listed when the files were begun to be fetched; beside the folder."""
_NAME = 16
"""Digits of a name, of its UID's digest."""


def is_begun(home: Path) -> bool:
    """Say whether anything was begun to be fetched into a folder."""
    return (home / _RECORD).is_file()


def fetch(
    place: ArchivePlace,
    home: Path,
    *,
    ours: Set[str] = frozenset(),
    advice: str = "",
    show_progress: bool = False,
) -> Path:
    """Fetch what an archive holds at a place, and give the folder that the files lie in: ``STUDY/xxxx/yyyy.dcm``.

    Args:
        place: with a study.
        home: private folder, made if absent; where it has a part of the files from before, that is gone on with.
        ours: SOP Instance UIDs of what the run itself has stored there, which is not fetched.
        advice: how to go on where the archive goes away.
        show_progress: a progress bar on standard error.

    Raises:
        UsageError: there is nothing, or the archive does not let us in; or something came or went since the files were
            begun to be fetched.
        SalmError: the archive goes away, or gives something else than was asked for. What was fetched stays.
    """
    if not place.studies:
        raise UsageError(f"{place}: a study is needed; give {place}/studies/UID")
    archive = connect(place)
    found = [instance for instance in archive.instances(place) if instance.sop not in ours]
    folder = home / FETCHED
    make_private(home)
    make_private(folder)
    _hold_to_record(place, home / _RECORD, found)
    paths = {folder / path_of(instance): instance for instance in found}
    for parent in {path.parent for path in paths}:
        remove_leftovers(parent)
    waiting = {path: instance for path, instance in paths.items() if not _is_there(path, instance)}
    done = len(paths) - len(waiting)
    with Progress("fetching", len(paths), "files", show_progress=show_progress, done=done) as bar:
        for path, instance in waiting.items():
            with told_of(done, len(paths), "fetched", advice), atomic_target(path, private=True) as temporary:
                archive.retrieve(instance, temporary)
                _check(archive, instance, temporary)
            done += 1
            bar.update()
    return folder


def fetched_place(place: ArchivePlace, home: Path) -> ArchivePlace:
    """Give a place with the very series that were fetched from it: others may come later."""
    _, instances = _read(home / _RECORD)
    return replace(place, series=tuple(sorted({series for _, series, _ in instances})))


def forget(home: Path) -> None:
    """Remove what was fetched into a folder."""
    shutil.rmtree(home / FETCHED, ignore_errors=True)
    (home / _RECORD).unlink(missing_ok=True)


@contextmanager
def told_of(done: int, total: int, verb: str, advice: str) -> Iterator[None]:
    """Add to what an archive did wrong how far the files are, and how to go on."""
    try:
        yield
    except DiskError:
        raise
    except SalmError as error:
        raise type(error)(f"{error}; {done} of {total} files are {verb}{advice and '; '}{advice}") from error


def path_of(instance: Instance) -> str:
    """Give the path of an instance: the same whenever it is fetched, whatever else its study holds."""
    return f"{_safe(instance.study)}/{_digest(instance.series)}/{_digest(instance.sop)}.dcm"


def _safe(uid: str) -> str:
    return uid if all(letter in "0123456789." for letter in uid) and uid.strip(".") == uid else _digest(uid)


def _digest(uid: str) -> str:
    return hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()[:_NAME]


def _is_there(path: Path, instance: Instance) -> bool:
    try:
        return path.is_file() and object_uids(path)["SOPInstanceUID"] == instance.sop
    except (RefusedError, OSError):
        return False


def _check(archive: Archive, instance: Instance, file: Path) -> None:
    """See that what came is the instance that was asked for.

    Raises:
        SalmError: it is not.
    """
    where = f"{archive.url}/studies/{instance.study}/series/{instance.series}/instances/{instance.sop}"
    try:
        found = object_uids(file)["SOPInstanceUID"]
    except RefusedError as error:
        raise SalmError(
            f"{where}: what the archive sent is no DICOM file, or was cut off ({error}); see whether it can show this "
            "instance itself"
        ) from error
    if found != instance.sop:
        raise SalmError(f"{where}: the archive sent another instance, {found}; ask who runs it")


def _hold_to_record(place: ArchivePlace, record: Path, found: list[Instance]) -> None:
    """Keep what is listed, or hold it against what was listed at the beginning.

    Raises:
        UsageError: it is of another place, or something came or went.
        SalmError: the record is damaged.
    """
    now = {astuple(instance) for instance in found}
    if not record.is_file():
        content = {"place": str(place), "instances": sorted(now)}
        write_atomically(record, sealed_json(content).encode("ascii"), private=True)
        return
    begun_place, begun = _read(record)
    if begun_place != str(place):
        raise UsageError(
            f"{record.parent}: it holds what was fetched from {begun_place}, not from {place}; give that again, or "
            "another work folder"
        )
    changes = [
        f"{len(some)} instances {what}, such as {min(some)[2]} of series {min(some)[1]}"
        for some, what in ((now - begun, "came"), (begun - now, "are gone"))
        if some
    ]
    if changes:
        raise UsageError(
            f"{place}: the archive does not hold what it did when this was begun: {'; '.join(changes)}; start anew "
            "with another work folder"
        )


def _read(record: Path) -> tuple[str, set[tuple[str, ...]]]:
    try:
        content = unsealed_json(record.read_text(encoding="ascii"))
        return content["place"], {tuple(instance) for instance in content["instances"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SalmError(f"{record}: damaged ({error}); start anew with another work folder") from error


@contextmanager
def in_folders(*places: Path | ArchivePlace, shared: bool = False, show_progress: bool = False) -> Iterator[list[Path]]:
    """Give places as paths; what an archive holds is fetched into a private temporary folder, which ends with the
    block.

    Args:
        places: any.
        shared: whether other machines have to see the folders.
        show_progress: progress bars on standard error.

    Raises:
        UsageError: two are the same place in an archive, or other machines do not see temporary folders; or as of
            :func:`fetch`.
    """
    archives = [place for place in places if isinstance(place, ArchivePlace)]
    if archives and shared:
        raise UsageError(
            f"{archives[0]}: with --scheduler other machines read the files, and what is fetched from an archive lies "
            "on this one; use --workers, or fetch it yourself into a folder that all of them see"
        )
    if len(set(archives)) < len(archives):
        raise UsageError(
            f"{archives[0]} is given twice; give the series of originals and those of protected images, which protect "
            "names at its end: .../series/UID,UID"
        )
    with ExitStack() as stack:
        folders = []
        for place in places:
            if isinstance(place, ArchivePlace):
                spare = stack.enter_context(TemporaryDirectory(prefix="monai-salm-"))
                folders.append(fetch(place, Path(spare), show_progress=show_progress))
            else:
                folders.append(place)
        yield folders
