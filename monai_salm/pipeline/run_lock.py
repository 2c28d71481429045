# SPDX-License-Identifier: Apache-2.0
"""One run at a time in a folder: a lock file beside it, which the operating system holds for as long as the process
lives, and which says who that is.

The system's lock ends with its process, however that ends, so nothing depends on a process id that may have been given
to another. What the file says is for the message, and for what the system cannot know: on a network disk its lock may
reach no further than this host, so a file that another host left is never taken over.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import weakref
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_salm.disk import lock_name, make_folder, told_when_full
from monai_salm.errors import UsageError

if sys.platform != "win32":
    import fcntl

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class _Holder:
    """Who holds a lock: host, process, when that process started (empty where the system does not say) and since when
    it holds the lock.
    """

    host: str = ""
    pid: int = 0
    started: str = ""
    since: str = ""

    @classmethod
    def this(cls) -> _Holder:
        since = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
        return cls(socket.gethostname(), os.getpid(), _start_of(os.getpid()), since)

    @classmethod
    def read(cls, place: Path) -> _Holder:
        """Read what a lock file says; nothing where its writer was killed before it said anything."""
        try:
            plain: dict[str, Any] = json.loads(place.read_bytes())
            return cls(str(plain["host"]), int(plain["pid"]), str(plain["started"]), str(plain["since"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    @property
    def lives(self) -> bool:
        """Whether the process of this host is there and the same: its number may have been given to another since."""
        if not self.pid:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # of another user
            pass
        return not self.started or _start_of(self.pid) in ("", self.started)

    def __str__(self) -> str:
        return f"process {self.pid} on host {self.host} since {self.since}" if self.pid else "another process"


class RunLocks:
    """The locks of a run on its folders; they end with :meth:`release`, with this object, or with the process."""

    def __init__(self) -> None:
        self._held = contextlib.ExitStack()
        self.release = weakref.finalize(self, self._held.close)

    def __enter__(self) -> RunLocks:
        """Begin; with the block the locks end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release all of them."""
        self.release()

    def take(self, folder: Path) -> None:
        """Lock a folder, which need not be there; a lock that a dead process of this host left is taken over.

        The lock lies beside the folder, which is handed out; in it only where nothing can be written beside it.

        Raises:
            UsageError: another run holds it, or one of another host may.
            DiskError: the disk is full.
        """
        whole = folder.resolve()
        made = [part for part in (whole.parent, *whole.parent.parents) if not part.exists()]
        try:
            with told_when_full(folder):
                file, place = _locked_beside_or_in(whole, folder)
        except OSError as error:
            _remove_empty(made)
            if error.errno in _CLOSED:  # no run can write there, and this one will say so
                return
            raise
        except BaseException:
            _remove_empty(made)
            raise
        self._held.callback(_remove_empty, made)
        self._held.callback(_free, file, place, os.getpid())


def _locked_beside_or_in(whole: Path, folder: Path) -> tuple[int, Path]:
    try:
        return _locked(whole.parent / lock_name(whole), folder)
    except OSError as error:
        if error.errno not in _CLOSED or not whole.is_dir():
            raise
        return _locked(whole / lock_name(whole), folder)


def _locked(place: Path, folder: Path) -> tuple[int, Path]:
    """Open and lock a lock file, and say in it who holds it."""
    while True:
        file, new = _opened(place)
        try:
            held = _try_lock(file)
            if held is not False and not _is_at(file, place):  # its holder has just removed it
                os.close(file)
                continue
            found = _Holder.read(place)
            foreign = found.host not in ("", socket.gethostname())
            if held is False or foreign or (held is None and not new and found.lives):
                raise _refusal(folder, place, found, foreign=foreign)
            content = json.dumps(vars(_Holder.this())).encode()
            os.ftruncate(file, 0)
            os.pwrite(file, content, 0) if hasattr(os, "pwrite") else os.write(file, content)
            os.fsync(file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(file)
            raise
        return file, place


def _opened(place: Path) -> tuple[int, bool]:
    """Open a lock file, and say whether it is new; a link is none."""
    make_folder(place.parent)
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
    while True:
        try:
            return os.open(place, flags | os.O_CREAT | os.O_EXCL, 0o600), True
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                return os.open(place, flags), False


def _try_lock(file: int) -> bool | None:
    """Say whether the system locked a file; None where its disk or the system has no locks, so that all depends on what
    the file says.
    """
    if sys.platform == "win32":
        return None
    try:
        # Not lockf: its locks end with any other descriptor of the file, and two runs of one process share them.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _HELD else None
    return True


def _is_at(file: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), place.stat())
    except FileNotFoundError:
        return False


def _refusal(folder: Path, place: Path, holder: _Holder, *, foreign: bool) -> UsageError:
    if foreign:
        return UsageError(
            f"{folder}: in use by {holder}; wait until that run is done, or if you know that it is dead, which cannot "
            f"be seen from here, delete {place}"
        )
    return UsageError(
        f"{folder}: in use by {holder}; wait until that run is done or stop it, or give another output and work folder"
    )


def _free(file: int, place: Path, owner: int) -> None:
    """Remove a lock file and its lock; a child of the owner, which has a copy of all this, removes nothing."""
    if os.getpid() != owner:
        return
    if os.name != "posix":
        os.close(file)  # an open file cannot be removed there
        place.unlink(missing_ok=True)
        return
    with contextlib.suppress(OSError):
        if _is_at(file, place):
            place.unlink()
    os.close(file)


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders that were made for a lock alone."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _start_of(pid: int) -> str:
    """Give when a process started, in ticks since its system did; empty where there is no such process, or no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return ""
