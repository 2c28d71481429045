# SPDX-License-Identifier: Apache-2.0
"""A method that chooses among others by measurement: each makes its noise for a part of the owner's own samples, small
networks say what a stranger would learn from it, and the best makes the noise of all.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from monai_salm.chance import sample_generator
from monai_salm.errors import UsageError
from monai_salm.learning.sample_views import halved, patch_of
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.strangers import LARGEST_PATCH, SampleGroups, StrangerPanel
from monai_salm.learning.targets import classes_in
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod, SearchMemory, task_needed
from monai_salm.working_samples import WorkingSample

logger = logging.getLogger(__name__)

MOST_SAMPLES = {2: 400, 3: 64}
"""Samples at most that candidates are tried on, by dimensions."""

LARGEST_SIDE = 64
"""Larger grids of images are halved until they are not larger: a trial of large ones takes as long as the search. Of
volumes a piece is tried.
"""

GENTLE = 0.01
"""Most that gentle noise may move the AUC, or the Dice, of a network of clean images."""

_CHOICE = "choice"


@dataclass(frozen=True)
class MeasuredChoice(NoiseMethod):
    """The best of some methods, by what small networks learn on clean images that were held out.

    Args:
        candidates: by the names that people know them by; the first is taken where nothing can be measured.
    """

    candidates: Mapping[str, NoiseMethod]

    takes_color = True
    takes_surrogate = True
    takes_ranks = True

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise of the best; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        task = task_needed(task, samples)
        memory = _ChoiceMemory(run.memory)
        if not memory.chosen:
            trials, why_not = self._trials(samples, task, run)
            memory.chosen, memory.words = run.ranks.shared(lambda: self._chosen(trials, why_not, gentle=run.gentle))
            logger.info(memory.words)
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
        panel = StrangerPanel(
            part, groups, task, seed=run.seed, device=run.device, show_progress=run.show_progress, ranks=run.ranks
        )
        trials: dict[str, _Trial] = {}
        tried = {name: candidate for name, candidate in self.candidates.items() if candidate.suits(part)}
        for name, candidate in tried.items() if not panel.why_not else ():
            trial = replace(run, memory=None, after_round=None, errors=[], passes=0.0)
            noise = dict(candidate.trial().noise(part, task, trial))
            run.passes += trial.passes * len(part) / len(samples)
            trials[name] = _Trial.of(panel, noise.__getitem__, gentle=run.gentle)
        return trials, panel.why_not

    def _chosen(self, trials: Mapping[str, _Trial], why_not: str, *, gentle: bool) -> tuple[str, str]:
        """Give the name of the best, and say why."""
        kept = _gentle(trials, why_not) if gentle else trials
        chosen = min(kept, key=lambda name: trials[name].left, default=next(iter(self.candidates)))
        return chosen, _words(chosen, trials, why_not) + _left_out(trials, kept)

    def check(self, *, perturbed_fraction: float, rounds: int | None) -> None:
        """Find out whether a user's choices are possible for all candidates, or raise UsageError."""
        for candidate in self.candidates.values():
            candidate.check(perturbed_fraction=perturbed_fraction, rounds=rounds)


@dataclass(frozen=True)
class _Trial:
    """What was found out about a method.

    Args:
        left: of the learning, as a share.
        trained_on: images that networks learned from.
        moved: how far a network of clean images is moved; None where that was not asked or not found.
    """

    left: float
    trained_on: int
    moved: float | None = None

    @classmethod
    def of(cls, panel: StrangerPanel, noise: Callable[[str], NDArray[np.integer[Any]]], *, gentle: bool) -> _Trial:
        """Try some noise; what it does to networks of clean images takes more of them."""
        if not gentle:
            return cls(panel.what_is_left(noise), len(panel.train))
        found = panel.estimate(noise)
        return cls(found.left, found.trained_on, found.moved)


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
    """Give some samples on small grids, or pieces of volumes, but where a network has a place for each cell; all as
    they are if they are small.
    """
    dims = samples.spatial_dims
    if samples.fixed:
        return samples if len(chosen) == len(samples) else WorkingSet(_some(samples, chosen), samples.padded_shape)
    if dims == 3:
        return WorkingSet([patch_of(sample, LARGEST_PATCH[dims]) for sample in _some(samples, chosen)])
    halvings = max(0, math.ceil(math.log2(max(samples.padded_shape) / LARGEST_SIDE)))
    if len(chosen) == len(samples) and not halvings:
        return samples
    part = _some(samples, chosen)
    for _ in range(halvings):
        part = [halved(sample) for sample in part]
    return WorkingSet(part)


def _some(samples: WorkingSet, chosen: Sequence[int]) -> list[WorkingSample]:
    return [samples.samples[number] for number in chosen]


def _gentle(trials: Mapping[str, _Trial], why_not: str) -> dict[str, _Trial]:
    """Give the trials whose noise hardly moves a network of clean images; or raise UsageError, as there are none."""
    if not trials:
        raise UsageError(f"gentle noise is found by measurement, which is not possible: {why_not}; leave out --gentle")
    kept = {name: trial for name, trial in trials.items() if _is_gentle(trial)}
    if not kept:
        raise UsageError(
            f"no noise is gentle: each moves a network of clean images by more than {GENTLE:g} "
            f"({_moved(trials)}); give a smaller --epsilon or --perturbed-fraction, or leave out --gentle"
        )
    return kept


def _is_gentle(trial: _Trial) -> bool:
    moved = trial.moved
    return moved is not None and moved <= GENTLE


def _moved(trials: Mapping[str, _Trial]) -> str:
    """Say how far the noise of some trials moves a network of clean images."""
    found = {name: trial.moved for name, trial in trials.items()}
    return ", ".join(f"{name} {'unknown' if moved is None else f'{moved:.3f}'}" for name, moved in found.items())


def _left_out(trials: Mapping[str, _Trial], kept: Mapping[str, _Trial]) -> str:
    """Say which trials were left out; nothing where all were kept."""
    others = {name: trial for name, trial in trials.items() if name not in kept}
    return f"; not gentle (moves a network of clean images): {_moved(others)}" if others else ""


def _words(chosen: str, trials: Mapping[str, _Trial], why_not: str) -> str:
    """Say what was chosen, and why."""
    if not trials:
        return f"noise of {chosen}, unmeasured: {why_not}"
    told = ", ".join(f"{name} {trial.left:.2f}" for name, trial in trials.items())
    count = next(iter(trials.values())).trained_on
    return (
        f"noise of {chosen}, chosen by what networks learned from {count} images with each kind of noise, as a share "
        f"of all beyond a guess: {told}"
    )
