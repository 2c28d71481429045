# SPDX-License-Identifier: Apache-2.0
"""What a min-min search may spend and how it searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from monai_salm.errors import UsageError

LEARNED = 0.5
"""Share of the first round's error, which is that of a guess, below which a surrogate has learned the noise."""

LONGEST_LIFE = 3
"""How many times as long a surrogate may live that has not."""

TRIAL_ROUNDS = 4
"""Rounds of a trial whose surrogate is never drawn anew."""

MASK_RULES = ("gradient", "random", "dense")


@dataclass(frozen=True, kw_only=True)
class MinMinSettings:
    """What the search may spend and how it searches.

    Args:
        perturbed_fraction: largest share of the anatomy's voxels that may change, in (0, 1].
        max_rounds: rounds at most.
        surrogate_epochs: passes of the surrogate over all samples in each round; less than 1 takes that share of them.
        surrogate_batches: batches of the surrogate in each round at least, so that few samples train it as well.
        noise_steps: signed gradient steps per sample and round.
        step_size: size of one such step as a share of the budget.
        block: cells, along each axis, of the blocks that share their steps, so that the noise is there for who sees a
            part of the size: what they average is whole blocks.
        stop_error: stop once the surrogate's mean error in the noise steps stayed below it for ``patience`` rounds; 0
            never stops.
        patience: see ``stop_error``.
        renew_every: rounds after which the surrogate is drawn anew, so that the noise fits no single network, if it has
            learned the noise by then: else it stays up to :data:`LONGEST_LIFE` times as long, since a new one would
            lead away from what there is; 0 never.
        one_life: True stops where the surrogate would be drawn anew, or after :data:`TRIAL_ROUNDS` where it never is: a
            trial.
        renewed_batches: batches at least of a surrogate that is new, in its first round: one that has not found the
            noise yet leads away from it.
        exchange: share of the samples whose noise lies on another sample's image, drawn for each batch and step: the
            image cannot help there, so the noise has to carry the label alone.
        clean_batches: batches, in the first round, of the members of the surrogate that know clean samples alone
            (:class:`~monai_salm.learning.networks.CleanNetwork`). The noise is to show them the class after the
            sample's own (of findings, the opposite of each), whose features others then learn for it: such noise is
            adversarial.
        clean_weight: of each of these members, where the others have 1.
        balance: how far the mean over a region of 10 mm may move, as a share of the budget, where the spacing of cells
            is known; 0 sets no such limit.
        mask_rule: ``gradient`` (SALM), ``random`` (control) or ``dense`` (all carriers, EM).
        full_strength: True makes steps beyond a third of the budget the whole budget, in the search as in the files.
        mask_memory: share of the old score that a round keeps.
        mask_blur: width, in cells, of the box that the score is averaged over before the mask takes its highest values:
            a texture needs room; odd.
        texture_period: period, in cells, of the class textures that the search starts from; 0 starts from no noise. The
            mask then goes where the gradient is large for the contrast that the image has there.
        texture_batches: batches at least of the surrogate that the first steps follow: one that has not found the
            textures yet leads away from them.
        class_directions: number of the direction of each class's texture, None for the class without a fine one;
            ``auto`` chooses them, see :func:`~monai_salm.methods.textures.class_directions`.
        batch_size: samples per step.
        learning_rate: of the surrogate's Adam.
        seed: of everything random; one that can be guessed gives away what is drawn.

    Example:
        >>> from monai_salm import MinMinSettings
        >>> MinMinSettings(perturbed_fraction=0.1, max_rounds=5).to_json()["max_rounds"]
        5
    """

    perturbed_fraction: float = 0.4
    max_rounds: int = 30
    surrogate_epochs: float = 1.0
    surrogate_batches: int = 24
    noise_steps: int = 5
    step_size: float = 0.2
    block: int = 1
    stop_error: float = 0.01
    patience: int = 5
    renew_every: int = 0
    one_life: bool = False
    renewed_batches: int = 0
    exchange: float = 0.0
    clean_batches: int = 400
    clean_weight: float = 1.0
    balance: float = 0.0
    mask_rule: str = "gradient"
    full_strength: bool = False
    mask_memory: float = 0.7
    mask_blur: int = 1
    texture_period: float = 0.0
    texture_batches: int = 150
    class_directions: tuple[int | None, ...] | Literal["auto"] = "auto"
    batch_size: int = 32
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.class_directions != "auto":  # JSON has a list
            object.__setattr__(self, "class_directions", tuple(self.class_directions))
        if not 0 < self.perturbed_fraction <= 1:
            raise UsageError(
                f"perturbed fraction {self.perturbed_fraction:g} is not in (0, 1]; 0.4 lets 40 % of the anatomy's "
                "voxels change"
            )
        if self.mask_rule not in MASK_RULES:
            raise UsageError(f"mask rule {self.mask_rule!r} is unknown; give one of {', '.join(MASK_RULES)}")
        if self.mask_blur < 1 or self.mask_blur % 2 == 0:
            raise UsageError(f"mask blur {self.mask_blur} is not odd; a box around a cell is 1, 3, 5, ... cells wide")
        if self.texture_period and self.texture_period < 2:
            raise UsageError(
                f"texture period {self.texture_period:g} is below 2 cells, which no grid shows; give 2 or more, "
                "or 0 for none"
            )
        if not 0 <= self.exchange <= 1:
            raise UsageError(f"exchange {self.exchange:g} is not in [0, 1]; 1 exchanges the images of all samples")
        for name in ("block", "max_rounds", "noise_steps", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} must be at least 1")

    def is_new(self, errors: Sequence[float]) -> bool:
        """Say whether the surrogate begins anew in the round after those with these errors: in the first one, and where
        it is drawn again.
        """
        born, every = 0, self.renew_every
        for number in range(1, len(errors) + 1):
            age = number - born
            learned = errors[number - 1] <= LEARNED * errors[0]
            if every and ((age >= every and learned) or age >= LONGEST_LIFE * every):
                born = number
        return born == len(errors)

    def is_over(self, errors: Sequence[float]) -> bool:
        """Say whether a trial ends after the rounds with these errors."""
        enough = self.is_new(errors) if self.renew_every else len(errors) >= TRIAL_ROUNDS
        return self.one_life and len(errors) > 0 and enough

    def to_json(self) -> dict[str, Any]:
        """Give plain types; ``MinMinSettings(**record)`` reads them back."""
        return asdict(self)
