# SPDX-License-Identifier: Apache-2.0
"""Files are written aside and renamed, private ones for their owner alone; a disk that takes no more is told in one
line, with the space there and needed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from monai_salm.errors import DiskError, RefusedError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_PREFIX = ".salm-"
_SYNCED_AT_ONCE = 8
"""Files that the disk is asked to keep at the same time: it writes down what several ask for in one go."""
_SYNCED_TOGETHER = 256
"""Files that stand in line for that at once."""
_LOCK = re.compile(r"\.salm-[0-9a-f]{12}\.lock")
_TEMPORARY = re.compile(r"\.salm-([0-9a-f]{12})-[0-9a-f]{8}\.tmp")


@contextlib.contextmanager
def atomic_target(target: Path, *, private: bool = False, needed: int = 0, synced: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` that is renamed to it on success and deleted on any error.

    Args:
        target: to be written; folders above it are made.
        private: whether its owner alone may read it, whatever the umask; else it has the rights that the umask leaves.
        needed: bytes that it takes, for the message of a full disk; 0 if that is not known before.
        synced: whether the bytes are on the disk before they get the name, and the name is afterwards. Of many files,
            each of which would wait for the disk, whoever writes them says False and calls :func:`sync` for all.

    Raises:
        DiskError: the disk is full or takes no files, so that nothing more can be written there.
        RefusedError: the disk takes files, but none of this name.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import atomic_target
        >>> with atomic_target(Path("result.txt")) as aside:
        ...     _ = aside.write_text("all or nothing")
        >>> Path("result.txt").read_text()
        'all or nothing'
    """
    with _told(target):
        temporary = _make_temporary(target, private=private)
    try:
        with told_when_full(target, needed, leftover=temporary):
            yield temporary
            if synced:
                _sync(temporary)
        with _told(target):
            temporary.replace(target)
            if synced:
                _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(target: Path, content: bytes, *, private: bool = False, synced: bool = True) -> None:
    """Write a file whose content is known; errors as of :func:`atomic_target`."""
    with atomic_target(target, private=private, needed=len(content), synced=synced) as temporary:
        temporary.write_bytes(content)


def sync(places: Iterable[Path]) -> None:
    """Wait until files and their names are on the disk; those that are not there any more are left out.

    The files come first, many together, so that the disk writes them in few goes, and then each folder once.

    Raises:
        OSError: the disk could not keep them.
    """
    with ThreadPoolExecutor(_SYNCED_AT_ONCE) as threads:
        rest, folders = iter(places), set[Path]()
        while some := list(islice(rest, _SYNCED_TOGETHER)):
            list(threads.map(_sync_if_there, some))
            folders |= {place.parent for place in some}
        list(threads.map(_sync_if_there, folders))


def _sync_if_there(place: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        _sync(place)


def _sync(place: Path) -> None:
    folder = place.is_dir()
    try:
        opened = os.open(place, os.O_RDONLY if folder or os.name == "posix" else os.O_RDWR)
    except PermissionError:
        if folder:  # Windows opens none; and who may write into a folder may still not read it
            return
        raise
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network disks sync no folders
            raise
    finally:
        os.close(opened)


def write_new(target: Path, content: bytes) -> None:
    """Write a private file where there is none; one that cannot be written whole is not left behind.

    Raises:
        FileExistsError: it is there.
        DiskError: as of :func:`atomic_target`.
    """
    with _told(target):
        target.touch(mode=0o600, exist_ok=False)
    try:
        write_atomically(target, content, private=True)
    except BaseException:
        target.unlink()
        raise


def _make_temporary(target: Path, *, private: bool) -> Path:
    """Make an empty file beside a target. Its name is short, for that of the target may be as long as names can be."""
    make_folder(target.parent, private=private)
    while True:
        temporary = target.with_name(f"{_PREFIX}{_mark(target.name)}-{secrets.token_hex(4)}.tmp")
        try:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666))
        except FileExistsError:
            continue
        if private:
            _restrict(temporary, 0o600)
        return temporary


def _mark(name: str) -> str:
    """Give what a temporary file has of its target's name."""
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:12]


def lock_name(folder: Path) -> str:
    """Give the name of the file that locks a folder, beside it or in it."""
    return f"{_PREFIX}{_mark(folder.name)}.lock"


def holds_files(folder: Path) -> bool:
    """Say whether there is anything in a folder, locks aside."""
    return folder.is_dir() and any(not _LOCK.fullmatch(place.name) for place in folder.iterdir())


def remove_leftovers(folder: Path, names: Collection[str] | None = None) -> None:
    """Delete the temporary files that killed runs left in a folder.

    Args:
        folder: where they were writing.
        names: of the files in it that they were writing: no others' are deleted, and none of these, whatever it is
            called; None for any files.
    """
    marks = {_mark(name) for name in names or ()}
    for temporary in folder.glob(f"{_PREFIX}*") if os.path.isdir(folder) else ():  # noqa: PTH112 (False for a path that is too long)
        found = _TEMPORARY.fullmatch(temporary.name)
        if (
            found is not None
            and (names is None or (found[1] in marks and temporary.name not in names))
            and temporary.is_file()
        ):
            temporary.unlink()


# Paths that files name -------------------------------------------------------------------------------------------


def check_within(path: object) -> str:
    """Give a path that a file names, if it can only lead down from a folder, whatever links there are.

    Raises:
        ValueError: it is no text, empty, absolute, or leads up.
    """
    if not isinstance(path, str) or not path or "\0" in path:
        raise ValueError(f"{path!r} is no path")
    parts = Path(path)
    if parts.anchor or ".." in parts.parts:
        raise ValueError(f"the path {path} leads out of its folder")
    return path


def within(root: Path, path: str, *, itself: bool = False) -> Path:
    """Give the place of a path that a file names: below a folder, by name and by the links on the way.

    This is the one rule for all paths that are read from a file: manifests and plans may have been changed, and links
    may have been put into an output.

    Args:
        root: folder that the path is relative to; a link itself, if you like.
        path: with forward slashes.
        itself: whether what lies there is replaced or removed, so that a link there is not followed.

    Raises:
        RefusedError: it leads out.
    """
    try:
        place = root / check_within(path)
        real = place.parent.resolve() if itself else place.resolve()
        if real.is_relative_to(root.resolve()):
            return place
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise RefusedError(f"{error}; give the folders as the run left them") from error
    raise RefusedError(f"a link on the way to {path} leads out of {root}; remove the link, or give another folder")


# Names that libraries open -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def link_to(path: Path, *beside: Path) -> Iterator[Path]:
    """Yield a link of a plain name to a file, a copy where there are no links.

    Args:
        path: the file. What follows the first dot of its name is kept, for libraries choose how to read by it.
        beside: files whose names begin like its own, and still do so for the library.
    """
    stem = len(path.name.partition(".")[0])
    with TemporaryDirectory() as folder:
        links = [Path(folder, f"file{place.name[stem:]}") for place in (path, *beside)]
        for link, place in zip(links, (path, *beside), strict=True):
            try:
                link.symlink_to(place.absolute())
            except OSError:
                shutil.copyfile(place, link)
        yield links[0]


# Rights --------------------------------------------------------------------------------------------------------------


def make_folder(folder: Path, *, private: bool = False) -> None:
    """Make a folder and those above it, if they are not there; private ones can be entered by their owner alone."""
    if not private:
        folder.mkdir(parents=True, exist_ok=True)
        return
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for part in reversed(missing):
        part.mkdir(mode=0o700, exist_ok=True)
        _restrict(part, 0o700)


def make_private(folder: Path) -> bool:
    """Make a folder if it is not there, and take the rights of others from it and all that is in it; says whether that
    was possible.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_folder(folder, private=True)
    _restrict(folder, 0o700)
    for place, folders, names in os.walk(folder):
        for mode, some in ((0o700, folders), (0o600, names)):
            for path in (Path(place, name) for name in some):
                if not path.is_symlink():
                    _restrict(path, mode)
    return os.name != "posix" or not folder.stat().st_mode & 0o077


def _restrict(path: Path, mode: int) -> None:
    with contextlib.suppress(
        PermissionError, NotImplementedError
    ):  # FAT and some network disks know no rights; make_private tells
        path.chmod(mode)


# Space ---------------------------------------------------------------------------------------------------------------


def check_space(needs: Mapping[Path, int]) -> None:
    """Find out before anything is written that a disk cannot hold it, or takes no files.

    Args:
        needs: folder, which need not exist -> bytes that will be written there; those on one disk are added.

    Raises:
        DiskError: with the folder, the bytes needed and the bytes there.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for folder, needed in needs.items():
        place = _existing(folder)
        if not os.access(place, os.W_OK | os.X_OK):
            raise DiskError(
                f"{folder}: cannot be written, for the disk or the folder {place} is read-only; give another folder"
            )
        device = place.stat().st_dev
        first, others = disks.get(device, (folder, 0))
        disks[device] = first, needed + others
    for folder, needed in disks.values():
        if needed > shutil.disk_usage(_existing(folder)).free:
            raise disk_full(folder, needed)


def disk_full(path: Path, needed: int, reason: str = "") -> DiskError:
    """Give the error of a disk that cannot hold what is to be written: with the path, the bytes needed, 0 for not
    known, and the bytes there.
    """
    free = shutil.disk_usage(_existing(path)).free
    wanted = f"about {needed:,}" if needed else f"more than {free:,}"
    why = reason or os.strerror(errno.ENOSPC)
    return DiskError(
        f"{path}: {why}: {wanted} bytes are needed, {free:,} are free; free some space, or give a folder on "
        "another disk (TMPDIR for temporary ones)",
        path,
    )


@contextlib.contextmanager
def told_when_full(path: Path, needed: int = 0, *, leftover: Path | None = None) -> Iterator[None]:
    """Turn the error of a full disk into one that says what is needed and what is there, once ``leftover``, if any, is
    gone.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        if leftover is not None:
            leftover.unlink(missing_ok=True)
        raise disk_full(path, needed, error.strerror or "") from error


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    """Say why a file could not be made or named: the disk takes no more at all, or no file of this name."""
    try:
        with told_when_full(target):
            yield
    except OSError as error:
        if error.errno in _CLOSED:
            raise DiskError(
                f"{target}: cannot be written ({error.strerror}); give another folder, or the right to write there"
            ) from error
        if error.errno in _NO_NAME:
            sizes = f"its name has {len(os.fsencode(target.name))} bytes, its path {len(os.fsencode(target))}"
            raise RefusedError(
                f"{target.name}: cannot be written under this name ({error.strerror}; {sizes}); rename it, or "
                "give a shorter output"
            ) from error
        raise


def _existing(path: Path) -> Path:
    """Give a path, or what is there of it."""
    path = path.absolute()
    return next((place for place in (path, *path.parents) if place.exists()), path)
