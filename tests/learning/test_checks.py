# SPDX-License-Identifier: Apache-2.0
"""What does not fit is told in one line before any training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from monai_salm.errors import UsageError
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.methods.minmin import MinMinOptimizer
from monai_salm.methods.minmin_settings import MinMinSettings
from tests.builders import cube_set, disk_set, working_sample


class Gives(nn.Module):
    """A network whose result is changed by a function; it counts the images that it learned from."""

    def __init__(self, change: Any = lambda logits: logits, *, outputs: int = 2, convolution: Any = nn.Conv2d) -> None:
        super().__init__()
        self.first, self.last, self.change = convolution(1, 4, 3, padding=1), nn.Linear(4, outputs), change
        self.learned = 0

    def forward(self, images: torch.Tensor) -> Any:
        self.learned += len(images) * self.training
        return self.change(self.last(self.first(images).flatten(2).mean(dim=2)))


def _run(
    network: nn.Module, samples: WorkingSet | None = None, task: LearningTask | None = None, **arguments: Any
) -> None:
    settings = MinMinSettings(max_rounds=1, noise_steps=1, surrogate_batches=1)
    list(MinMinOptimizer(network, task or ClassificationTask(2), settings, **arguments).run(samples or disk_set(4)))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            Gives(outputs=3),
            r"network 'Gives' gives \(1, 3\) where classification needs \(1, 2\); give a network for classification",
        ),
        (Gives(outputs=1), r"gives \(1, 1\) where classification needs \(1, 2\)"),
        (Gives(convolution=nn.Conv3d), r"cannot work on images of \(16, 16\) \(.+\); give another"),
        (
            Gives(lambda logits: {"logits": logits}),
            r"gives a dict where logits are needed; wrap it in a module that returns a tensor of \(1, 2\)",
        ),
        (Gives(lambda logits: [{"logits": logits}]), "gives a dict where logits are needed"),
        (Gives(lambda _: []), r"cannot work on images of \(16, 16\) \(list index out of range\)"),
        (Gives(lambda _: None), "gives a NoneType where logits are needed"),
        (Gives(lambda logits: logits[0]), r"gives \(2,\) where classification needs \(1, 2\)"),
        (Gives(lambda logits: logits[:, :, None, None]), r"gives \(1, 2, 1, 1\) where classification needs \(1, 2\)"),
        (Gives(lambda logits: logits / 0), "gives values that are not finite for an empty image"),
        (Gives().half(), r"cannot work on images of \(16, 16\)"),
        (
            nn.Sequential(nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten()),
            "network 'Sequential' has no parameters to train; give another",
        ),
    ],
    ids=[
        "three",
        "one",
        "3D",
        "dict",
        "list of dict",
        "empty list",
        "nothing",
        "no batch",
        "spatial",
        "not finite",
        "half",
        "no parameters",
    ],
)
def test_network_that_does_not_fit(network: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        _run(network)
    assert "\n" not in str(caught.value)
    assert getattr(network, "learned", 0) == 0, "before any training"


def test_the_first_of_several_results_counts_and_modes_stay() -> None:
    network = Gives(lambda logits: (logits, "hidden"))
    network.first.eval()
    _run(network, freeze_surrogate=True)
    _run(network)
    assert network.learned > 0


def test_network_without_parameters_may_be_frozen() -> None:
    _run(nn.Sequential(nn.AdaptiveAvgPool2d((1, 2)), nn.Flatten()), freeze_surrogate=True)


def test_network_for_classes_does_not_segment() -> None:
    with pytest.raises(
        UsageError, match=r"gives \(1, 2\) where segmentation needs \(1, 2, 8, 8, 8\); give a network for segmentation"
    ):
        _run(Gives(convolution=nn.Conv3d), cube_set(), SegmentationTask(2))


def _with(target: Any) -> WorkingSet:
    return WorkingSet([working_sample(name, np.full((16, 16), 0.5), target) for name in "ab"])


@pytest.mark.parametrize(
    ("target", "task", "message"),
    [
        (None, ClassificationTask(2), "the samples have no labels"),
        (2, ClassificationTask(2), "sample 'a' has class 2, the task 2 outputs, numbered from 0"),
        (-1, ClassificationTask(2), "sample 'a' has class -1, the task 2 outputs"),
        (
            1,
            ClassificationTask(2, multi_label=True),
            "sample 'a' has a target of type int where the task needs 2 findings",
        ),
        (np.zeros(3, np.float32), ClassificationTask(2, multi_label=True), "has 3 findings, the task 2 outputs"),
        (np.zeros(2, np.float32), ClassificationTask(2), r"a target of float32 \(2,\) where the task needs a class"),
        (np.full((16, 16), 2, np.uint8), SegmentationTask(2), "has class 2, the task 2 outputs"),
        (
            np.zeros((8, 8), np.uint8),
            SegmentationTask(2),
            r"a target of uint8 \(8, 8\) where the task needs a label map of \(16, 16\)",
        ),
        (1, SegmentationTask(2), "a target of type int where the task needs a label map"),
    ],
    ids=str,
)
def test_target_that_does_not_fit(target: Any, task: LearningTask, message: str) -> None:
    network = nn.Conv2d(1, 2, 1) if task.spatial_target else Gives()
    with pytest.raises(UsageError, match=message) as caught:
        _run(network, _with(target), task)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta:3:4"])
def test_device_that_is_not_there(device: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be used .*; give cpu, or a device that this torch sees") as caught:
        MinMinOptimizer(Gives(), ClassificationTask(2), device=device)
    assert "\n" not in str(caught.value)


def test_search_that_leaves_the_finite_numbers_is_told() -> None:
    image = np.full((16, 16), 0.5)
    image[3, 3] = np.nan
    samples = WorkingSet([working_sample(name, image, number) for number, name in enumerate("ab")])
    with pytest.raises(UsageError, match="the surrogate's loss is not finite in round 1; give finite images"):
        _run(Gives(), samples)
    with pytest.raises(
        UsageError, match="a loss gradient is not finite near sample 'a'; give finite images, or another network"
    ):
        _run(Gives(), samples, freeze_surrogate=True)


def test_frozen_samples_do_not_know_of_each_other() -> None:
    whole = disk_set(6)
    network = Gives()
    together = dict(
        MinMinOptimizer(network, ClassificationTask(2), MinMinSettings(max_rounds=2), freeze_surrogate=True).run(whole)
    )
    for sample in whole.samples:
        ((_, alone),) = MinMinOptimizer(
            network, ClassificationTask(2), MinMinSettings(max_rounds=2), freeze_surrogate=True
        ).run(WorkingSet([sample]))
        assert np.array_equal(alone, together[sample.sample_id])
        assert alone.any()
