# SPDX-License-Identifier: Apache-2.0
"""The way back: originals from protected files and their residuals, each one proven by its digest before it gets its
name.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from monai_salm.disk import check_space, holds_files, remove_leftovers, sync, within
from monai_salm.errors import DiskError, RefusedError, UsageError, VerificationError
from monai_salm.io import atomic_target, is_litter
from monai_salm.io.origins import Buffer
from monai_salm.pipeline.archive import is_archive, pack, unpack
from monai_salm.pipeline.choices import matches
from monai_salm.pipeline.inventory import has_digest
from monai_salm.pipeline.keys import key_material
from monai_salm.pipeline.record import default_work_dir
from monai_salm.pipeline.run_lock import RunLocks
from monai_salm.pipeline.scanning import walk
from monai_salm.pipeline.way_back import RESIDUALS, Returned, WayBack, restored
from monai_salm.progress import Progress
from monai_salm.residuals import ResidualStore
from monai_salm.workers import workers_of

_TRIED = 5
"""Residuals that a key is tried on before it is said to be another's."""


@dataclass(frozen=True, kw_only=True)
class RestoredFile:
    """What became of one protected file.

    Args:
        path: of it, below PROTECTED.
        status: ``restored``, ``refused`` or ``failed``.
        reason: why it was not restored.
        originals: paths below OUTPUT of what it was made from: several where the input had copies of one file, and it
            is not told any more which of them this was.
        residuals: names of those that were used.
    """

    path: str
    status: str
    reason: str = ""
    originals: tuple[str, ...] = ()
    residuals: tuple[str, ...] = ()


@dataclass(frozen=True)
class RestoreResult:
    """What was restored.

    Args:
        output: folder or zip of the originals.
        files: of PROTECTED, in order of their paths.
        absent: how many files of the release were not in PROTECTED; None where only some were asked for.
    """

    output: Path
    files: list[RestoredFile]
    absent: int | None

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm restore --json`` prints."""
        counts = Counter(file.status for file in self.files)
        return {
            "output": str(self.output),
            "counts": {status: counts[status] for status in ("restored", "refused", "failed")},
            "absent": self.absent,
            "files": [
                {"path": file.path, "status": file.status, "originals": list(file.originals), "reason": file.reason}
                for file in self.files
            ],
        }


@dataclass(frozen=True)
class RestoreJob:
    """One file to restore.

    Args:
        root, path: the folder of the protected files, and the file below it.
        output: folder of the originals.
        way: where the residuals are, and their key.
    """

    root: Path
    path: str
    output: Path
    way: WayBack


def restore(
    protected: Path,
    output: Path,
    key_file: Path,
    *,
    residuals: Path | None = None,
    only: Sequence[str] = (),
    resume: bool = False,
    workers: int = 0,
    scheduler: str = "",
    show_progress: bool = False,
) -> RestoreResult:
    """Write the originals of protected files, byte for byte, under the paths that they had.

    A file is found by its SOP Instance UID, or where it has none by its bytes, and else by its path: it may be called
    otherwise now, and an archive may have changed its other attributes.

    Args:
        protected: folder, zip, or one file of a release.
        output: folder to make; a zip where ``protected`` is one and this ends in .zip.
        key_file: that the release was made with.
        residuals: their folder; None looks for it in the work folder beside ``protected``.
        only: patterns of paths below ``protected``, or of names; none takes all files.
        resume: go on in a folder that has originals already.
        workers: processes that read and write; 0 does it in this one.
        scheduler: address of a Dask scheduler, whose workers do it instead.
        show_progress: a progress bar on standard error.

    Raises:
        UsageError: the places or the key do not fit.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import ProtectOptions, protect
        >>> from monai_salm.pipeline import restore
        >>> _ = Path("key.txt").write_text("a long secret; monai-salm keygen makes a better one")
        >>> done = protect(Path("EXPORT"), Path("LENT"), ProtectOptions(method="random", key_file=Path("key.txt")))
        >>> back = restore(Path("LENT"), Path("BACK"), Path("key.txt"))
        >>> back.to_json()["counts"]
        {'restored': 5, 'refused': 0, 'failed': 0}
        >>> Path("BACK/case0/image.dcm").read_bytes() == Path("EXPORT/case0/image.dcm").read_bytes()
        True
    """
    way = WayBack(_folder_of_residuals(protected, residuals).absolute(), key_file.absolute())
    _check_places(protected, output, way, resume=resume)
    zipped = output.suffix.lower() == ".zip" and is_archive(protected)
    with TemporaryDirectory() as spare, RunLocks() as locks, workers_of(workers, scheduler) as processes:
        locks.take(output)
        with _opened(protected, Path(spare)) as (root, paths):
            wanted = [path for path in paths if not only or any(matches(path, pattern) for pattern in only)]
            if not wanted:
                raise UsageError(
                    f"{protected}: no file of it matches {', '.join(only)}; such as {paths[0]} are there" if paths
                    else f"{protected}: there is no file in it; give the folder of the release"
                )  # fmt: skip
            folder = Path(spare, "output") if zipped else output
            sizes = [(root / path).lstat().st_size for path in wanted]
            check_space({folder: sum(sizes)})
            jobs = (RestoreJob(root.absolute(), path, folder.absolute(), way) for path in wanted)
            with Progress(
                "restoring", len(wanted), "files", show_progress=show_progress, total_bytes=sum(sizes)
            ) as bar:
                found = processes.map(restore_file, jobs, lost=not_restored, chunk=processes.fair_chunk(len(wanted)))
                files = []
                for file, size in zip(found, sizes, strict=True):
                    files.append(file)
                    bar.update(done_bytes=size)
            if processes.ended:
                _remove_temporary_files(folder, files)
            sync(folder / path for file in files for path in file.originals)
            if zipped:
                pack(folder, protected, output, show_progress=show_progress)
    used = {name for file in files for name in file.residuals}
    absent = None if only else sum(place.name not in used for place in way.store.places())
    return RestoreResult(output, files, absent)


def restore_file(job: RestoreJob) -> RestoredFile:
    """Restore one file, in any process; one that cannot be restored leaves nothing."""
    problems, originals, used = [], [], []
    try:
        returned = Returned.at(job.root / job.path)
        places = _residuals_of(job.way.store, returned, job.path)
        for place in places:
            try:
                residual = job.way.store.read(place)
                _write(within(job.output, residual.path, itself=True), residual.sha256, restored(residual, returned))
            except (RefusedError, VerificationError) as error:
                problems.append(str(error))
            else:
                originals.append(residual.path)
                used.append(place.name)
    except DiskError:  # it would meet every other file too
        raise
    except RefusedError as refusal:
        problems.append(str(refusal))
    except Exception as error:  # noqa: BLE001 (one bad file never stops the rest; what happened is in the result)
        reason = f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else repr(error)
        return RestoredFile(path=job.path, status="failed", reason=reason)
    if not originals:
        return RestoredFile(path=job.path, status="refused", reason=problems[0])
    return RestoredFile(path=job.path, status="restored", originals=tuple(originals), residuals=tuple(used))


def _remove_temporary_files(folder: Path, files: Iterable[RestoredFile]) -> None:
    """Remove what a process left that ended in the middle of a file, which another one restored then."""
    names: dict[Path, set[str]] = defaultdict(set)
    for place in (folder / path for file in files for path in file.originals):
        names[place.parent].add(place.name)
    for parent, some in names.items():
        remove_leftovers(parent, some)


def not_restored(job: RestoreJob, why: str) -> RestoredFile:
    """Give what became of a file that no process came to the end of restoring."""
    return RestoredFile(path=job.path, status="failed", reason=why)


def _residuals_of(store: ResidualStore, returned: Returned, path: str) -> list[Path]:
    """Find the residuals of a file: those of its UID or bytes, and of these that of its path, if it still has it.

    Raises:
        RefusedError: there is none.
    """
    found = store.found_by(returned.found_by)
    found = [place for place in found if store.is_of(place, path)] or found or store.of_target(path)
    if not found:
        raise RefusedError(
            "there is no residual of it: it is no file of this release, or it was changed; give it back under the name "
            "and the SOP Instance UID that it was handed out with"
        )
    return found


def _write(target: Path, sha256: str, parts: Iterator[Buffer]) -> None:
    """Write an original, if it is the one that the digest is of.

    Raises:
        RefusedError: another file is there.
        VerificationError: it is another.
    """
    if target.exists() or target.is_symlink():
        if not has_digest(target, sha256):
            raise RefusedError(f"{target} is there already, and is another file; give another OUTPUT")
        return
    digest = hashlib.sha256()
    with atomic_target(target, synced=False) as temporary, temporary.open("wb") as handle:
        for part in parts:
            digest.update(part)
            handle.write(part)
        if digest.hexdigest() != sha256:
            raise VerificationError(
                "its original does not come back: its values, or how they are stored, are not those that were handed "
                "out; get the file back as it was"
            )


@contextmanager
def _opened(protected: Path, spare: Path) -> Iterator[tuple[Path, list[str]]]:
    """Give the folder and the paths of protected files."""
    if protected.is_file() and is_archive(protected):
        unpacked = unpack(protected, spare / "protected")
        root = unpacked.folder
    elif protected.is_file():
        yield protected.parent, [protected.name]
        return
    else:
        root = protected
    yield root, sorted(path for path in walk(root) if not is_litter(path))


def _folder_of_residuals(protected: Path, residuals: Path | None) -> Path:
    """Give the folder of the residuals of a release, or of what lies in one.

    Raises:
        UsageError: there is none.
    """
    if residuals is not None:
        if not residuals.is_dir():
            raise UsageError(f"{residuals}: no such folder; give the folder of the residuals of this release")
        return residuals
    whole = protected.absolute()
    looked = [default_work_dir(place) / RESIDUALS for place in (whole, *islice(whole.parents, len(whole.parts) - 2))]
    found = next((place for place in looked if place.is_dir()), None)
    if found is None:
        raise UsageError(
            f"{protected}: there are no residuals in the work folder beside it ({looked[0]}); give their folder as "
            "--residuals. Only what was protected with --key-file can be restored"
        )
    return found


def _check_places(protected: Path, output: Path, way: WayBack, *, resume: bool) -> None:
    """Find out before anything is read that the places or the key do not fit.

    Raises:
        UsageError: they do not.
    """
    if not protected.exists():
        raise UsageError(f"{protected}: no such file or folder; give the folder or the zip of a release")
    whole, target = protected.resolve(), output.resolve()
    if target == whole or target.is_relative_to(whole) or (whole.is_relative_to(target) and protected.is_dir()):
        raise UsageError(f"{output} and {protected} lie in each other; give another OUTPUT")
    if target.is_relative_to(way.folder.resolve()):
        raise UsageError(f"{output} lies in the residuals {way.folder}; give another OUTPUT")
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file already; give another name")
    if output.suffix.lower() == ".zip" and not is_archive(protected):
        raise UsageError(f"{output}: a zip is written only where PROTECTED is one; give a folder")
    if holds_files(output) and not resume:
        raise UsageError(f"{output} is not empty; give --resume to go on, or another folder")
    key_material(way.key_file)
    problems = list(_problems_of(way.store, islice(way.store.places(), _TRIED)))
    if not problems:
        raise UsageError(f"{way.folder}: there is no residual in it; give the folder of the residuals of this release")
    if all(problems):
        raise UsageError(
            f"{way.key_file}: not the key of the residuals in {way.folder}; give the --key-file that the release was "
            "made with"
        )


def _problems_of(store: ResidualStore, places: Iterable[Path]) -> Iterator[str]:
    """Say of residuals what is wrong with them; nothing of a good one."""
    for place in places:
        try:
            store.read(place)
        except RefusedError as error:
            yield str(error)
        else:
            yield ""
