# SPDX-License-Identifier: Apache-2.0
"""What a countermeasure is: where it steps into the training of a victim, and what a stranger builds it from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from monai_salm.learning.consumers import Augmentation
from monai_salm.learning.tasks import LearningTask
from monai_salm.learning.victims import BatchLoss
from monai_salm.working_samples import WorkingSample

ImageChange = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Gives a changed copy of an image of model values, 2D or 3D, of a color image with colors last: of the same shape and
dtype, in [0, 1] again.
"""


@dataclass(frozen=True)
class Leak:
    """What a stranger has to build a preprocessing from.

    Args:
        train: what the victim trains on, with targets.
        pairs: (clean, protected) model values of images whose originals leaked, in random order; empty without a leak.
        task: that the victim learns.
        seed: decides all that is random.
        device: where to compute.
    """

    train: Sequence[WorkingSample]
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]
    task: LearningTask
    seed: int
    device: torch.device

    @property
    def in_color(self) -> bool:
        """Whether the images have colors."""
        return bool(self.train) and self.train[0].channels > 1


@dataclass(frozen=True, kw_only=True)
class Countermeasure:
    """One way to get rid of the noise: a preprocessing, an augmentation or a loss; what is None stays as the victim's
    recipe has it.

    Args:
        name: as a user gives it.
        fit: makes the preprocessing of training and test images alike, for the stranger owns the whole pipeline.
        augmentation: instead of the recipe's.
        batch_loss: instead of the mean of the task's loss.
        leaked_pairs: how many pairs ``fit`` wants.
        needs: module that must be installed; empty if none.

    Example:
        >>> from monai_salm.evaluate import Countermeasure
        >>> half = Countermeasure(name="half", fit=lambda leak: lambda image: image / 2)
        >>> half.name, half.leaked_pairs
        ('half', 0)
    """

    name: str
    fit: Callable[[Leak], ImageChange] | None = None
    augmentation: Augmentation | None = None
    batch_loss: BatchLoss | None = None
    leaked_pairs: int = 0
    needs: str = ""


def by_channel(
    change: Callable[[NDArray[np.float32]], NDArray[np.floating]], image: NDArray[np.float32]
) -> NDArray[np.floating]:
    """Change each color of an image by itself."""
    return np.stack([change(np.ascontiguousarray(image[..., color])) for color in range(image.shape[-1])], axis=-1)


def in_range(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Clip to model values."""
    result: NDArray[np.float32] = values.clip(0, 1).astype(np.float32)
    return result
