# SPDX-License-Identifier: Apache-2.0
"""The trainings of an evaluation: every victim on every folder, after every countermeasure, for every
share and seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from time import monotonic

import numpy as np
import torch
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.evaluate.countermeasures import Countermeasure, ImageChange, Leak
from monai_salm.evaluate.folders import PRETRAIN, TEST, Folders, stratified_part
from monai_salm.evaluate.pretraining import pretrain
from monai_salm.evaluate.results import CLEAN, CLEAN_PART, FLIPS, VictimResult
from monai_salm.evaluate.state import EvaluationState
from monai_salm.evaluate.victims import build_victim, is_pretrained
from monai_salm.learning.augmentations import find_augmentation
from monai_salm.learning.checks import check_network
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.victims import VictimRecipe, VictimTraining, train_victim
from monai_salm.progress import Progress
from monai_salm.working_samples import WorkingSample

MOST_RELIED_ON = {2: 200, 3: 50}
"""Training images at most that show how much a victim relies on the noise, by dimensions."""


@dataclass(frozen=True)
class GridCell:
    """One training; see :class:`~monai_salm.evaluate.results.VictimResult` for the fields."""

    victim: str
    trained_on: str
    countermeasure: Countermeasure
    protected_share: float
    seed: int
    augmentation: str = FLIPS


def plan_cells(
    victims: Sequence[str],
    countermeasures: Sequence[Countermeasure],
    shares: Sequence[float],
    seeds: int,
    protected: Sequence[str],
    augmentations: Sequence[str] = (FLIPS,),
) -> list[GridCell]:
    """Give all trainings in the order of their worth: what each countermeasure does is known before the next begins,
    whole folders before parts. A countermeasure that is an augmentation itself takes the place of the usual one.
    """
    cells = []
    for countermeasure in countermeasures:
        others = augmentations if countermeasure.augmentation is None else (FLIPS,)
        for share in shares:
            beside = ([CLEAN] if share == shares[0] else []) + ([CLEAN_PART] if share < 1 else [])
            for seed in range(seeds):
                for augmentation, victim in product(others, victims):
                    cells += [
                        GridCell(victim, name, countermeasure, 1.0 if name == CLEAN else share, seed, augmentation)
                        for name in (*beside, *protected)
                    ]
    return cells


class VictimBuilder:
    """Victims by name and seed; those that saw other images before saw the folder ``pretrain``, or else the test images
    without their labels.

    Args:
        folders: whose task and shape they are for.
        device: where to compute.
    """

    def __init__(self, folders: Folders, device: torch.device) -> None:
        self._folders = folders
        self.device = device
        self._weights: dict[tuple[str, int], dict[str, Tensor]] = {}

    def check(self, victims: Sequence[str]) -> None:
        """Find out before any training whether all victims fit the task and the images, or raise UsageError."""
        for victim in victims:
            check_network(self._built(victim, 0), victim, self._folders.task, self._folders.test_set)

    def __call__(self, victim: str, seed: int) -> nn.Module:
        """Build a victim, with the weights of its pretraining if it has one."""
        network = self._built(victim, seed)
        if is_pretrained(victim):
            network.load_state_dict(self._pretrained(victim.partition("+")[0], seed))
        return network

    def _built(self, victim: str, seed: int) -> nn.Module:
        folders = self._folders
        return build_victim(
            victim, outputs=folders.task.outputs, image_shape=folders.shape, channels=folders.channels, seed=seed
        )

    def _pretrained(self, base: str, seed: int) -> dict[str, Tensor]:
        if (base, seed) not in self._weights:
            network = self._built(base, seed)
            pretrain(
                network, self._folders.working_set(self._folders[self.source].samples), seed=seed, device=self.device
            )
            self._weights[base, seed] = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
        return self._weights[base, seed]

    @property
    def source(self) -> str:
        """Name of the folder that pretraining sees."""
        return PRETRAIN if PRETRAIN in self._folders.by_name else TEST


class TimeLeft:
    """How long the trainings that are left will take, from the epochs that were measured: each network has its own
    pace, and so has what is done to its images.

    Args:
        work: (network, what is done to its images, how many it sees in all its epochs) of each training that is to be
            made.
    """

    def __init__(self, work: Sequence[tuple[str, str, float]]) -> None:
        self._left = list(work)
        self._measured: dict[tuple[str, ...], tuple[float, float]] = {}

    def measure(self, seconds: float, share: float) -> None:
        """Count a share of the first training that is left, and the time that it took."""
        victim, change, work = self._left[0]
        for key in ((), (victim,), (victim, change)):
            known = self._measured.get(key, (0.0, 0.0))
            self._measured[key] = (known[0] + seconds, known[1] + work * share)

    def finish(self) -> None:
        """Take the first training from those that are left."""
        self._left.pop(0)

    def seconds(self, share_done: float = 0.0) -> float | None:
        """Give the time that is left; None before anything was measured.

        Args:
            share_done: of the first training that is left.
        """
        if not self._measured:
            return None
        total = 0.0
        for number, (victim, change, work) in enumerate(self._left):
            spent, seen = next(
                found for key in ((victim, change), (victim,), ()) if (found := self._measured.get(key)) is not None
            )
            total += spent / seen * work * (1 - share_done if number == 0 else 1)
        return total


class Grid:
    """What trainings share: images after a countermeasure, and what was finished before.

    Args:
        folders: all images.
        build: makes the networks, and knows where to compute.
        recipe: how they are trained.
        state: what was finished before, and is added to.
    """

    def __init__(self, folders: Folders, build: VictimBuilder, recipe: VictimRecipe, state: EvaluationState) -> None:
        self.folders = folders
        self.build = build
        self.recipe = recipe
        self.state = state
        self.notes: list[str] = []
        self._block = ("", 0, 0.0)
        self._changes: dict[tuple[str, float, int], ImageChange] = {}
        self._changed: dict[tuple[int, str, int], WorkingSample] = {}

    def run(
        self,
        cells: Sequence[GridCell],
        *,
        show_progress: bool = False,
        after_training: Callable[[VictimResult], None] | None = None,
    ) -> list[VictimResult]:
        """Train and score what is not finished yet.

        Args:
            cells: in the order in which they are to be trained.
            show_progress: progress bars on standard error, of the trainings and of the epochs of each.
            after_training: called with each result as soon as it is known.

        Returns:
            One result a cell, without those of countermeasures that cannot be used on these images, which are noted.
        """
        results = []
        keys = [self._key(cell) for cell in cells]
        missing = [cell for cell, key in zip(cells, keys, strict=True) if self.state.get(key) is None]
        left = TimeLeft(
            [(cell.victim, f"{cell.augmentation}, {cell.countermeasure.name}", self._work(cell)) for cell in missing]
        )
        with Progress("victims", len(cells), "victims", show_progress=show_progress) as bar:
            for cell, key in zip(cells, keys, strict=True):
                about = (
                    f"{cell.victim} on {cell.trained_on}, {cell.augmentation}, {cell.countermeasure.name}, "
                    f"{cell.protected_share:.0%}, seed {cell.seed}"
                )
                bar.update(0, about, seconds_left=left.seconds())
                record = self.state.get(key)
                if record is not None:
                    result = VictimResult.from_json({name: value for name, value in record.items() if name != "key"})
                else:
                    change = self._fitted(cell)
                    if cell.countermeasure.fit is not None and change is None:
                        left.finish()
                        bar.update(1, about, seconds_left=left.seconds())
                        continue
                    result = self._trained(cell, change, self._watch(cell, left, bar, about), show_progress)
                    self.state.put(key, result.to_json())
                    left.finish()
                results.append(result)
                bar.update(1, about, seconds_left=left.seconds())
                if after_training is not None:
                    after_training(result)
        return results

    def _work(self, cell: GridCell) -> float:
        """Give how many images a training sees in all its epochs."""
        images = len(self.chosen(cell))
        return float(images * self.recipe.epochs_for(images))

    def _watch(self, cell: GridCell, left: TimeLeft, bar: Progress, about: str) -> Callable[[int], None]:
        """Give what is to be called after each epoch of a training: it measures the epoch and tells how long all of
        them will take.
        """
        epochs, last = self.recipe.epochs_for(len(self.chosen(cell))), monotonic()

        def after_epoch(done: int) -> None:
            nonlocal last
            now = monotonic()
            left.measure(now - last, 1 / epochs)
            last = now
            bar.update(0, about, seconds_left=left.seconds(done / epochs))

        return after_epoch

    def _trained(
        self, cell: GridCell, change: ImageChange | None, after_epoch: Callable[[int], None], show_progress: bool
    ) -> VictimResult:
        chosen = self.chosen(cell)
        train = [self._sample(folder, number, change) for folder, number in chosen]
        test = [self._sample(TEST, number, change) for number in range(len(self.folders[TEST].samples))]
        training = VictimTraining(
            task=self.folders.task, train=self.folders.working_set(train), test=self.folders.working_set(test),
            recipe=self.recipe, seed=cell.seed, device=self.build.device,
            augmentation=cell.countermeasure.augmentation or find_augmentation(cell.augmentation),
            batch_loss=cell.countermeasure.batch_loss, relied_on=self._relied_on(cell, chosen, train),
        )  # fmt: skip
        scores = train_victim(
            self.build(cell.victim, cell.seed), training, description=f"epochs of {cell.victim}",
            show_progress=show_progress, after_epoch=after_epoch,
        )  # fmt: skip
        return VictimResult(
            cell.victim, cell.trained_on, cell.countermeasure.name, cell.protected_share, cell.seed, scores,
            cell.augmentation,
        )  # fmt: skip

    def _relied_on(
        self, cell: GridCell, chosen: Sequence[tuple[str, int]], train: Sequence[WorkingSample]
    ) -> WorkingSet:
        """Give a part of the protected images that a cell trains on, as its victim sees them; of the clean ones where
        there are no others.
        """
        protected = [sample for (folder, _), sample in zip(chosen, train, strict=True) if folder == cell.trained_on]
        images = protected or list(train)
        share = min(1.0, MOST_RELIED_ON[self.folders.spatial_dims] / len(images))
        return self.folders.working_set([images[number] for number in stratified_part(images, share, cell.seed)])

    def chosen(self, cell: GridCell) -> list[tuple[str, int]]:
        """Give the images that a cell trains on: the name of a folder, and the number of the sample in it."""
        count = len(self.folders[CLEAN].samples)
        if cell.protected_share == 1:
            return [(cell.trained_on, number) for number in range(count)]
        part = set(stratified_part(self.folders[CLEAN].samples, cell.protected_share, cell.seed))
        clean = [(CLEAN, number) for number in range(count) if number not in part]
        return (
            clean if cell.trained_on == CLEAN_PART else clean + [(cell.trained_on, number) for number in sorted(part)]
        )

    def _fitted(self, cell: GridCell) -> ImageChange | None:
        """Fit the preprocessing of a cell to what its stranger has; None if there is none, or if it cannot be used on
        these images.
        """
        countermeasure = cell.countermeasure
        self._forget(cell)
        if countermeasure.fit is None:
            return None
        key = (cell.trained_on, cell.protected_share, cell.seed)
        if key not in self._changes:
            train = [self.folders[folder].samples[number] for folder, number in self.chosen(cell)]
            leak = Leak(
                train=train, pairs=self._leaked(cell), task=self.folders.task, seed=cell.seed, device=self.build.device
            )
            try:
                self._changes[key] = countermeasure.fit(leak)
            except UsageError as error:
                note = f"not measured: {error}"
                self.notes += [note] if note not in self.notes else []
                return None
        return self._changes[key]

    def _forget(self, cell: GridCell) -> None:
        """Drop the images of earlier cells, unless their preprocessing is the same for all seeds and shares: more
        copies than needed fill the memory.
        """
        block, last = (cell.countermeasure.name, cell.seed, cell.protected_share), self._block
        if block == last or (
            cell.trained_on == CLEAN and block[:2] == last[:2]
        ):  # clean images belong to the first share, whatever it is
            return
        shared: set[int] = set()
        if block[0] == last[0]:
            shared = {number for number, times in Counter(map(id, self._changes.values())).items() if times > 1}
        self._changes = {key: change for key, change in self._changes.items() if id(change) in shared}
        self._changed = {key: sample for key, sample in self._changed.items() if key[0] in shared}
        self._block = block

    def _leaked(self, cell: GridCell) -> list[tuple[np.ndarray, np.ndarray]]:
        """Draw the images whose originals leaked; those who train on clean images purify them as they would the
        protected ones.
        """
        clean, protected = self.folders[CLEAN].samples, self.folders[self._leaking(cell)].samples
        drawn = torch.randperm(len(clean), generator=torch.Generator().manual_seed(cell.seed)).tolist()[
            : cell.countermeasure.leaked_pairs
        ]
        return [(clean[number].image_model, protected[number].image_model) for number in drawn]

    def _leaking(self, cell: GridCell) -> str:
        return cell.trained_on if cell.trained_on in self.folders.protected else self.folders.protected[0]

    def _sample(self, folder: str, number: int, change: ImageChange | None) -> WorkingSample:
        """Give a sample after a preprocessing; each is preprocessed once for all victims."""
        sample = self.folders[folder].samples[number]
        if change is None:
            return sample
        key = (id(change), folder, number)
        if key not in self._changed:
            self._changed[key] = replace(sample, image_model=change(sample.image_model))
        return self._changed[key]

    def _key(self, cell: GridCell) -> str:
        """Give the key of all that a cell's result depends on."""
        seen = [CLEAN, TEST]
        if cell.trained_on in self.folders.protected or cell.countermeasure.leaked_pairs:
            seen.append(self._leaking(cell))
        if is_pretrained(cell.victim):
            seen.append(self.build.source)
        return self.state.key({
            "cell": [
                cell.victim, cell.trained_on, cell.augmentation, cell.countermeasure.name, cell.protected_share,
                cell.seed,
            ],
            "recipe": repr(self.recipe),
            "images": [self.folders[name].digest for name in seen], "shape": self.folders.shape,
            "version": version("monai_salm"),
        })  # fmt: skip
