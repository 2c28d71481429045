# SPDX-License-Identifier: Apache-2.0
"""The page of results: the latest rows count, targets are judged by figures alone, and any part of the rows will do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

Page = Any


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    monkeypatch.syspath_prepend(BENCHMARKS / "pages")
    import make_results

    return make_results.page


def test_the_page_is_what_the_rows_say(page: Page) -> None:
    """A part of the history would put the rows into another order."""
    whole = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )
    if whole.stdout.strip() != "false":
        pytest.skip("this is no clone with its whole history")
    assert page() == (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8"), (
        "run python benchmarks/pages/make_results.py"
    )


def victim(name: str, trained_on: str, score: float, **other: Any) -> dict[str, Any]:
    row = {
        "what": "victim",
        "data_set": "breast",
        "part": "test",
        "epochs": 30,
        "victim": name,
        "trained_on": trained_on,
        "countermeasure": "none",
    }
    row |= {
        "protected_share": 1.0,
        "seed": 0,
        "balanced_accuracy": score,
        "auc": score + 0.1,
        "mcc": 0.1,
        "peak": score + 0.02,
        "reliance": 0.4,
        "curve": [score],
    }
    return row | {"seconds": 1.0} | other


def protect(method: str, changed: float, passes: float, **other: Any) -> dict[str, Any]:
    counts = {"protected": 9, "copied": 0, "absent": 0, "mismatch": 0}
    row = {
        "what": "protect",
        "data_set": "breast",
        "method": method,
        "epsilon": "8/255",
        "counts": counts,
        "verified": counts,
        "seconds": 5,
        "rounds": 4,
    }
    row |= {
        "passes_per_sample": passes,
        "lowest_psnr": 34.1,
        "mean_psnr": 36.0,
        "mean_changed_fraction": changed,
        "largest_changed_fraction": changed,
    }
    return row | other


def made_up() -> list[dict[str, Any]]:
    rows = [protect("salm", 0.39, 20.0), protect("em", 0.98, 60.0)]
    for name in ("ViT", "small-cnn"):
        for seed in range(3):
            rows += [
                victim(name, "clean", 0.9, seed=seed),
                victim(name, "salm", 0.55, seed=seed),
                victim(name, "em", 0.6, seed=seed),
            ]
    rows += [victim("ViT", "clean", 0.8, countermeasure="clahe"), victim("ViT", "salm", 0.71, countermeasure="clahe")]
    rows += [victim("ViT", "clean part", 0.75, protected_share=0.8), victim("ViT", "salm", 0.76, protected_share=0.8)]
    rows += [victim("resnet18+frozen", "clean", 0.77), victim("resnet18+frozen", "salm", 0.74)]
    utility = {
        "victim": "ViT",
        "clean": {"auc": 0.9},
        "protected": {"auc": 0.893},
        "change": {"auc": -0.007},
        "features": [{"icc": 0.991}],
    }
    counts = {"clean": 9, "salm": 9, "em": 9, "test": 4}
    rows += [
        {
            "what": "summary",
            "data_set": "breast",
            "part": "test",
            "counts": counts,
            "chance": 0.5,
            "majority_share": 0.73,
            "utility": utility,
        }
    ]
    return rows


def write(folder: Path, rows: list[dict[str, Any]], name: str = "breast") -> Path:
    context = {"commit": "abcdef0", "machine": "a machine"}
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(context | row) + "\n" for row in rows), encoding="utf-8")
    return folder


def verdict(text: str, target: str, where: str = "breast") -> str:
    return next(
        line for line in text.splitlines() if line.startswith("|") and target in line and f"| {where} |" in line
    )


def test_no_rows(tmp_path: Path, page: Page) -> None:
    text = page(tmp_path)
    targets = [line for line in text.splitlines() if " breast |" in line or " cost |" in line]
    assert len(targets) == 12
    assert all(line.endswith("**not measured** |") for line in targets)


def test_verdicts_come_from_the_figures(tmp_path: Path, page: Page) -> None:
    text = page(write(tmp_path, made_up()))
    learned = verdict(text, "every victim")
    assert "worst 0.550" in learned
    assert "met as far as measured; not run: resnet18, resnet18-3x3" in learned  # never just "met"
    assert verdict(text, "PSNR at least 34").endswith("| met |")
    assert "em 0.600 (SALM 0.550, 2 victims)" in verdict(text, "strictly better")
    assert "**missed**: 1 of 1 cells, the worst by 0.200" in verdict(text, "keeps half")  # 0.09 of 0.30 kept
    assert "**missed**: change by 0.0020" in verdict(text, "changes by at most")
    assert "**missed**: 0.33 of them, the share by 0.233" in verdict(text, "passes per sample")
    clahe = "0.800 / 0.900 / 0.820 | 0.710 / 0.810 / 0.730"
    assert f"| clahe | ViT | salm | 1 | {clahe} | 0.400 | 30% | **no** |" in text
    whole = "0.900 ± 0.000 / 1.000 ± 0.000 / 0.920 ± 0.000"
    mixed = "0.750 / 0.850 / 0.770 | 0.760 / 0.860 / 0.780"
    assert f"| ViT | salm | none | 80% | 1 | {mixed} | {whole} | +0.010 |" in text
    assert "| ViT | 3 | 0.900 ± 0.000 | **0.550 ± 0.000** | **0.600 ± 0.000** |" in text
    assert "the commonest class alone 0.730" in text
    assert "mean AUC 0.650; a guess 0.500" in learned
    assert "| salm | 2 | 0.550 | 0.650 | 0.570 | 0.400 | 0.550 | 36.0 |" in text
    assert "Reliance:\n\n| victim | seeds | clean | salm | em |" in text


def test_other_augmentations_have_their_own_table(tmp_path: Path, page: Page) -> None:
    """They are no victims of the targets, and rows that know of none are of flips and shifts."""
    rows = [victim("ViT", name, score, augmentation="nnunet") for name, score in (("clean", 0.85), ("salm", 0.77))]
    rows += [victim("ViT", name, 0.9, augmentation="flips", seed=2) for name in ("clean", "salm")]
    text = page(write(tmp_path, [*made_up(), *rows]))
    before, _, own = text.partition("as in nnU-Net (*nnunet*)")
    assert "worst 0.667 (ViT)" in verdict(text, "every victim")
    assert "| ViT (nnunet) | balanced accuracy | 0.850 | 0.770 | - |" in own
    assert "| ViT (nnunet) | reliance | 0.400 | 0.400 | - |" in own
    assert "- augmentations nnunet: not resnet18, resnet18-3x3, resnet50, DenseNet121, EfficientNetBN, small-cnn" in own
    assert "- augmentations none: no victim" in own
    assert "nnunet" not in before.partition("# Protection")[2].partition("Victims without any augmentation")[0]


def test_later_rows_replace_earlier_ones_and_validation_images_do_not_count(tmp_path: Path, page: Page) -> None:
    later = [
        victim("ViT", "salm", 0.64, seed=0),
        victim("ViT", "salm", 0.66, seed=1),
        victim("ViT", "salm", 0.68, seed=2),
    ]
    text = page(
        write(tmp_path, [*made_up(), *later, *(row | {"part": "val", "balanced_accuracy": 0.5} for row in later)])
    )
    assert "worst 0.660 (ViT)" in verdict(text, "every victim")
    assert "**missed**: worst victim by 0.060, worst peak by 0.030" in verdict(text, "every victim")
    assert "em is 0.005 lower" in verdict(text, "strictly better")


@pytest.mark.parametrize("length", [{"epochs": 60}, {"least_steps": 2000}])
def test_another_length_of_training_is_another_run(length: dict[str, int], tmp_path: Path, page: Page) -> None:
    text = page(write(tmp_path, [*made_up(), victim("ViT", "salm", 0.7, **length)]))
    assert "worst 0.700 (ViT)" in verdict(text, "every victim")
    assert "too few seeds: ViT" in verdict(text, "every victim")


def test_victims_that_learn_nothing_from_clean_images_prove_nothing(tmp_path: Path, page: Page) -> None:
    rows = [
        row | ({"balanced_accuracy": 0.55} if row.get("victim") == "ViT" and row["trained_on"] == "clean" else {})
        for row in made_up()
    ]
    text = page(write(tmp_path, rows))
    assert "clean images teach nothing: ViT" in verdict(text, "every victim")
    assert "| ViT | 3 | 0.550 ± 0.000 | 0.550 ± 0.000 |" in text  # not bold


def test_any_part_of_the_rows_makes_a_page(tmp_path: Path, page: Page) -> None:
    rows = made_up()
    kinds = [("protect",), ("summary",), ("protect", "summary"), ("victim",)]
    for left_out in kinds:
        assert "# Not run" in page(write(tmp_path, [row for row in rows if row["what"] not in left_out]))
    for trained_on in ("clean", "salm", "em", "clean part"):
        assert "# Not run" in page(write(tmp_path, [row for row in rows if row.get("trained_on") != trained_on]))


def test_settings_stay_apart_and_volumes_have_their_own_target(tmp_path: Path, page: Page) -> None:
    rows = []
    for epsilon, score in (("4/255", 0.2), ("8/255", 0.1)):
        setting = {"data_set": "hippocampus", "epsilon": epsilon, "perturbed_fraction": 0.1}
        rows += [protect("salm", 0.1, 50.0, **setting, lowest_psnr=47.5)]
        for trained_on, value in (("clean", 0.8), ("salm", score)):
            row = victim("UNet", trained_on, value, dice=value, dice_1=value, **setting)
            rows.append({name: value for name, value in row.items() if name not in ("balanced_accuracy", "auc", "mcc")})
    text = page(write(tmp_path, rows, "hippocampus"))
    line = verdict(text, "mean Dice at most 0.15", "hippocampus, 10% of the anatomy")
    assert "**missed**: Dice by 0.050, PSNR (dB) by 0.50" in line
    assert text.count("## Hippocampus, 3D segmentation from NIfTI, epsilon") == 1, (
        "another strength has no tables of its own"
    )
    weaker, stronger = text.partition("## Strength, sparsity and rounds: Hippocampus")[2].split("| 10% |")[1:3]
    assert "47.5 | 0.200 / - / 0.220 |" in weaker
    assert "47.5 | 0.100 / - / 0.120 |" in stronger


def test_rows_of_the_earlier_version_are_kept_apart(tmp_path: Path, page: Page) -> None:
    rows = [
        {
            name: value
            for name, value in row.items()
            if name not in ("data_set", "part", "countermeasure", "protected_share")
        }
        for row in made_up()
        if row.get("countermeasure", "none") == "none" and row.get("protected_share", 1.0) == 1.0
    ]
    text = page(write(tmp_path, rows, "pneumonia_0.1"))
    assert verdict(text, "every victim", "pneumonia").endswith("**not measured** |")
    assert "| ViT | 3 | 0.900 ± 0.000 |" in text.partition("# Earlier version")[2]


def test_a_rank_counts_where_no_decision_was_learned(tmp_path: Path, page: Page) -> None:
    rows = [victim(name, trained_on, 0.5, data_set="ct_contrast", auc=auc) for name, trained_on, auc in
            (("ViT", "clean", 0.9), ("ViT", "salm", 0.7), ("small-cnn", "clean", 0.55),
            ("small-cnn", "salm", 0.5))]  # fmt: skip
    line = verdict(page(write(tmp_path, rows, "ct_contrast")), "AUC at most 0.60", "ct_contrast")
    assert "**missed**: worst AUC by 0.100" in line
    assert "clean images teach nothing: small-cnn" in line


def test_a_network_that_learned_nothing_says_nothing_of_the_utility(tmp_path: Path, page: Page) -> None:
    rows = [
        row | ({"utility": row["utility"] | {"clean": {"auc": 0.5}}} if row["what"] == "summary" else {})
        for row in made_up()
    ]
    assert "**not measured**" in verdict(page(write(tmp_path, rows)), "changes by at most")


def test_seeds_of_commits_with_the_same_package_count_as_one_run(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import measured

    rows = [victim("ViT", "salm", 0.50 + 0.02 * seed, seed=seed, commit="aaaaaaa") for seed in range(3)] + [
        victim("ViT", "salm", 0.5, commit="bbbbbbb")
    ]
    folder = write(tmp_path, [protect("salm", 0.39, 20.0), victim("ViT", "clean", 0.9), *rows])
    monkeypatch.setattr(measured, "package_code", lambda commit: "one")
    assert "0.520 ± 0.020" in page(folder)
    monkeypatch.setattr(measured, "package_code", lambda commit: commit)
    assert "0.520 ± 0.020" not in page(folder)


@pytest.mark.parametrize(
    ("said", "score", "came", "judged"),
    [
        ("protected", 0.55, "protected", "1 of 1"),
        ("protected", 0.85, "not protected", "protected where it is not: breast salm"),
        ("not protected", 0.55, "protected", "right in too few"),
    ],
)
def test_what_was_said_stands_beside_what_came(
    said: str, score: float, came: str, judged: str, tmp_path: Path, page: Page
) -> None:
    asked = protect("salm", 0.39, 20.0, estimate={"networks": [{}], "verdict": said})
    rows = [asked, victim("small-cnn", "clean", 0.9), victim("small-cnn", "salm", score), *made_up()[-1:]]
    text = page(write(tmp_path, rows))
    assert f"| breast | salm | {said} | {came} | small-cnn {score:.2f} (peak {score + 0.02:.2f}) of 0.90 |" in text
    assert judged in verdict(text, "the estimate of `protect`", "all")
    other = [asked | {"commit": "1234567"}, *rows[1:]]
    assert "What the tool said" not in page(write(tmp_path, other)), "victims of other files say nothing"


def test_rows_of_salm_before_it_chose_are_those_of_its_part(
    tmp_path: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    import measured

    monkeypatch.setattr(measured, "_commit_places", lambda: {"abcdef0": 3, measured.CHOICES["classification"][0]: 7})
    text = page(write(tmp_path, made_up()))
    assert "salm:texture" in text
    assert "9 clean, 9 salm:texture" in text
    later = [row | {"commit": measured.CHOICES["classification"][0]} for row in made_up()]
    assert "salm:texture |" not in page(write(tmp_path, later)).partition("# Not run")[0]
