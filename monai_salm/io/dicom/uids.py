# SPDX-License-Identifier: Apache-2.0
"""Unique identifiers: which are valid, which are ours, and the map from old to new ones."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from uuid import UUID

IMPLEMENTATION_CLASS_UID = "2.25.5080151498077934633040076738135731663"
"""Who wrote the file (0002,0012): a constant of this software, not of its version (PS3.10 7.1)."""

IMPLEMENTATION_VERSION_NAME = "MONAI_SALM"
"""(0002,0013), at most 16 characters."""

_COMPONENTS = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))+")
_MAX_LENGTH = 64


def is_valid_uid(uid: str) -> bool:
    """Say whether ``uid`` has the form of PS3.5 9.1: dotted decimal components, no leading zeros, 64 characters."""
    return len(uid) <= _MAX_LENGTH and _COMPONENTS.fullmatch(uid) is not None


def derived_uid(secret: bytes, uid: str) -> str:
    """Map an old UID to its new one, the same for every file, worker and run that shares the secret.

    The digest is used as a UUID under the root 2.25 (PS3.5 B.2), so that no registered root is needed. Without the
    secret neither direction of the map can be computed.

    Args:
        secret: key of the map.
        uid: old UID, without padding.

    Returns:
        A UID of at most 44 characters.
    """
    digest = hmac.new(secret, uid.encode("ascii", errors="backslashreplace"), hashlib.sha256).digest()
    return f"2.25.{UUID(bytes=digest[:16], version=4).int}"


@dataclass(frozen=True)
class UidMap:
    """The map of one file: from the old UIDs of images that are changed to their new ones, all others to themselves.

    Args:
        secret: key of the map; None maps every UID to itself.
        own: the file's own SOP and Series Instance UID.
        others: those of the other images that are changed.
    """

    secret: bytes | None = field(default=None, repr=False)
    own: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()

    def new(self, uid: str) -> str:
        """Give the new UID."""
        if self.secret is None or not (uid in self.own or uid in self.others):
            return uid
        return derived_uid(self.secret, uid)
