# SPDX-License-Identifier: Apache-2.0
"""What a stranger would learn from the protected images of a run, measured before anybody hands them out.

Small networks are trained on one part of the images, as they are protected and as they were, and judged on the clean
images of the other part, which they never saw; images of one patient are on one side. Nobody knows at which size a
stranger trains, so they see the working grid and half of it; or where that is small, images after a blur, which says
how long the noise lasts. Color images are tried in gray, too.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from monai_salm.learning.chance import sample_generator
from monai_salm.learning.consumers import binomial_blur
from monai_salm.learning.networks import seeded_network
from monai_salm.learning.samples import SLICE_BATCH, VOLUME_BATCH, WorkingSample, WorkingSet, channels_first
from monai_salm.learning.targets import classes_in
from monai_salm.learning.tasks import LearningTask
from monai_salm.learning.victims import (
    VERDICTS,
    VictimRecipe,
    VictimScores,
    VictimTraining,
    chance_score,
    main_score,
    score_network,
    train_victim,
    usable,
    verdict,
)
from monai_salm.progress import track

LEAST_SAMPLES = 60
"""With fewer images, a quarter of them says nothing."""

HELD_OUT = 0.25
"""Share of the images that networks are judged on."""

MOST_SAMPLES = {2: 2000, 3: 160}
"""Images at most that networks train on, by dimensions; more would take longer than the search."""

STEPS = {2: 300, 3: 200}
"""Optimizer steps of each network at least."""

BATCH = {2: SLICE_BATCH, 3: VOLUME_BATCH // 2}
"""Images of a step, by dimensions; a network with a path of full resolution takes long for volumes."""

NETWORKS = {False: ("small-cnn", "small-resnet"), True: ("small-unet", "small-segresnet")}
"""Networks that are trained, by whether targets are maps."""

LEAST_SIDE = 48
"""Where the longest axis has fewer cells, half of it is no image that anybody would train on."""

FULL, HALF, BLURRED, GRAY = "", "half the size", "after a blur", "without colors"
"""How networks see the images."""

_UNUSUAL = (BLURRED, GRAY)
"""What networks make of these counts for a choice, not for the verdict: few would blur images that are small already,
or give up their colors.
"""


@dataclass(frozen=True)
class SampleGroups:
    """Which samples belong together.

    Args:
        names: of the group of each sample, in the order of the set.
        kind: what a group is: an identifier of DICOM, or ``image`` where each is one of its own.
    """

    names: Sequence[str]
    kind: str


@dataclass(frozen=True)
class NetworkEstimate:
    """What one network learned.

    Args:
        network: its name.
        view: how it saw the images.
        side: longest axis of these.
        clean, protected: its main score after training on clean and on protected images.
        auc: of the latter; None for label maps.
        peak: best main score over the epochs of the latter.
        verdict: one of :data:`~monai_salm.learning.victims.VERDICTS`.
        moved: how far the AUC (of label maps the Dice) of the network of clean images changes, if the images that it
            never saw are protected; None where that was not measured.
    """

    network: str
    view: str
    side: int
    clean: float
    protected: float
    auc: float | None
    peak: float
    verdict: str
    moved: float | None = None


@dataclass(frozen=True)
class LearningEstimate:
    """What a stranger would learn.

    Args:
        networks: what each network learned; empty where nothing can be said.
        trained_on, held_out: images.
        apart: what no image on one side shares with one on the other.
        chance: main score of a guess; None for label maps.
        why_not: why nothing can be said; empty else.
    """

    networks: tuple[NetworkEstimate, ...] = ()
    trained_on: int = 0
    held_out: int = 0
    apart: str = ""
    chance: float | None = None
    why_not: str = ""

    @property
    def verdict(self) -> str:
        """The worst verdict of those networks that learned from clean images as they are; empty where nothing can be
        said.
        """
        found = [
            network.verdict for network in self.networks
            if network.verdict != "not learned" and network.view not in _UNUSUAL
        ]  # fmt: skip
        if not found:
            return "not learned" if self.networks else ""
        return max(found, key=VERDICTS.index)

    @property
    def left(self) -> float:
        """What is left of the learning on average, after the last epoch and at its best; infinite where nothing can be
        said.
        """
        if not self.networks:
            return math.inf
        return sum(network.protected + network.peak for network in self.networks) / (2 * len(self.networks))

    @property
    def moved(self) -> float | None:
        """The largest movement of a network of clean images, without a sign; None where none was measured."""
        found = [abs(network.moved) for network in self.networks if network.moved is not None]
        return max(found, default=None)

    def lines(self) -> list[str]:
        """Say it to people."""
        if self.why_not:
            return [f"what a stranger would learn is not known: {self.why_not}"]
        score, guess = ("Dice", "") if self.chance is None else ("balanced accuracy", f", a guess {self.chance:.2f}")
        told = {
            "protected": "protected",
            "weakened": "weakened: it takes half of the learning at least, not all",
            "not protected": "NOT PROTECTED: treat these files as you would the originals",
            "not learned": "not known: even the originals taught these networks nothing",
        }
        lines = [f"what a stranger would learn ({score} on {self.held_out} clean images that were held out{guess}):"]
        lines += [
            f"  {network.network}, {network.side} wide{', ' + network.view if network.view in _UNUSUAL else ''}: "
            f"{network.protected:.2f} (best epoch {network.peak:.2f}), from the originals {network.clean:.2f}: "
            f"{network.verdict}"
            for network in self.networks
        ]
        score = "Dice" if self.chance is None else "AUC"
        moved = [f"{network.network} {network.moved:+.3f}" for network in self.networks if network.moved is not None]
        if moved:
            lines.append(
                f"a network of clean images scores the protected ones with another {score}: {', '.join(moved)} (on "
                "images that it never saw)"
            )
        return [*lines, f"estimate: {told[self.verdict]}"]

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back."""
        return asdict(self) | {"verdict": self.verdict}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LearningEstimate:
        """Read what :meth:`to_json` gave."""
        fields = {name: value for name, value in record.items() if name != "verdict"}
        return cls(**fields | {"networks": tuple(NetworkEstimate(**network) for network in record["networks"])})


class StrangerPanel:
    """Small networks that are trained on one part of some samples and judged on the clean images of the other.

    Args:
        working: the samples, clean, with targets.
        groups: which of them belong together.
        task: that strangers learn.
        seed: of the division and of all trainings.
        device: where to compute.
        quick: train each network half as long, and each on one view of the images alone: enough to compare noises.
        show_progress: a progress bar on standard error.
    """

    def __init__(
        self,
        working: WorkingSet,
        groups: SampleGroups,
        task: LearningTask,
        *,
        seed: int,
        device: torch.device,
        quick: bool = False,
        show_progress: bool = False,
    ) -> None:
        self.working, self.groups, self.task = working, groups, task
        self.seed, self.device, self.show_progress = seed, device, show_progress
        self.quick = quick
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
        samples = self.working.samples
        protected = [samples[number].protected(noise(samples[number].sample_id)) for number in self.train]
        cells, found = self._cells(), []
        for cell in track(cells, "estimate", "networks", total=len(cells), show_progress=self.show_progress):
            if cell not in self._clean:
                self._clean[cell] = self._trained([samples[number] for number in self.train], *cell)
            _, scores = self._trained(protected, *cell)
            moved = self._moved(cell[0], noise) if cell[1] == FULL else None
            found.append(self._judged(*cell, scores, moved))
        return LearningEstimate(
            tuple(found), len(self.train), len(self.test), self.groups.kind, chance_score(self.task)
        )

    def _cells(self) -> list[tuple[str, str]]:
        """Give the networks and how each is to see the images."""
        names = NETWORKS[self.task.spatial_target]
        other = HALF if max(self.working.padded_shape) >= LEAST_SIDE else BLURRED
        if self.working.channels > 1 and (self.quick or other == BLURRED):
            other = GRAY
        if not self.quick:
            views = (FULL, HALF, GRAY) if other == HALF and self.working.channels > 1 else (FULL, other)
            return [(name, view) for view in views for name in names]
        # Noise of label maps that only some kinds of networks fall for is to be seen by all of them.
        return [(name, FULL if self.task.spatial_target or not number else other) for number, name in enumerate(names)]

    def _moved(self, name: str, noise: Callable[[str], NDArray[np.integer[Any]]]) -> float | None:
        """Say how far the score of a network of clean images changes if those that were held out are protected."""
        network, scores = self._clean[name, FULL]
        samples = [self.working.samples[number] for number in self.test]
        shape = WorkingSet([*samples, *(self.working.samples[number] for number in self.train)]).padded_shape
        protected = WorkingSet([sample.protected(noise(sample.sample_id)) for sample in samples], shape)
        batch = VOLUME_BATCH if self.working.spatial_dims == 3 else SLICE_BATCH
        after = score_network(network, self.task, protected, batch, self.device, distances=False)
        main = "dice" if self.task.spatial_target else "auc"
        change = after[main] - scores.final[main]
        return round(change, 4) if math.isfinite(change) else None

    def _trained(self, images: list[WorkingSample], name: str, view: str) -> tuple[nn.Module, VictimScores]:
        """Train a network on some images, and score it on the clean ones that were held out."""
        test = [self.working.samples[number] for number in self.test]
        train, test = ([_VIEWS[view](sample) for sample in part] for part in (images, test))
        shape = WorkingSet([*train, *test]).padded_shape
        dims = len(shape)
        steps = STEPS[dims] // 2 if self.quick else STEPS[dims]
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


def halved(sample: WorkingSample) -> WorkingSample:
    """Give a sample on half of its grid: images averaged over boxes of two cells a side, label maps by their first
    cell.
    """
    dims = len(sample.shape)

    def summed(values: NDArray[Any]) -> NDArray[Any]:
        for axis in range(dims):
            values = np.add.reduceat(values, np.arange(0, values.shape[axis], 2), axis=axis)
        return values

    def averaged(values: NDArray[Any]) -> NDArray[Any]:
        mean: NDArray[Any] = summed(values) / summed(np.ones_like(values))
        return mean

    target = sample.target
    if isinstance(target, np.ndarray) and target.ndim == dims:
        target = target[(slice(None, None, 2),) * dims]
    return replace(
        sample, image_model=averaged(sample.image_model), carrier_voxels=summed(sample.carrier_voxels),
        carrier_share=averaged(sample.carrier_share), target=target,
        spacing=tuple(2 * step for step in sample.spacing),
        planes=None if sample.planes is None else sample.planes.coarser(2),
    )  # fmt: skip


def _blurred(sample: WorkingSample) -> WorkingSample:
    """Give a sample after the 3-wide binomial blur."""
    planes = binomial_blur(torch.from_numpy(channels_first(sample.image_model, len(sample.shape))[None].copy()))[0]
    image = planes[0] if len(planes) == 1 else planes.movedim(0, -1)
    return replace(sample, image_model=image.numpy())


_VIEWS: dict[str, Callable[[WorkingSample], WorkingSample]] = {
    FULL: lambda sample: sample, HALF: halved, BLURRED: _blurred, GRAY: WorkingSample.in_gray,
}  # fmt: skip
