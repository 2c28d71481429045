# SPDX-License-Identifier: Apache-2.0
"""What protected images are still worth: a network that learned from clean ones, and features that are measured in
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monai_salm.evaluate import EvaluateOptions, utility
from monai_salm.evaluate.folder_loading import load_folders
from monai_salm.evaluate.folders import FolderPlaces
from monai_salm.evaluate.trainings import VictimBuilder
from monai_salm.evaluate.utility import FEATURES, FIRST_ORDER, feature_drift, first_order_features, icc, score_change
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.victims import VictimRecipe, VictimScores, VictimTraining
from monai_salm.pipeline import protect
from tests.evaluate.test_trainings import folders
from tests.exports import drawn, mr_export, mr_labels, mr_slice, nifti_export


def test_agreement_of_the_published_example() -> None:
    """Shrout and Fleiss (1979), tables 2 and 4."""
    ratings = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=np.float64
    )
    assert icc(ratings) == pytest.approx(0.71, abs=0.005)


def test_agreement_of_identical_shifted_and_unrelated_images() -> None:
    values = np.random.default_rng(0).normal(size=500)
    assert icc(np.stack([values, values], axis=1)) == 1.0
    assert icc(np.stack([values, values + 3], axis=1)) == pytest.approx(1.0), "consistency ignores a shift of all"
    assert abs(icc(np.stack([values, np.roll(values, 1)], axis=1))) < 0.15
    assert np.isnan(icc(np.ones((1, 2))))
    assert np.isnan(icc(np.ones((3, 2))))


def test_first_order_features() -> None:
    found = dict(zip(FIRST_ORDER, first_order_features(np.repeat([0.1, 0.3], 50).astype(np.float32)), strict=True))
    assert found["mean"] == pytest.approx(0.2)
    assert found["standard deviation"] == pytest.approx(0.1)
    assert (found["10th percentile"], found["90th percentile"]) == pytest.approx((0.1, 0.3))
    assert found["entropy"] == pytest.approx(1.0)
    assert found["skewness"] == pytest.approx(0.0)
    skewed = first_order_features(np.array([0.0] * 9 + [1.0], np.float32))
    assert skewed[-1] == pytest.approx(8 / 3)
    assert first_order_features(np.full(5, 1.0, np.float32)).tolist() == [1, 0, 1, 1, 0, 0]


def test_network_learns_from_one_half_and_is_scored_on_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, WorkingSet] = {}

    def train(network: Any, training: VictimTraining) -> VictimScores:
        seen.update(train=training.train, test=training.test)
        return VictimScores({"balanced_accuracy": 0.9, "auc": float("nan")}, 0.9, (0.9,), 1.0)

    def score(network: Any, task: Any, samples: WorkingSet, batch_size: int, device: Any) -> dict[str, float]:
        seen["protected"] = samples
        return {"balanced_accuracy": 0.8, "auc": float("nan")}

    monkeypatch.setattr(utility, "train_victim", train)
    monkeypatch.setattr(utility, "score_network", score)
    images = folders(24)
    result = score_change(images, "protected", "small-cnn", VictimBuilder(images, torch.device("cpu")), VictimRecipe())
    assert len(seen["train"]) == len(seen["test"]) == 12
    assert not set(seen["train"].ids) & set(seen["test"].ids)
    assert seen["protected"].ids == seen["test"].ids
    values = {
        name: {round(float(one.image_model.mean()), 3) for one in working.samples} for name, working in seen.items()
    }
    assert values == {"train": {0.1}, "test": {0.1}, "protected": {0.2}}
    assert sum(one.target == 1 for one in seen["train"].samples) == 3
    assert result["clean"] == {"balanced_accuracy": 0.9, "auc": None}
    assert result["change"] == {"balanced_accuracy": -0.1, "auc": None}


def _loaded(tmp_path: Path, **options: Any) -> Any:
    fields: dict[str, Any] = {"working_size": 24, "device": "cpu"}
    places = FolderPlaces(tmp_path / "clean", {"protected": tmp_path / "protected"}, tmp_path / "test")
    return load_folders(places, EvaluateOptions(**(fields | options)), multiple=8, spare=tmp_path / "spare")


def test_drift_of_images_that_did_and_did_not_change(tmp_path: Path) -> None:
    mr_export(tmp_path / "clean", 6)
    for number in range(2):
        mr_slice(tmp_path / "test" / f"case{number}" / "image.dcm", 101 + number)
    labels = mr_labels(tmp_path / "labels.csv", 6)
    protect(tmp_path / "clean", tmp_path / "protected", drawn(epsilon="16/255"))
    images = _loaded(tmp_path, labels=labels, test_labels=labels)
    before, after = images["clean"].samples, images["protected"].samples
    assert [one.sample_id for one in before] == [one.sample_id for one in after], (
        "protected files have UIDs of their own"
    )
    differences = [[float(np.abs(a.image_model - b.image_model).mean()) for b in after] for a in before]
    assert [int(np.argmin(row)) for row in differences] == list(range(6)), "each image beside its own protected one"
    rows = {row["feature"]: row for row in feature_drift(images, "protected")}
    assert list(rows) == list(FEATURES)
    assert all(0 < rows[name]["relative_change"] < 0.2 for name in ("mean", "standard deviation", "entropy"))
    assert 0.2 < rows["mean"]["clean"] < 0.8
    contrast = rows["texture contrast"]
    assert contrast["clean"] > 0
    assert contrast["relative_change"] > 0.005, "noise of single cells changes what lies beside each other"
    assert 0.5 < rows["mean"]["icc"] < 1
    for row in feature_drift(images, "clean"):
        assert (row["relative_change"], row["icc"]) == (0.0, 1.0)


def test_drift_inside_labeled_structures(tmp_path: Path) -> None:
    nifti_export(tmp_path / "all", 6, labels=tmp_path / "maps")
    for number in range(6):
        folder = tmp_path / ("test" if number > 3 else "clean")
        folder.mkdir(exist_ok=True)
        (tmp_path / "all" / f"v{number}.nii.gz").rename(folder / f"v{number}.nii.gz")
    protect(tmp_path / "clean", tmp_path / "protected", drawn(task="segmentation"))
    rows = feature_drift(_loaded(tmp_path, labels=tmp_path / "maps", task="segmentation"), "protected")
    assert [row["feature"] for row in rows] == [f"{name} in label 1" for name in FEATURES]
    assert rows[0]["clean"] > 0.5, "the structure is brighter than the rest"
