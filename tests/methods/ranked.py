# SPDX-License-Identifier: Apache-2.0
"""Small searches that one process makes as well as several: ``python -m tests.methods.ranked FOLDER`` in each of them
keeps what it found in a file of the folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_salm.learning import strangers
from monai_salm.learning.consumers import NO_AUGMENTATION
from monai_salm.learning.networks import seeded_network
from monai_salm.learning.ranks import ALONE, Ranks, joined_ranks
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.strangers import SampleGroups, StrangerPanel
from monai_salm.learning.surrogate import SurrogateCard
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.methods.base import MethodRun, NoiseMethod
from monai_salm.methods.choice import MeasuredChoice
from monai_salm.methods.error_minimizing import ErrorMinimizing, FrozenSurrogate
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.registry import METHODS
from monai_salm.pipeline.checkpoint import Checkpoint
from monai_salm.pipeline.together import _SharedMemory
from tests.builders import cube_set, disk_set, working_sample

CPU = torch.device("cpu")
FEW = {"surrogate_batches": 2, "clean_batches": 2, "texture_batches": 2, "noise_steps": 2, "batch_size": 2}
ROUNDS = 3


def _of(name: str, task: str = "classification", **changes: Any) -> ErrorMinimizing:
    method = METHODS[name][task]
    assert isinstance(method, ErrorMinimizing)
    return replace(method, settings=replace(method.settings, **FEW | {"renewed_batches": 0} | changes))


def _of_many_shapes() -> WorkingSet:
    """Give 7 pictures of four shapes, so that batches are padded, and the last one is a sample alone."""
    generator = np.random.default_rng(3)
    images = [generator.random((9 + 8 * (number % 2), 9 + 8 * (number % 4 // 2))) for number in range(7)]
    return WorkingSet([working_sample(f"{number}", image, number % 2) for number, image in enumerate(images)])


def _frozen() -> FrozenSurrogate:
    samples = disk_set(5)
    network = seeded_network("small-cnn", samples.padded_shape, 2, 0)
    card = SurrogateCard(
        network="small-cnn", spatial_dims=2, task=ClassificationTask(2).to_json(), classes=["a", "b"],
        search=MinMinSettings(**FEW).to_json(), augmentation=NO_AUGMENTATION.to_json(),
        padded_shape=list(samples.padded_shape), working_size=16, epsilon=(8 / 255, "window"), window=None,
        modality="", method="salm", rounds=2, series={}, channels=1,
    )  # fmt: skip
    return FrozenSurrogate(network, card)


class Batchwise(nn.Sequential):
    """A network of a user's, whose layers look at whole batches and at chance."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(4, momentum=None)
        super().__init__(nn.Conv2d(1, 4, 3, 2), norm, nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.LazyLinear(2))
        self(torch.zeros(2, 1, 16, 16))


CASES: dict[str, tuple[Callable[[], NoiseMethod], Callable[[], WorkingSet], str]] = {
    "texture": (lambda: _of("salm:texture"), lambda: disk_set(9), "small-cnn"),
    "exchange": (lambda: _of("salm:exchange", renew_every=1), lambda: disk_set(7), "small-resnet"),
    "more steps": (lambda: _of("salm:exchange", noise_steps=3, surrogate_batches=3), lambda: disk_set(7), "small-cnn"),
    "mixed": (lambda: _of("salm:mixed"), lambda: disk_set(6), "small-resnet"),
    "minmin": (lambda: _of("salm:minmin", "segmentation"), lambda: cube_set(5), "small-unet"),
    "random-mask": (lambda: _of("random-mask"), _of_many_shapes, "small-cnn"),
    "a user's network": (lambda: ErrorMinimizing(MinMinSettings(**FEW)), lambda: disk_set(5), "Batchwise"),
    "frozen": (_frozen, lambda: disk_set(5), "small-cnn"),
    "choice": (
        lambda: MeasuredChoice({"texture": _of("salm:texture"), "plain": ErrorMinimizing(MinMinSettings(**FEW))}),
        lambda: disk_set(14, 8),
        "small-cnn",
    ),
}


RESUMED = ("exchange",)
"""Cases that are stopped after two rounds, and go on with another number of processes."""


def search(
    name: str, ranks: Ranks = ALONE, *, rounds: int = ROUNDS, checkpoint: Path | None = None
) -> dict[str, np.ndarray]:
    """Give the noise of a case, and below other names what else has to be the same."""
    method, made, network = CASES[name]
    samples = made()
    maps = name == "minmin"
    task: LearningTask = SegmentationTask(2) if maps else ClassificationTask(2)

    def build() -> nn.Module:
        own = network == "Batchwise"
        return Batchwise() if own else seeded_network(network, samples.padded_shape, 2, 0)

    memory = None if checkpoint is None or not ranks.first else Checkpoint(checkpoint, "a run")
    run = MethodRun(
        seed=1, device=CPU, build_surrogate=build, rounds=rounds, ranks=ranks, batch_size=2,
        memory=memory if ranks.count == 1 or checkpoint is None else _SharedMemory(memory, ranks),
    )  # fmt: skip
    torch.manual_seed(0)
    noise = dict(method().noise(samples, task, run))
    assert run.surrogate is not None
    weights = {f"weight {key}": value.numpy() for key, value in run.surrogate.network.state_dict().items()}
    return {**noise, **weights, "errors": np.array(run.errors), "choice": np.array(run.choice)}


def estimate(ranks: Ranks = ALONE) -> str:
    """Give what a stranger would learn from no noise at all."""
    samples = disk_set(16)
    panel = StrangerPanel(
        samples, SampleGroups(samples.ids, "image"), ClassificationTask(2), seed=0, device=CPU, ranks=ranks
    )
    return str(panel.estimate(lambda _: np.zeros((16, 16), np.int16)))


def few_steps() -> None:
    """Let strangers look at few images for few steps."""
    strangers.LEAST_SAMPLES, strangers.STEPS = 8, {2: 4, 3: 4}


def main(folder: Path) -> None:
    """Run all cases with the processes that were started."""
    torch.set_num_threads(1)
    few_steps()
    with joined_ranks() as ranks:
        found: dict[str, Any] = {}
        for name in CASES:
            before = ranks.traffic.operations
            found |= {f"{name}/{key}": value for key, value in search(name, ranks).items()}
            found[f"operations of {name}"] = np.array(ranks.traffic.operations - before)
        for name in RESUMED:
            search(name, ranks, rounds=2, checkpoint=folder / f"{name} of {ranks.count}")
            resumed = search(name, ranks, checkpoint=folder / f"{name} of 1")
            found |= {f"{name} resumed/{key}": value for key, value in resumed.items()}
        found["estimate"] = np.array(estimate(ranks))
    np.savez(folder / f"{ranks.number} of {ranks.count}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
