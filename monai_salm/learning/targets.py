# SPDX-License-Identifier: Apache-2.0
"""The labels of samples: a class, findings, or a label map; told apart here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_salm.working_samples import Target


class TargetKind(Enum):
    """What the label of a sample is."""

    CLASS = "class"
    FINDINGS = "findings"
    LABEL_MAP = "label map"


def target_kind(target: Any) -> TargetKind | None:
    """Tell what a label is; None if it is none of the three."""
    if isinstance(target, int):
        return TargetKind.CLASS
    if not isinstance(target, np.ndarray):
        return None
    if target.dtype.kind == "f":
        return TargetKind.FINDINGS if target.ndim == 1 else None
    return TargetKind.LABEL_MAP if target.dtype.kind in "iu" else None


def collate(targets: Sequence[Target], pad: Callable[[Sequence[NDArray[Any]]], Tensor]) -> Tensor:
    """Put labels of one kind into one tensor, as the loss of their task takes them.

    Args:
        targets: of some samples.
        pad: stacks maps of different shapes into ``(batch, 1, *spatial)``.

    Returns:
        ``(batch,)`` int64 classes, ``(batch, findings)`` float32, or ``(batch, *spatial)`` int64.
    """
    kind = target_kind(targets[0])
    if kind is TargetKind.CLASS:
        return torch.tensor(targets, dtype=torch.int64)
    arrays = [np.asarray(target) for target in targets]
    return pad(arrays).long()[:, 0] if kind is TargetKind.LABEL_MAP else torch.from_numpy(np.stack(arrays)).float()


def classes_in(target: Target | None) -> list[int]:
    """Give the numbers of the classes, findings or labels that a sample has; none without a label."""
    kind = target_kind(target)
    if target is None or kind is None:
        return []
    if isinstance(target, int):
        return [target]
    return [int(n) for n in (np.flatnonzero(target > 0.5) if kind is TargetKind.FINDINGS else np.unique(target))]


def renumbered(target: Target, places: NDArray[np.integer[Any]]) -> Target:
    """Give a class, or a label map, with other numbers for its classes.

    Args:
        target: of a sample.
        places: the new number of each old one.
    """
    changed = places[target]
    return int(changed) if target_kind(target) is TargetKind.CLASS else changed.astype(np.uint8)


def next_class(target: Tensor, outputs: int) -> Tensor:
    """Give the class after each one, or the opposite of each finding."""
    return 1 - target if target.is_floating_point() else (target + 1) % outputs
