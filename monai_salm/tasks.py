# SPDX-License-Identifier: Apache-2.0
"""What a network is trained for: the loss, the error and the scores. Surrogate and victims share one definition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.losses import DiceLoss
from monai.metrics import compute_dice, compute_roc_auc
from torch import Tensor
from torch.nn import functional

from monai_salm.errors import UsageError


class LearningTask(ABC):
    """A supervised task. Networks give logits of ``(batch, outputs, ...)``; targets are what :meth:`loss` documents."""

    outputs: int
    """Channels that a network must give."""

    spatial_target: bool
    """True if the target is a map that follows every flip and shift of its image."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give the loss of each sample, ``(batch,)``."""

    @abstractmethod
    def error(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give the error of each sample in [0, 1], ``(batch,)``: what the noise is to bring down."""

    @abstractmethod
    def score(self, logits: Tensor, target: Tensor) -> dict[str, float]:
        """Give the scores over a whole set of samples."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Give plain types that :func:`task_from_json` reads back."""


@dataclass(frozen=True)
class ClassificationTask(LearningTask):
    """One label of several per sample, or several findings per sample.

    Args:
        outputs: number of classes, or of findings if ``multi_label``.
        multi_label: True if each output is a finding of its own (sigmoid) instead of one of several classes (softmax).
        weights: weight of each class in the loss, so that a rare class counts as much as a common one; empty for equal weights.
            For findings: the weight of its positive samples.
    """

    outputs: int
    multi_label: bool = False
    weights: tuple[float, ...] = ()
    spatial_target = False

    @classmethod
    def balanced(cls, targets: Tensor) -> ClassificationTask:
        """Make the task of some targets, weighting each class by the inverse of its share (medical labels are rarely even).

        Args:
            targets: ``(samples,)`` int64 classes, or ``(samples, findings)`` float in {0, 1}.

        Raises:
            UsageError: fewer than two classes occur, or a finding is the same in all samples.
        """
        if targets.ndim == 2:
            positive = targets.float().mean(dim=0)
            if bool(((positive == 0) | (positive == 1)).any()):
                column = int(((positive == 0) | (positive == 1)).nonzero()[0, 0])
                raise UsageError(f"finding {column} is the same in all {len(targets)} samples; a label that never varies cannot be learned, so leave it out")
            return cls(targets.shape[1], True, tuple(((1 - positive) / positive).clamp(max=20.0).tolist()))
        counts = torch.bincount(targets)
        if int((counts > 0).sum()) < 2:
            raise UsageError(f"all {len(targets)} samples have one label; a label that never varies cannot be learned, so give samples of two classes at least")
        weights = torch.where(counts > 0, len(targets) / (len(counts) * counts.clamp(min=1)), 1.0)
        return cls(len(counts), False, tuple(weights.tolist()))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give the weighted cross entropy; target ``(batch,)`` int64, or ``(batch, findings)`` float for findings."""
        weights = logits.new_tensor(self.weights) if self.weights else None
        if self.multi_label:
            return functional.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), pos_weight=weights, reduction="none").mean(dim=1)
        return functional.cross_entropy(logits, target, weight=weights, reduction="none")

    def error(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give 1 for a wrong class, or the share of wrong findings."""
        if self.multi_label:
            return ((logits > 0) != (target > 0.5)).float().mean(dim=1)
        return (logits.argmax(dim=1) != target).float()

    def score(self, logits: Tensor, target: Tensor) -> dict[str, float]:
        """Give balanced accuracy (mean recall over classes), AUC (one against the rest, macro mean) and Matthews correlation.

        For findings: each is the mean over the findings. A class that does not occur in ``target`` is left out of the means.
        """
        if self.multi_label:
            pairs = [_binary_scores(logits[:, k], target[:, k] > 0.5) for k in range(self.outputs)]
            return {name: sum(pair[name] for pair in pairs) / len(pairs) for name in pairs[0]}
        present = [k for k in range(self.outputs) if bool((target == k).any())]
        predicted = logits.argmax(dim=1)
        recall = [float((predicted[target == k] == k).float().mean()) for k in present]
        probabilities = logits.softmax(dim=1)
        auc = [float(compute_roc_auc(probabilities[:, k], (target == k).long())) for k in present if len(present) > 1]  # type: ignore[arg-type]
        if self.outputs == 2:
            auc = auc[1:]
        return {
            "balanced_accuracy": sum(recall) / len(recall),
            "auc": sum(auc) / len(auc) if auc else float("nan"),
            "mcc": _matthews(predicted, target, self.outputs),
        }

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :func:`task_from_json` reads back."""
        return {"task": "classification", "outputs": self.outputs, "multi_label": self.multi_label, "weights": list(self.weights)}


def _binary_scores(logit: Tensor, positive: Tensor) -> dict[str, float]:
    """Scores of one finding."""
    recall = [float(((logit > 0) == positive)[positive == side].float().mean()) for side in (True, False) if bool((positive == side).any())]
    auc = float(compute_roc_auc(logit, positive.long())) if len(recall) == 2 else float("nan")  # type: ignore[arg-type]
    return {"balanced_accuracy": sum(recall) / len(recall), "auc": auc, "mcc": _matthews((logit > 0).long(), positive.long(), 2)}


def _matthews(predicted: Tensor, target: Tensor, classes: int) -> float:
    """Matthews correlation of several classes (Gorodkin 2004), 0 where it is undefined."""
    table = torch.bincount(target * classes + predicted, minlength=classes * classes).reshape(classes, classes).double()
    true, guessed, total = table.sum(dim=1), table.sum(dim=0), table.sum()
    covariance = table.trace() * total - (true * guessed).sum()
    spread = ((total**2 - (guessed**2).sum()) * (total**2 - (true**2).sum())).sqrt()
    return float(covariance / spread) if spread > 0 else 0.0


@dataclass(frozen=True)
class SegmentationTask(LearningTask):
    """One class per voxel; class 0 is background.

    Args:
        outputs: number of classes with the background, at least 2.
    """

    outputs: int
    spatial_target = True

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give Dice loss plus cross entropy; target ``(batch, *spatial)`` int64."""
        onehot = functional.one_hot(target, self.outputs).movedim(-1, 1).to(logits.dtype)
        dice = DiceLoss(softmax=True, include_background=False, reduction="none", smooth_nr=1.0, smooth_dr=1.0)(logits, onehot)
        entropy = functional.cross_entropy(logits, target, reduction="none")
        loss: Tensor = dice.flatten(1).mean(dim=1) + entropy.flatten(1).mean(dim=1)
        return loss

    def error(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give 1 minus the mean Dice of the foreground classes that occur."""
        return 1.0 - self._dice(logits, target).nanmean(dim=1).nan_to_num(nan=1.0)

    def score(self, logits: Tensor, target: Tensor) -> dict[str, float]:
        """Give the mean Dice over samples, of all foreground classes and of each one."""
        dice = self._dice(logits, target)
        scores = {"dice": float(dice.nanmean(dim=1).nanmean())}
        return scores | {f"dice_{k + 1}": float(dice[:, k].nanmean()) for k in range(dice.shape[1])}

    def _dice(self, logits: Tensor, target: Tensor) -> Tensor:
        """Dice of each sample and foreground class, NaN where the class does not occur in the target."""
        predicted = functional.one_hot(logits.argmax(dim=1), self.outputs).movedim(-1, 1)
        truth = functional.one_hot(target, self.outputs).movedim(-1, 1)
        dice: Tensor = compute_dice(predicted, truth, include_background=False)
        return dice

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :func:`task_from_json` reads back."""
        return {"task": "segmentation", "outputs": self.outputs}


def task_from_json(record: Mapping[str, Any]) -> LearningTask:
    """Read what a task's ``to_json`` gave."""
    if record["task"] == "segmentation":
        return SegmentationTask(record["outputs"])
    return ClassificationTask(record["outputs"], record["multi_label"], tuple(record["weights"]))
