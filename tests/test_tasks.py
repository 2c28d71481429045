# SPDX-License-Identifier: Apache-2.0
"""Losses, errors and scores, against numbers worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from monai_salm.errors import UsageError
from monai_salm.tasks import ClassificationTask, LearningTask, SegmentationTask, task_from_json

LOGITS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.5]])
TARGET = torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    "task",
    [ClassificationTask(3), ClassificationTask(2, True, (1.5, 20.0)), SegmentationTask(4)],
    ids=["classes", "findings", "segmentation"],
)
def test_task_survives_json(task: LearningTask) -> None:
    assert task_from_json(json.loads(json.dumps(task.to_json()))) == task


def test_balanced_classes() -> None:
    task = ClassificationTask.balanced(torch.tensor([0, 0, 0, 2]))
    assert (task.outputs, task.multi_label) == (3, False)
    assert task.weights == pytest.approx((4 / 9, 1, 4 / 3))


def test_balanced_findings() -> None:
    task = ClassificationTask.balanced(torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 1]]))
    assert (task.outputs, task.multi_label) == (2, True)
    assert task.weights == pytest.approx((3, 1 / 3))
    rare = torch.zeros(100, 1)
    rare[0] = 1
    assert ClassificationTask.balanced(rare).weights == (20.0,)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([1, 1, 1]), "all 3 samples have one label"),
        (torch.tensor([[1.0, 0], [0, 0]]), "finding 1 is the same in all 2 samples"),
        (torch.tensor([[1.0, 1], [1, 0]]), "finding 0 is the same in all 2 samples"),
    ],
    ids=["classes", "absent", "present"],
)
def test_labels_that_never_vary_are_refused(targets: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ClassificationTask.balanced(targets)


def test_loss_of_classes() -> None:
    loss = ClassificationTask(3).loss(LOGITS, TARGET)
    assert loss.shape == (4,)
    assert float(loss[0]) == pytest.approx(math.log(1 + 2 * math.exp(-2)))
    weighted = ClassificationTask(3, weights=(2.0, 1.0, 0.5)).loss(LOGITS, TARGET)
    assert (weighted / loss).tolist() == pytest.approx([2, 1, 0.5, 2])


def test_loss_of_findings() -> None:
    logits, target = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    plain = ClassificationTask(2, True).loss(logits, target)
    assert plain.tolist() == pytest.approx([(math.log(2) + math.log(1 + math.exp(2))) / 2])
    weighted = ClassificationTask(2, True, (3.0, 3.0)).loss(logits, target)
    assert weighted.tolist() == pytest.approx([(3 * math.log(2) + math.log(1 + math.exp(2))) / 2])


def test_error_of_classes_and_findings() -> None:
    assert ClassificationTask(3).error(LOGITS, TARGET).tolist() == [0, 0, 1, 0]
    logits, target = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert ClassificationTask(2, True).error(logits, target).tolist() == [0, 0.5]


def test_scores_of_classes() -> None:
    scores = ClassificationTask(3).score(LOGITS, TARGET)
    assert scores["balanced_accuracy"] == pytest.approx(2 / 3)
    # One against the rest: class 0 is perfect, class 1 is perfect, class 2: of 3 negatives its sample beats 2 at most.
    assert 0.5 < scores["auc"] < 1
    # Gorodkin: trace 3 of 4, true (2, 1, 1), guessed (2, 2, 0)
    assert scores["mcc"] == pytest.approx((3 * 4 - (2 * 2 + 1 * 2)) / math.sqrt((16 - 8) * (16 - 6)))


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, 0.0)], ids=["right", "wrong"])
def test_scores_of_two_classes(sign: int, expected: float) -> None:
    target = torch.tensor([0, 0, 1, 1])
    logits = sign * torch.stack([-(target - 0.5), target - 0.5], dim=1)
    scores = ClassificationTask(2).score(logits, target)
    assert scores == {"balanced_accuracy": expected, "auc": expected, "mcc": pytest.approx(2 * expected - 1)}


def test_score_of_one_class_alone() -> None:
    scores = ClassificationTask(2).score(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert scores["balanced_accuracy"] == 1
    assert math.isnan(scores["auc"])
    assert scores["mcc"] == 0


def test_scores_of_findings_are_means() -> None:
    target = torch.tensor([[1.0, 1], [0, 1], [1, 0], [0, 0]])
    logits = torch.stack([target[:, 0] - 0.5, 0.5 - target[:, 1]], dim=1)
    assert ClassificationTask(2, True).score(logits, target) == {"balanced_accuracy": 0.5, "auc": 0.5, "mcc": 0}


def _label_logits(labels: Tensor, outputs: int) -> Tensor:
    return 20 * torch.nn.functional.one_hot(labels, outputs).movedim(-1, 1).float()


def test_segmentation() -> None:
    task = SegmentationTask(3)
    target = torch.zeros(3, 4, 4, dtype=torch.int64)
    target[0, :2], target[1, :2], target[1, 2:] = 1, 1, 2
    guess = target.clone()
    guess[0, 2:] = 1  # twice too much: Dice 2/3
    guess[1, 2:] = 0  # class 2 missed: Dice 1 and 0
    logits = _label_logits(guess, 3)
    assert task.error(logits, target)[:2].tolist() == pytest.approx([1 / 3, 0.5])
    scores = task.score(logits[:2], target[:2])
    assert scores == {"dice": pytest.approx((2 / 3 + 0.5) / 2), "dice_1": pytest.approx((2 / 3 + 1) / 2), "dice_2": 0}


def test_segmentation_without_foreground_has_no_error() -> None:
    target = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    assert SegmentationTask(2).error(_label_logits(target, 2), target).tolist() == [0]


def test_segmentation_loss_is_per_sample_and_falls() -> None:
    task = SegmentationTask(2)
    target = torch.zeros(2, 4, 4, 4, dtype=torch.int64)
    target[:, :2] = 1
    guess = target.clone()
    guess[1] = 1 - guess[1]
    loss = task.loss(_label_logits(guess, 2), target)
    assert loss.shape == (2,)
    assert float(loss[0]) == pytest.approx(0, abs=1e-3)
    assert float(loss[1]) > 10
