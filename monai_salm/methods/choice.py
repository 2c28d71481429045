# SPDX-License-Identifier: Apache-2.0
"""A method that chooses among others by measurement: each makes its noise for a part of the owner's own samples, small
networks say what a stranger would learn from it, and the best makes the noise of all.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from monai_salm.learning.chance import sample_generator
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.strangers import LearningEstimate, SampleGroups, StrangerPanel, halved
from monai_salm.learning.targets import classes_in
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod, SearchMemory, task_needed

logger = logging.getLogger(__name__)

MOST_SAMPLES = {2: 400, 3: 64}
"""Samples at most that candidates are tried on, by dimensions."""

LARGEST_SIDE = {2: 64, 3: 32}
"""Larger grids are halved until they are not larger: a trial of large images takes as long as the search."""

_CHOICE = "choice"


@dataclass(frozen=True)
class MeasuredChoice(NoiseMethod):
    """The best of some methods, by what small networks learn on clean images that were held out.

    Args:
        candidates: by the names that people know them by; the first is taken where nothing can be measured.
    """

    candidates: Mapping[str, NoiseMethod]

    takes_surrogate = True

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise of the best; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        task = task_needed(task, samples)
        memory = _ChoiceMemory(run.memory)
        if not memory.chosen:
            trials, why_not = self._trials(samples, task, run)
            first = next(iter(self.candidates))
            memory.chosen = min(trials, key=lambda name: trials[name].estimate.left, default=first)
            memory.words = _words(memory.chosen, trials, why_not)
            logger.info(memory.words)
            best = trials.get(memory.chosen)
            if best is not None and best.part is samples:  # its noise is that of all samples
                run.errors, run.surrogate, run.choice = best.run.errors, best.run.surrogate, memory.words
                yield from best.noise.items()
                return
        run.choice = memory.words
        inner = replace(run, memory=memory, errors=[], passes=0.0)
        yield from self.candidates[memory.chosen].noise(samples, task, inner)
        run.errors, run.surrogate, run.passes = inner.errors, inner.surrogate, run.passes + inner.passes

    def _trials(self, samples: WorkingSet, task: LearningTask, run: MethodRun) -> tuple[dict[str, _Trial], str]:
        """Try all candidates on a part of the samples; none where nothing can be measured, and then say why."""
        chosen = part_of(samples, run.seed)
        part = _small_set(samples, chosen)
        names, kind = (samples.ids, "image") if run.groups is None else (run.groups.names, run.groups.kind)
        groups = SampleGroups([names[number] for number in chosen], kind)
        panel = StrangerPanel(part, groups, task, seed=run.seed, device=run.device, show_progress=run.show_progress)
        trials: dict[str, _Trial] = {}
        for name, candidate in self.candidates.items() if not panel.why_not else ():
            trial = replace(run, memory=None, errors=[], passes=0.0)
            noise = dict(candidate.noise(part, task, trial))
            run.passes += trial.passes * len(part) / len(samples)
            trials[name] = _Trial(part, trial, noise, panel.estimate(noise.__getitem__))
        return trials, panel.why_not

    def check(self, *, perturbed_fraction: float, rounds: int | None) -> None:
        """Find out whether a user's choices are possible for all candidates, or raise UsageError."""
        for candidate in self.candidates.values():
            candidate.check(perturbed_fraction=perturbed_fraction, rounds=rounds)


@dataclass(frozen=True)
class _Trial:
    """What a candidate did on a part of the samples."""

    part: WorkingSet
    run: MethodRun
    noise: Mapping[str, NDArray[np.int16]]
    estimate: LearningEstimate


class _ChoiceMemory:
    """The memory of a run, with what was chosen beside what the chosen method keeps.

    Args:
        inner: where all of it is kept; None keeps nothing.
    """

    def __init__(self, inner: SearchMemory | None) -> None:
        self._inner = inner
        found = None if inner is None else inner.load()
        kept: Mapping[str, Any] = {} if found is None else found[1].get(_CHOICE, {})
        self.chosen, self.words = kept.get("name", ""), kept.get("words", "")

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Give what the chosen method saved last; None if it saved nothing."""
        found = None if self._inner is None else self._inner.load()
        if found is None:
            return None
        tensors, progress = found
        return tensors, {name: value for name, value in progress.items() if name != _CHOICE}

    def save(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Keep what the chosen method gives, and what was chosen."""
        if self._inner is not None:
            self._inner.save(tensors, {**progress, _CHOICE: {"name": self.chosen, "words": self.words}})


def part_of(samples: WorkingSet, seed: int) -> list[int]:
    """Choose at most :data:`MOST_SAMPLES` of some samples, of each class alike as far as it has them; by their ids, so
    that the order does not matter.
    """
    most = MOST_SAMPLES[samples.spatial_dims]
    if len(samples) <= most:
        return list(range(len(samples)))
    rank = {
        number: float(sample_generator(seed, sample.sample_id, 0, _CHOICE).random())
        for number, sample in enumerate(samples.samples)
    }
    of_class: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number in sorted(rank, key=lambda number: rank[number]):
        of_class[tuple(classes_in(samples.samples[number].target))].append(number)
    order = sorted((place, rank[number], number) for found in of_class.values() for place, number in enumerate(found))
    return sorted(number for _, _, number in order[:most])


def _small_set(samples: WorkingSet, chosen: list[int]) -> WorkingSet:
    """Give some samples on small grids, but where a network has a place for each cell; all samples as they are if they
    are small.
    """
    largest = LARGEST_SIDE[samples.spatial_dims]
    halvings = 0 if samples.fixed else max(0, math.ceil(math.log2(max(samples.padded_shape) / largest)))
    if len(chosen) == len(samples) and not halvings:
        return samples
    part = [samples.samples[number] for number in chosen]
    for _ in range(halvings):
        part = [halved(sample) for sample in part]
    return WorkingSet(part, samples.padded_shape if samples.fixed else None)


def _words(chosen: str, trials: Mapping[str, _Trial], why_not: str) -> str:
    """Say what was chosen, and why."""
    if not trials:
        return f"noise of {chosen}, unmeasured: {why_not}"
    told = ", ".join(f"{name} {trial.estimate.left:.2f}" for name, trial in trials.items())
    count = next(iter(trials.values())).estimate.trained_on
    return f"noise of {chosen}, chosen by what networks learned from {count} images with each kind of noise: {told}"
