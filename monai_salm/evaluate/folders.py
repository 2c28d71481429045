# SPDX-License-Identifier: Apache-2.0
"""The folders of an evaluation on their working grids: the same samples, in the same order, of the clean and of every
protected folder.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_salm.errors import UsageError
from monai_salm.evaluate.options import EvaluateOptions
from monai_salm.evaluate.results import CLEAN, CLEAN_PART
from monai_salm.learning.samples import PAD_MULTIPLE, WorkingSample, WorkingSet
from monai_salm.learning.targets import TargetKind, classes_in, target_kind
from monai_salm.learning.tasks import ClassificationTask, LearningTask
from monai_salm.pipeline.archive import is_archive
from monai_salm.pipeline.choices import KindChoices
from monai_salm.pipeline.inventory import Inventory, kinds_found
from monai_salm.pipeline.label_values import label_map_values
from monai_salm.pipeline.labeling import find_labels
from monai_salm.pipeline.labels import LabelAssignment
from monai_salm.pipeline.loading import load_samples, task_of
from monai_salm.pipeline.plan import FilePlan, ProtectionPlan, build_plan
from monai_salm.pipeline.scanning import scan
from monai_salm.pipeline.sides import check_places, check_sides

TEST = "test"
PRETRAIN = "pretrain"


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
        if not isinstance(self.task, ClassificationTask):
            return None
        return 0.5 if self.task.multi_label else 1 / self.task.outputs

    def majority_share(self) -> float | None:
        """Give the share of the commonest class of the test images; None where an image has no single class."""
        if not isinstance(self.task, ClassificationTask) or self.task.multi_label:
            return None
        classes = self.working_set(self[TEST].samples).targets()
        return float(torch.bincount(classes).max()) / len(classes)

    def file_pairs(self, name: str) -> Iterator[tuple[int, int, FilePlan, Path]]:
        """Give every clean file, with the number of its sample and its own in it, and the place of its counterpart in a
        protected folder.
        """
        clean, other = self[CLEAN].inventory, self[name].inventory
        for number, sample in enumerate(self[CLEAN].plan.samples):
            for place, file in enumerate(sample.files):
                yield number, place, file, other.absolute(_counterpart(file.path, clean, other))


def load_folders(
    clean: Path,
    protected: Mapping[str, Path],
    test: Path,
    options: EvaluateOptions,
    *,
    multiple: int,
    spare: Path,
    show_progress: bool = False,
) -> Folders:
    """Read all folders onto the working grid; only images that are in the clean and in all protected ones are used.

    Windows are taken from each folder's own files, since a stranger has no others.

    Args:
        clean, protected, test: folders, or zips of them.
        options: see :class:`~monai_salm.evaluate.options.EvaluateOptions`.
        multiple: what the sides of batches are to be multiples of.
        spare: folder that zips are unpacked into; it has to stay while the result is used.
        show_progress: progress bars on standard error.

    Raises:
        UsageError: labels or folders do not fit each other.
    """
    reserved = {CLEAN, CLEAN_PART, TEST, PRETRAIN} & set(protected)
    if reserved:
        raise UsageError(f"a protected folder cannot be named {reserved.pop()!r}; give another name")
    for folder in protected.values():
        check_places(clean, folder)
    places = {CLEAN: clean} | {name: _within(folder, clean) for name, folder in protected.items()} | {TEST: test}
    said = {CLEAN: options.sample_options().kind_choices()}
    said[TEST] = replace(options.sample_options(test=True).kind_choices(), strict=False)
    files: dict[str, Inventory] = {}
    for number, (name, place) in enumerate(places.items()):
        # What was a picture before it got noise still is one.
        choices = said[name] if name in said else KindChoices(known=kinds_found(files[CLEAN]))
        files[name] = scan(place, unpack_into=spare / str(number), choices=choices, show_progress=show_progress)
    for name in protected:
        check_sides(clean, places[name], files[CLEAN], files[name], paired=True)
    labels = find_labels(files[CLEAN], options.sample_options())
    test_labels = find_labels(files[TEST], options.sample_options(test=True))
    if options.test_labels is None:  # a row of one table belongs to the images of either folder
        labels.unmatched = test_labels.unmatched = [
            name for name in labels.unmatched if name in set(test_labels.unmatched)
        ]
    told = {CLEAN: labels.to_json(files[CLEAN]), TEST: test_labels.to_json(files[TEST])}
    labeled = len(set(labels.targets) & set(files[CLEAN].pictures))
    notes = []
    for name in protected:
        there = {
            path for path in labels.targets if _counterpart(path, files[CLEAN], files[name]) in files[name].pictures
        }
        if lacking := sorted(set(labels.targets) & set(files[CLEAN].pictures) - there):
            notes.append(
                f"{len(lacking)} of {labeled} labeled images are not in {places[name].name} (the first: "
                f"{lacking[0]}); no network saw them, clean or protected"
            )
        labels.targets = {path: target for path, target in labels.targets.items() if path in there}
        if not labels.targets:
            raise UsageError(
                f"{places[name]}: no labeled picture of {clean} is there under the same path; give the folder "
                "that 'protect' wrote"
            )
    _same_classes(test_labels, labels)
    by_name: dict[str, Folder] = {}
    values: Sequence[int] | None = None
    for name, inventory in files.items():
        own = replace(
            labels,
            targets={_counterpart(path, files[CLEAN], inventory): target for path, target in labels.targets.items()},
        )
        plan = build_plan(
            inventory, options.budget_options(), labels=test_labels if name == TEST else own, sample=options.sample
        )
        values = values if values is not None else label_map_values(inventory, plan.samples)
        by_name[name] = _loaded(inventory, plan, options, values, show_progress=show_progress)
    # An id stays the same wherever a file lies.
    for name in (CLEAN, *protected):
        known = {sample.sample_id for sample in by_name[name].samples} & {
            sample.sample_id for sample in by_name[TEST].samples
        }
        if known:
            raise UsageError(
                f"{len(known)} of the test images are in {places[name]}, too; test on clean images that no victim "
                "trains on"
            )
    if options.pretrain is not None:
        inventory = scan(
            options.pretrain,
            unpack_into=spare / PRETRAIN,
            choices=replace(said[CLEAN], strict=False),
            show_progress=show_progress,
        )
        plan = build_plan(inventory, options.budget_options(), sample=options.sample)
        by_name[PRETRAIN] = _loaded(inventory, plan, options, (), show_progress=show_progress)
    loaded = len(by_name[CLEAN].samples)
    _align(by_name, list(protected))
    if unusable := loaded - len(by_name[CLEAN].samples):
        notes.append(
            f"{unusable} of {loaded} images cannot be used in all folders, and no network saw them; 'monai-salm "
            "verify' says why"
        )
    shapes = [WorkingSet(folder.samples).padded_shape for folder in by_name.values()]
    if len({len(shape) for shape in shapes}) > 1:
        raise UsageError("2D and 3D images are mixed; evaluate folders of one kind")
    step = lcm(PAD_MULTIPLE, multiple)
    shape = tuple(-(-max(sizes) // step) * step for sizes in zip(*shapes, strict=True))
    task = task_of(WorkingSet(by_name[CLEAN].samples), by_name[CLEAN].plan, options.task)
    return Folders(by_name, list(protected), task, shape, told, tuple(notes))


def _loaded(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: EvaluateOptions,
    label_values: Sequence[int],
    *,
    show_progress: bool,
) -> Folder:
    loaded = load_samples(inventory, plan, options.working_size, label_values, show_progress=show_progress)
    return Folder(inventory, loaded.complete(plan), loaded.samples)


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


def _within(folder: Path, clean: Path) -> Path:
    """Give the zip that protect put into a folder, of a clean one that is a zip."""
    return folder / clean.name if is_archive(clean) and is_archive(folder / clean.name) else folder


def _counterpart(path: str, clean: Inventory, other: Inventory) -> str:
    """Give the path of a clean picture in another folder; a JPEG is protected as PNG."""
    return path if path in other.pictures else clean.output_path(path)


def _align(folders: dict[str, Folder], protected: list[str]) -> None:
    """Keep the samples that the clean and all protected folders have, in one order, under the ids of the clean ones."""
    clean = folders[CLEAN]
    numbers: dict[str, dict[str, str]] = {}
    for name in protected:
        others = {file.path: sample.sample_id for sample in folders[name].plan.samples for file in sample.files}
        numbers[name] = {
            sample.sample_id: others[path]
            for sample in clean.plan.samples
            if (path := _counterpart(sample.files[0].path, clean.inventory, folders[name].inventory)) in others
        }
    kept = sorted(
        sample.sample_id
        for sample in clean.plan.samples
        if all(sample.sample_id in found for found in numbers.values())
    )
    if not kept:
        raise UsageError(
            "no image can be used in the clean and in the protected folder; 'monai-salm scan' and 'verify' list "
            "the reasons"
        )
    for name in (CLEAN, *protected):
        folder = folders[name]
        samples = {sample.sample_id: sample for sample in folder.samples}
        plans = {sample.sample_id: sample for sample in folder.plan.samples}
        own = numbers.get(name) or {key: key for key in kept}
        plan = replace(folder.plan, samples=tuple(plans[own[key]] for key in kept))
        folders[name] = Folder(folder.inventory, plan, [replace(samples[own[key]], sample_id=key) for key in kept])


def _same_classes(test: LabelAssignment, train: LabelAssignment) -> None:
    """Number the classes of the test labels as those of the training labels."""
    unknown = [name for name in test.classes if name not in train.classes]
    if unknown or test.multi_label != train.multi_label:
        raise UsageError(
            f"the test labels {test.classes} are not among the training labels {train.classes}; use the same names"
        )
    if not test.multi_label:
        test.targets = {
            path: train.classes.index(test.classes[t]) if isinstance(t, int) else t for path, t in test.targets.items()
        }
    test.classes = train.classes


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
