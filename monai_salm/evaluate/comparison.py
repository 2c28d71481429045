# SPDX-License-Identifier: Apache-2.0
"""The comparison of a clean and a protected folder: the same victims, trained on the files of each, scored on the same clean test files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from monai_salm.budget import Epsilon, parse_window
from monai_salm.errors import UsageError
from monai_salm.evaluate.victims import VictimRecipe, train_victim
from monai_salm.pipeline.inventory import Inventory, scan
from monai_salm.pipeline.labels import LabelAssignment
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import BudgetOptions, ProtectionPlan, build_plan
from monai_salm.pipeline.protect import find_labels
from monai_salm.pipeline.search import VOLUME_BATCH, check_network, load_working_samples, pick_device, seeded_network, task_of
from monai_salm.pipeline.working import label_map_values
from monai_salm.samples import WorkingSample, WorkingSet


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What ``monai-salm evaluate`` can be told; the command's options have the same names.

    Args:
        labels, label_column, labels_from_folders, task: as in :class:`~monai_salm.pipeline.options.ProtectOptions`.
        test_labels: labels of the test images; None takes ``labels``.
        victims: names of networks, separated by commas; empty takes a small one.
        seeds: trainings per network and folder, with seeds 0, 1, ...
        epochs: of each training; more where they make fewer than 300 steps.
        window, modality, sample, working_size, device: as in ``ProtectOptions``.
    """

    labels: Path | None = None
    label_column: str | None = None
    labels_from_folders: bool = False
    task: str = "classification"
    test_labels: Path | None = None
    victims: str = ""
    seeds: int = 1
    epochs: int = 20
    window: str = "auto"
    modality: str = ""
    sample: str = "auto"
    working_size: int = 128
    device: str = "auto"

    def label_options(self, labels: Path | None) -> ProtectOptions:
        """Give the options that say where labels are."""
        return ProtectOptions(
            labels=labels, label_column=self.label_column, labels_from_folders=self.labels_from_folders, task=self.task,
            sample=self.sample, working_size=self.working_size,
        )  # fmt: skip


@dataclass(frozen=True)
class VictimResult:
    """Scores of one victim: after the last epoch, and the peak over epochs."""

    victim: str
    trained_on: str
    seed: int
    scores: dict[str, float]


@dataclass(frozen=True)
class EvaluateReport:
    """All victims' scores.

    Args:
        results: one a training.
        counts: images of each folder that were used.
        chance: main score of a guess; None for segmentation.
    """

    results: list[VictimResult]
    counts: dict[str, int]
    chance: float | None

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm evaluate --json`` prints."""
        rows = [{"victim": r.victim, "trained_on": r.trained_on, "seed": r.seed, **{k: _number(v) for k, v in r.scores.items()}} for r in self.results]
        return {"counts": self.counts, "chance": self.chance, "results": rows, "summary": self.summary()}

    def summary(self) -> list[dict[str, Any]]:
        """Give mean and standard deviation over seeds, for each victim and folder."""
        rows = []
        for victim, folder in dict.fromkeys((r.victim, r.trained_on) for r in self.results):
            scores = [r.scores for r in self.results if (r.victim, r.trained_on) == (victim, folder)]
            row: dict[str, Any] = {"victim": victim, "trained_on": folder, "seeds": len(scores)}
            for name in scores[0]:
                values = [score[name] for score in scores]
                row[name] = _number(mean(values))
                defined = all(value == value for value in values)  # no AUC without both classes
                row[f"{name}_sd"] = _number(stdev(values)) if len(values) > 1 and defined else None
            rows.append(row)
        return rows

    def table(self) -> str:
        """Give the summary as a table for people."""
        rows = self.summary()
        names = [name for name in rows[0] if name not in ("victim", "trained_on", "seeds") and not name.endswith("_sd")]
        lines = [["victim", "trained on", *names]]
        for row in rows:
            cells = [_cell(row[name], row[f"{name}_sd"]) for name in names]
            lines.append([row["victim"], row["trained_on"], *cells])
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        text = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
        used = ", ".join(f"{number} {name}" for name, number in self.counts.items())
        guess = "" if self.chance is None else f"; a guess scores {self.chance:.3f} balanced accuracy"
        return f"{text}\nscores on clean test images; images used: {used}{guess}; peak is the best epoch"


def _number(value: float) -> float | None:
    return None if value != value else round(value, 6)


def _cell(value: float | None, spread: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"


def evaluate(
    clean: Path,
    protected: Path | Mapping[str, Path],
    test: Path,
    options: EvaluateOptions,
    *,
    show_progress: bool = False,
    after_training: Callable[[VictimResult], None] | None = None,
) -> EvaluateReport:
    """Train each victim on the clean and on the protected files and score all on the clean test files.

    Only images that are in all folders are used, so that all learn from the same pictures. Windows are taken from each folder's own files, since a
    stranger has no others.

    Args:
        clean: folder of originals.
        protected: what came out of ``protect``; same relative paths. Or several such folders by name.
        test: folder of clean images that no victim trains on.
        options: see :class:`EvaluateOptions`.
        show_progress: progress bars on standard error.
        after_training: called with the scores of each victim as soon as they are known.

    Raises:
        UsageError: labels or folders do not fit each other.
    """
    folders = {"clean": clean} | (dict(protected) if isinstance(protected, Mapping) else {"protected": protected})
    files = {name: scan(folder, show_progress=show_progress) for name, folder in folders.items()}
    labels = find_labels(files["clean"], options.label_options(options.labels))
    written = {path: files["clean"].output_path(path) for path in labels.targets}  # a JPEG is protected as PNG
    for name, inventory in files.items():
        labels.targets = {path: target for path, target in labels.targets.items() if path in inventory.pictures or written[path] in inventory.pictures}
        if not labels.targets:
            raise UsageError(f"{folders[name]}: no labeled picture of {clean} is there under the same path; give the folder that 'protect' wrote")
    files["test"] = scan(test, show_progress=show_progress)
    test_labels = find_labels(files["test"], options.label_options(options.test_labels or options.labels))
    _same_classes(test_labels, labels)
    values: list[int] | None = None
    plans: dict[str, ProtectionPlan] = {}
    loaded: dict[str, list[WorkingSample]] = {}
    for name, inventory in files.items():
        own = replace(labels, targets={path if path in inventory.pictures else written[path]: target for path, target in labels.targets.items()})
        plans[name] = _plan(inventory, test_labels if name == "test" else own, options)
        values = values if values is not None else label_map_values(inventory, plans[name].samples)
        loaded[name] = list(load_working_samples(inventory, plans[name], options.working_size, values or None, show_progress=show_progress))
    # An id stays the same wherever a file lies.
    known = {sample.sample_id for sample in plans["clean"].samples} & {sample.sample_id for sample in plans["test"].samples}
    if known:
        raise UsageError(f"{len(known)} of the test images are in {clean}, too; test on images that no victim trains on")
    shape = tuple(max(sizes) for sizes in zip(*(WorkingSet(samples).padded_shape for samples in loaded.values()), strict=True))
    sets = {name: WorkingSet(samples, shape) for name, samples in loaded.items()}
    task = task_of(sets["clean"], plans["clean"], options.task)
    device = pick_device(options.device)
    default = "small-unet" if options.task == "segmentation" else "small-resnet"
    recipe = replace(VictimRecipe(), epochs=options.epochs)
    if sets["clean"].spatial_dims == 3:
        recipe = replace(recipe, batch_size=VOLUME_BATCH)
    results = []
    for victim in [name.strip() for name in (options.victims or default).split(",")]:
        for seed in range(options.seeds):
            for folder in folders:
                network = seeded_network(victim, sets["clean"].spatial_dims, task.outputs, seed)
                check_network(network, victim, task, sets["clean"].padded_shape)
                scores = train_victim(
                    network, task, sets[folder], sets["test"], recipe,
                    seed=seed, device=device, description=f"{victim} on {folder}, seed {seed}", show_progress=show_progress,
                )  # fmt: skip
                results.append(VictimResult(victim, folder, seed, scores))
                if after_training is not None:
                    after_training(results[-1])
    chance = None if options.task == "segmentation" else 0.5 if labels.multi_label else 1 / task.outputs
    return EvaluateReport(results, {name: len(working) for name, working in sets.items()}, chance)


def _plan(files: Inventory, labels: LabelAssignment, options: EvaluateOptions) -> ProtectionPlan:
    # No noise is made here, so no image is too coarse for its budget.
    budget = BudgetOptions(epsilon=Epsilon(1.0), window=parse_window(options.window), modality=options.modality.upper())
    return build_plan(files, budget, labels=labels, sample=options.sample)


def _same_classes(test: LabelAssignment, train: LabelAssignment) -> None:
    """Number the classes of the test labels as those of the training labels."""
    unknown = [name for name in test.classes if name not in train.classes]
    if unknown or test.multi_label != train.multi_label:
        raise UsageError(f"the test labels {test.classes} are not among the training labels {train.classes}; use the same names")
    if not test.multi_label:
        test.targets = {path: train.classes.index(test.classes[t]) if isinstance(t, int) else t for path, t in test.targets.items()}
    test.classes = train.classes
