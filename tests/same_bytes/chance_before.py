# SPDX-License-Identifier: Apache-2.0
"""The random numbers of before there was one rule for chance, for ``tests.same_bytes --chance before``.

Then a batch drew from one generator what its samples needed, in the order in which it came up, so that a sample's noise
depended on the others. With these draws, the search has to give the noise that it gave then, byte for byte: its
arithmetic did not change.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def install() -> None:
    """Let the package of this process draw as before."""
    from monai_salm.learning import chance
    from monai_salm.learning.consumers import ConsumerAugmentation
    from monai_salm.methods import lsp, random, textures
    from monai_salm.pipeline import search

    apply = ConsumerAugmentation.apply

    def apply_pending(self: Any, images: Tensor, draws: Any, label_map: Tensor | None = None) -> Any:
        if isinstance(draws, Pending):
            draws = draws.numbers(self, len(images), images.ndim - 2)
        return apply(self, images, draws, label_map)

    ConsumerAugmentation.apply = apply_pending  # type: ignore[method-assign, assignment]
    for name in ("__init__", "_generator", "_own", "draws", "orders", "maps", "fresh"):
        setattr(chance.SampleChance, name, getattr(BatchChance, name))
    search.secret_seed = _without_secret  # type: ignore[attr-defined]
    random.sample_generator = lsp.sample_generator = _by_id  # type: ignore[assignment, attr-defined]
    textures.sample_generator = _by_image  # type: ignore[assignment, attr-defined]


def _without_secret(_: bytes, seed: int) -> int:
    return seed


def _by_id(seed: int, sample_id: str, *_: Any) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{sample_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _by_image(seed: int, fingerprint: str, *_: Any) -> np.random.Generator:
    return np.random.default_rng([seed % 2**64, int(fingerprint[:15], 16)])


@dataclass(frozen=True)
class Pending:
    """What a batch draws once its augmentation is known."""

    generator: torch.Generator

    def numbers(self, augmentation: Any, batch: int, dims: int) -> Tensor:
        """Draw in the order of before; blurs and resamplings were those of the whole batch."""
        columns = [torch.rand(batch, generator=self.generator)[:, None]]
        columns += [torch.rand(batch, dims, generator=self.generator) for _ in range(2)]
        columns += [torch.rand(batch, generator=self.generator)[:, None]]
        for _ in range(2):
            drawn = torch.rand(batch, generator=self.generator) if augmentation.window else torch.zeros(batch)
            columns.append(drawn[:, None])
        for used in (augmentation.blur, augmentation.resample):
            drawn = torch.rand(1, generator=self.generator) if used else torch.zeros(1)
            columns.append(drawn.expand(batch)[:, None])
        return torch.cat(columns, dim=1)


class BatchChance:
    """Takes the place of ``SampleChance``."""

    def __init__(self, samples: Any, seed: int, device: torch.device, *, by_image: bool = False) -> None:
        self.samples, self.seed, self.device, self.by_image = samples, seed, device, by_image
        self.room = sys._getframe(1).f_globals["__name__"].rpartition(".")[2]
        self.generators: dict[Any, torch.Generator] = {}

    def _generator(self, round_number: int) -> torch.Generator:
        seed = self.seed * 1_000_003 + round_number if self.room == "minmin" else self.seed + round_number
        return self.generators.setdefault(round_number, torch.Generator().manual_seed(seed))

    def _own(self, index: int, round_number: int) -> torch.Generator:
        from monai_salm.noise import fingerprint

        if (index, round_number) not in self.generators:
            images = self.samples.batch([index], torch.device("cpu")).images
            text = f"{self.seed}/{round_number}/{fingerprint(images.numpy())}"
            digest = hashlib.sha256(text.encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
            self.generators[index, round_number] = generator
        return self.generators[index, round_number]

    def draws(self, round_number: int, *_: Any) -> Any:
        chance = self

        class Draws:
            def at(self, place: Any, turn: int) -> Pending:
                own = chance.by_image
                return Pending(chance._own(place.indices[0], round_number) if own else chance._generator(round_number))

        return Draws()

    def orders(self, round_number: int, epochs: int, *_: Any) -> Iterator[list[int]]:
        for _epoch in range(epochs):
            yield torch.randperm(len(self.samples), generator=self._generator(round_number)).tolist()

    def maps(self, shapes: Sequence[tuple[int, ...]], *_: Any) -> list[Tensor]:
        found = []
        for index in range(len(shapes)):
            padded = self.samples.batch_shape([index])
            generator = torch.Generator().manual_seed(self.seed * 7_919 + index)
            if self.by_image:
                generator = self._own(index, 0)
                self.generators.clear()
            values = torch.rand(int(np.prod(padded)), generator=generator).reshape(padded)
            found.append(values)  # with the padding, which a blur of before mixed in
        return found

    def fresh(self, place: Any, round_number: int, _: str, shape: Sequence[int], **__: Any) -> Tensor:
        return torch.rand((len(place.indices), *shape), generator=self._generator(round_number))
