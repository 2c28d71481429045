# SPDX-License-Identifier: Apache-2.0
"""What a search did, as it is kept and told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from monai_salm.learning.estimates import LearningEstimate


@dataclass(frozen=True)
class SearchSummary:
    """What a search did.

    Args:
        rounds: of it.
        passes: forward and backward passes per sample.
        errors: of the surrogate in each round.
        surrogate: whether these are what they should be, in words.
        choice: what the method chose and why, in words; empty where it chose nothing.
        estimate: what a stranger would learn; None where that was not asked, or without labels.
    """

    rounds: int = 0
    passes: float = 0.0
    errors: tuple[float, ...] = ()
    surrogate: str = ""
    choice: str = ""
    estimate: LearningEstimate | None = None

    def lines(self) -> list[str]:
        """Say it to people; of the surrogate only where no other network was asked, which knows better."""
        told = [] if self.estimate is None else self.estimate.lines()
        asked = self.estimate is not None and bool(self.estimate.networks)
        return [*filter(None, (self.choice, "" if asked else self.surrogate)), *told]

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back."""
        return asdict(self) | {"estimate": None if self.estimate is None else self.estimate.to_json()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SearchSummary:
        """Read what :meth:`to_json` gave."""
        estimate = record.get("estimate")  # runs of earlier versions have none
        found = None if estimate is None else LearningEstimate.from_json(estimate)
        return cls(**dict(record) | {"errors": tuple(record["errors"]), "estimate": found})
