# SPDX-License-Identifier: Apache-2.0
"""What a stranger would learn from the protected images of a run, measured before anybody hands them out.

Small networks are trained on one part of the images, as they are protected and as they were, and judged on the clean
images of the other part, which they never saw; images of one patient are on one side. Nobody knows at which size a
stranger trains, so they see the working grid and half of it.
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
from torch.nn import functional

from monai_salm.learning.chance import sample_generator
from monai_salm.learning.networks import seeded_network
from monai_salm.learning.samples import SLICE_BATCH, VOLUME_BATCH, WorkingSample, WorkingSet
from monai_salm.learning.targets import classes_in
from monai_salm.learning.tasks import LearningTask
from monai_salm.learning.victims import (
    VERDICTS,
    VictimRecipe,
    VictimScores,
    VictimTraining,
    chance_score,
    main_score,
    train_victim,
    usable,
    verdict,
)
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.progress import track

LEAST_SAMPLES = 60
"""With fewer images, a quarter of them says nothing."""

HELD_OUT = 0.25
"""Share of the images that networks are judged on."""

MOST_SAMPLES = {2: 2000, 3: 160}
"""Images at most that networks train on, by dimensions; more would take longer than the search."""

STEPS = {2: 300, 3: 200}
"""Optimizer steps of each network at least."""

NETWORKS = {False: ("small-cnn", "small-resnet"), True: ("small-unet",)}
"""Networks that are trained, by whether targets are maps."""

LEAST_SIDE = 48
"""Where the longest axis has fewer cells, half of it is no image that anybody would train on."""

GROUPS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
"""Identifiers that keep images together, the first that makes enough groups."""


@dataclass(frozen=True)
class NetworkEstimate:
    """What one network learned.

    Args:
        network: its name.
        side: longest axis of the images that it saw.
        clean, protected: its main score after training on clean and on protected images.
        auc: of the latter; None for label maps.
        peak: best main score over the epochs of the latter.
        verdict: one of :data:`~monai_salm.learning.victims.VERDICTS`.
    """

    network: str
    side: int
    clean: float
    protected: float
    auc: float | None
    peak: float
    verdict: str


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
        """The worst verdict of those networks that learned from clean images; empty where nothing can be said."""
        found = [network.verdict for network in self.networks if network.verdict != "not learned"]
        if not found:
            return "not learned" if self.networks else ""
        return max(found, key=VERDICTS.index)

    def lines(self) -> list[str]:
        """Say it to people."""
        if self.why_not:
            return [f"what a stranger would learn is not known: {self.why_not}"]
        score, guess = ("Dice", "") if self.chance is None else ("balanced accuracy", f", a guess {self.chance:.2f}")
        told = {
            "protected": "protected",
            "weakened": "weakened: it takes half of the learning at least, not all",
            "not protected": "NOT PROTECTED: share these files as if they were the originals",
            "not learned": "not known: even the originals taught these networks nothing",
        }
        lines = [f"what a stranger would learn ({score} on {self.held_out} clean images that were held out{guess}):"]
        lines += [
            f"  {network.network}, {network.side} wide: {network.protected:.2f} (best epoch {network.peak:.2f}), "
            f"from the originals {network.clean:.2f}: {network.verdict}"
            for network in self.networks
        ]
        return [*lines, f"estimate: {told[self.verdict]}"]

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back."""
        return asdict(self) | {"networks": [asdict(network) for network in self.networks], "verdict": self.verdict}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LearningEstimate:
        """Read what :meth:`to_json` gave."""
        fields = {name: value for name, value in record.items() if name != "verdict"}
        return cls(**fields | {"networks": tuple(NetworkEstimate(**network) for network in record["networks"])})


def estimate_learning(
    working: WorkingSet,
    groups: SampleGroups,
    noise: Callable[[str], NDArray[np.integer[Any]]],
    task: LearningTask,
    *,
    seed: int,
    device: torch.device,
    show_progress: bool = False,
) -> LearningEstimate:
    """Train small networks on the protected and on the clean images of one part, and score them on clean ones of the
    other.

    Args:
        working: the samples, clean, with targets.
        groups: which of them belong together.
        noise: gives the steps of a sample, on its working grid, by its id.
        task: that strangers learn.
        seed: of the division and of all trainings.
        device: where to compute.
        show_progress: a progress bar on standard error.
    """
    if len(working) < LEAST_SAMPLES:
        return LearningEstimate(
            why_not=f"{len(working)} images are too few to hold some of them out ({LEAST_SAMPLES} at least); measure "
            "it with 'monai-salm evaluate' and a test set"
        )
    held = held_out(working.samples, groups.names, seed)
    train = [number for number in range(len(working)) if number not in held]
    train = train[:: -(-len(train) // MOST_SAMPLES[working.spatial_dims])]
    if _missing(working.samples, train) or _missing(working.samples, held):
        return LearningEstimate(why_not="a class has too few images to hold some of them out")
    samples = working.samples
    protected = [_with_noise(samples[number], noise(samples[number].sample_id)) for number in train]
    clean, test = [samples[number] for number in train], [samples[number] for number in sorted(held)]
    sides = [False, True] if max(working.padded_shape) >= LEAST_SIDE else [False]
    cells = [(name, halved) for halved in sides for name in NETWORKS[task.spatial_target]]
    found = []
    for name, halved in track(cells, "estimate", "networks", total=len(cells), show_progress=show_progress):
        seen = [[_halved(sample) for sample in part] if halved else part for part in (clean, protected, test)]
        found.append(_network_estimate(name, task, *seen, seed=seed, device=device))
    return LearningEstimate(tuple(found), len(train), len(test), groups.kind, chance_score(task))


def _network_estimate(
    name: str,
    task: LearningTask,
    clean: list[WorkingSample],
    protected: list[WorkingSample],
    test: list[WorkingSample],
    *,
    seed: int,
    device: torch.device,
) -> NetworkEstimate:
    """Train one network on both, from the same first weights."""
    shape = WorkingSet([*clean, *test]).padded_shape
    dims = len(shape)
    batch = VOLUME_BATCH if dims == 3 else SLICE_BATCH
    recipe = VictimRecipe(epochs=1, least_steps=STEPS[dims], batch_size=batch)
    recipe = replace(recipe, score_every=max(1, recipe.epochs_for(len(clean)) // 8))
    scores: list[VictimScores] = []
    for images in (clean, protected):
        training = VictimTraining(
            task=task, train=WorkingSet(images, shape), test=WorkingSet(test, shape), recipe=recipe, seed=seed,
            device=device,
        )  # fmt: skip
        scores.append(train_victim(seeded_network(name, shape, task.outputs, seed), training))
    chance, main = chance_score(task), main_score(task)
    learned, kept = (usable(score.final[main], chance) for score in scores)
    peak = scores[1].peak if math.isfinite(scores[1].peak) else kept
    return NetworkEstimate(
        name, max(clean[0].image_model.shape), round(learned, 4), round(kept, 4),
        round(scores[1].final["auc"], 4) if "auc" in scores[1].final else None, round(peak, 4),
        verdict(learned, kept, peak, chance),
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


@dataclass(frozen=True)
class SampleGroups:
    """Which samples belong together.

    Args:
        names: of the group of each sample, in the order of the set.
        kind: what a group is: an identifier of DICOM, or ``image`` where each is one of its own.
    """

    names: Sequence[str]
    kind: str


def sample_groups(inventory: Inventory, plan: ProtectionPlan, working: WorkingSet) -> SampleGroups:
    """Give the images of one patient, study or series, the first that makes eight groups of each class."""
    pictures = {sample.sample_id: inventory.pictures[sample.files[0].path] for sample in plan.samples}
    for name in GROUPS:
        groups = [pictures[sample_id].identifiers.get(name, "") for sample_id in working.ids]
        of_class: dict[int, set[str]] = defaultdict(set)
        for sample, group in zip(working.samples, groups, strict=True):
            for found in classes_in(sample.target):
                of_class[found].add(group)
        if all(groups) and of_class and min(map(len, of_class.values())) >= 8:
            return SampleGroups(groups, name)
    return SampleGroups(working.ids, "image")


def _missing(samples: Sequence[WorkingSample], chosen: Sequence[int] | frozenset[int]) -> bool:
    """Say whether a class of all samples does not occur in the chosen ones."""
    occur = {name for number in chosen for name in classes_in(samples[number].target)}
    return not chosen or any(set(classes_in(sample.target)) - occur for sample in samples)


def _with_noise(sample: WorkingSample, steps: NDArray[np.integer[Any]]) -> WorkingSample:
    """Give a sample as a network sees its protected file."""
    image = sample.image_model + steps * sample.carrier_share * sample.step_model
    return replace(sample, image_model=image.clip(0, 1).astype(np.float32))


def _halved(sample: WorkingSample) -> WorkingSample:
    """Give a sample on half of its grid: images averaged, label maps by the nearest cell."""
    dims = sample.image_model.ndim
    pool = functional.avg_pool2d if dims == 2 else functional.avg_pool3d

    def small(values: NDArray[Any]) -> NDArray[np.float32]:
        tensor = torch.from_numpy(values.astype(np.float32))[None, None]
        result: NDArray[np.float32] = pool(tensor, 2, ceil_mode=True, count_include_pad=False)[0, 0].numpy()
        return result

    image = small(sample.image_model)
    target = sample.target
    if isinstance(target, np.ndarray) and target.ndim == dims:
        target = target[(slice(None, None, 2),) * dims]
    ones = np.ones(image.shape, np.int64)
    return replace(
        sample, image_model=image, carrier_voxels=ones, carrier_share=ones.astype(np.float32), target=target,
        spacing=tuple(2 * step for step in sample.spacing),
    )  # fmt: skip
