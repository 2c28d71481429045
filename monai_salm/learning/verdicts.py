# SPDX-License-Identifier: Apache-2.0
"""What scores of a stranger's network say of the protection."""

from __future__ import annotations

VERDICTS = ("protected", "weakened", "not protected", "not learned")

# A verdict needs more than luck: so far above a guess a score, or the best epoch's, may still be one.
_SCORE_ABOVE_CHANCE, _PEAK_ABOVE_CHANCE = 0.10, 0.15
_LEARNED_ABOVE_CHANCE = 0.10
_PROTECTED_DICE, _LEARNED_DICE = 0.15, 0.2
_WEAKENED = 0.5
_ROUNDING = 1e-9


def usable(score: float, chance: float | None) -> float:
    """Give what a stranger makes of a score: of two classes, one that is below a guess is as good as one above it, with
    the answers exchanged.
    """
    return max(score, 1 - score) if chance == 0.5 else score


def verdict(clean: float, score: float, peak: float, chance: float | None) -> str:
    """Say what a victim could learn, as one of :data:`VERDICTS`; ``not learned`` where even clean images taught it
    nothing.

    Args:
        clean: main score of the victim that was trained on clean images.
        score, peak: of the victim that was trained on protected ones.
        chance: main score of a guess; None for Dice.
    """
    if clean + _ROUNDING < (_LEARNED_DICE if chance is None else chance + _LEARNED_ABOVE_CHANCE):
        return "not learned"
    if chance is None:
        protected = score <= _PROTECTED_DICE + _ROUNDING
    else:
        protected = (
            score <= chance + _SCORE_ABOVE_CHANCE + _ROUNDING and peak <= chance + _PEAK_ABOVE_CHANCE + _ROUNDING
        )
    if protected:
        return "protected"
    return "weakened" if clean - score >= _WEAKENED * (clean - (chance or 0.0)) - _ROUNDING else "not protected"
