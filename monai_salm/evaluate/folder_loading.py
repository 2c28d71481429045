# SPDX-License-Identifier: Apache-2.0
"""Loading the folders of an evaluation: what is in them, their labels, and the images that all of them have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path

from monai_salm.errors import UsageError
from monai_salm.evaluate.folders import PRETRAIN, TEST, Folder, FolderPlaces, Folders, counterpart
from monai_salm.evaluate.options import EvaluateOptions
from monai_salm.evaluate.results import CLEAN, CLEAN_PART
from monai_salm.learning.samples import PAD_MULTIPLE, WorkingSet
from monai_salm.pipeline.archive import is_archive
from monai_salm.pipeline.choices import KindChoices
from monai_salm.pipeline.deciding import Wanted, decide
from monai_salm.pipeline.inventory import Inventory, kinds_found
from monai_salm.pipeline.label_values import label_map_values
from monai_salm.pipeline.labeling import find_labels
from monai_salm.pipeline.labels import LabelAssignment
from monai_salm.pipeline.loading import load_samples, task_of
from monai_salm.pipeline.scanning import scan
from monai_salm.pipeline.sides import check_places, check_sides


def load_folders(
    places: FolderPlaces, options: EvaluateOptions, *, multiple: int, spare: Path, show_progress: bool = False
) -> Folders:
    """Read all folders onto the working grid; only images that are in the clean and in all protected ones are used.

    Windows are taken from each folder's own files, since a stranger has no others.

    Args:
        places: of the folders.
        options: see :class:`~monai_salm.evaluate.options.EvaluateOptions`.
        multiple: what the sides of batches are to be multiples of.
        spare: folder that zips are unpacked into; it has to stay while the result is used.
        show_progress: progress bars on standard error.

    Raises:
        UsageError: labels or folders do not fit each other.
    """
    places = _checked(places)
    reading = _Reading(options, spare, show_progress)
    files = reading.scanned(places)
    labels, test_labels = _labels(files, options)
    told = {CLEAN: labels.to_json(files[CLEAN]), TEST: test_labels.to_json(files[TEST])}
    notes = _keep_common(labels, files, places)
    _same_classes(test_labels, labels)
    by_name: dict[str, Folder] = {}
    for name, inventory in files.items():
        targets = {counterpart(path, files[CLEAN], inventory): target for path, target in labels.targets.items()}
        of_folder = test_labels if name == TEST else replace(labels, targets=targets)
        by_name[name] = reading.loaded(inventory, of_folder)
    _check_test(by_name, places)
    if places.pretrain is not None:
        unlabeled = reading.scan(places.pretrain, PRETRAIN, replace(reading.kinds(), strict=False))
        by_name[PRETRAIN] = reading.loaded(unlabeled, None)
    loaded = len(by_name[CLEAN].samples)
    _align(by_name, list(places.protected))
    if unusable := loaded - len(by_name[CLEAN].samples):
        notes.append(
            f"{unusable} of {loaded} images cannot be used in all folders, and no network saw them; 'monai-salm "
            "verify' says why"
        )
    if any(sample.channels == 1 for folder in by_name.values() for sample in folder.samples):
        for folder in by_name.values():
            folder.samples = [sample.in_gray() for sample in folder.samples]
    task = task_of(WorkingSet(by_name[CLEAN].samples), by_name[CLEAN].plan, options.task)
    return Folders(by_name, list(places.protected), task, _common_shape(by_name, multiple), told, tuple(notes))


@dataclass
class _Reading:
    """Reads one folder after the other; label maps of all mean what those of the first mean."""

    options: EvaluateOptions
    spare: Path
    show_progress: bool
    label_values: Sequence[int] | None = None

    def kinds(self, *, test: bool = False) -> KindChoices:
        """Give what the user says of images and label maps."""
        return self.options.sample_options(test=test).kind_choices()

    def scan(self, place: Path, name: str, choices: KindChoices) -> Inventory:
        """List a folder; a zip is unpacked under a name of the spare folder."""
        return scan(place, unpack_into=self.spare / name, choices=choices, show_progress=self.show_progress)

    def scanned(self, places: FolderPlaces) -> dict[str, Inventory]:
        """List the clean, the protected and the test folders, or raise UsageError for folders that are no pair."""
        kinds, kinds_of_test = self.kinds(), replace(self.kinds(test=True), strict=False)
        clean = self.scan(places.clean, "0", kinds)
        files = {CLEAN: clean}
        for number, (name, place) in enumerate(places.protected.items(), start=1):
            # What was an image before it got noise still is one.
            files[name] = self.scan(place, str(number), KindChoices(known=kinds_found(clean)))
        files[TEST] = self.scan(places.test, str(len(files)), kinds_of_test)
        for name, place in places.protected.items():
            check_sides(places.clean, place, clean, files[name], paired=True)
        return files

    def loaded(self, inventory: Inventory, labels: LabelAssignment | None) -> Folder:
        """Plan the samples of a folder and read them onto the working grid."""
        options = self.options
        decision = decide(
            inventory, options.budget_options(), labels=labels, sample=options.sample,
            wanted=Wanted(grid=options.working_size),
        )  # fmt: skip
        plan = decision.plan
        if self.label_values is None:
            self.label_values = label_map_values(inventory, plan.samples)
        values = () if labels is None else self.label_values
        loaded = load_samples(inventory, decision, options.working_size, values, show_progress=self.show_progress)
        return Folder(inventory, loaded.complete(plan), loaded.samples)


def _checked(places: FolderPlaces) -> FolderPlaces:
    """Give the places, with the zips that protect put into folders; raise UsageError for what cannot be compared."""
    reserved = {CLEAN, CLEAN_PART, TEST, PRETRAIN} & set(places.protected)
    if reserved:
        raise UsageError(f"a protected folder cannot be named {reserved.pop()!r}; give another name")
    for folder in places.protected.values():
        check_places(places.clean, folder)
    return replace(places, protected={name: _within(place, places.clean) for name, place in places.protected.items()})


def _within(folder: Path, clean: Path) -> Path:
    """Give the zip that protect put into a folder, of a clean one that is a zip."""
    return folder / clean.name if is_archive(clean) and is_archive(folder / clean.name) else folder


def _labels(files: Mapping[str, Inventory], options: EvaluateOptions) -> tuple[LabelAssignment, LabelAssignment]:
    """Find the labels of the clean and of the test images."""
    labels = find_labels(files[CLEAN], options.sample_options())
    test_labels = find_labels(files[TEST], options.sample_options(test=True))
    if options.test_labels is None:  # a row of one table belongs to the images of either folder
        unmatched = set(test_labels.unmatched)
        labels.unmatched = test_labels.unmatched = [name for name in labels.unmatched if name in unmatched]
    return labels, test_labels


def _keep_common(labels: LabelAssignment, files: Mapping[str, Inventory], places: FolderPlaces) -> list[str]:
    """Take the labels from images that a protected folder lacks; give notes on them."""
    clean, notes = files[CLEAN], []
    labeled = set(labels.targets) & set(clean.pictures)
    for name, place in places.protected.items():
        there = {path for path in labels.targets if counterpart(path, clean, files[name]) in files[name].pictures}
        if lacking := sorted(labeled & set(labels.targets) - there):
            notes.append(
                f"{len(lacking)} of {len(labeled)} labeled images are not in {place.name} (the first: "
                f"{lacking[0]}); no network saw them, clean or protected"
            )
        labels.targets = {path: target for path, target in labels.targets.items() if path in there}
        if not labels.targets:
            raise UsageError(
                f"{place}: no labeled image of {places.clean} is there under the same path; give the folder "
                "that 'protect' wrote"
            )
    return notes


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


def _check_test(folders: Mapping[str, Folder], places: FolderPlaces) -> None:
    """Find out whether a victim would train on test images; an id stays the same wherever a file lies."""
    test = {sample.sample_id for sample in folders[TEST].samples}
    for name, place in ((CLEAN, places.clean), *places.protected.items()):
        if known := test & {sample.sample_id for sample in folders[name].samples}:
            raise UsageError(
                f"{len(known)} of the test images are in {place}, too; test on clean images that no victim trains on"
            )


def _align(folders: dict[str, Folder], protected: list[str]) -> None:
    """Keep the samples that the clean and all protected folders have, in one order, under the ids of the clean ones."""
    clean = folders[CLEAN]
    numbers: dict[str, dict[str, str]] = {}
    for name in protected:
        others = {file.path: sample.sample_id for sample in folders[name].plan.samples for file in sample.files}
        numbers[name] = {
            sample.sample_id: others[path]
            for sample in clean.plan.samples
            if (path := counterpart(sample.files[0].path, clean.inventory, folders[name].inventory)) in others
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


def _common_shape(folders: Mapping[str, Folder], multiple: int) -> tuple[int, ...]:
    """Give the shape of all batches, or raise UsageError if folders differ in their dimensions."""
    shapes = [WorkingSet(folder.samples).padded_shape for folder in folders.values()]
    if len({len(shape) for shape in shapes}) > 1:
        raise UsageError("2D and 3D images are mixed; evaluate folders of one kind")
    step = lcm(PAD_MULTIPLE, multiple)
    return tuple(-(-max(sizes) // step) * step for sizes in zip(*shapes, strict=True))
