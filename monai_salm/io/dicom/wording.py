# SPDX-License-Identifier: Apache-2.0
"""How messages name what a file says: UIDs by the dictionary, text in one line."""

from __future__ import annotations

from pydicom.config import IGNORE
from pydicom.uid import UID

_SHORT = 64


def uid_name(uid: str) -> str:
    """Give a UID with its name in the dictionary, if it has one."""
    name = class_name(uid)
    return f"{name} ({uid})" if name else shown(uid)


def class_name(uid: str) -> str:
    """Give a UID's name in the dictionary (PS3.6 A), or nothing."""
    name = str(UID(uid, validation_mode=IGNORE).name)
    return "" if name == uid else name


def shown(text: str) -> str:
    """Make what a file says fit for one line of print."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= _SHORT else f"{line[:_SHORT]}..."
