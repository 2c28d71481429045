# SPDX-License-Identifier: Apache-2.0
"""A search that several processes share: what the first one tells the others, and what they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.learning.estimates import LearningEstimate
from monai_salm.learning.networks import DEFAULT_NETWORKS, seeded_network
from monai_salm.learning.ranks import Ranks, own_device
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.strangers import SampleGroups, StrangerPanel
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import MethodRun, NoiseMethod, SearchMemory
from monai_salm.noise import SparseNoise
from monai_salm.pipeline.checkpoint import computing_on
from monai_salm.pipeline.options import ProtectOptions


@dataclass(frozen=True)
class SharedSearch:
    """What every process of a search is told.

    Args:
        method, task, options: of the run.
        seed: of everything random.
        groups: which samples belong together; None where that is not known.
        padded_shape: of the samples, where one was given.
    """

    method: NoiseMethod
    task: LearningTask
    options: ProtectOptions
    seed: int
    groups: SampleGroups | None
    padded_shape: tuple[int, ...] | None

    def tell(self, samples: WorkingSet, device: torch.device, ranks: Ranks) -> None:
        """Tell the other processes, from the first one, what :func:`follow` waits for.

        Raises:
            UsageError: they compute in other ways, so that their noise would not be that of one.
        """
        if ranks.count == 1:
            return
        ranks.shared(lambda: self)
        for _ in ranks.shared_one_by_one(lambda: samples.samples):
            pass
        ways = ranks.in_order([computing_on(device)], ranks.count)
        other = next((number for number, way in enumerate(ways) if way != ways[0]), 0)
        if other:
            raise UsageError(
                f"process 0 computes with {ways[0]}, process {other} with {ways[other]}; give all the same "
                "(OMP_NUM_THREADS, --device, one environment)"
            )

    def run(
        self, samples: WorkingSet, memory: SearchMemory | None, device: torch.device, ranks: Ranks, *,
        show_progress: bool = False,
    ) -> MethodRun:  # fmt: skip
        """Give what the method is told in one of the processes."""
        options = self.options

        def build() -> nn.Module:
            name = options.surrogate or DEFAULT_NETWORKS[options.task]
            return seeded_network(name, samples.padded_shape, self.task.outputs, self.seed, channels=samples.channels)

        return MethodRun(
            seed=self.seed, device=device, build_surrogate=build, rounds=options.rounds,
            perturbed_fraction=options.perturbed_fraction,
            memory=memory if ranks.count == 1 else _SharedMemory(memory, ranks),
            groups=self.groups, gentle=options.gentle, show_progress=show_progress, ranks=ranks,
        )  # fmt: skip

    def estimate(
        self, samples: WorkingSet, run: MethodRun, noise: Callable[[str], NDArray[np.integer[Any]]]
    ) -> LearningEstimate | None:
        """Say what a stranger would learn from some noise; None where that was not asked, or samples have no groups."""
        if not self.options.estimate or self.groups is None:
            return None
        panel = StrangerPanel(
            samples, self.groups, self.task, seed=self.options.seed, device=run.device,
            show_progress=run.show_progress, ranks=run.ranks,
        )  # fmt: skip
        return panel.estimate(noise)


@dataclass(frozen=True)
class _SharedMemory:
    """The memory of the first process, from which all go on.

    Args:
        inner: the memory there; None in the others.
        ranks: the processes.
    """

    inner: SearchMemory | None
    ranks: Ranks

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Give all processes what the first one saved last."""
        return self.ranks.shared(lambda: None if self.inner is None else self.inner.load())

    def save(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Keep what the first process gives."""
        if self.inner is not None:
            self.inner.save(tensors, progress)


def dismiss(ranks: Ranks) -> None:
    """Let the other processes end: there is nothing left to search."""
    ranks.shared(lambda: None)


def follow(ranks: Ranks) -> None:
    """Share the searches of the first process until it says that there are no more.

    Raises:
        LostProcessError: it ended, or another one did.
        UsageError: this process sees no device of its own.
    """
    while (search := ranks.shared(_of_the_first)) is not None:
        samples = WorkingSet(list(ranks.shared_one_by_one(list)), search.padded_shape)
        device = own_device(search.options.device)
        ranks.in_order([computing_on(device)], ranks.count)
        run = search.run(samples, None, device, ranks)
        levels = {sample.sample_id: sample.levels for sample in samples.samples}
        noise = {
            sample_id: SparseNoise.from_dense(steps, levels[sample_id])
            for sample_id, steps in search.method.noise(samples, search.task, run)
        }
        search.estimate(samples, run, lambda name, noise=noise: noise[name].dense())  # type: ignore[misc]


def _of_the_first() -> SharedSearch | None:
    """Stand for what the first process says."""
    return None
