# SPDX-License-Identifier: Apache-2.0
"""Losses, errors and scores, against numbers worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from monai_salm.errors import UsageError
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask, task_from_json

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


@pytest.mark.parametrize("value", [0.0, 3.0, math.nan, math.inf])
@pytest.mark.parametrize("classes", [2, 3])
def test_constant_prediction_scores_as_a_guess(classes: int, value: float) -> None:
    """Also that of a network whose weights went astray, and on classes of very different size."""
    target = torch.tensor([0] + [1] * 20 + [classes - 1] * 5)
    logits = torch.full((len(target), classes), 1.0)
    logits[:, 1] = value
    scores = ClassificationTask(classes).score(logits, target)
    assert scores == {"balanced_accuracy": pytest.approx(1 / classes), "auc": 0.5, "mcc": 0}
    findings = ClassificationTask(classes, True).score(logits, torch.nn.functional.one_hot(target, classes).float())
    assert findings == {"balanced_accuracy": pytest.approx(0.5), "auc": 0.5, "mcc": 0}


def test_area_under_the_curve_counts_ties_one_half() -> None:
    generator = torch.Generator().manual_seed(0)
    rank, target = (
        torch.randint(0, 4, (60,), generator=generator).float(),
        torch.randint(0, 2, (60,), generator=generator),
    )
    pairs = rank[target == 1][:, None] - rank[target == 0]
    expected = float(((pairs > 0).float() + (pairs == 0).float() / 2).mean())
    assert ClassificationTask(2).score(torch.stack([-rank, rank], dim=1), target)["auc"] == pytest.approx(expected)


def test_area_under_the_curve_of_a_network_that_is_very_sure() -> None:
    """Probabilities of 1 - exp(-50) and 1 - exp(-60) are one number; the order is not lost."""
    logits = torch.tensor([[0.0, 50.0], [0.0, 60.0]])
    assert ClassificationTask(2).score(logits, torch.tensor([0, 1]))["auc"] == 1
    assert ClassificationTask(2).score(logits, torch.tensor([1, 0]))["auc"] == 0


def test_finding_that_never_varies_is_left_out() -> None:
    logits, target = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), torch.tensor([[1.0, 1], [0, 1]])
    assert ClassificationTask(2, True).score(logits, target) == {"balanced_accuracy": 1, "auc": 1, "mcc": 1}


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
    dice = {"dice": pytest.approx((2 / 3 + 0.5) / 2), "dice_1": pytest.approx((2 / 3 + 1) / 2), "dice_2": 0}
    assert task.score(logits[:2], target[:2], distances=False) == dice
    # Class 1 of the first image reaches two rows too far, for 4 of 16 + 8 edge pixels; class 2 of the second image is
    # missed: the diagonal, 4 * sqrt(2).
    assert scores == dice | {
        "hd95": pytest.approx((2 + math.sqrt(32) / 2) / 2), "hd95_1": pytest.approx(2 / 2),
        "hd95_2": pytest.approx(math.sqrt(32)),
    }  # fmt: skip


def _boxes(*rows: tuple[int, int]) -> Tensor:
    labels = torch.zeros(len(rows), 20, 8, 8, dtype=torch.int64)
    for volume, (start, stop) in zip(labels, rows, strict=True):
        volume[start:stop, 2:6, 2:6] = 1
    return labels


def test_distance_of_surfaces_is_in_millimeters() -> None:
    """A box that is moved by 3 voxels along an axis of 2.5 mm; the distances of its faces are worked out by brute
    force.
    """
    task, truth, guess = SegmentationTask(2), _boxes((4, 10)), _boxes((7, 13))
    spacing = (2.5, 1.0, 0.5)

    def surface(labels: Tensor) -> Tensor:
        inner = torch.zeros_like(labels)
        start, stop = (int(value) for value in (labels[0, :, 3, 3].nonzero().min(), labels[0, :, 3, 3].nonzero().max()))
        inner[0, start + 1 : stop, 3:5, 3:5] = 1
        return (labels - inner)[0].nonzero() * torch.tensor(spacing)

    distance = torch.cdist(surface(guess).double(), surface(truth).double())
    expected = max(float(distance.min(dim=axis).values.quantile(0.95)) for axis in (0, 1))
    assert expected == 7.5
    assert task.score(_label_logits(guess, 2), truth, [spacing])["hd95"] == pytest.approx(expected)
    assert task.score(_label_logits(guess, 2), truth)["hd95"] == pytest.approx(3)
    assert task.score(_label_logits(truth, 2), truth, [spacing])["hd95"] == 0


@pytest.mark.parametrize(
    ("truth", "guess", "expected"),
    [((4, 10), (0, 0), math.hypot(40, 8, 8)), ((0, 0), (4, 10), math.hypot(40, 8, 8)), ((0, 0), (0, 0), math.nan)],
    ids=["missed", "invented", "neither"],
)
def test_distance_without_a_surface(truth: tuple[int, int], guess: tuple[int, int], expected: float) -> None:
    scores = SegmentationTask(2).score(_label_logits(_boxes(guess), 2), _boxes(truth), [(2.0, 1.0, 1.0)])
    assert scores["hd95"] == pytest.approx(expected, nan_ok=True)
    # Beside another image, a class that is in neither does not count.
    both = SegmentationTask(2).score(
        _label_logits(_boxes(guess, (4, 10)), 2), _boxes(truth, (4, 10)), [(2.0, 1.0, 1.0), ()]
    )
    assert both["hd95"] == pytest.approx(0 if math.isnan(expected) else expected / 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [ClassificationTask(3), ClassificationTask(3, True), SegmentationTask(3)],
    ids=["classes", "findings", "segmentation"],
)
def test_evidence_of_parts_makes_the_scores_of_the_whole(task: LearningTask) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (7, 7) if task.spatial_target else ()
    logits = torch.randn(12, 3, *shape, generator=generator)
    findings = isinstance(task, ClassificationTask) and task.multi_label
    target = (
        torch.randint(0, 3, (12, *shape), generator=generator)
        if not findings
        else torch.randint(0, 2, (12, 3), generator=generator).float()
    )
    parts = [task.evidence(logits[cut], target[cut]) for cut in (slice(0, 5), slice(5, 6), slice(6, 12))]
    assert task.summarize(torch.cat(parts)) == task.score(logits, target)
    assert all(math.isfinite(value) for value in task.score(logits, target).values())


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
