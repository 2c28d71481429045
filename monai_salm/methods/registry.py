# SPDX-License-Identifier: Apache-2.0
"""The noise methods by name: SALM, its controls, and the baselines of the field."""

from __future__ import annotations

from dataclasses import dataclass, replace

from monai_salm.errors import UsageError
from monai_salm.learning.consumers import NO_AUGMENTATION, ConsumerAugmentation
from monai_salm.methods.base import Baseline
from monai_salm.methods.generators import umed_noise, voxshield_noise
from monai_salm.methods.lsp import lsp_noise
from monai_salm.methods.minmin import MinMinSettings
from monai_salm.methods.pil import pil_noise
from monai_salm.methods.tap import tap_noise


@dataclass(frozen=True)
class NoiseMethod:
    """A way to make noise.

    Args:
        search: settings of the optimizer, or a baseline with a maker of its own; None for noise that needs no labels
            and no network.
        augmentation: what the optimizer's noise has to survive.
        segmentation: what takes its place where label maps are the targets; None if it is for both, or refuses them.
    """

    search: MinMinSettings | Baseline | None
    augmentation: ConsumerAugmentation = NO_AUGMENTATION
    segmentation: NoiseMethod | None = None


# Class textures where the gradient is, fitted in seven rounds after one that looks: chosen on validation images, see
# benchmarks/LABBOOK.md
_SALM = MinMinSettings(max_rounds=8, noise_steps=4, texture_period=4.0, mask_blur=7, full_strength=True)
_CONSUMER = ConsumerAugmentation(blur=0.5)
# Textures inside the labeled structures showed no effect (lab book, round 9), so the noise of label maps starts from
# none
_LABEL_MAPS = NoiseMethod(MinMinSettings(), ConsumerAugmentation())
# As published (arXiv 2101.04898): dense, 10 surrogate batches and 20 steps of epsilon / 10 a round
_EM = MinMinSettings(
    mask_rule="dense", surrogate_epochs=0, surrogate_batches=10, noise_steps=20, step_size=0.1, patience=1
)

METHODS = {
    # SALM: sparse by gradient, with the consumer's flips, shifts and blurs in the loop
    "salm": NoiseMethod(_SALM, _CONSUMER, _LABEL_MAPS),
    # Its control: as sparse, but where chance says
    "random-mask": NoiseMethod(
        replace(_SALM, mask_rule="random"),
        _CONSUMER,
        NoiseMethod(MinMinSettings(mask_rule="random"), ConsumerAugmentation()),
    ),
    # Error-minimizing noise as published, without augmentation, and with it in the loop
    "em": NoiseMethod(_EM, NO_AUGMENTATION),
    "em-augmented": NoiseMethod(_EM, ConsumerAugmentation()),
    # Augmented unlearnable examples (NeurIPS 2024): each round one epoch of the surrogate and 5 steps of epsilon / 10,
    # 60 rounds, no stop rule, all under strong augmentation as in contrastive learning: crops, and changes of
    # brightness and contrast. Its surrogate is the search's own, with Adam.
    "aue": NoiseMethod(
        MinMinSettings(mask_rule="dense", max_rounds=60, noise_steps=5, step_size=0.1, stop_error=0.0),
        ConsumerAugmentation(flip=0.5, shift=0.25, zoom=0.4, window=0.4, identity=0.0),
    ),
    "tap": NoiseMethod(Baseline(tap_noise, rounds=60)),
    "lsp": NoiseMethod(Baseline(lsp_noise, rounds=0)),
    "pil": NoiseMethod(Baseline(pil_noise, rounds=30)),
    "umed": NoiseMethod(Baseline(umed_noise, rounds=30, task="segmentation")),
    "voxshield": NoiseMethod(Baseline(voxshield_noise, rounds=30, task="segmentation", spatial_dims=(3,))),
    # The control: signs drawn at random, the full budget everywhere inside the masks
    "random": NoiseMethod(None),
}


def find_method(
    name: str, task: str = "classification", *, perturbed_fraction: float, rounds: int | None, seed: int
) -> NoiseMethod:
    """Give a method with a user's choices.

    Args:
        name: one of :data:`METHODS`.
        task: ``classification`` or ``segmentation``.
        perturbed_fraction: for sparse methods; dense ones change all they can.
        rounds: at most; None takes the method's.
        seed: of everything random.

    Raises:
        UsageError: there is no such method, or it cannot have that number of rounds.
    """
    if name not in METHODS:
        raise UsageError(f"method {name!r} is unknown; give one of {', '.join(METHODS)}")
    method = METHODS[name]
    if task == "segmentation" and method.segmentation is not None:
        method = method.segmentation
    if method.search is None:
        return method
    if isinstance(method.search, Baseline):
        if rounds is not None and rounds < 1:
            raise UsageError(f"rounds {rounds} must be at least 1")
        return method if rounds is None else replace(method, search=replace(method.search, rounds=rounds))
    search = replace(method.search, seed=seed, perturbed_fraction=perturbed_fraction)
    return replace(method, search=search if rounds is None else replace(search, max_rounds=rounds))
