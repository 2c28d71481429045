# SPDX-License-Identifier: Apache-2.0
"""What a protected image says of its protection, in the metadata that MONAI keeps of every transform."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Trace:
    """What was done to an image; of noise nothing but where it is stored, for metadata go into batches and logs.

    Args:
        source: ``stored noise`` or ``frozen surrogate``.
        parts, axes: as in :class:`~monai_salm.transforms.stored.Applied`; empty where the noise is not stored.
        fingerprint: of the protected values.
        max_change: largest change, real units.
        changed_fraction: share of the values that changed.
    """

    source: str
    parts: list[tuple[str, int]]
    axes: tuple[int, ...]
    fingerprint: str
    max_change: float
    changed_fraction: float

    def to_plain(self) -> dict[str, Any]:
        """Give texts and numbers, which every collate function takes."""
        return vars(self) | {
            "parts": json.dumps(self.parts), "axes": json.dumps(self.axes),
            "software": f"monai_salm {version('monai_salm')}",
        }  # fmt: skip

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Trace:
        """Read what :meth:`to_plain` gave."""
        return cls(
            source=plain["source"], fingerprint=plain["fingerprint"], max_change=float(plain["max_change"]),
            changed_fraction=float(plain["changed_fraction"]), axes=tuple(json.loads(plain["axes"])),
            parts=[(name, place) for name, place in json.loads(plain["parts"])],
        )  # fmt: skip
