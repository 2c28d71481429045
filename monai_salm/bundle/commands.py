# SPDX-License-Identifier: Apache-2.0
"""Errors of a bundle, as one line for who typed a command, and as exceptions for who called from Python."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

from monai_salm.errors import SalmError


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End ``python -m monai.bundle`` with an error's message as the last line, where an error is raised within.

    MONAI raises errors of its own on top of those of a bundle, so that a user's last line would say where in a
    configuration something went wrong, and not what. In Python the error stays as it is.
    """
    try:
        yield
    except SalmError as error:
        if _is_command():
            raise SystemExit(f"error: {error}") from error
        raise


def _is_command() -> bool:
    """Say whether the command line of MONAI, which is made with fire, is among the callers."""
    frame = inspect.currentframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == "fire":
            return True
        frame = frame.f_back
    return False
