# SPDX-License-Identifier: Apache-2.0
"""The folders of an evaluation on their working grids: the same samples, in the same order, of the clean and of every
protected folder.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_salm.evaluate.results import CLEAN
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.targets import TargetKind, classes_in, target_kind
from monai_salm.learning.tasks import ClassificationTask, LearningTask
from monai_salm.learning.victims import chance_score
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.plan import FilePlan, ProtectionPlan
from monai_salm.working_samples import WorkingSample

TEST = "test"
PRETRAIN = "pretrain"


@dataclass(frozen=True)
class FolderPlaces:
    """Where the inputs of an evaluation are, each a folder or a zip of it.

    Args:
        clean: originals.
        protected: what came out of ``protect``, by name.
        test: clean images that no victim trains on.
        pretrain: clean images without labels that some victims see first; None where there are none.
    """

    clean: Path
    protected: Mapping[str, Path]
    test: Path
    pretrain: Path | None = None

    def by_name(self) -> dict[str, Path]:
        """Give all places by the names that the folders have."""
        last = {} if self.pretrain is None else {PRETRAIN: self.pretrain}
        return {CLEAN: self.clean, **self.protected, TEST: self.test, **last}


@dataclass
class Folder:
    """One input: its files, what they mean, and its samples on the working grid."""

    inventory: Inventory
    plan: ProtectionPlan
    samples: list[WorkingSample]

    @cached_property
    def digest(self) -> str:
        """Digest of all that a victim can see of the samples."""
        return _digest(self.samples)


@dataclass(frozen=True)
class Folders:
    """All inputs of an evaluation.

    Args:
        by_name: ``clean``, the protected ones, ``test``, and ``pretrain`` where there is one. Sample ``i`` is the same
            one in clean and protected ones.
        protected: names of the protected ones.
        task: what victims learn.
        shape: of all batches.
        labels: what is known of the labels of ``clean`` and ``test``, as plain types.
        notes: on images that could not be used.
    """

    by_name: dict[str, Folder]
    protected: list[str]
    task: LearningTask
    shape: tuple[int, ...]
    labels: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Folder:
        return self.by_name[name]

    @property
    def counts(self) -> dict[str, int]:
        """Images of each folder that are used."""
        return {name: len(folder.samples) for name, folder in self.by_name.items()}

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return len(self.shape)

    @property
    def channels(self) -> int:
        """1, or 3 where the images of all folders are in color."""
        return self.test_set.channels

    @property
    def test_set(self) -> WorkingSet:
        """The test images."""
        return self.working_set(self[TEST].samples)

    def class_counts(self, name: str) -> dict[str, int]:
        """Give how many images of a folder have each class, finding or label; an image may have several of the latter
        two.
        """
        folder = self[name]
        classes = self[CLEAN].plan.classes
        found = Counter(number for sample in folder.samples for number in classes_in(sample.target))
        return {label: found[number] for number, label in enumerate(classes)}

    def working_set(self, samples: list[WorkingSample]) -> WorkingSet:
        """Give samples in batches of the common shape."""
        return WorkingSet(samples, self.shape)

    def chance(self) -> float | None:
        """Give the balanced accuracy of a guess; None for segmentation."""
        return chance_score(self.task)

    def majority_share(self) -> float | None:
        """Give the share of the commonest class of the test images; None where an image has no single class."""
        if not isinstance(self.task, ClassificationTask) or self.task.multi_label:
            return None
        classes = self.test_set.targets()
        return float(torch.bincount(classes).max()) / len(classes)

    def file_pairs(self, name: str) -> Iterator[tuple[int, int, FilePlan, Path]]:
        """Give every clean file, with the number of its sample and its own in it, and the place of its counterpart in a
        protected folder.
        """
        clean, other = self[CLEAN].inventory, self[name].inventory
        for number, sample in enumerate(self[CLEAN].plan.samples):
            for place, file in enumerate(sample.files):
                yield number, place, file, other.absolute(counterpart(file.path, clean, other))


def stratified_part(samples: list[WorkingSample], share: float, seed: int) -> list[int]:
    """Draw a share of some samples, the same of each class as far as whole samples allow.

    Args:
        samples: with classes, findings or label maps; those with label maps are all of one class.
        share: in [0, 1]; the number drawn is the nearest to it.
        seed: of the draw.

    Returns:
        Numbers of the samples, in order.
    """
    shuffled = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed)).tolist()
    by_class = sorted(shuffled, key=lambda number: _class_of(samples[number]))
    # Every 1/share-th of a list that is ordered by class.
    reached = [int(count * share + 0.5 + 1e-9) for count in range(len(samples) + 1)]
    return sorted(
        number for number, before, after in zip(by_class, reached, reached[1:], strict=False) if after > before
    )


def _class_of(sample: WorkingSample) -> tuple[float, ...]:
    """Give what samples of one class have in common; nothing for label maps."""
    if target_kind(sample.target) is TargetKind.LABEL_MAP:
        return ()
    return tuple(np.atleast_1d(np.asarray(sample.target, dtype=float)).tolist()) if sample.target is not None else ()


def counterpart(path: str, clean: Inventory, other: Inventory) -> str:
    """Give the path of a clean image in another folder; a JPEG is protected as PNG."""
    return path if path in other.pictures else clean.output_path(path)


def _digest(samples: list[WorkingSample]) -> str:
    digest = hashlib.sha256()
    for sample in samples:
        target = sample.target.tobytes() if isinstance(sample.target, np.ndarray) else repr(sample.target).encode()
        for part in (
            sample.sample_id.encode(),
            repr(sample.image_model.shape).encode(),
            sample.image_model.tobytes(),
            target,
        ):
            digest.update(part)
    return digest.hexdigest()
