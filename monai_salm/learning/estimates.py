# SPDX-License-Identifier: Apache-2.0
"""What a stranger would learn from protected images, as it is kept and told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from monai_salm.learning.verdicts import VERDICTS, usable

FULL, HALF, BLURRED, GRAY = "", "half the size", "after a blur", "without colors"
"""How networks see the images."""

UNUSUAL = (BLURRED, GRAY)
"""What networks make of these is told, and counts neither for the verdict nor for a choice: few would blur images that
are small already, or give up their colors.
"""


@dataclass(frozen=True)
class NetworkEstimate:
    """What one network learned.

    Args:
        network: its name.
        view: how it saw the images.
        side: longest axis of these.
        clean, protected: its main score after training on clean and on protected images.
        auc: of the latter; None for label maps.
        peak: best main score over the epochs of the latter.
        verdict: one of :data:`~monai_salm.learning.verdicts.VERDICTS`.
        moved: how far the AUC (of label maps the Dice) of the network of clean images changes, if the images that it
            never saw are protected; None where that was not measured.
    """

    network: str
    view: str
    side: int
    clean: float
    protected: float
    auc: float | None
    peak: float
    verdict: str
    moved: float | None = None


def what_is_left(score: float, peak: float, auc: float | None, chance: float | None) -> float:
    """Give what a network has beyond a guess, as a share of all there can be: on average after the last epoch, at its
    best, and in its ranking.

    Args:
        score, peak: main scores.
        auc: None for label maps.
        chance: main score of a guess; None for Dice.
    """
    guess = chance or 0.0
    shares = [(usable(found, chance) - guess) / (1 - guess) for found in (score, peak)]
    if auc is not None and math.isfinite(auc):
        shares.append(2 * usable(auc, chance) - 1)
    return sum(max(share, 0.0) for share in shares) / len(shares)


@dataclass(frozen=True)
class LearningEstimate:
    """What a stranger would learn.

    Args:
        networks: what each network learned; empty where nothing can be said.
        trained_on, held_out: images.
        apart: what no image on one side shares with one on the other.
        chance: main score of a guess; None for label maps.
        why_not: why nothing can be said; empty else.
    """

    networks: tuple[NetworkEstimate, ...] = ()
    trained_on: int = 0
    held_out: int = 0
    apart: str = ""
    chance: float | None = None
    why_not: str = ""

    @property
    def verdict(self) -> str:
        """The worst verdict of those networks that learned from clean images as they are; empty where nothing can be
        said.
        """
        found = [
            network.verdict for network in self.networks
            if network.verdict != "not learned" and network.view not in UNUSUAL
        ]  # fmt: skip
        if not found:
            return "not learned" if self.networks else ""
        return max(found, key=VERDICTS.index)

    @property
    def left(self) -> float:
        """What is left of the learning on average, see :func:`what_is_left`, of who sees the images as they are or at
        half of the size; infinite where nothing can be said.
        """
        found = [
            what_is_left(network.protected, network.peak, network.auc, self.chance)
            for network in self.networks if network.view not in UNUSUAL
        ]  # fmt: skip
        return sum(found) / len(found) if found else math.inf

    @property
    def moved(self) -> float | None:
        """The largest movement of a network of clean images, without a sign; None where none was measured."""
        found = [abs(network.moved) for network in self.networks if network.moved is not None]
        return max(found, default=None)

    def lines(self) -> list[str]:
        """Say it to people."""
        if self.why_not:
            return [f"what a stranger would learn is not known: {self.why_not}"]
        score, guess = ("Dice", "") if self.chance is None else ("balanced accuracy", f", a guess {self.chance:.2f}")
        told = {
            "protected": "protected",
            "weakened": "weakened: it takes half of the learning at least, not all",
            "not protected": "NOT PROTECTED: treat these files as you would the originals",
            "not learned": "not known: even the originals taught these networks nothing",
        }
        lines = [f"what a stranger would learn ({score} on {self.held_out} clean images that were held out{guess}):"]
        lines += [
            f"  {network.network}, {network.side} wide{', ' + network.view if network.view in UNUSUAL else ''}: "
            f"{network.protected:.2f} (best epoch {network.peak:.2f}), from the originals {network.clean:.2f}: "
            f"{network.verdict}"
            for network in self.networks
        ]
        score = "Dice" if self.chance is None else "AUC"
        moved = [f"{network.network} {network.moved:+.3f}" for network in self.networks if network.moved is not None]
        if moved:
            lines.append(
                f"a network of clean images scores the protected ones with another {score}: {', '.join(moved)} (on "
                "images that it never saw)"
            )
        return [*lines, f"estimate: {told[self.verdict]}"]

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back."""
        return asdict(self) | {"verdict": self.verdict}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LearningEstimate:
        """Read what :meth:`to_json` gave."""
        fields = {name: value for name, value in record.items() if name != "verdict"}
        return cls(**fields | {"networks": tuple(NetworkEstimate(**network) for network in record["networks"])})
