# SPDX-License-Identifier: Apache-2.0
"""Everything that a round of a min-min search starts from, so that a stopped one goes on exactly where it was; and what
it works with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from monai_salm.learning.chance import SampleChance
from monai_salm.learning.ranks import Ranks
from monai_salm.learning.resident import ResidentSet, SampleMaps
from monai_salm.learning.samples import WorkingBatch, WorkingSet


@dataclass
class RoundLog:
    """What one round did: mean error of the surrogate in the noise steps, share of the anatomy changed, passes per
    sample so far, seconds.
    """

    round: int
    error: float
    changed_fraction: float
    passes: float
    seconds: float


@dataclass
class SearchState:
    """What a round starts from.

    Args:
        steps: per sample, proposed noise in steps, float32, ``(channels, *grid)``; dense: the mask is applied when it
            is used.
        score: per sample, running mean of the absolute loss gradient, ``(1, *grid)``.
        round: rounds done.
        passes: forward and backward passes of the surrogate per sample so far.
        quiet: rounds in a row below the stop error.
        history: one entry a round.
    """

    steps: Sequence[Tensor] | SampleMaps
    score: Sequence[Tensor] | SampleMaps
    round: int = 0
    passes: float = 0.0
    quiet: int = 0
    history: list[RoundLog] = field(default_factory=list)

    def settle(self, resident: ResidentSet) -> tuple[SampleMaps, SampleMaps]:
        """Take steps and scores to where the samples are, and give them."""
        steps = self.steps if isinstance(self.steps, SampleMaps) else resident.hold(self.steps)
        score = self.score if isinstance(self.score, SampleMaps) else resident.hold(self.score)
        self.steps, self.score = steps, score
        return steps, score

    def to_memory(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Give tensors and plain values that :meth:`from_memory` reads back."""
        kept = {"steps": self.steps, "score": self.score}
        tensors = {name: torch.cat([part.flatten() for part in maps]).cpu() for name, maps in kept.items()}
        progress = {"round": self.round, "passes": self.passes, "quiet": self.quiet}
        return tensors, progress | {"history": [asdict(log) for log in self.history]}

    @classmethod
    def from_memory(
        cls, tensors: Mapping[str, Tensor], progress: Mapping[str, Any], samples: WorkingSet
    ) -> SearchState:
        """Read what :meth:`to_memory` gave for the same samples."""

        def parts(name: str, channels: int) -> list[Tensor]:
            shapes = [(channels, *sample.shape) for sample in samples.samples]
            split = torch.split(tensors[name], [math.prod(shape) for shape in shapes])
            return [part.reshape(shape).clone() for part, shape in zip(split, shapes, strict=True)]

        history = [RoundLog(**log) for log in progress["history"]]
        return cls(
            parts("steps", samples.channels), parts("score", 1), progress["round"], progress["passes"],
            progress["quiet"], history,
        )  # fmt: skip


@dataclass(frozen=True)
class SearchWork:
    """What a search works with, where it computes.

    Args:
        resident, chance: the samples, and what is drawn for them.
        state: what a round starts from.
        steps, scores: the state's, there; of several processes each has those of its own samples.
        ranks: what the masks are chosen by: the scores, or chance.
        masks: where the noise of each sample may be in this round.
        size: samples of a noise step.
        processes: that search together.
    """

    resident: ResidentSet
    chance: SampleChance
    state: SearchState
    steps: SampleMaps
    scores: SampleMaps
    ranks: SampleMaps
    masks: SampleMaps
    size: int
    processes: Ranks

    def dealt(self) -> list[list[int]]:
        """Give the samples of each batch of noise steps, in the order that the processes are dealt them."""
        order = self.resident.samples.by_shape()
        return [order[start : start + self.size] for start in range(0, len(order), self.size)]

    def own_batches(self) -> Iterator[WorkingBatch]:
        """Cut the batches that this process was dealt."""
        return self.resident.batches(self.resident.samples.by_shape(), self.size, places=self.processes.own)
