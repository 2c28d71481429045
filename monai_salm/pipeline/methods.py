# SPDX-License-Identifier: Apache-2.0
"""The noise methods by name: SALM, its baseline and its control."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from monai_salm.consumers import NO_AUGMENTATION, ConsumerAugmentation
from monai_salm.errors import UsageError
from monai_salm.optimize import MinMinSettings
from monai_salm.samples import WorkingSample


@dataclass(frozen=True)
class NoiseMethod:
    """A way to make noise.

    Args:
        search: settings of the optimizer; None for noise that needs no labels and no network.
        augmentation: what the noise has to survive.
    """

    search: MinMinSettings | None
    augmentation: ConsumerAugmentation = NO_AUGMENTATION


METHODS = {
    # SALM: sparse by gradient, with the consumer's flips and shifts in the loop
    "salm": NoiseMethod(MinMinSettings(), ConsumerAugmentation()),
    # Error-minimizing noise as published (arXiv 2101.04898): dense, 10 surrogate batches and 20 steps of epsilon / 10 a round, no augmentation
    "em": NoiseMethod(MinMinSettings(mask_rule="dense", surrogate_epochs=0, surrogate_batches=10, noise_steps=20, step_size=0.1, patience=1), NO_AUGMENTATION),
    # The control: signs drawn at random, the full budget everywhere inside the masks
    "random": NoiseMethod(None),
}


def find_method(name: str, *, perturbed_fraction: float, rounds: int | None, seed: int) -> NoiseMethod:
    """Give a method with a user's choices.

    Args:
        name: one of :data:`METHODS`.
        perturbed_fraction: for sparse methods; dense ones change all they can.
        rounds: at most; None takes the method's.
        seed: of everything random.

    Raises:
        UsageError: there is no such method.
    """
    if name not in METHODS:
        raise UsageError(f"method {name!r} is unknown; give one of {', '.join(METHODS)}")
    method = METHODS[name]
    if method.search is None:
        return method
    search = replace(method.search, seed=seed, perturbed_fraction=perturbed_fraction)
    return replace(method, search=search if rounds is None else replace(search, max_rounds=rounds))


def random_steps(sample: WorkingSample, seed: int) -> NDArray[np.int16]:
    """Draw signs of the full budget for every cell that can carry noise; the same for the same sample and seed, whatever the order."""
    digest = hashlib.sha256(f"{seed}/{sample.sample_id}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    signs = generator.integers(0, 2, size=sample.image_model.shape) * 2 - 1
    return (signs * sample.levels * (sample.carrier_voxels > 0)).astype(np.int16)
