# SPDX-License-Identifier: Apache-2.0
"""Proof that what is read of a file while it is written anew are the bytes that were planned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from monai_salm.errors import DiskError, SalmError
from monai_salm.pipeline.inventory import has_digest


class ChangedError(SalmError):
    """A file is not the one any more that was planned."""

    def __init__(self) -> None:
        super().__init__("it is not the file any more that was looked at; run again")


@contextmanager
def as_planned(source: Path, sha256: str) -> Iterator[Callable[[], None]]:
    """Hold that a file has the planned bytes whenever it is read inside, however often and by whatever library.

    Libraries open a file several times, so no single reading is the one to take the digest of. It is taken after the
    last one, and holds for all of them where the system says that nobody replaced or touched the file since before the
    first: the time of the last change, unlike that of the content, cannot be set.

    Args:
        source: the file.
        sha256: its digest when it was planned.

    Yields:
        What is called once all is read, before the result gets its name; else that is done at the end.

    Raises:
        ChangedError: it has other bytes, or had them in between; also instead of what reading those led to.
    """
    before, confirmed = _identity(source), False

    def confirm() -> None:
        nonlocal confirmed
        if not _is_still(source, sha256, before):
            raise ChangedError
        confirmed = True

    try:
        yield confirm
    except (DiskError, ChangedError):
        raise
    except Exception as error:
        if not _is_still(source, sha256, before):
            raise ChangedError from error
        raise
    if not confirmed:
        confirm()


def _identity(path: Path) -> tuple[int, ...]:
    """Give by what a file that was replaced or touched is known; nothing where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_still(path: Path, sha256: str, before: tuple[int, ...]) -> bool:
    return has_digest(path, sha256) and _identity(path) == before
