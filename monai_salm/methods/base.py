# SPDX-License-Identifier: Apache-2.0
"""What a noise method is, what it is told and what it tells, and the arithmetic that all of them share.

A method's noise is in integer steps on each sample's working grid, within the budget and zero where nothing can carry
noise; inside that it is sparse, dense, or as its authors say. The page docs/add-a-method.md walks through a new one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.learning.chance import SampleChance
from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.ranks import ALONE, Ranks
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import SLICE_BATCH, VOLUME_BATCH, WorkingBatch, WorkingSet
from monai_salm.learning.strangers import SampleGroups
from monai_salm.learning.tasks import LearningTask
from monai_salm.learning.training import SURROGATE_RATE, Descent, drawn_batches, supervised, train
from monai_salm.methods.search_state import RoundLog
from monai_salm.progress import track

Noise = Iterator[tuple[str, NDArray[np.int16]]]
"""Each sample's id and its noise in integer steps on its working grid, in any order; colors may be a last axis."""


class SearchMemory(Protocol):
    """Where a method keeps what it needs to go on after it was stopped."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Give the tensors and the plain values that were saved last; None if nothing was."""

    def save(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Keep tensors and plain values, in place of what was kept before."""


@dataclass(frozen=True, kw_only=True)
class TrainedSurrogate:
    """What a method leaves behind, so that further samples can have noise of the same kind.

    Args:
        network: as the last round left it.
        search: plain types that the method reads back.
        augmentation: that the noise was made to survive.
        rounds: that were run; further samples get as many.
        wanted_error: at most, for the surrogate to have learned the noise; 0 if the method does not say.
        errors: of the surrogate in the rounds that say something of the noise.
        frozen: True if the surrogate was given and learned nothing now.
        beside: names of the networks that stand beside the run's own in an ensemble.
        view: of the run's own, as behind ``/`` in a network's name.
    """

    network: nn.Module
    search: dict[str, Any]
    augmentation: ConsumerAugmentation
    rounds: int
    wanted_error: float
    errors: tuple[float, ...]
    frozen: bool
    beside: tuple[str, ...] = ()
    view: str = ""


@dataclass(kw_only=True)
class MethodRun:
    """What a method is told, and what it reports while its noise is taken.

    Args:
        seed: of everything random; one that can be guessed gives the noise away, see
            :func:`~monai_salm.chance.secret_seed`.
        device: where to compute.
        build_surrogate: gives an untrained network for the task; methods without a deep surrogate never call it.
        rounds: how often the noise is improved; None takes the method's own number. Each method says what its round is.
        perturbed_fraction: largest share of the anatomy's voxels that may change, in (0, 1]; dense methods change all
            they can.
        batch_size: samples per step; None takes 32 slices, or 8 volumes.
        memory: where a stopped run left what it needs to go on; None keeps nothing.
        groups: which samples belong together, for methods that hold some of them out; None where that is not known.
        gentle: take no candidate, where there are some, whose noise moves networks of clean images.
        show_progress: a progress bar on standard error.
        after_round: told of each round, by methods that know of it while they go on.
        ranks: processes that search together; all are given the same run, and all take all of the noise.
        passes: forward and backward passes of the surrogate per sample; a forward pass alone counts half.
        errors: mean error of the surrogate in each round, at what the noise is to make it say.
        surrogate: what the method leaves behind; None if it has nothing that further samples could use.
        choice: what was chosen and why, in words; empty for methods that choose nothing.
    """

    seed: int
    device: torch.device
    build_surrogate: Callable[[], nn.Module]
    rounds: int | None = None
    perturbed_fraction: float = 0.4
    batch_size: int | None = None
    memory: SearchMemory | None = None
    groups: SampleGroups | None = None
    gentle: bool = False
    show_progress: bool = False
    after_round: Callable[[RoundLog], None] | None = None
    ranks: Ranks = ALONE
    passes: float = 0.0
    errors: list[float] = field(default_factory=list)
    surrogate: TrainedSurrogate | None = None
    choice: str = ""


class NoiseMethod(ABC):
    """A way to make the noise of some samples; :mod:`monai_salm.methods.names` says what it is for.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from monai_salm.methods.base import MethodRun, NoiseMethod
        >>> class Upward(NoiseMethod):
        ...     def noise(self, samples, task, run):
        ...         for sample in samples.samples:
        ...             yield sample.sample_id, (sample.levels * (sample.carrier_voxels > 0)).astype(np.int16)
        >>> run = MethodRun(seed=0, device=torch.device("cpu"), build_surrogate=torch.nn.Identity)
        >>> [(name, int(steps.max())) for name, steps in Upward().noise(samples, None, run)]  # samples: see WorkingSet
        [('a', 8), ('b', 8), ('c', 8), ('d', 8)]
    """

    rounds: int = 0
    """How often the noise is improved, unless the user gives another number."""

    takes_color: bool = False
    """True if colors may have noise of their own; else it is made for gray images, and all colors share it."""

    takes_surrogate: bool = False
    """True if the surrogate of a finished run can make the noise of further samples."""

    takes_ranks: bool = False
    """True if several processes can share its work; else who needs its noise makes all of it."""

    @abstractmethod
    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise of all samples.

        Args:
            samples: with the targets of the task.
            task: what the noise is made against; None only for methods that need no labels.
            run: what the user chose; takes what the method reports.

        Raises:
            UsageError: samples, task and method do not fit each other.
        """

    def trial(self) -> NoiseMethod:
        """Give the method as a choice among several tries it, with less work where that shows enough."""
        return self

    def suits(self, samples: WorkingSet) -> bool:
        """Say whether a choice among methods is to try this one on some samples."""
        del samples
        return True

    def check(self, *, perturbed_fraction: float, rounds: int | None) -> None:
        """Find out whether a user's choices are possible.

        Raises:
            UsageError: they are not.
        """
        if rounds is not None and rounds < 1:
            raise UsageError(f"rounds {rounds} must be at least 1")
        if not 0 < perturbed_fraction <= 1:
            raise UsageError(f"perturbed fraction {perturbed_fraction:g} is not in (0, 1]")

    def rounds_of(self, run: MethodRun) -> int:
        """Give the user's number of rounds, or the method's own."""
        return self.rounds if run.rounds is None else run.rounds


# Noise of a batch ---------------------------------------------------------------------------------------------------


def within_budget(steps: Tensor, batch: WorkingBatch) -> Tensor:
    """Round steps to what a file can hold, at most the budget, zero without carriers."""
    return steps.round().clamp(-batch.levels, batch.levels) * (batch.voxels > 0)


def straight_through(steps: Tensor, batch: WorkingBatch) -> Tensor:
    """Give steps within the budget, through whose rounding gradients pass as if there were none."""
    rounded = steps + (steps.round() - steps).detach()
    return rounded.clamp(-batch.levels, batch.levels) * (batch.voxels > 0)


def noise_model(steps: Tensor, batch: WorkingBatch) -> Tensor:
    """Give the noise in model values, as the mean of each cell keeps it; gradients flow back to the steps."""
    return straight_through(steps, batch) * batch.share * batch.step_model


def protected_images(steps: Tensor, batch: WorkingBatch) -> Tensor:
    """Give the images as a consumer will find them in the files; gradients flow back to the steps."""
    return (batch.images + noise_model(steps, batch)).clamp(0, 1)


def deliver(steps: Tensor, batch: WorkingBatch, samples: WorkingSet) -> Noise:
    """Give the ids and the integer steps of a batch, within the budget."""
    final = within_budget(steps.detach(), batch)
    for row, index in enumerate(batch.indices):
        yield samples.ids[index], samples.crop(final[row], index).astype(np.int16)


def random_start(chance: SampleChance, batch: WorkingBatch) -> Tensor:
    """Draw a number in [-1, 1) for each cell, where gradient steps are to begin."""
    return chance.fresh(batch.place, 1, "start", batch.images.shape[1:]) * 2 - 1


# Batches and surrogates ---------------------------------------------------------------------------------------------


def targets_of(batch: WorkingBatch) -> Tensor:
    """Give the targets of a batch, or raise UsageError: the method needs them."""
    if batch.target is None:
        raise UsageError("the samples have no labels, which this method needs; give --labels, or --method random")
    return batch.target


def task_needed(task: LearningTask | None, samples: WorkingSet) -> LearningTask:
    """Give the task, or raise UsageError: the method needs one, and samples with labels."""
    if task is None or samples.target_kind is None:
        raise UsageError("the samples have no labels, which this method needs; give --labels, or --method random")
    return task


def batch_size(samples: WorkingSet, run: MethodRun) -> int:
    """Give the number of samples of a step."""
    return run.batch_size or (VOLUME_BATCH if samples.spatial_dims == 3 else SLICE_BATCH)


def batches_in_order(resident: ResidentSet, run: MethodRun, description: str) -> Iterator[WorkingBatch]:
    """Give all samples once, those of like shape together so that little is padded."""
    count = batch_count(resident.samples, run)
    batches = resident.batches(resident.samples.by_shape(), batch_size(resident.samples, run))
    return iter(track(batches, description, "batches", total=count, show_progress=run.show_progress))


def batch_count(samples: WorkingSet, run: MethodRun) -> int:
    """Count the batches of one pass over all samples."""
    return math.ceil(len(samples) / batch_size(samples, run))


def train_clean(
    network: nn.Module, resident: ResidentSet, task: LearningTask, run: MethodRun, *, epochs: int, least_steps: int,
    augmentation: ConsumerAugmentation,
) -> None:  # fmt: skip
    """Train a network on the samples as they are, in place, and leave it frozen.

    Args:
        network: on the run's device.
        resident: the samples, there.
        task, run: as a method has them.
        epochs: passes over the samples.
        least_steps: optimizer steps at least, so that few samples train it as well.
        augmentation: of each batch; targets that are maps follow it.
    """
    samples = resident.samples
    steps = max(least_steps, epochs * batch_count(samples, run))
    chance = SampleChance(samples, run.seed, run.device)

    def counted() -> Iterator[WorkingBatch]:
        batches = drawn_batches(resident, chance, batch_size(samples, run), round_number=0, most=steps)
        for batch in track(batches, "surrogate", "steps", total=steps, show_progress=run.show_progress):
            targets_of(batch)
            yield batch
            run.passes += len(batch.indices) / len(samples)

    descent = Descent(network.train(), None, SURROGATE_RATE, longest_gradient=None)
    train(counted(), supervised(network, task, augmentation), descent)
    network.eval().requires_grad_(False)
