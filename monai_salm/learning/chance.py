# SPDX-License-Identifier: Apache-2.0
"""What is drawn for the samples of a training or a search, by the one rule of :mod:`monai_salm.chance`; all on the CPU,
so that a seed means the same on every device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_salm.chance import sample_generator, torch_seed
from monai_salm.learning.samples import BatchPlace, WorkingSet
from monai_salm.noise import fingerprint


@dataclass(frozen=True)
class SampleDraws:
    """Numbers in [0, 1) of all samples for some turns, drawn at once.

    Args:
        values: ``(samples, turns, numbers)`` float32, on the device that they are used on.
    """

    values: Tensor

    def at(self, place: BatchPlace, turn: int) -> Tensor:
        """Give the numbers of a batch in a turn, ``(batch, numbers)``."""
        return self.values[:, turn].index_select(0, place.index)


class SampleChance:
    """All that is drawn for the samples of a run.

    Args:
        samples: of the run.
        seed: of the run.
        device: that the numbers are used on.
        by_image: know samples by their images instead of their ids: further samples of a finished run are protected
            where nobody knows their ids, and get the same noise there.
    """

    def __init__(self, samples: WorkingSet, seed: int, device: torch.device, *, by_image: bool = False) -> None:
        self.seed, self.device = seed, device
        self.identities = [fingerprint(sample.image_model) for sample in samples.samples] if by_image else samples.ids

    def orders(self, round_number: int, epochs: int, purpose: str = "order") -> list[list[int]]:
        """Give the samples in an order of chance for each epoch; without some samples, the others keep theirs."""
        keys = self._numbers(round_number, (epochs,), purpose)
        orders: list[list[int]] = np.argsort(keys, axis=0, kind="stable").T.tolist()
        return orders

    def draws(self, round_number: int, turns: int, numbers: int, purpose: str) -> SampleDraws:
        """Draw so many numbers for each sample and turn of a round.

        Args:
            round_number: of the search, or the epoch of a training.
            turns: how often each sample needs them.
            numbers: in each turn.
            purpose: what they are for.
        """
        values = torch.from_numpy(self._numbers(round_number, (turns, numbers), purpose))
        return SampleDraws(values.to(self.device))

    def maps(self, shapes: Sequence[tuple[int, ...]], purpose: str) -> list[Tensor]:
        """Draw one number in [0, 1) for each cell of each sample, on the CPU; the same in all rounds."""
        generators = (sample_generator(self.seed, identity, 0, purpose) for identity in self.identities)
        drawn = (generator.random(shape, np.float32) for generator, shape in zip(generators, shapes, strict=True))
        return [torch.from_numpy(values) for values in drawn]

    def fresh(
        self, place: BatchPlace, round_number: int, purpose: str, shape: Sequence[int], *, normal: bool = False
    ) -> Tensor:
        """Draw numbers for the samples of one batch, ``(batch, *shape)``: in [0, 1), or of the normal distribution."""
        result = np.empty((len(place.indices), *shape), np.float32)
        for row, index in zip(result, place.indices, strict=True):
            generator = sample_generator(self.seed, self.identities[index], round_number, purpose)
            (generator.standard_normal if normal else generator.random)(out=row, dtype=np.float32)
        return torch.from_numpy(result).to(self.device)

    def _numbers(self, round_number: int, shape: tuple[int, ...], purpose: str) -> np.ndarray:
        result = np.empty((len(self.identities), *shape), np.float32)
        for row, identity in zip(result, self.identities, strict=True):
            sample_generator(self.seed, identity, round_number, purpose).random(out=row, dtype=np.float32)
        return result


@contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Let layers draw (first weights, dropout) from a seed of their own, and put torch's global random state back
    behind them.
    """
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(torch_seed(seed))
        yield
