# SPDX-License-Identifier: Apache-2.0
"""The rows of ``benchmarks/results``: the latest of each cell, as means over seeds; and what Markdown needs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from monai_salm.errors import UsageError
from monai_salm.methods.names import METHOD_KINDS, check_method

BENCHMARKS = Path(__file__).resolve().parents[1]
RESULTS = BENCHMARKS / "results"

Row = dict[str, Any]

_NOT_SCORES = (
    "what", "data_set", "part", "epsilon", "perturbed_fraction", "epochs", "least_steps", "victim", "trained_on",
    "countermeasure", "protected_share", "augmentation", "seed", "curve", "seconds", "commit", "machine", "split",
    "version", "chance",
)  # fmt: skip

_PICTURES = (
    "resnet18",
    "resnet18-3x3",
    "resnet50",
    "DenseNet121",
    "EfficientNetBN",
    "ViT",
    "small-cnn",
    "small-resnet",
)
_VOLUMES = ("UNet", "AttentionUnet", "DynUNet", "SegResNet", "SwinUNETR", "small-unet")


@dataclass(frozen=True)
class DataSet:
    """What a data set is, and what there is to be run on it."""

    name: str
    title: str
    script: str
    epsilon: str = "8/255"
    victims: tuple[str, ...] = _PICTURES
    seen_before: tuple[str, ...] = ("resnet18+pretrained", "resnet18+frozen")
    task: str = "classification"
    spatial_dims: int = 2

    @property
    def methods(self) -> list[str]:
        """Name the methods that are made for its task."""
        found = []
        for method in METHOD_KINDS:
            try:
                check_method(method, self.task, self.spatial_dims)
            except UsageError:
                continue
            found.append(method)
        return found


DATA_SETS = {
    data.name: data
    for data in (
        DataSet("pneumonia", "PneumoniaMNIST as DICOM CR, 28 x 28", "classification.py"),
        DataSet("breast", "BreastMNIST as DICOM CR, 28 x 28", "classification.py"),
        DataSet("brain_tumor", "Brain tumor MR slices, JPEG pictures at 64 x 64", "classification.py"),
        DataSet("retina", "RetinaMNIST, color PNG, five grades, 28 x 28", "classification.py"),
        DataSet("contrasts", "Brain slices in three made contrasts, DICOM, 256 x 256", "classification.py"),
        DataSet("cells", "Drawn cells, color PNG, eight classes, 28 x 28", "classification.py"),
        DataSet("findings", "Brain tumor MR slices with three findings, JPEG pictures at 64 x 64", "classification.py"),
        DataSet("ct_contrast", "Real CT slices with and without contrast agent, DICOM at 64 x 64", "ct_contrast.py"),
        DataSet(
            "hippocampus",
            "Hippocampus, 3D segmentation from NIfTI",
            "hippocampus.py",
            "4/255",
            _VOLUMES,
            (),
            "segmentation",
            3,
        ),
        DataSet(
            "hippocampus_slices",
            "Hippocampus, 2D sections with label maps, NIfTI",
            "hippocampus.py",
            victims=("small-unet", "small-segresnet"),
            seen_before=(),
            task="segmentation",
        ),
    )
}

EARLIER: dict[str, Row] = {
    "pneumonia_0.1": {"data_set": "pneumonia", "chance": 0.5},
    "hippocampus_0.1": {"data_set": "hippocampus", "trained_on": "salm"},
}
"""Files of an earlier version, whose rows say less."""


CHOICES = {"classification": ("bf6116f", "salm:texture"), "segmentation": ("f0f9706", "salm:minmin")}
"""By task, since when ``salm`` is a choice among parts, and which of them it was before (that without balance)."""


@dataclass
class Measured:
    """What was measured on a data set with one setting.

    Args:
        data: the data set.
        epsilon: as it was given.
        fraction: largest share of the anatomy that sparse methods may change.
        version: of the program; empty for the present one.
        protects: by method, how the files were made.
        cells: by victim, what it was trained on, countermeasure and protected share: means and spreads over seeds. An
            augmentation that is not flips and shifts stands in brackets behind the victim.
        rows: all that the cells come from.
        chance: main score of a guess.
        majority: share of the commonest class of the test images.
        counts: images of each folder.
        utilities: by method and victim.
    """

    data: DataSet
    epsilon: str
    fraction: float
    version: str = ""
    protects: dict[str, Row] = field(default_factory=dict)
    cells: dict[tuple[str, str, str, float], Row] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    chance: float = 0.0
    majority: float | None = None
    counts: dict[str, int] = field(default_factory=dict)
    utilities: dict[tuple[str, str], Row] = field(default_factory=dict)

    @property
    def score(self) -> str:
        """Name of the score that decides."""
        return "dice" if self.data.task == "segmentation" else "balanced_accuracy"

    @property
    def own_setting(self) -> bool:
        """Say whether it is the setting of the targets; for volumes the lowest PSNR decides how much may change, not
        the share.
        """
        return (
            not self.version
            and self.epsilon == self.data.epsilon
            and (self.data.task == "segmentation" or self.fraction == 0.4)
        )

    @property
    def highest(self) -> float:
        """Highest main score of a victim that counts as kept from learning."""
        return 0.15 if self.score == "dice" else self.chance + 0.10

    @property
    def least(self) -> float:
        """Lowest main score of a victim that learned something from clean images."""
        return 0.2 if self.score == "dice" else self.chance + 0.10

    @property
    def methods(self) -> list[str]:
        """Name the methods whose victims were measured, SALM first."""
        found = {key[1] for key in self.cells} - {"clean", "clean part"}
        return in_order(found, ["salm", *METHOD_KINDS])

    def victims(self, *, seen_before: bool = False) -> list[str]:
        """Name the victims with flips and shifts that were measured: those from scratch, or those that saw other images
        before.
        """
        names = {key[0] for key in self.cells if ("+" in key[0]) == seen_before and "(" not in key[0]}
        return in_order(names, self.data.victims)

    def augmented(self) -> list[str]:
        """Name the victims with other augmentations that were measured."""
        return sorted({key[0] for key in self.cells if "(" in key[0]})

    def cell(
        self, victim: str, trained_on: str = "clean", countermeasure: str = "none", share: float = 1.0
    ) -> Row | None:
        """Give the means of a cell; None if it was not run."""
        return self.cells.get((victim, trained_on, countermeasure, share))

    def learned(self, victim: str, countermeasure: str = "none") -> bool:
        """Say whether clean images taught the victim anything, so that protected ones can be judged by it."""
        clean = self.cell(victim, countermeasure=countermeasure)
        return clean is not None and clean[self.score] >= self.least - 1e-9

    def kept(self, victim: str, method: str = "salm", countermeasure: str = "none") -> float | None:
        """Give the share of what clean images teach beyond a guess that the protection keeps from the victim, after the
        same countermeasure.
        """
        clean, protected = self.cell(victim, countermeasure=countermeasure), self.cell(victim, method, countermeasure)
        if clean is None or protected is None or not self.learned(victim, countermeasure):
            return None
        return float((clean[self.score] - protected[self.score]) / (clean[self.score] - self.chance))


def in_order(found: Iterable[str], order: Iterable[str]) -> list[str]:
    """Sort names as they are in a list, unknown ones behind by the alphabet."""
    places = {name: place for place, name in reversed(list(enumerate(order)))}
    return sorted(found, key=lambda name: (places.get(name, len(places)), name))


def read_rows(name: str, folder: Path = RESULTS) -> list[Row]:
    """Read the rows of a file, none if it is not there."""
    path = folder / f"{name}.jsonl"
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.exists()
        else []
    )


@cache
def _commit_places() -> dict[str, int]:
    """Number the commits from the oldest to the newest; none outside a repository."""
    listing = subprocess.run(
        ["git", "rev-list", "--reverse", "HEAD"], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    ).stdout
    return {commit[:7]: place for place, commit in enumerate(listing.split())}


@cache
def package_code(commit: str) -> str:
    """Name the package's code at a commit; the commit where git does not know it, or where the tree
    differed from it.
    """
    if commit.endswith("+"):
        return commit
    command = ["git", "rev-parse", "-q", "--verify", f"{commit}:monai_salm"]
    return subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=False).stdout or commit


def _age(row: Row) -> float:
    """Order rows by their commit; those of a tree that differs from it come behind it."""
    return _commit_places().get(row["commit"][:7], -1) + (0.5 if row["commit"].endswith("+") else 0.0)


def _of_its_time(row: Row) -> Row:
    """Give a row the present name of what ``salm`` was when it was made."""
    if row.get("data_set") not in DATA_SETS or row.get("version"):
        return row
    since, part = CHOICES[DATA_SETS[row["data_set"]].task]
    place = _commit_places().get(row["commit"][:7])
    if place is None or place >= _commit_places().get(since, 0):
        return row

    def named(method: str) -> str:
        name, mark, rounds = method.partition("@")
        return part + mark + rounds if name == "salm" else method

    changes: Row = {key: named(row[key]) for key in ("method", "trained_on") if key in row}
    if "counts" in row:
        changes["counts"] = {named(name): count for name, count in row["counts"].items()}
    return row | changes


def all_measured(folder: Path = RESULTS) -> list[Measured]:
    """Read what was measured on the test images of each data set with each setting, in the order of the data sets; the
    latest of each counts.
    """
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        defaults = EARLIER.get(path.stem, {})
        for row in read_rows(path.stem, folder):
            known = defaults | ({"version": "0.1"} if defaults else {})
            own = {
                name: value for name, value in row.items() if not (value == "protected" and name in known)
            }  # folders had no names yet
            rows.append(known | own)
    groups: dict[tuple[str, str, str, float], list[Row]] = {}
    for row in map(_of_its_time, sorted(rows, key=_age)):
        if row.get("data_set") in DATA_SETS and row.get("part", "test") == "test":
            epsilon = row.get("epsilon", "8/255")
            key = (row.get("version", ""), row["data_set"], epsilon, row.get("perturbed_fraction", 0.4))
            groups.setdefault(key, []).append(row)
    names = list(DATA_SETS)
    keys = sorted(groups, key=lambda key: (key[0], names.index(key[1]), key[2:]))
    return [
        _measured(Measured(DATA_SETS[name], epsilon, fraction, version), groups[version, name, epsilon, fraction])
        for version, name, epsilon, fraction in keys
    ]


def _measured(found: Measured, rows: list[Row]) -> Measured:
    """Fill in what rows say, the latest last."""
    trainings: dict[tuple[str, str, str, float], list[Row]] = {}
    for row in map(_named, rows):
        if row["what"] == "protect":
            found.protects[row["method"]] = row
        elif row["what"] == "verify":  # the earlier version's rows of the volumes
            found.protects["salm"] |= {"verified": row["counts"], "mean_changed_fraction": row["mean_changed_fraction"]}
        elif row["what"] == "summary":
            found.counts |= row["counts"]
            found.chance = row.get("chance") or found.chance
            found.majority = row.get("majority_share", found.majority)
            if row.get("utility"):
                method = next(name for name in row["counts"] if name not in ("clean", "test", "pretrain"))
                found.utilities[method, row["utility"]["victim"]] = row["utility"] | {
                    name: row[name] for name in ("commit", "machine")
                }
        elif row["what"] == "victim":
            key = (row["victim"], row["trained_on"], row.get("countermeasure", "none"), row.get("protected_share", 1.0))
            trainings.setdefault(key, []).append(row)
    for key, several in trainings.items():
        run = {row["seed"]: row for row in several if _run_of(row) == _run_of(several[-1])}
        found.cells[key] = _means(list(run.values()))
        found.rows += run.values()
    return found


def _run_of(row: Row) -> tuple[Any, ...]:
    """Give what all trainings of one run have in common: the package's code, and how long they take."""
    return package_code(row["commit"]), row["epochs"], row.get("least_steps")


def _named(row: Row) -> Row:
    """Give a row with its augmentation in the name of its victim, where that is not flips and shifts."""
    augmentation = row.get("augmentation", "flips")
    return row if augmentation == "flips" else row | {"victim": f"{row['victim']} ({augmentation})"}


def _means(rows: list[Row]) -> Row:
    """Give mean and standard deviation over seeds; None where a score is not defined."""
    result: Row = {"seeds": len(rows)}
    for name in (name for name in rows[0] if name not in _NOT_SCORES):
        values = [row.get(name) for row in rows]
        defined = all(value is not None for value in values)
        result[name] = mean(values) if defined else None
        result[f"{name}_sd"] = stdev(values) if defined and len(values) > 1 else None
    return result


def table(lines: list[list[Any]]) -> str:
    """Format a Markdown table."""
    head, *body = [[str(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *body]) + "\n"


def latest(rows: list[Row], *names: str) -> list[Row]:
    """Give the last row of each combination of these fields."""
    return list({tuple(str(row.get(name)) for name in names): row for row in rows}.values())


def figure(row: Row | None, name: str, *, limit: float | None = None) -> str:
    """Format a mean with its spread, bold if it is not above the limit."""
    if row is None or row.get(name) is None:
        return "-"
    spread = row.get(f"{name}_sd")
    text = f"{row[name]:.3f}" + ("" if spread is None else f" ± {spread:.3f}")
    return f"**{text}**" if limit is not None and row[name] <= limit + 1e-9 else text


def fates(counts: dict[str, int]) -> str:
    """Format counts."""
    return ", ".join(f"{number} {name}" for name, number in counts.items() if number) or "none"


def made_by(rows: list[Row], script: str) -> str:
    """Say what made the rows."""
    seeds, epochs = (
        sorted({row["seed"] for row in rows if "seed" in row}),
        sorted({row["epochs"] for row in rows if row.get("epochs")}),
    )
    parts = [f"Script `{script}`", "commit " + ", ".join(dict.fromkeys(row["commit"] for row in rows))]
    parts += [f"seeds {', '.join(map(str, seeds))}"] if seeds else []
    parts += [f"{' or '.join(map(str, epochs))} epochs"] if epochs else []
    return ", ".join(parts) + ", " + "; ".join(dict.fromkeys(row["machine"] for row in rows)) + ".\n"
