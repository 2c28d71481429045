# SPDX-License-Identifier: Apache-2.0
"""The noise methods by name: SALM, its controls, and the baselines of the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from monai_salm.learning.consumers import NO_AUGMENTATION, ConsumerAugmentation
from monai_salm.methods.base import NoiseMethod
from monai_salm.methods.choice import MeasuredChoice
from monai_salm.methods.error_minimizing import ErrorMinimizing
from monai_salm.methods.lattice import LabelLattice
from monai_salm.methods.lsp import LinearlySeparable
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.names import METHOD_KINDS, check_method
from monai_salm.methods.pil import Linearized
from monai_salm.methods.random import RandomSigns
from monai_salm.methods.tap import Targeted
from monai_salm.methods.textures import TEXTURE_PERIOD, ClassTextures
from monai_salm.methods.umed import ContourTexture
from monai_salm.methods.voxshield import SpectrallyIncoherent

# Class textures where the gradient is, fitted in seven rounds after one that looks; means of regions that stay cost
# nothing (round 25): chosen on validation images, see benchmarks/LABBOOK.md. A quarter of the budget is promised; discs
# between the cells of the grid have a hair more than what the search keeps
_SALM = MinMinSettings(
    max_rounds=8, noise_steps=4, texture_period=TEXTURE_PERIOD, mask_blur=7, full_strength=True, balance=0.24
)
_CONSUMER = ConsumerAugmentation(blur=0.5)
# Error-minimizing noise whose surrogates, two kinds of them and drawn anew every four rounds, cannot lean on the image
# that it is made for: they see it on another's. A blur in the loop takes most of it
_EXCHANGE = MinMinSettings(
    max_rounds=12, noise_steps=4, mask_blur=3, full_strength=True, exchange=1.0, renew_every=4,
    surrogate_batches=40, renewed_batches=80, stop_error=0.0, batch_size=64, balance=0.24,
)  # fmt: skip
# As published (arXiv 2101.04898): dense, 10 surrogate batches and 20 steps of epsilon / 10 a round
_EM = MinMinSettings(
    mask_rule="dense", surrogate_epochs=0, surrogate_batches=10, noise_steps=20, step_size=0.1, patience=1
)
# Augmented unlearnable examples (NeurIPS 2024): each round one epoch of the surrogate and 5 steps of epsilon / 10, 60
# rounds, no stop rule, all under strong augmentation as in contrastive learning: crops, and changes of brightness and
# contrast. Its surrogate is the search's own, with Adam.
_AUE = MinMinSettings(mask_rule="dense", max_rounds=60, noise_steps=5, step_size=0.1, stop_error=0.0)
_CONTRASTIVE = ConsumerAugmentation(flip=0.5, shift=0.25, zoom=0.4, window=0.4, identity=0.0)


_TEXTURE = ErrorMinimizing(_SALM, _CONSUMER)
_EXCHANGED = ErrorMinimizing(
    _EXCHANGE, ConsumerAugmentation(), beside=("small-cnn",), beside_colors=("small-resnet/gray",)
)
# Made for half of the size it lies in blocks of cells, which last at the full size, too
_BLOCKS = replace(
    _EXCHANGED, settings=replace(_EXCHANGE, mask_blur=1, block=2), beside=("small-cnn/2",), beside_colors=(), view="2"
)
# Beside these, features of the next class, from networks of clean images: rankings fall to a guess, too, and a ViT with
# them (round 28). It is adversarial, and moves networks in use
_MIXED = replace(
    _EXCHANGED, settings=replace(_EXCHANGE, clean_batches=200), augmentation=ConsumerAugmentation(blur=0.3),
    beside=("small-cnn", "small-resnet/clean", "small-cnn/clean"),
)  # fmt: skip
# The features of the next class alone: networks learn the opposite, which of two classes is as good as the truth
_TARGETED = replace(
    _EXCHANGED,
    settings=replace(_EXCHANGE, max_rounds=8, step_size=0.1, exchange=0.0, balance=0.0),
    beside=("small-cnn/clean",), beside_colors=(), view="clean",
)  # fmt: skip


def _sparse(mask_rule: str) -> dict[str, NoiseMethod]:
    """Give SALM, or what differs from it in the place of its noise alone.

    Textures inside the labeled structures showed no effect (lab book, round 9), so the noise of label maps starts from
    none.
    """
    return {
        "classification": replace(_TEXTURE, settings=replace(_SALM, mask_rule=mask_rule)),
        "segmentation": ErrorMinimizing(MinMinSettings(mask_rule=mask_rule), ConsumerAugmentation()),
    }


# Sparse by gradient, with the consumer's flips and shifts in the loop
_MINMIN = _sparse("gradient")["segmentation"]

_MADE_BY: dict[str, NoiseMethod | dict[str, NoiseMethod]] = {
    # SALM: of its parts the best one. Those of label maps are for networks of full resolution and for strided ones
    "salm": {
        "classification": MeasuredChoice(
            {
                "salm:texture": _TEXTURE,
                "salm:exchange": _EXCHANGED,
                "salm:mixed": _MIXED,
                "salm:blocks": _BLOCKS,
            }
        ),
        "segmentation": MeasuredChoice({"salm:lattice": LabelLattice(), "salm:minmin": _MINMIN}),
    },
    "salm:texture": _TEXTURE,
    "salm:exchange": _EXCHANGED,
    "salm:mixed": _MIXED,
    "salm:blocks": _BLOCKS,
    "salm:targeted": _TARGETED,
    "salm:lattice": LabelLattice(),
    "salm:minmin": _MINMIN,
    # Its control: as sparse, but where chance says
    "random-mask": _sparse("random"),
    # Its start: the class textures alone, in full strength everywhere
    "textures": ClassTextures(),
    # Error-minimizing noise as published, without augmentation, and with it in the loop
    "em": ErrorMinimizing(_EM, NO_AUGMENTATION),
    "em-augmented": ErrorMinimizing(_EM, ConsumerAugmentation()),
    "aue": ErrorMinimizing(_AUE, _CONTRASTIVE),
    "tap": Targeted(),
    "lsp": LinearlySeparable(),
    "pil": Linearized(),
    "umed": ContourTexture(),
    "voxshield": SpectrallyIncoherent(),
    # The control: signs drawn at random, the full budget everywhere inside the masks
    "random": RandomSigns(),
}

METHODS: Mapping[str, Mapping[str, NoiseMethod]] = MappingProxyType(
    {
        name: made_by if isinstance(made_by, dict) else dict.fromkeys(METHOD_KINDS[name].tasks, made_by)
        for name, made_by in _MADE_BY.items()
    }
)
"""Name -> task -> method; :data:`~monai_salm.methods.names.METHOD_KINDS` says what each is for."""


def find_method(name: str, task: str = "classification", spatial_dims: int | None = None) -> NoiseMethod:
    """Give a method for a task and, once they are known, for samples of these dimensions.

    Args:
        name: one of :data:`METHODS`.
        task: ``classification`` or ``segmentation``.
        spatial_dims: 2 or 3; None while it is not known.

    Raises:
        UsageError: there is no such method, or it is not for these; names those that are.

    Example:
        >>> from monai_salm.methods.registry import find_method
        >>> type(find_method("lsp")).__name__
        'LinearlySeparable'
    """
    check_method(name, task, spatial_dims)
    return METHODS[name][task]
