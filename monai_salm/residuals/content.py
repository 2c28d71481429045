# SPDX-License-Identifier: Apache-2.0
"""What a residual says: which original, and how it is made of the protected file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from monai_salm.errors import RefusedError

Way = Literal["values", "whole", "same"]
"""How an original comes back: its values from those of the protected file; as it lies in the residual; or as the very
bytes of the protected file.
"""

_FORMAT = "monai_salm.residual/1"
_LENGTH_BYTES = 4
_LEVEL = 6


@dataclass(frozen=True, kw_only=True)
class Residual:
    """What leads from one protected file back to its original.

    Args:
        way: how.
        path: of the original, below INPUT, with forward slashes.
        target: of the protected file, below OUTPUT, likewise.
        found_by: what the protected file is found by when it comes back: its SOP Instance UID, or its digest.
        sha256: of the original.
        coding: how the values lie in the original, for the module of its format; plain types.
        before, after: bytes of the original around its values.
        content: the changed values (:func:`~monai_salm.residuals.packed_changes`), or the original, deflated; empty
            where neither is needed.
    """

    way: Way
    path: str
    target: str
    found_by: str
    sha256: str
    coding: Mapping[str, Any] = field(default_factory=dict)
    before: bytes = field(default=b"", repr=False)
    after: bytes = field(default=b"", repr=False)
    content: bytes = field(default=b"", repr=False)

    def to_bytes(self) -> bytes:
        """Give it as bytes, to be encrypted."""
        head = {
            "format": _FORMAT, "way": self.way, "path": self.path, "target": self.target, "found_by": self.found_by,
            "sha256": self.sha256,
            "coding": dict(self.coding), "before": len(self.before), "after": len(self.after),
        }  # fmt: skip
        text = json.dumps(head, sort_keys=True).encode("ascii")  # also names that are no UTF-8
        around = zlib.compress(text + b"\n" + self.before + self.after, _LEVEL)
        return len(around).to_bytes(_LENGTH_BYTES, "little") + around + self.content

    @classmethod
    def from_bytes(cls, data: bytes) -> Residual:
        """Read what :meth:`to_bytes` gave.

        Raises:
            RefusedError: it is of another version.
        """
        try:
            size = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
            text, _, around = zlib.decompress(data[_LENGTH_BYTES:size]).partition(b"\n")
            head = json.loads(text)
            kind, before, after = head.pop("format"), head.pop("before"), head.pop("after")
            if kind != _FORMAT or before + after != len(around):
                raise ValueError(kind)
            return cls(**head, before=around[:before], after=around[before:], content=data[size:])
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise RefusedError(
                f"the residual is not of the kind that this version reads ({_FORMAT}); use the version of monai_salm "
                "that wrote it"
            ) from error
