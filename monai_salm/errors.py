# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can act on: one line each, with the file, the value, the limit and the next step."""

from __future__ import annotations


class SalmError(Exception):
    """Base of every error that monai_salm raises on purpose; its message is one line meant for a user, whatever a file says of itself in it."""

    def __init__(self, message: str = "") -> None:
        super().__init__("".join(letter if letter.isprintable() else " " for letter in message))


class UsageError(SalmError):
    """The call cannot be carried out as asked: an option, an argument or a label table is wrong."""


class RefusedError(SalmError):
    """One file cannot be protected faithfully, so it is left alone; the message is the reason.

    Refusing is a fate of a file, not a failure of the run: the other files go on.
    """


class VerificationError(SalmError):
    """A written file, read back, is not what was meant; the temporary file is deleted and nothing is kept."""
