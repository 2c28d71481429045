# SPDX-License-Identifier: Apache-2.0
"""What protected images are still worth to honest users: to a network that was trained on clean ones, and to who
measures features in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.evaluate.folders import Folders, stratified_part
from monai_salm.evaluate.results import CLEAN, rounded
from monai_salm.evaluate.texture_features import TEXTURE_FEATURES, texture_features
from monai_salm.evaluate.trainings import VictimBuilder
from monai_salm.io import read_source
from monai_salm.learning.tasks import SegmentationTask
from monai_salm.learning.victims import VictimRecipe, VictimTraining, score_network, train_victim
from monai_salm.working_grid import axis_cells, to_native

FEWEST_IMAGES = 4
"""That can be halved into a set to learn from and one to be scored on."""

FIRST_ORDER = ("mean", "standard deviation", "10th percentile", "90th percentile", "entropy", "skewness")
FEATURES = (*FIRST_ORDER, *(f"texture {name}" for name in TEXTURE_FEATURES))
_BINS = 64


def score_change(
    folders: Folders, name: str, victim: str, build: VictimBuilder, recipe: VictimRecipe, *, seed: int = 0
) -> dict[str, Any]:
    """Train a network on one half of the clean training images, and score it on the other half, as clean and as
    protected images.

    Args:
        folders: all images.
        name: of the protected folder.
        victim: the network.
        build: makes it.
        recipe: how it is trained.
        seed: of the halves and the training.

    Returns:
        The scores on ``clean`` and on ``protected`` images and their ``change``.
    """
    clean, protected = folders[CLEAN].samples, folders[name].samples
    learned = set(stratified_part(clean, 0.5, seed))
    unseen = [number for number in range(len(clean)) if number not in learned]
    network = build(victim, seed)
    train, test = (folders.working_set([clean[number] for number in part]) for part in (sorted(learned), unseen))
    last_epoch_alone = replace(recipe, score_every=max(recipe.epochs, recipe.least_steps))
    training = VictimTraining(
        task=folders.task, train=train, test=test, recipe=last_epoch_alone, seed=seed, device=build.device
    )
    before = train_victim(network, training).final
    after = score_network(
        network,
        folders.task,
        folders.working_set([protected[number] for number in unseen]),
        recipe.batch_size,
        build.device,
    )
    scores = {"clean": before, "protected": after, "change": {score: after[score] - before[score] for score in before}}
    return {"victim": victim} | {
        kind: {score: rounded(value) for score, value in values.items()} for kind, values in scores.items()
    }


def feature_drift(folders: Folders, name: str) -> list[dict[str, Any]]:
    """Measure first-order and texture features of every file before and after, inside the anatomy, or inside each
    labeled structure of a segmentation.

    Args:
        folders: all images.
        name: of the protected folder.

    Returns:
        For each feature its mean over the clean images (model values of the intensity window; entropy in bits), the
        mean size of its change relative to that, and the agreement of both, ICC(3,1); None where a figure is not
        defined.
    """
    found: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for region, before, after in _regions(folders, name):
        found.setdefault(region, []).append((before, after))
    rows = []
    for region, pairs in found.items():
        before, after = (np.stack(side) for side in zip(*pairs, strict=True))
        for column, feature in enumerate(FEATURES):
            clean, protected = before[:, column], after[:, column]
            size = float(np.abs(clean).mean())
            change = float(np.abs(protected - clean).mean()) / size if size else float("nan")
            figures = {
                "clean": clean.mean(),
                "relative_change": change,
                "icc": icc(np.stack([clean, protected], axis=1)),
            }
            rows.append({"feature": feature + region} | {key: rounded(float(value)) for key, value in figures.items()})
    return rows


def _regions(folders: Folders, name: str) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """Give the features of each region of each file before and after, with the region's name."""
    clean = folders[CLEAN]
    for number, place, file, other in folders.file_pairs(name):
        stored = read_source(clean.inventory.absolute(file.path)).stored
        before, after = file.view.model(stored), file.view.model(read_source(other).stored)
        masks = {"": file.view.anatomy(stored)}
        if isinstance(folders.task, SegmentationTask):
            label_map, count = np.asarray(clean.samples[number].target), len(clean.plan.samples[number].files)
            labels = to_native(
                label_map[axis_cells(count, len(label_map))[place]] if count > 1 else label_map, before.shape
            )
            masks = {f" in label {value}": labels == index for index, value in enumerate(clean.plan.classes) if index}
        across = file.view.across(before.ndim)
        for region, mask in masks.items():
            if mask.any():
                yield region, _features(before, mask, across), _features(after, mask, across)


def _features(values: NDArray[np.float32], mask: NDArray[np.bool_], across: int | None) -> NDArray[np.float64]:
    return np.concatenate([first_order_features(values[mask]), texture_features(values, mask, across)])


def first_order_features(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Give the features of :data:`FIRST_ORDER` of some model values (IBSI, arXiv 1612.07003, sections 3.3 and 3.4; 64
    bins over the window).
    """
    values = values.astype(np.float64)
    center, deviation = values.mean(), values.std()
    low, high = np.percentile(values, (10, 90))
    counts = np.bincount(np.clip((values * _BINS).astype(np.int64), 0, _BINS - 1))
    shares = counts[counts > 0] / len(values)
    skewness = ((values - center) ** 3).mean() / deviation**3 if deviation > 0 else 0.0
    return np.array([center, deviation, low, high, -(shares * np.log2(shares)).sum(), skewness])


def icc(ratings: NDArray[np.float64]) -> float:
    """Give the intraclass correlation ICC(3,1) (Shrout and Fleiss, Psychological Bulletin 86, 1979): 1 if all raters
    order and space the targets alike.

    Args:
        ratings: ``(targets, raters)``.

    Returns:
        NaN for one target, and where neither targets nor raters differ.
    """
    targets, raters = ratings.shape
    if targets < 2:
        return float("nan")
    rows, columns = ratings.mean(axis=1, keepdims=True), ratings.mean(axis=0, keepdims=True)
    between = raters * ((rows - ratings.mean()) ** 2).sum() / (targets - 1)
    error = ((ratings - rows - columns + ratings.mean()) ** 2).sum() / ((targets - 1) * (raters - 1))
    whole = between + (raters - 1) * error
    return float((between - error) / whole) if whole > 0 else float("nan")
