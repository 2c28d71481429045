# SPDX-License-Identifier: Apache-2.0
"""Victims trained on two folders: the arithmetic, the matching of files and labels, and a task that
anybody can learn.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monai_salm.cli import main
from monai_salm.errors import UsageError
from monai_salm.evaluate import (
    EvaluateOptions,
    EvaluateReport,
    VictimRecipe,
    VictimResult,
    VictimScores,
    comparison,
    evaluate,
)
from monai_salm.evaluate import trainings as grid
from monai_salm.learning.verdicts import usable, verdict
from monai_salm.learning.victims import LEAST_STEPS
from monai_salm.pipeline import protect
from tests.exports import (
    ROOT_UID,
    body,
    dicom_object,
    drawn,
    label_table,
    mr_export,
    mr_labels,
    mr_series,
    mr_slice,
    nifti_export,
    zip_file,
)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for as few steps as the epochs make; what is learned matters to two tests alone."""
    monkeypatch.setattr(comparison, "LEAST_STEPS", {2: 1, 3: 1})
    monkeypatch.setattr(comparison, "VictimRecipe", partial(VictimRecipe, score_every=20))


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
        "labels": folders / "labels.csv", "test_labels": folders / "test.csv", "victims": "small-cnn", "epochs": 1,
        "working_size": 24, "device": "cpu",
        "utility": False,
    }  # fmt: skip
    return evaluate(folders / "clean", folders / "protected", folders / "test", EvaluateOptions(**(fields | changes)))


@pytest.mark.slow
def test_easy_task_is_learned_with_the_right_classes(folders: Path) -> None:
    report = _evaluate(folders, epochs=50)
    scores = {row["trained_on"]: row for row in report.to_json()["results"]}
    assert scores["clean"]["balanced_accuracy"] == 1.0
    assert scores["clean"]["peak"] == 1.0
    assert report.counts == {"clean": 12, "protected": 12, "test": 6}
    assert report.chance == 0.5


@pytest.mark.slow
def test_classes_are_matched_by_name(folders: Path, tmp_path: Path) -> None:
    table = label_table(tmp_path / "ill.csv", {str(folders / "test" / f"{number}.dcm"): "ill" for number in (0, 2, 4)})
    row = next(
        row
        for row in _evaluate(folders, test_labels=table, epochs=50).to_json()["results"]
        if row["trained_on"] == "clean"
    )
    assert row["balanced_accuracy"] == 1.0


@pytest.mark.slow
def test_json_and_table(folders: Path) -> None:
    report = _evaluate(
        folders,
        seeds=2,
        victims="small-cnn, small-resnet",
        countermeasures="none,median-3",
        protected_shares="50,100",
        utility=True,
    )
    result = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (result["format"], result["main_score"], result["chance"], result["majority_share"]) == (
        "monai_salm.evaluation/1",
        "balanced_accuracy",
        0.5,
        0.5,
    )
    rows = result["results"]
    assert len(rows) == 2 * 2 * 2 * (2 + 2)
    assert [(row["victim"], row["trained_on"], row["seed"]) for row in rows[:8]] == [
        (victim, folder, seed)
        for seed in (0, 1)
        for victim in ("small-cnn", "small-resnet")
        for folder in ("clean", "protected")
    ]
    assert set(rows[0]) == {
        "victim", "trained_on", "countermeasure", "protected_share", "augmentation", "seed", "balanced_accuracy", "auc",
        "mcc", "peak", "reliance", "curve", "seconds",
    }  # fmt: skip
    assert len(result["summary"]) == len(rows) / 2
    assert {"seeds", "balanced_accuracy", "balanced_accuracy_sd", "peak", "peak_sd", "protected_share"} <= set(
        result["summary"][0]
    )
    assert [(row["countermeasure"],
    row["protected_share"]) for row in result["verdicts"] if row["victim"] == "small-cnn"] == [
        ("none", 1.0), ("none", 0.5), ("median-3", 1.0), ("median-3", 0.5),
    ]  # fmt: skip
    assert set(result["utility"]) == {"victim", "clean", "protected", "change", "features"}
    (modality,) = result["verification"]["modalities"]
    assert (modality["modality"], modality["files"]) == ("MR", 12)
    assert 0 < modality["largest_change_stored"] <= modality["epsilon_stored"]
    assert 0 < modality["mean_changed_fraction"] <= modality["largest_changed_fraction"] <= 1
    assert 25 < modality["lowest_psnr"] <= modality["mean_psnr"]
    shifts = {shift["diameter"]: shift for shift in modality["mean_shifts"]}
    assert list(shifts) == [5, 10, 20]
    assert {shift["unit"] for shift in shifts.values()} == {"mm"}
    assert 0 < shifts[5]["p99_real"] <= shifts[5]["largest_real"] <= modality["largest_change_stored"]
    assert {name: known["classes"] for name, known in result["labels"].items()} == {
        "clean": {"healthy": 6, "ill": 6},
        "test": {"healthy": 3, "ill": 3},
    }
    assert all(known["unmatched_rows"]["count"] == 0 for known in result["labels"].values())
    assert "clean images: labels: classes of column 'label': healthy 6, ill 6 of 12 images" in result["notes"]
    lines = report.table().splitlines()
    assert lines[0].split()[:6] == ["victim", "trained", "on", "countermeasure", "share", "balanced"]
    assert "±" in lines[1]
    assert "12 clean, 12 protected, 6 test" in report.table()
    assert "verification: 12 protected, 0 copied, 0 absent, 0 mismatch" in lines
    assert any(line.startswith("shift of a region's mean in MR, real units: at most ") for line in lines)


def _results(
    trained_on: str, *scores: float, share: float = 1.0, peak: float | None = None, countermeasure: str = "none"
) -> list[VictimResult]:
    return [
        VictimResult(
            "net",
            trained_on,
            countermeasure,
            share,
            seed,
            VictimScores({"balanced_accuracy": score, "auc": float("nan")}, peak or score, (score,), 1.0),
        )
        for seed, score in enumerate(scores)
    ]


def test_mean_and_spread_over_seeds() -> None:
    results = _results("clean", 0.5, 0.7, 0.9)
    (row,) = EvaluateReport(results, {"clean": 3}, 0.5).summary()
    assert (row["seeds"], row["balanced_accuracy"], row["balanced_accuracy_sd"], row["auc"], row["auc_sd"]) == (
        3,
        0.7,
        0.2,
        None,
        None,
    )
    (row,) = EvaluateReport(results[:1], {"clean": 3}, 0.5).summary()
    assert row["balanced_accuracy_sd"] is None
    assert [VictimResult.from_json(json.loads(json.dumps(one.to_json()))).to_json() for one in results] == [
        one.to_json() for one in results
    ]


def test_reliance_and_auc_are_means_over_seeds_and_survive_json() -> None:
    results = [
        VictimResult(
            "net", "protected", "none", 1.0, seed,
            VictimScores({"balanced_accuracy": 0.6, "auc": 0.7 + 0.1 * seed}, 0.6, (0.6,), 1.0, 0.1 + 0.2 * seed),
        )
        for seed in range(2)
    ]  # fmt: skip
    report = EvaluateReport([*_results("clean", 0.9), *results], {"clean": 3}, 0.5)
    row = report.summary()[1]
    assert (row["reliance"], row["reliance_sd"], row["auc"]) == (0.2, pytest.approx(0.141421), 0.75)
    assert report.summary()[0]["reliance"] is None, "it was not measured"
    (verdict_row,) = report.verdicts()
    assert (verdict_row["auc"], verdict_row["peak"], verdict_row["reliance"]) == (0.75, 0.6, 0.2)
    text = report.table().splitlines()
    assert text[0].split()[-5:] == ["balanced", "accuracy", "auc", "peak", "reliance"]
    assert text[2].endswith("0.750 ± 0.071  0.600 ± 0.000  0.200 ± 0.141")
    assert (
        "reliance is the score on images that it trained on (the protected ones) minus that on test images" in text[3]
    )
    assert "net on protected: 0.600, AUC 0.750, peak 0.600, trained on clean 0.900" in text[4]
    again = VictimResult.from_json(json.loads(json.dumps(results[1].to_json())))
    assert (again.scores.reliance, again.scores.final["auc"], again.augmentation) == (0.3, 0.8, "flips")


def test_verdict_is_against_clean_images_under_the_same_augmentation() -> None:
    results = [
        replace(result, augmentation=augmentation)
        for augmentation, clean, score in (("nnunet", 0.7, 0.65), ("none", 0.9, 0.5))
        for result in (*_results("clean", clean), *_results("protected", score))
    ]
    report = EvaluateReport(results, {"clean": 3}, 0.5)
    assert [(row["augmentation"], row["clean"], row["verdict"]) for row in report.verdicts()] == [
        ("nnunet", 0.7, "not protected"),
        ("none", 0.9, "protected"),
    ]
    lines = report.table().splitlines()
    assert lines[0].split()[:3] == ["victim", "augmentation", "trained"]
    assert [line.split()[1] for line in lines[1:5]] == ["nnunet", "nnunet", "none", "none"]
    assert "NOT PROTECTED: net (nnunet) on protected: 0.650" in "\n".join(lines)
    assert "\nPROTECTED: net (no augmentation) on protected: 0.500" in "\n".join(lines)


@pytest.mark.parametrize(
    ("dims", "told", "expected"),
    [(2, None, (LEAST_STEPS[2], 32)), (3, None, (800, 8)), (2, 7, (7, 32)), (3, 9, (9, 8))],
)
def test_volumes_take_more_and_smaller_steps(
    dims: int, told: int | None, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "LEAST_STEPS", LEAST_STEPS)
    folders: Any = SimpleNamespace(spatial_dims=dims)
    recipe = comparison._recipe(folders, EvaluateOptions(epochs=1, least_steps=told))
    assert (recipe.least_steps, recipe.batch_size) == expected
    assert recipe.epochs_for(40) == -(-expected[0] // -(-40 // expected[1]))


def test_verdict_compares_what_went_through_the_same_countermeasure() -> None:
    results = [
        *_results("clean", 0.8, 1.0), *_results("protected", 0.5, 0.6, peak=0.65),
        *_results("clean part", 0.7, share=0.4), *_results("protected", 0.8, share=0.4),
        *_results("clean", 0.7, countermeasure="jpeg-10"), *_results("protected", 0.65, countermeasure="jpeg-10"),
    ]  # fmt: skip
    report = EvaluateReport(results, {"clean": 3}, 0.5)
    rows = [
        (row["countermeasure"], row["protected_share"], row["clean"], row["kept"], row["verdict"])
        for row in report.verdicts()
    ]
    assert rows == [
        ("none", 1.0, 0.9, 0.875, "protected"),
        ("none", 0.4, 0.9, 0.25, "not protected"),
        ("jpeg-10", 1.0, 0.7, 0.25, "not protected"),
    ]
    text = report.table()
    assert "PROTECTED: net on protected: 0.550, peak 0.650, trained on clean 0.900; 88% of what" in text
    assert "\nNOT PROTECTED: net on protected (40% of the images):" in text
    assert "\nNOT PROTECTED: net on protected after jpeg-10:" in text
    assert "\nverdicts: 1 protected, 0 weakened, 2 not protected, 0 not learned" in text


@pytest.mark.parametrize(
    ("clean", "score", "peak", "chance", "expected"),
    [
        (0.9, 0.6, 0.65, 0.5, "protected"),
        (0.9, 0.601, 0.65, 0.5, "weakened"),
        (0.9, 0.6, 0.651, 0.5, "weakened"),
        (0.9, 0.7, 0.7, 0.5, "weakened"),
        (0.9, 0.701, 0.7, 0.5, "not protected"),
        (0.6, 0.5, 0.5, 0.5, "protected"),
        (0.599, 0.5, 0.5, 0.5, "not learned"),
        (0.9, 1 / 3 + 0.1, 1 / 3 + 0.15, 1 / 3, "protected"),
        (0.9, 0.3, 0.3, 0.1, "weakened"),
        (0.8, 0.15, 0.7, None, "protected"),
        (0.8, 0.151, 0.2, None, "weakened"),
        (0.8, 0.4, 0.4, None, "weakened"),
        (0.8, 0.401, 0.5, None, "not protected"),
        (0.2, 0.1, 0.1, None, "protected"),
        (0.199, 0.0, 0.0, None, "not learned"),
    ],
)
def test_verdict_at_its_edges(clean: float, score: float, peak: float, chance: float | None, expected: str) -> None:
    assert verdict(clean, score, peak, chance) == expected


@pytest.mark.slow
def test_evaluation_goes_on_where_it_was_stopped(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"state": tmp_path / "state.jsonl", "countermeasures": "none,gaussian-1", "utility": True}
    first = _evaluate(folders, **options)
    assert len((tmp_path / "state.jsonl").read_text().splitlines()) == 5, "four trainings and the utility"
    monkeypatch.setattr(grid, "train_victim", None)
    monkeypatch.setattr(comparison, "score_change", None)
    again = _evaluate(folders, **options).to_json()
    assert {key: value for key, value in again.items() if key != "run"} == {
        key: value for key, value in first.to_json().items() if key != "run"
    }


@pytest.mark.slow
def test_zips_and_report(folders: Path, tmp_path: Path) -> None:
    clean, test = zip_file(tmp_path / "clean.zip", folders / "clean"), zip_file(tmp_path / "test.zip", folders / "test")
    labels = label_table(
        tmp_path / "test.csv", {f"{number}.dcm": ("ill", "healthy")[number % 2] for number in range(6)}
    )
    (tmp_path / "out").mkdir()
    zip_file(tmp_path / "out" / "clean.zip", folders / "protected")
    options = EvaluateOptions(
        labels=folders / "labels.csv",
        test_labels=labels,
        victims="small-cnn",
        epochs=1,
        working_size=24,
        device="cpu",
        report=tmp_path / "r.html",
    )
    report = evaluate(clean, tmp_path / "out", test, options)
    assert report.counts == {"clean": 12, "protected": 12, "test": 6}
    assert "<html" in (tmp_path / "r.html").read_text()
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["results"] == report.to_json()["results"]
    assert len(written["examples"]) == 3
    assert all(
        example["within_bound"] and example["largest_change_model"] > 0 and not example["changed_outside_anatomy"]
        for example in written["examples"]
    )


@pytest.mark.slow
def test_victims_by_augmentation(folders: Path, tmp_path: Path) -> None:
    report = _evaluate(folders, augmentation="none,nnunet", report=tmp_path / "r.html").to_json()
    assert [(row["augmentation"], row["trained_on"]) for row in report["results"]] == [
        ("none", "clean"), ("none", "protected"), ("nnunet", "clean"), ("nnunet", "protected"),
    ]  # fmt: skip
    curves = {(row["augmentation"], row["trained_on"]): row["reliance"] for row in report["results"]}
    assert all(-1 <= value <= 1 for value in curves.values())
    assert report["options"]["augmentation"] == "none,nnunet"
    assert any("nnU-Net" in entry["citation"] for entry in report["run"]["citations"])
    assert "--augmentation none,nnunet" in report["run"]["command"]
    assert "small-cnn (nnunet)" in (tmp_path / "r.html").read_text()


@pytest.mark.slow
def test_several_protected_folders(folders: Path) -> None:
    options = EvaluateOptions(
        labels=folders / "labels.csv", test_labels=folders / "test.csv", victims="small-cnn", epochs=1, working_size=24,
        device="cpu", utility=False,
        protected_shares="100,50",
    )  # fmt: skip
    report = evaluate(
        folders / "clean", {"one": folders / "protected", "two": folders / "protected"}, folders / "test", options
    )
    assert [row["trained_on"] for row in report.summary()] == ["clean", "one", "two", "clean part", "one", "two"]
    assert [row["trained_on"] for row in report.verdicts()] == ["one", "two", "one", "two"]
    assert report.verification is not None
    assert report.verification["folder"] == "one"
    with pytest.raises(UsageError, match="cannot be named 'clean part'"):
        evaluate(folders / "clean", {"clean part": folders / "protected"}, folders / "test", options)


@pytest.mark.slow
def test_pretrained_victims_say_what_they_saw(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(grid, "pretrain", lambda network, images, **more: seen.append(len(images)))
    mr_slice(tmp_path / "more" / "a.dcm", 201)
    mr_slice(tmp_path / "more" / "b.dcm", 202)
    report = _evaluate(folders, victims="small-cnn+frozen", pretrain=tmp_path / "more")
    assert seen == [2]
    assert "saw 2 images of the folder" in report.notes[0]
    assert report.counts["pretrain"] == 2
    assert "saw 6 images of the test folder first" in _evaluate(folders, victims="small-cnn+pretrained").table()
    assert seen == [2, 6]


@pytest.mark.slow
def test_series_keep_their_slices_together(tmp_path: Path) -> None:
    for number in range(6):
        mr_series(tmp_path / ("test" if number > 3 else "clean") / f"s{number}", number)
    table = label_table(
        tmp_path / "l.csv",
        {f"{ROOT_UID}.21.{number + 1}": ("healthy", "ill")[number % 2] for number in range(6)},
        key="SeriesInstanceUID",
    )
    protect(tmp_path / "clean", tmp_path / "protected", drawn(labels=table, sample="series"))
    options = EvaluateOptions(
        labels=table, victims="small-cnn", epochs=1, working_size=16, device="cpu", report=tmp_path / "r.html"
    )
    report = evaluate(tmp_path / "clean", tmp_path / "protected", tmp_path / "test", options)
    assert report.counts == {"clean": 4, "protected": 4, "test": 2}
    assert report.verification is not None
    assert report.verification["modalities"][0]["files"] == 24


@pytest.mark.slow
def test_only_files_of_both_folders_are_used(folders: Path, tmp_path: Path) -> None:
    mr_export(tmp_path / "clean", 12)
    report = evaluate(
        tmp_path / "clean", protect(mr_export(tmp_path / "part", 5), tmp_path / "protected", drawn()).output,
        folders / "test",
        EvaluateOptions(
            labels=folders / "labels.csv", test_labels=folders / "test.csv", victims="small-cnn", epochs=1,
            working_size=24, device="cpu", utility=False
        ),
    )  # fmt: skip
    assert report.counts == {"clean": 5, "protected": 5, "test": 6}
    assert report.notes[0].startswith(
        "7 of 12 labeled images are not in protected (the first: case10/image.dcm); no network saw them"
    )
    assert report.verification is not None
    assert (report.verification["counts"]["mismatch"], report.verification["absent_without_reason"]) == (7, 7)


@pytest.mark.slow
def test_report_says_when_where_and_how_it_was_made(folders: Path, tmp_path: Path) -> None:
    report = _evaluate(
        folders, seeds=2, countermeasures="none,median-3", report=tmp_path / "r.html", window="0,700"
    ).to_json()
    run = report["run"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", run["date"])
    assert run["versions"].keys() == {"python", "monai_salm", "torch", "monai", "numpy"}
    assert run["versions"]["python"] == platform.python_version()
    assert run["device"].startswith("cpu (")
    assert run["data"] == {"clean": "clean", "protected": "protected", "test": "test"}
    assert run["classes"] == {"clean": {"healthy": 6, "ill": 6}, "test": {"healthy": 3, "ill": 3}}
    assert (run["seeds"], run["seconds"] > 0) == ([0, 1], True)
    assert (run["protection"]["method"], run["protection"]["epsilon"], run["protection"]["seed"]) == (
        "random",
        "8/255",
        0,
    )
    assert run["command"] == (
        "monai-salm evaluate clean protected --test test --labels labels.csv --test-labels test.csv "
        "--countermeasures none,median-3 --victims small-cnn "
        "--seeds 2 --epochs 1 --no-utility --report r.html --window 0,700 --working-size 24 --device cpu"
    )
    works = {entry["for"]: entry["citation"] for entry in run["citations"]}
    assert "arXiv 2301.13838" in works["median-3"]
    assert {"auc", "mcc", "balanced_accuracy", "monai"} <= works.keys()
    assert json.loads((tmp_path / "r.json").read_text())["run"] == run
    page = unescape(re.sub(r"<[^>]*>", " ", (tmp_path / "r.html").read_text()))
    for text in (run["date"], run["device"], *run["versions"].values(), *works.values(), "--window 0,700", "seed 0"):
        assert str(text) in page, text
    assert str(tmp_path) not in page


@pytest.mark.slow
def test_command_is_given_as_it_was_typed(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "evaluate", folders / "clean", folders / "protected", "--test", folders / "test", "--labels",
        folders / "labels.csv",
        "--test-labels", folders / "test.csv", "--victims", "small-cnn", "--epochs", "1", "--working-size", "24",
        "--no-utility", "--epsilon", "20 real",
        "--report", tmp_path / "r.html", "--quiet",
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        main(list(map(str, words)))
    run = json.loads((tmp_path / "r.json").read_text())["run"]
    assert run["command"] == shlex.join(["monai-salm", *map(str, words)])
    assert "--epsilon" in (tmp_path / "r.html").read_text()


@pytest.mark.slow
def test_label_maps(tmp_path: Path) -> None:
    nifti_export(tmp_path / "clean", 4, labels=tmp_path / "maps")
    nifti_export(tmp_path / "all", 6, labels=tmp_path / "all-maps")
    for number in (4, 5):
        (tmp_path / "test").mkdir(exist_ok=True)
        (tmp_path / "all" / f"v{number}.nii.gz").rename(tmp_path / "test" / f"v{number}.nii.gz")
    protect(tmp_path / "clean", tmp_path / "protected", drawn())
    options = EvaluateOptions(
        task="segmentation",
        labels=tmp_path / "maps",
        test_labels=tmp_path / "all-maps",
        epochs=1,
        working_size=16,
        device="cpu",
        report=tmp_path / "r.html",
    )
    report = evaluate(tmp_path / "clean", tmp_path / "protected", tmp_path / "test", options)
    assert (report.chance, report.majority_share, report.main_score) == (None, None, "dice")
    assert report.counts == {"clean": 4, "protected": 4, "test": 2}
    assert all(0 <= row["dice"] <= row["peak"] <= 1 for row in report.to_json()["results"])
    assert report.verdicts()[0]["verdict"] in ("not learned", "protected", "weakened", "not protected")
    assert report.verification is not None
    fates = [json.loads(line) for line in (tmp_path / "protected.work" / "manifest.jsonl").read_text().splitlines()]
    (modality,) = report.verification["modalities"]
    assert (modality["epsilon_stored"], modality["bound_from"]) == (
        max(fate["epsilon_stored"] for fate in fates),
        "the manifest of their run",
    )
    twin = json.loads((tmp_path / "r.json").read_text())
    assert all(example["within_bound"] for example in twin["examples"])
    assert twin["run"]["classes"] == {"clean": {"0": 4, "1": 4}, "test": {"0": 2, "1": 2}}
    assert "bound known from" in (tmp_path / "r.html").read_text()
    shutil.rmtree(tmp_path / "protected.work")
    for epsilon, expected in (("", (None, "not stated")), ("1/255", (modality["epsilon_stored"] // 8, "--epsilon"))):
        again = evaluate(
            tmp_path / "clean", tmp_path / "protected", tmp_path / "test", replace(options, epsilon=epsilon)
        )
        assert again.verification is not None
        (found,) = again.verification["modalities"]
        assert found["bound_from"] == expected[1]
        assert (found["epsilon_stored"] is None) == (expected[0] is None)
        assert found["beyond_bound"] == again.verification["counts"]["mismatch"] == (4 if epsilon else 0)
    assert "A bound is broken" in (tmp_path / "r.html").read_text()
    examples = json.loads((tmp_path / "r.json").read_text())["examples"]
    assert not any(example["within_bound"] for example in examples)


@pytest.mark.slow
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
    test_table = label_table(
        tmp_path / "t.csv",
        {f"test/{name}": ("healthy", "ill")[number % 2] for number, name in enumerate(names) if number >= 6},
    )
    options = EvaluateOptions(
        labels=table, test_labels=test_table, victims="small-cnn", epochs=1, working_size=24, device="cpu"
    )
    report = evaluate(tmp_path / "clean", tmp_path / "protected", tmp_path / "test", options)
    assert report.counts == {"clean": 6, "protected": 6, "test": 4}


@pytest.mark.slow
def test_documents_of_an_export_are_no_images(tmp_path: Path) -> None:
    mr_export(tmp_path / "clean", 4)
    dicom_object(tmp_path / "clean" / "sr.dcm", "1.2.840.10008.5.1.4.1.1.88.33", 1, [f"{ROOT_UID}.10.1"])
    for number in range(2):
        mr_slice(tmp_path / "test" / f"case{number}" / "image.dcm", 101 + number)
    (tmp_path / "test" / "notes.txt").write_text("x")
    protect(tmp_path / "clean", tmp_path / "protected", drawn())
    options = EvaluateOptions(
        labels=mr_labels(tmp_path / "l.csv", 4),
        victims="small-cnn",
        epochs=1,
        working_size=24,
        device="cpu",
        test_labels=None,
    )
    report = evaluate(tmp_path / "clean", tmp_path / "protected", tmp_path / "test", options)
    assert report.counts == {"clean": 4, "protected": 4, "test": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": "other.csv"}, r"the test labels \['dead', 'healthy'\] are not among the training labels"),
        ({"victims": "magic"}, "network 'magic' is unknown"),
        ({"victims": "small-unet"}, "network 'small-unet' gives .*; give a network for classification"),
        ({"victims": "small-cnn+magic"}, r"victim 'small-cnn\+magic' has an unknown suffix"),
        ({"labels": None}, "needs labels"),
        ({"augmentation": "mirror"}, "augmentation 'mirror' is unknown; choose among none, flips, nnunet"),
        ({"countermeasures": "jpg"}, "countermeasure 'jpg' is unknown; .*jpeg-50"),
        ({"countermeasures": "denoiser-100"}, "'denoiser-100' needs 100 leaked pairs, of 12 images"),
        ({"protected_shares": "1"}, "protected share 1% of 12 images is 0 of them"),
        ({"report": "missing/report.html"}, "its folder does not exist"),
        ({"report": "report.pdf"}, r"give a name that ends in \.html"),
        ({"state": "labels.csv"}, "no record of an evaluation"),
    ],
    ids=[
        "classes",
        "victim",
        "kind of victim",
        "suffix",
        "labels",
        "augmentation",
        "countermeasure",
        "leak",
        "share",
        "folder of the report",
        "kind of report",
        "state",
    ],
)
def test_what_does_not_fit_is_refused(folders: Path, changes: dict[str, Any], message: str) -> None:
    label_table(folders / "other.csv", {f"{number}.dcm": ("dead", "healthy")[number % 2] for number in range(6)})
    changes = {
        name: folders / value if name in ("test_labels", "report", "state") else value
        for name, value in changes.items()
    }
    with pytest.raises(UsageError, match=message):
        _evaluate(folders, **changes)


@pytest.mark.slow
def test_test_images_may_not_be_training_images(folders: Path) -> None:
    options = EvaluateOptions(labels=folders / "labels.csv", epochs=1, working_size=24, device="cpu")
    with pytest.raises(
        UsageError, match=r"12 of the test images are in .*clean, too; test on clean images that no victim trains on"
    ):
        evaluate(folders / "clean", folders / "protected", folders / "clean", options)
    with pytest.raises(UsageError, match=r"12 of the test images are in .*protected, too"):
        evaluate(folders / "clean", folders / "protected", folders / "protected", options)


@pytest.mark.parametrize(
    ("clean", "protected", "message"),
    [
        ("protected", "clean", "the arguments look swapped"),
        ("clean", "clean", "are the same"),
        ("clean", "protected.work", "is the private work folder of a run"),
    ],
    ids=["swapped", "the same", "work folder"],
)
def test_wrong_folders_are_found_out_without_a_verification(
    folders: Path, clean: str, protected: str, message: str
) -> None:
    options = EvaluateOptions(
        labels=folders / "labels.csv", epochs=1, working_size=24, device="cpu", verification=False
    )
    with pytest.raises(UsageError, match=message):
        evaluate(folders / clean, folders / protected, folders / "test", options)


def test_protected_folder_without_a_common_file(folders: Path) -> None:
    options = EvaluateOptions(labels=folders / "labels.csv", test_labels=folders / "test.csv", epochs=1, device="cpu")
    with pytest.raises(UsageError, match=r"no labeled image of .* under the same path"):
        evaluate(folders / "clean", folders / "test", folders / "test", options)


@pytest.mark.parametrize(
    ("score", "chance", "expected"), [(0.2, 0.5, 0.8), (0.7, 0.5, 0.7), (0.1, 0.25, 0.1), (0.1, None, 0.1)]
)
def test_of_two_classes_a_score_below_a_guess_is_no_protection(
    score: float, chance: float | None, expected: float
) -> None:
    assert usable(score, chance) == pytest.approx(expected)
