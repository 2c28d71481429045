# SPDX-License-Identifier: Apache-2.0
"""Whether the surrogate of a search learned the noise, in words for people."""

from __future__ import annotations

import torch

from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, LearningTask
from monai_salm.methods.base import TrainedSurrogate
from monai_salm.methods.minmin_settings import MinMinSettings

LEARNED_SHARE = 1 / 3
"""Up to this share of a guess's error the surrogate counts as one that learned the noise of most images; a judgement
from the lab book, not measured.
"""
DOUBTFUL = "protection is doubtful"


def guess_error(samples: WorkingSet, task: LearningTask) -> float:
    """Give the error of who always names what is most common; 1 for segmentation, where that is the background."""
    if not isinstance(task, ClassificationTask):
        return 1.0
    targets = samples.targets()
    if task.multi_label:
        shares = targets.float().mean(dim=0)
        return float(torch.minimum(shares, 1 - shares).mean())
    return 1 - float(torch.bincount(targets).max()) / len(targets)


def what_was_learned(surrogate: TrainedSurrogate, guess: float) -> str:
    """Say whether the surrogate learned the noise, without which nobody else will.

    Args:
        surrogate: what a method left behind.
        guess: error of a guess.
    """
    wanted = surrogate.wanted_error or MinMinSettings.stop_error
    if not surrogate.errors:
        return (
            "whether the surrogate learned the noise is not known after one round, which only looks; give --rounds "
            "2 or more"
        )
    error = surrogate.errors[-1]
    if error <= wanted:
        return f"the surrogate learned the noise, as it should: its error is {error:.3f} (wanted: at most {wanted:g})"
    if error <= LEARNED_SHARE * guess:
        return (
            f"the surrogate learned the noise of most images: its error is {error:.3f} (wanted: at most "
            f"{wanted:g}; a guess makes {guess:.3f})"
        )
    advice = (
        "make the surrogate anew, with more --rounds, or of images like these"
        if surrogate.frozen
        else "give more --rounds or a larger --epsilon"
    )
    return (
        f"{DOUBTFUL}: the surrogate did not learn the noise, its error is {error:.3f} (wanted: at most "
        f"{wanted:g}; a guess makes {guess:.3f}); "
        f"measure it with 'monai-salm evaluate', and {advice}"
    )
