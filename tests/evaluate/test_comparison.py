# SPDX-License-Identifier: Apache-2.0
"""Victims trained on two folders: the arithmetic, the matching of files and labels, and a task that anybody can learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_salm.errors import UsageError
from monai_salm.evaluate import EvaluateOptions, EvaluateReport, VictimResult, evaluate
from monai_salm.pipeline import protect
from tests.exports import ROOT_UID, body, dicom_object, drawn, label_table, mr_export, mr_labels, mr_slice, nifti_export


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clean and protected folders of 12 instances, and 6 test instances whose labels come in the other order."""
    folder = tmp_path_factory.mktemp("evaluate")
    mr_export(folder / "clean", 12)
    mr_labels(folder / "labels.csv", 12)
    for number in range(6):
        mr_slice(folder / "test" / f"{number}.dcm", 101 + number)
    label_table(folder / "test.csv", {f"{number}.dcm": ("ill", "healthy")[number % 2] for number in range(6)})
    protect(folder / "clean", folder / "protected", drawn())
    return folder


def _evaluate(folders: Path, **changes: Any) -> EvaluateReport:
    fields: dict[str, Any] = {
        "labels": folders / "labels.csv", "test_labels": folders / "test.csv", "victims": "small-cnn", "epochs": 2, "working_size": 24, "device": "cpu",
    }  # fmt: skip
    return evaluate(folders / "clean", folders / "protected", folders / "test", EvaluateOptions(**(fields | changes)))


def test_easy_task_is_learned_with_the_right_classes(folders: Path) -> None:
    report = _evaluate(folders, epochs=80)
    scores = {row["trained_on"]: row for row in report.to_json()["results"]}
    assert scores["clean"]["balanced_accuracy"] == 1.0
    assert scores["clean"]["peak"] == 1.0
    assert report.counts == {"clean": 12, "protected": 12, "test": 6}
    assert report.chance == 0.5


def test_classes_are_matched_by_name(folders: Path, tmp_path: Path) -> None:
    table = label_table(tmp_path / "ill.csv", {str(folders / "test" / f"{number}.dcm"): "ill" for number in (0, 2, 4)})
    row = next(row for row in _evaluate(folders, test_labels=table, epochs=80).to_json()["results"] if row["trained_on"] == "clean")
    assert row["balanced_accuracy"] == 1.0


def test_json_and_table(folders: Path) -> None:
    report = _evaluate(folders, seeds=2, victims="small-cnn, small-resnet", epochs=1)
    result = json.loads(json.dumps(report.to_json()))
    assert set(result) == {"counts", "chance", "results", "summary"}
    assert [(row["victim"], row["trained_on"], row["seed"]) for row in result["results"]] == [
        (victim, folder, seed) for victim in ("small-cnn", "small-resnet") for seed in (0, 1) for folder in ("clean", "protected")
    ]
    assert len(result["summary"]) == 4
    lines = report.table().splitlines()
    assert lines[0].split()[:3] == ["victim", "trained", "on"]
    assert len(lines) == 6
    assert "±" in lines[1]
    assert "12 clean, 12 protected, 6 test" in lines[-1]


def test_mean_and_spread_over_seeds() -> None:
    results = [VictimResult("net", "clean", seed, {"accuracy": value, "auc": float("nan")}) for seed, value in enumerate((0.5, 0.7, 0.9))]
    (row,) = EvaluateReport(results, {"clean": 3}, None).summary()
    assert (row["seeds"], row["accuracy"], row["accuracy_sd"], row["auc"]) == (3, 0.7, 0.2, None)
    (row,) = EvaluateReport(results[:1], {"clean": 3}, None).summary()
    assert row["accuracy_sd"] is None


def test_only_files_of_both_folders_are_used(folders: Path, tmp_path: Path) -> None:
    mr_export(tmp_path / "clean", 12)
    report = evaluate(
        tmp_path / "clean", protect(mr_export(tmp_path / "part", 5), tmp_path / "protected", drawn()).output, folders / "test",
        EvaluateOptions(labels=folders / "labels.csv", test_labels=folders / "test.csv", victims="small-cnn", epochs=1, working_size=24, device="cpu"),
    )  # fmt: skip
    assert report.counts == {"clean": 5, "protected": 5, "test": 6}


def test_label_maps(tmp_path: Path) -> None:
    nifti_export(tmp_path / "clean", 4, labels=tmp_path / "maps")
    nifti_export(tmp_path / "all", 6, labels=tmp_path / "all-maps")
    for number in (4, 5):
        (tmp_path / "test").mkdir(exist_ok=True)
        (tmp_path / "all" / f"v{number}.nii.gz").rename(tmp_path / "test" / f"v{number}.nii.gz")
    protect(tmp_path / "clean", tmp_path / "protected", drawn())
    options = EvaluateOptions(task="segmentation", labels=tmp_path / "maps", test_labels=tmp_path / "all-maps", epochs=1, working_size=16, device="cpu")
    report = evaluate(tmp_path / "clean", tmp_path / "protected", tmp_path / "test", options)
    assert report.chance is None
    assert report.counts == {"clean": 4, "protected": 4, "test": 2}
    assert all(0 <= row["dice"] <= row["peak"] <= 1 for row in report.to_json()["results"])


def test_files_that_were_written_under_another_name_are_found(tmp_path: Path) -> None:
    """A JPEG is protected as PNG; its label is that of its old name."""
    image: Any = pytest.importorskip("PIL.Image")
    names = [f"{number}.jpg" for number in range(10)]
    for number, name in enumerate(names):
        folder = tmp_path / ("clean" if number < 6 else "test")
        folder.mkdir(exist_ok=True)
        image.fromarray((body(number) // 3).astype("uint8")).save(folder / name, quality=95)
    table = label_table(tmp_path / "l.csv", {name: ("healthy", "ill")[number % 2] for number, name in enumerate(names)})
    protect(tmp_path / "clean", tmp_path / "protected", drawn())
    assert sorted(path.suffix for path in (tmp_path / "protected").iterdir()) == [".png"] * 6
    test_table = label_table(tmp_path / "t.csv", {f"test/{name}": ("healthy", "ill")[number % 2] for number, name in enumerate(names) if number >= 6})
    options = EvaluateOptions(labels=table, test_labels=test_table, victims="small-cnn", epochs=1, working_size=24, device="cpu")
    report = evaluate(tmp_path / "clean", tmp_path / "protected", tmp_path / "test", options)
    assert report.counts == {"clean": 6, "protected": 6, "test": 4}


def test_documents_of_an_export_are_no_images(tmp_path: Path) -> None:
    mr_export(tmp_path / "clean", 4)
    dicom_object(tmp_path / "clean" / "sr.dcm", "1.2.840.10008.5.1.4.1.1.88.33", 1, [f"{ROOT_UID}.10.1"])
    for number in range(2):
        mr_slice(tmp_path / "test" / f"case{number}" / "image.dcm", 101 + number)
    (tmp_path / "test" / "notes.txt").write_text("x")
    protect(tmp_path / "clean", tmp_path / "protected", drawn())
    options = EvaluateOptions(labels=mr_labels(tmp_path / "l.csv", 4), victims="small-cnn", epochs=1, working_size=24, device="cpu", test_labels=None)
    report = evaluate(tmp_path / "clean", tmp_path / "protected", tmp_path / "test", options)
    assert report.counts == {"clean": 4, "protected": 4, "test": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": "other.csv"}, r"the test labels \['dead', 'healthy'\] are not among the training labels"),
        ({"victims": "magic"}, "network 'magic' is unknown"),
        ({"victims": "small-unet"}, "network 'small-unet' gives .*; give a network for classification"),
        ({"labels": None}, "needs labels"),
    ],
    ids=["classes", "victim", "kind of victim", "labels"],
)
def test_what_does_not_fit_is_refused(folders: Path, changes: dict[str, Any], message: str) -> None:
    label_table(folders / "other.csv", {f"{number}.dcm": ("dead", "healthy")[number % 2] for number in range(6)})
    changes = {name: folders / value if name == "test_labels" else value for name, value in changes.items()}
    with pytest.raises(UsageError, match=message):
        _evaluate(folders, **changes)


def test_test_images_may_not_be_training_images(folders: Path) -> None:
    options = EvaluateOptions(labels=folders / "labels.csv", epochs=1, working_size=24, device="cpu")
    with pytest.raises(UsageError, match=r"12 of the test images are in .*clean, too; test on images that no victim trains on"):
        evaluate(folders / "clean", folders / "protected", folders / "clean", options)


def test_protected_folder_without_a_common_file(folders: Path) -> None:
    options = EvaluateOptions(labels=folders / "labels.csv", test_labels=folders / "test.csv", epochs=1, device="cpu")
    with pytest.raises(UsageError, match=r"no labeled picture of .* under the same path"):
        evaluate(folders / "clean", folders / "test", folders / "test", options)
