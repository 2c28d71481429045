# SPDX-License-Identifier: Apache-2.0
"""What a network is trained for: the loss, the error and the scores. Surrogate and victims share one definition."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.losses import DiceLoss
from monai.metrics import compute_hausdorff_distance, compute_roc_auc
from torch import Tensor
from torch.nn import functional

from monai_salm.errors import UsageError
from monai_salm.learning.targets import TargetKind


class LearningTask(ABC):
    """A supervised task. Networks give logits of ``(batch, outputs, ...)``; targets are what :meth:`loss` documents."""

    outputs: int
    """Channels that a network must give."""

    spatial_target: bool
    """True if the target is a map that follows every flip and shift of its image."""

    @property
    @abstractmethod
    def target_kind(self) -> TargetKind:
        """What the labels of its samples are."""

    @abstractmethod
    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give the loss of each sample, ``(batch,)``."""

    @abstractmethod
    def error(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give the error of each sample in [0, 1], ``(batch,)``: what the noise is to bring down."""

    @abstractmethod
    def evidence(
        self,
        logits: Tensor,
        target: Tensor,
        spacing: Sequence[tuple[float, ...]] | None = None,
        *,
        distances: bool = True,
    ) -> Tensor:
        """Give the few numbers of each sample that scores are made of, ``(batch, numbers)`` float64, so that no logits
        need to be kept.

        Args:
            logits, target: of some samples.
            spacing: millimeters between voxels along each axis, for each sample; None, or an empty one: 1 mm.
            distances: measure distances between surfaces, too, which takes time; classification has none.
        """

    @abstractmethod
    def summarize(self, evidence: Tensor) -> dict[str, float]:
        """Give the scores over a whole set of samples, whose evidence may come from several batches, concatenated."""

    def score(
        self,
        logits: Tensor,
        target: Tensor,
        spacing: Sequence[tuple[float, ...]] | None = None,
        *,
        distances: bool = True,
    ) -> dict[str, float]:
        """Give the scores over a whole set of samples; see :meth:`evidence` for the arguments and :meth:`summarize` for
        the scores.
        """
        return self.summarize(self.evidence(logits, target, spacing, distances=distances))

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Give plain types that :func:`task_from_json` reads back."""


@dataclass(frozen=True)
class ClassificationTask(LearningTask):
    """One label of several per sample, or several findings per sample.

    Args:
        outputs: number of classes, or of findings if ``multi_label``.
        multi_label: True if each output is a finding of its own (sigmoid) instead of one of several classes (softmax).
        weights: weight of each class in the loss, so that a rare class counts as much as a common one; empty for equal
            weights. For findings: the weight of its positive samples.

    Example:
        >>> import torch
        >>> from monai_salm import ClassificationTask
        >>> task = ClassificationTask.balanced(torch.tensor([0, 0, 0, 1]))
        >>> task.outputs, [round(weight, 2) for weight in task.weights]
        (2, [0.67, 2.0])
        >>> task.error(torch.tensor([[2.0, -1.0]]), torch.tensor([1]))  # says class 0, and it is class 1
        tensor([1.])
    """

    outputs: int
    multi_label: bool = False
    weights: tuple[float, ...] = ()
    spatial_target = False

    @property
    def target_kind(self) -> TargetKind:
        """Classes, or findings."""
        return TargetKind.FINDINGS if self.multi_label else TargetKind.CLASS

    @classmethod
    def balanced(cls, targets: Tensor) -> ClassificationTask:
        """Make the task of some targets, weighting each class by the inverse of its share (medical labels are rarely
        even).

        Args:
            targets: ``(samples,)`` int64 classes, or ``(samples, findings)`` float in {0, 1}.

        Raises:
            UsageError: fewer than two classes occur, or a finding is the same in all samples.
        """
        if targets.ndim == 2:
            positive = targets.float().mean(dim=0)
            if bool(((positive == 0) | (positive == 1)).any()):
                column = int(((positive == 0) | (positive == 1)).nonzero()[0, 0])
                raise UsageError(
                    f"finding {column} is the same in all {len(targets)} samples; a label that never varies "
                    "cannot be learned, so leave it out"
                )
            return cls(targets.shape[1], True, tuple(((1 - positive) / positive).clamp(max=20.0).tolist()))
        counts = torch.bincount(targets)
        if int((counts > 0).sum()) < 2:
            raise UsageError(
                f"all {len(targets)} samples have one label; a label that never varies cannot be learned, so give "
                "samples of two classes at least"
            )
        weights = torch.where(counts > 0, len(targets) / (len(counts) * counts.clamp(min=1)), 1.0)
        return cls(len(counts), False, tuple(weights.tolist()))

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give the weighted cross entropy; target ``(batch,)`` int64, or ``(batch, findings)`` float for findings."""
        weights = logits.new_tensor(self.weights) if self.weights else None
        if self.multi_label:
            return functional.binary_cross_entropy_with_logits(
                logits, target.to(logits.dtype), pos_weight=weights, reduction="none"
            ).mean(dim=1)
        return functional.cross_entropy(logits, target, weight=weights, reduction="none")

    def error(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give 1 for a wrong class, or the share of wrong findings."""
        if self.multi_label:
            return ((logits > 0) != (target > 0.5)).float().mean(dim=1)
        return (logits.argmax(dim=1) != target).float()

    def evidence(
        self,
        logits: Tensor,
        target: Tensor,
        spacing: Sequence[tuple[float, ...]] | None = None,  # noqa: ARG002
        *,
        distances: bool = True,  # noqa: ARG002
    ) -> Tensor:
        """Give the logits, and behind them the class or the findings."""
        return torch.cat([logits, target.reshape(len(logits), -1).to(logits.dtype)], dim=1).detach().double().cpu()

    def summarize(self, evidence: Tensor) -> dict[str, float]:
        """Give balanced accuracy (mean recall over classes), AUC (one against the rest, macro mean, ties count one
        half) and Matthews correlation.

        For findings: each is the mean over the findings that vary. A class that does not occur in the targets is left
        out of the means.
        """
        # A network that went astray knows nothing: all its logits are equal, which scores as a guess.
        logits = evidence[:, : self.outputs].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        if self.multi_label:
            pairs = [_binary_scores(logits[:, k], evidence[:, self.outputs + k] > 0.5) for k in range(self.outputs)]
            return {name: _mean([pair[name] for pair in pairs]) for name in pairs[0]}
        target = evidence[:, -1].long()
        present = [k for k in range(self.outputs) if bool((target == k).any())]
        predicted = logits.argmax(dim=1)
        ranked = range(1, 2) if self.outputs == 2 else present
        return {
            "balanced_accuracy": _mean([float((predicted[target == k] == k).double().mean()) for k in present]),
            "auc": _mean([_auc(_log_odds(logits, k), target == k) for k in ranked]),
            "mcc": _matthews(predicted, target, self.outputs),
        }

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :func:`task_from_json` reads back."""
        return {
            "task": "classification",
            "outputs": self.outputs,
            "multi_label": self.multi_label,
            "weights": list(self.weights),
        }


def _binary_scores(logit: Tensor, positive: Tensor) -> dict[str, float]:
    """Scores of one finding, NaN if it never varies."""
    if bool(positive.all()) or not bool(positive.any()):
        return dict.fromkeys(("balanced_accuracy", "auc", "mcc"), math.nan)
    recall = [float(((logit > 0) == positive)[positive == side].double().mean()) for side in (True, False)]
    return {
        "balanced_accuracy": _mean(recall),
        "auc": _auc(logit, positive),
        "mcc": _matthews((logit > 0).long(), positive.long(), 2),
    }


def _log_odds(logits: Tensor, k: int) -> Tensor:
    """Rank samples by the probability of a class; probabilities themselves would all be 1 for a network that is very
    sure.
    """
    others = [column for column in range(logits.shape[1]) if column != k]
    return logits[:, k] - logits[:, others].logsumexp(dim=1)


def _auc(rank: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve, NaN where one side does not occur."""
    both_occur = bool(positive.any()) and not bool(positive.all())
    return float(compute_roc_auc(rank, positive.long())) if both_occur else math.nan  # type: ignore[arg-type]


def _mean(values: Sequence[float]) -> float:
    """Mean of the values that are defined, NaN if none is."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _matthews(predicted: Tensor, target: Tensor, classes: int) -> float:
    """Matthews correlation of several classes (Gorodkin 2004), 0 where it is undefined."""
    table = torch.bincount(target * classes + predicted, minlength=classes * classes).reshape(classes, classes).double()
    true, guessed, total = table.sum(dim=1), table.sum(dim=0), table.sum()
    covariance = table.trace() * total - (true * guessed).sum()
    spread = ((total**2 - (guessed**2).sum()) * (total**2 - (true**2).sum())).sqrt()
    return float(covariance / spread) if spread > 0 else 0.0


def _winners(logits: Tensor) -> Tensor:
    """Give the class of each voxel; on a CPU many times as fast as argmax over an axis that is not the last."""
    return logits.max(dim=1).indices


@dataclass(frozen=True)
class SegmentationTask(LearningTask):
    """One class per voxel; class 0 is background.

    Args:
        outputs: number of classes with the background, at least 2.

    Example:
        >>> import torch
        >>> from monai_salm import SegmentationTask
        >>> task = SegmentationTask(outputs=2)
        >>> logits = torch.zeros(1, 2, 8, 8)  # (batch, classes, *spatial)
        >>> task.loss(logits, torch.zeros(1, 8, 8, dtype=torch.int64)).shape
        torch.Size([1])
    """

    outputs: int
    spatial_target = True

    @property
    def target_kind(self) -> TargetKind:
        """Label maps."""
        return TargetKind.LABEL_MAP

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give Dice loss plus cross entropy; target ``(batch, *spatial)`` int64."""
        onehot = functional.one_hot(target, self.outputs).movedim(-1, 1).to(logits.dtype)
        dice = DiceLoss(softmax=True, include_background=False, reduction="none", smooth_nr=1.0, smooth_dr=1.0)(
            logits, onehot
        )
        entropy = functional.cross_entropy(logits, target, reduction="none")
        loss: Tensor = dice.flatten(1).mean(dim=1) + entropy.flatten(1).mean(dim=1)
        return loss

    def error(self, logits: Tensor, target: Tensor) -> Tensor:
        """Give 1 minus the mean Dice of the foreground classes that occur."""
        return 1.0 - self._dice(_winners(logits), target).nanmean(dim=1).nan_to_num(nan=1.0)

    def evidence(
        self,
        logits: Tensor,
        target: Tensor,
        spacing: Sequence[tuple[float, ...]] | None = None,
        *,
        distances: bool = True,
    ) -> Tensor:
        """Give the Dice of each foreground class, and behind them its HD95 in mm."""
        predicted = _winners(logits.detach())
        columns = [self._dice(predicted, target).double().cpu()]
        if distances:
            pairs = zip(predicted, target, spacing or [()] * len(target), strict=True)
            columns.append(
                torch.tensor(
                    [self._distances(guess, truth, steps) for guess, truth, steps in pairs], dtype=torch.float64
                )
            )
        return torch.cat(columns, dim=1)

    def summarize(self, evidence: Tensor) -> dict[str, float]:
        """Give Dice and HD95 (mm, only if distances were measured): the mean over samples, of all foreground classes
        together and of each one.

        A class is left out of the Dice of a sample where it does not occur. HD95 is the larger of the 95th percentiles
        of the distances from one surface to the other and back. It is the diagonal of the image where only one of
        prediction and truth holds the class, and is left out where neither does.
        """
        scores: dict[str, float] = {}
        classes = self.outputs - 1
        for name, values in (("dice", evidence[:, :classes]), ("hd95", evidence[:, classes:])):
            if not values.shape[1]:
                continue
            scores[name] = float(values.nanmean(dim=1).nanmean())
            scores |= {f"{name}_{k + 1}": float(values[:, k].nanmean()) for k in range(classes)}
        return scores

    def _distances(self, predicted: Tensor, target: Tensor, spacing: tuple[float, ...]) -> list[float]:
        """HD95 in mm of one sample and each foreground class."""
        steps = spacing or (1.0,) * target.ndim
        diagonal = math.hypot(*(length * step for length, step in zip(target.shape, steps, strict=True)))
        distances = []
        for k in range(1, self.outputs):
            guess, truth = predicted == k, target == k
            if bool(guess.any()) and bool(truth.any()):
                with warnings.catch_warnings():  # MONAI 1.6 warns of an argument that it passes itself
                    warnings.simplefilter("ignore", FutureWarning)
                    distance = compute_hausdorff_distance(
                        guess[None, None].cpu(),
                        truth[None, None].cpu(),
                        include_background=True,
                        percentile=95,
                        spacing=steps,
                    )
                distances.append(float(distance))
            else:
                distances.append(diagonal if bool(guess.any()) or bool(truth.any()) else math.nan)
        return distances

    def _dice(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Dice of each sample and foreground class, NaN where the class does not occur in the target."""
        count, classes = len(predicted), self.outputs
        pairs = (target * classes + predicted).flatten(1)
        ones = torch.ones(1, dtype=torch.int64, device=pairs.device).expand_as(pairs)
        table = (
            torch.zeros(count, classes * classes, dtype=torch.int64, device=pairs.device)
            .scatter_add_(1, pairs, ones)
            .reshape(count, classes, classes)
        )
        truth, guess = table.sum(dim=2)[:, 1:], table.sum(dim=1)[:, 1:]
        both = table.diagonal(dim1=1, dim2=2)[:, 1:]
        return torch.where(truth > 0, 2 * both / (truth + guess), torch.nan)

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :func:`task_from_json` reads back."""
        return {"task": "segmentation", "outputs": self.outputs}


def task_from_json(record: Mapping[str, Any]) -> LearningTask:
    """Read what a task's ``to_json`` gave."""
    if record["task"] == "segmentation":
        return SegmentationTask(record["outputs"])
    return ClassificationTask(record["outputs"], record["multi_label"], tuple(record["weights"]))
