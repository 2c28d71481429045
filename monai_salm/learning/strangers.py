# SPDX-License-Identifier: Apache-2.0
"""What a stranger would learn from the protected images of a run, measured before anybody hands them out.

Small networks are trained on one part of the images, as they are protected and as they were, and judged on the clean
images of the other part, which they never saw; images of one patient are on one side. Nobody knows at which size a
stranger trains, so they see the working grid and half of it; or of small images one of them sees these after a blur,
which says how long the noise lasts. One sees color images in gray, too, and of volumes all see pieces.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from monai_salm.chance import sample_generator
from monai_salm.learning.estimates import (
    BLURRED,
    FULL,
    GRAY,
    HALF,
    LearningEstimate,
    NetworkEstimate,
    what_is_left,
)
from monai_salm.learning.networks import seeded_network
from monai_salm.learning.ranks import ALONE, Ranks
from monai_salm.learning.sample_views import blurred, halved, patch_of
from monai_salm.learning.samples import SLICE_BATCH, VOLUME_BATCH, WorkingSet
from monai_salm.learning.targets import classes_in
from monai_salm.learning.tasks import LearningTask
from monai_salm.learning.verdicts import usable, verdict
from monai_salm.learning.victims import (
    VictimRecipe,
    VictimScores,
    VictimTraining,
    chance_score,
    main_score,
    score_network,
    train_victim,
)
from monai_salm.progress import track
from monai_salm.working_samples import WorkingSample

LEAST_SAMPLES = 60
"""With fewer images, a quarter of them says nothing."""

HELD_OUT = 0.25
"""Share of the images that networks are judged on."""

MOST_SAMPLES = {2: 2000, 3: 64}
"""Images at most that networks train on, by dimensions; more would take longer than the search."""

STEPS = {2: 300, 3: 200}
"""Optimizer steps of each network at least."""

BATCH = {2: SLICE_BATCH, 3: VOLUME_BATCH // 2}
"""Images of a step, by dimensions; a network with a path of full resolution takes long for volumes."""

NETWORKS = {False: ("small-cnn", "small-resnet"), True: ("small-unet", "small-segresnet")}
"""Networks that are trained, by whether targets are maps."""

LARGEST_PATCH = {2: 4096, 3: 32}
"""Networks see pieces of larger ones: a step of a network with a path of full resolution takes a second for a batch of
volumes of 45 cells a side.
"""

LEAST_SIDE = {2: 48, 3: 96}
"""Where the longest axis has fewer cells, half of it is no image that anybody would train on."""


@dataclass(frozen=True)
class SampleGroups:
    """Which samples belong together.

    Args:
        names: of the group of each sample, in the order of the set.
        kind: what a group is: an identifier of DICOM, or ``image`` where each is one of its own.
    """

    names: Sequence[str]
    kind: str


class StrangerPanel:
    """Small networks that are trained on one part of some samples and judged on the clean images of the other.

    Args:
        working: the samples, clean, with targets.
        groups: which of them belong together.
        task: that strangers learn.
        seed: of the division and of all trainings.
        device: where to compute.
        show_progress: a progress bar on standard error.
        ranks: processes that share the trainings; all are to ask the same of it.
    """

    def __init__(
        self,
        working: WorkingSet,
        groups: SampleGroups,
        task: LearningTask,
        *,
        seed: int,
        device: torch.device,
        show_progress: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.working, self.groups, self.task = working, groups, task
        self.seed, self.device, self.show_progress = seed, device, show_progress
        self.train: list[int] = []
        self.test: list[int] = []
        self.why_not = self._divide()
        self._clean: dict[tuple[str, str], tuple[nn.Module, VictimScores]] = {}

    def _divide(self) -> str:
        """Choose who is trained on and who is held out, or say why that cannot be."""
        count = len(self.working)
        if count < LEAST_SAMPLES:
            return (
                f"{count} images are too few to hold some of them out ({LEAST_SAMPLES} at least); measure it with "
                "'monai-salm evaluate' and a test set"
            )
        held = held_out(self.working.samples, self.groups.names, self.seed)
        train = [number for number in range(count) if number not in held]
        self.train = train[:: max(1, -(-len(train) // MOST_SAMPLES[self.working.spatial_dims]))]
        self.test = sorted(held)
        if _missing(self.working.samples, self.train) or _missing(self.working.samples, self.test):
            return "a class has too few images to hold some of them out"
        return ""

    def estimate(self, noise: Callable[[str], NDArray[np.integer[Any]]]) -> LearningEstimate:
        """Train each network on the images with some noise and, once, on clean ones.

        Args:
            noise: gives the steps of a sample, on its working grid, by its id.
        """
        if self.why_not:
            return LearningEstimate(why_not=self.why_not)
        protected, found, total = self._protected(noise), [], len(self._cells())
        cells = self._cells()[self.ranks.own]
        for cell in track(cells, "estimate", "networks", total=len(cells), show_progress=self.show_progress):
            if cell not in self._clean:
                self._clean[cell] = self._trained([self.working.samples[number] for number in self.train], *cell)
            _, scores = self._trained(protected, *cell)
            moved = self._moved(cell[0], noise) if cell[1] == FULL else None
            found.append(self._judged(*cell, scores, moved))
        return LearningEstimate(
            tuple(self.ranks.in_order(found, total)),
            len(self.train),
            len(self.test),
            self.groups.kind,
            chance_score(self.task),
        )

    def what_is_left(self, noise: Callable[[str], NDArray[np.integer[Any]]]) -> float:
        """Train each network half as long, on protected images alone: enough to compare noises.

        Args:
            noise: see :meth:`estimate`.

        Returns:
            What is left of the learning on average, see :func:`~monai_salm.learning.estimates.what_is_left`; infinite
            where nothing can be said.
        """
        if self.why_not:
            return math.inf
        protected, chance, main = self._protected(noise), chance_score(self.task), main_score(self.task)
        cells = self._cells(unusual=False)
        own = [self._trained(protected, *cell, brief=True)[1] for cell in cells[self.ranks.own]]
        trained = self.ranks.in_order(own, len(cells))
        left = [what_is_left(found.final[main], found.peak, found.final.get("auc"), chance) for found in trained]
        return sum(left) / len(left)

    def _protected(self, noise: Callable[[str], NDArray[np.integer[Any]]]) -> list[WorkingSample]:
        samples = (self.working.samples[number] for number in self.train)
        return [sample.protected(noise(sample.sample_id)) for sample in samples]

    def _cells(self, *, unusual: bool = True) -> list[tuple[str, str]]:
        """Give the networks and how each is to see the images; what few would do is asked of the last network alone."""
        names, dims = NETWORKS[self.task.spatial_target], self.working.spatial_dims
        at_half = max(self.working.padded_shape) >= LEAST_SIDE[dims]
        views: dict[str, tuple[str, ...]] = {FULL: names, HALF: names if at_half else ()}
        if unusual:
            views[BLURRED] = names[-1:] if dims == 2 and self.working.channels == 1 and not at_half else ()
            views[GRAY] = names[-1:] if self.working.channels > 1 else ()
        return [(name, view) for view, seeing in views.items() for name in seeing]

    def _moved(self, name: str, noise: Callable[[str], NDArray[np.integer[Any]]]) -> float | None:
        """Say how far the score of a network of clean images changes if those that were held out are protected."""
        network, scores = self._clean[name, FULL]
        samples = [self.working.samples[number] for number in self.test]
        train = self._seen((self.working.samples[number] for number in self.train), FULL)
        protected = self._seen((sample.protected(noise(sample.sample_id)) for sample in samples), FULL)
        shown = WorkingSet(protected, WorkingSet([*protected, *train]).padded_shape)
        batch = BATCH[self.working.spatial_dims]
        after = score_network(network, self.task, shown, batch, self.device, distances=False)
        main = "dice" if self.task.spatial_target else "auc"
        change = after[main] - scores.final[main]
        return round(change, 4) if math.isfinite(change) else None

    def _seen(self, samples: Iterable[WorkingSample], view: str) -> list[WorkingSample]:
        """Give samples as networks see them."""
        side = LARGEST_PATCH[self.working.spatial_dims]
        return [patch_of(_VIEWS[view](sample), side) for sample in samples]

    def _trained(
        self, images: list[WorkingSample], name: str, view: str, *, brief: bool = False
    ) -> tuple[nn.Module, VictimScores]:
        """Train a network on some images, and score it on the clean ones that were held out."""
        train, test = (self._seen(part, view) for part in (images, (self.working.samples[n] for n in self.test)))
        shape = WorkingSet([*train, *test]).padded_shape
        dims = len(shape)
        steps = STEPS[dims] // 2 if brief else STEPS[dims]
        recipe = VictimRecipe(epochs=1, least_steps=steps, batch_size=BATCH[dims])
        recipe = replace(recipe, score_every=max(1, recipe.epochs_for(len(train)) // 8))
        training = VictimTraining(
            task=self.task, train=WorkingSet(train, shape), test=WorkingSet(test, shape), recipe=recipe,
            seed=self.seed, device=self.device,
        )  # fmt: skip
        network = seeded_network(name, shape, self.task.outputs, self.seed, channels=training.train.channels)
        return network, train_victim(network, training)

    def _judged(self, name: str, view: str, protected: VictimScores, moved: float | None) -> NetworkEstimate:
        """Compare what a network learned to what it learned from clean images."""
        chance, main = chance_score(self.task), main_score(self.task)
        learned, kept = (usable(scores.final[main], chance) for scores in (self._clean[name, view][1], protected))
        peak = protected.peak if math.isfinite(protected.peak) else kept
        longest = int(max(self.working.samples[self.train[0]].shape))
        return NetworkEstimate(
            network=name, view=view, side=-(-longest // 2) if view == HALF else longest, clean=round(learned, 4),
            protected=round(kept, 4), auc=round(protected.final["auc"], 4) if "auc" in protected.final else None,
            peak=round(peak, 4), verdict=verdict(learned, kept, peak, chance), moved=moved,
        )  # fmt: skip


def held_out(samples: Sequence[WorkingSample], groups: Sequence[str], seed: int) -> frozenset[int]:
    """Choose the samples that networks are judged on: whole groups, a quarter of each class or a little more, never
    more than half of one.

    Args:
        samples: with targets.
        groups: name of each sample's group.
        seed: of the choice, which depends on nothing else of other groups than their sizes.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        members[group].append(number)
    has = [set(classes_in(sample.target)) or {-1} for sample in samples]
    sizes = Counter(name for found in has for name in found)
    order = sorted(members, key=lambda group: float(sample_generator(seed, group, 0, "held out").random()))
    taken: Counter[int] = Counter()
    held: set[int] = set()
    for wanted in sorted(sizes, key=lambda name: sizes[name]):
        for group in order:
            if taken[wanted] >= HELD_OUT * sizes[wanted]:
                break
            adds = Counter(name for number in members[group] for name in has[number])
            if wanted not in adds or held.issuperset(members[group]):
                continue
            if any(taken[name] + count > 0.5 * sizes[name] for name, count in adds.items()):
                continue
            held.update(members[group])
            taken += adds
    return frozenset(held)


def _missing(samples: Sequence[WorkingSample], chosen: Sequence[int] | frozenset[int]) -> bool:
    """Say whether a class of all samples does not occur in the chosen ones."""
    occur = {name for number in chosen for name in classes_in(samples[number].target)}
    return not chosen or any(set(classes_in(sample.target)) - occur for sample in samples)


_VIEWS: dict[str, Callable[[WorkingSample], WorkingSample]] = {
    FULL: lambda sample: sample, HALF: halved, BLURRED: blurred, GRAY: WorkingSample.in_gray,
}  # fmt: skip
