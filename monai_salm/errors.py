# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can act on: one line each, with the file, the value, the limit and the next step."""

from __future__ import annotations

import logging
import os
import re
from importlib.metadata import requires
from pathlib import Path


def printable(text: str) -> str:
    r"""Give text as one line that any terminal can show: bytes of a name that are no UTF-8 as ``\xNN``, a space for
    other characters that do not print.
    """
    return "".join(_shown(letter) for letter in text)


def _shown(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python holds such a byte (PEP 383)
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter if letter.isprintable() else " "


class PrintableFormatter(logging.Formatter):
    """Gives each message as one line that any terminal can show, whoever wrote it and whatever a file says in it; only
    a traceback has several.

    Args:
        inner: gives the line; None takes the message alone.
    """

    def __init__(self, inner: logging.Formatter | None = None) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """Give the line of a record."""
        text = super().format(record) if self._inner is None else self._inner.format(record)
        if record.exc_info or record.stack_info:
            return "\n".join(map(printable, text.splitlines()))
        return printable(text)


def unreadable(error: OSError) -> str:
    """Say which file cannot be read, and why."""
    name = Path(os.fsdecode(error.filename)).name if isinstance(error.filename, str | bytes | os.PathLike) else "it"
    return f"{name} cannot be read: {error.strerror or error}"


def how_to_install(package: str) -> str:
    """Give the command that installs a package of one of the extras: by its own name, for nobody can say who owns
    ours on a registry, and in the versions that we ask for.
    """
    for requirement in requires("monai_salm") or ():
        found = re.match(r"([\w.-]+)[ (]*([^;) ]*)", requirement)
        if found is not None and _normal(found[1]) == _normal(package):
            return f"pip install '{found[1]}{found[2]}'"
    return f"pip install {package}"


def _normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


class SalmError(Exception):
    """Base of every error that monai_salm raises on purpose; its message is one line meant for a user, whatever a file
    says of itself in it.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import SalmError, scan
        >>> try:
        ...     scan(Path("NOTHING"))
        ... except SalmError as error:
        ...     print(str(error).partition(";")[0])
        NOTHING: no such file or folder
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))


class UsageError(SalmError):
    """The call cannot be carried out as asked: an option, an argument or a label table is wrong.

    Example:
        >>> from monai_salm import IntensityWindow
        >>> IntensityWindow(240, -160)
        Traceback (most recent call last):
            ...
        monai_salm.errors.UsageError: intensity window 240,-160 is empty or not finite; give LOW,HIGH ...
    """


class RefusedError(SalmError):
    """One file cannot be protected faithfully, so it is left alone; the message is the reason.

    Refusing is a fate of a file, not a failure of the run: the other files go on.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import read_source
        >>> read_source(Path("EXPORT/notes.txt"))
        Traceback (most recent call last):
            ...
        monai_salm.errors.RefusedError: not an image (text)
    """


class VerificationError(SalmError):
    """A written file, read back, is not what was meant; the temporary file is deleted and nothing is kept."""


class DiskError(SalmError):
    """A disk is full, or takes no files: no other file of the run could be written there either, so it stops at the
    first.

    Args:
        message: one line.
        full: what a full disk could not hold; None where it takes no files at all.
    """

    def __init__(self, message: str = "", full: Path | None = None) -> None:
        super().__init__(message)
        self.full = full
