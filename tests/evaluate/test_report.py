# SPDX-License-Identifier: Apache-2.0
"""The report: what it says of weak results, what it must not load, and what a browser makes of it."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html import escape, unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.errors import UsageError
from monai_salm.evaluate.countermeasures import COUNTERMEASURES
from monai_salm.evaluate.report import ExamplePair, write_report
from monai_salm.evaluate.report.markup import DASH, Markup, element
from monai_salm.evaluate.report.pictures import png
from monai_salm.evaluate.report.wording import headlines, score_name

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<script>alert('x')</script>&\"net\""
EPSILON = 8 / 255


def _report(
    cells: list[tuple[str, str, float, str]], *, folder: str = "protected", clean: float = 0.9, **changes: Any
) -> dict[str, Any]:
    """Make a report of cells (victim, countermeasure, score when protected, verdict)."""
    rows, results, verdicts = [], [], []
    for victim, countermeasure, protected, verdict in cells:
        for name, score in (("clean", clean), (folder, protected)):
            cell = {"victim": victim, "trained_on": name, "countermeasure": countermeasure, "protected_share": 1.0}
            scores = {"balanced_accuracy": score, "auc": score + 0.02, "mcc": None, "peak": score + 0.01}
            scores |= {"reliance": 0.93 - score}
            rows.append(cell | {"seeds": 2} | scores | {"balanced_accuracy_sd": 0.0123, "peak_sd": 0.004})
            results += [
                cell | {"seed": seed} | scores | {"curve": [0.5, score + 0.01, score], "seconds": 1.0}
                for seed in (0, 1)
            ]
        kept = (clean - protected) / (clean - 0.5)
        verdicts.append(
            {
                "victim": victim,
                "trained_on": folder,
                "countermeasure": countermeasure,
                "protected_share": 1.0,
                "clean": clean,
                "protected": protected,
            }
            | {"peak": protected + 0.01, "kept": None if verdict == "not learned" else kept, "verdict": verdict}
        )
    report: dict[str, Any] = {
        "format": "monai_salm.evaluation/1", "main_score": "balanced_accuracy", "chance": 0.5, "majority_share": 0.625,
        "counts": {"clean": 10, "protected": 10, "test": 4}, "results": results, "summary": rows, "verdicts": verdicts,
        "utility": None, "verification": None,
    }  # fmt: skip
    return report | changes


MIXED = [
    ("resnet18", "none", 0.52, "protected"),
    ("resnet18", "jpeg-30", 0.62, "weakened"),
    ("resnet18", "denoiser-100", 0.86, "not protected"),
    ("ViT", "none", 0.55, "not learned"),
]


def _pair(name: str = "one.dcm", modality: str = "CT") -> ExamplePair:
    generator = np.random.default_rng(0)
    original = (np.rint(generator.uniform(0.2, 0.8, (12, 20)) * 255) / 255).astype(np.float32)
    anatomy = np.zeros((12, 20), bool)
    anatomy[2:10, 2:12] = True
    protected = original.copy()
    protected[2:10, 2:6] += np.float32(4 / 255)
    protected[2, 2] += np.float32(4 / 255)
    return ExamplePair(name, modality, original, protected, anatomy, EPSILON)


def _write(report: dict[str, Any], tmp_path: Path, *examples: ExamplePair) -> str:
    write_report(report, examples, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def _words(page: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<(style|script).*?</\1>", "", page))))


@pytest.mark.parametrize(
    ("cells", "level", "title"),
    [
        (MIXED, "bad", "Not protected in 1 of 4 tests"),
        (MIXED[:2], "caution", "Only weakened in 1 of 2 tests: networks still learn something"),
        ([MIXED[0], MIXED[3]], "caution", "Protected where it could be judged; 1 of 2 tests say nothing"),
        (MIXED[:1], "caution", "Protected against plain training; no countermeasure was tested"),
        (MIXED[3:], "unknown", "No verdict: no network learned from the originals"),
        ([], "unknown", "No verdict: nothing was measured"),
        (
            [("a", "none", 0.51, "protected"), ("a", "mixup", 0.51, "protected")],
            "good",
            "Protected in all 2 tests that were made",
        ),
        ([("a", "none", 0.51, "protected"), ("a", "mixup", 0.51, "excellent")], "bad", "Not protected in 1 of 2 tests"),
    ],
)
def test_headline_never_calls_a_weak_result_protected(
    cells: list[tuple[str, str, float, str]], level: str, title: str, tmp_path: Path
) -> None:
    page = _write(_report(cells), tmp_path)
    (verdict,) = headlines(_report(cells))
    assert (verdict.level, verdict.title) == (level, title)
    assert f'class="banner {level}"' in page
    assert title in _words(page)


def test_headline_counts_and_names_the_weakest() -> None:
    (verdict,) = headlines(_report(MIXED))
    assert verdict.counts == {"protected": 1, "weakened": 1, "not protected": 1, "not learned": 1}
    text = " ".join(verdict.sentences)
    assert (
        "The weakest point: resnet18 with denoiser-100. Trained on the protected images it reaches a balanced "
        "accuracy of 0.86 " in text
    )
    assert (
        "trained on the originals 0.90; a guess gives 0.50. The protection takes away 10\N{NO-BREAK SPACE}% of" in text
    )
    assert "2 trainings per combination" in text
    assert (
        f"{len(COUNTERMEASURES) - 3} of the {len(COUNTERMEASURES) - 1} countermeasures that this software knows "
        "were not tried" in text
    )


def test_a_broken_bound_is_red_whatever_was_learned(tmp_path: Path) -> None:
    modality = {
        "modality": "CT",
        "files": 3,
        "largest_change_stored": 13.0,
        "epsilon_stored": 12.0,
        "lowest_psnr": 36.0,
        "mean_psnr": None,
    }
    cells = [("a", "none", 0.51, "protected"), ("a", "mixup", 0.51, "protected")]
    page = _write(
        _report(cells, verification={"counts": {"protected": 3, "mismatch": 1}, "modalities": [modality]}), tmp_path
    )
    assert (
        "A bound is broken (CT). Verification found 1 files that are not as they should be. Protected in all 2 tests"
        in _words(page)
    )
    assert 'class="banner bad"' in page
    assert "banner good" not in page
    kept = modality | {"largest_change_stored": 12.0}
    page = _write(
        _report(cells, verification={"counts": {"protected": 3, "mismatch": 0}, "modalities": [kept]}), tmp_path
    )
    assert 'class="banner good"' in page
    assert "36.0 dB" in _words(page)


def test_shifts_of_the_mean_over_regions(tmp_path: Path) -> None:
    shifts = [
        {"diameter": 10.0, "unit": "mm", "regions": 4711, "largest_real": 3.25, "p99_real": 1.5},
        {"diameter": 20.0, "unit": "mm", "regions": 0, "largest_real": None, "p99_real": None},
    ]
    modality = {"modality": "CT", "files": 3, "mean_shifts": shifts}
    words = _words(_write(_report(MIXED, verification={"counts": {}, "modalities": [modality]}), tmp_path))
    assert "Shift of the mean over regions" in words
    assert "CT 10 mm 4711 3.250 1.500" in words
    assert f"CT 20 mm 0 {DASH} {DASH}" in words
    without = {"counts": {}, "modalities": [{"modality": "CT", "files": 3}]}
    assert "Shift of the mean" not in _words(_write(_report(MIXED, verification=without), tmp_path))


def test_mixtures_have_their_own_figure_and_do_not_enter_the_headline(tmp_path: Path) -> None:
    report = _report(MIXED[:1])
    assert 'id="mixtures"' not in _write(report, tmp_path)
    for folder, score in (("clean part", 0.80), ("protected", 0.82)):
        report["summary"].append(
            report["summary"][0] | {"trained_on": folder, "protected_share": 0.5, "balanced_accuracy": score}
        )
    report["verdicts"].append(report["verdicts"][0] | {"protected_share": 0.5, "verdict": "not protected", "kept": 0.1})
    page = _write(report, tmp_path)
    assert 'id="mixtures"' in page
    assert "0.800 ± 0.012 / 0.920 / 0.910 0.820 ± 0.012 / 0.920 / 0.910" in _words(page)
    assert "balanced accuracy / AUC / peak of networks trained on mixtures" in _words(page)
    (verdict,) = headlines(report)
    assert verdict.level == "caution"
    assert "Once clean images are mixed in, networks learn in 1 of 1 such tests." in verdict.sentences


def test_auc_peak_and_reliance_stand_beside_the_score(tmp_path: Path) -> None:
    page = _words(_write(_report(MIXED), tmp_path))
    heads = (
        "verdict originals (ceiling) originals, AUC protected, last epoch protected, AUC protected, best epoch "
        "taken away reliance reliance on originals"
    )
    assert page.count(heads) == 2
    row = "0.900 ± 0.012 0.920 0.520 ± 0.012 0.540 0.530 ± 0.004 95 % 0.410 0.030 0.500 0.625"
    assert f"resnet18 ✓ protected {row}" in page
    assert "“Reliance” is the score on a part of the images" in page


def test_augmentations_are_told_apart(tmp_path: Path) -> None:
    report, other = _report(MIXED[:2]), _report([("resnet18", "none", 0.7, "weakened")], clean=0.8)
    for key in ("results", "summary", "verdicts"):
        report[key] += [row | {"augmentation": "nnunet"} for row in other[key]]
    page = _words(_write(report, tmp_path))
    assert "resnet18 ◐ weakened 0.900 ± 0.012" not in page
    assert "resnet18 (nnunet) ◐ weakened 0.800 ± 0.012 0.820 0.700 ± 0.012" in page
    assert "augmentations flips, nnunet" in page
    assert "Augmentations not measured none " in page
    assert "Networks tested resnet18, resnet18 (nnunet)" in page
    assert "Networks not measured small-resnet, small-cnn, resnet18-3x3" in page


def test_several_folders_have_a_verdict_each(tmp_path: Path) -> None:
    report, other = (
        _report(MIXED[:2], folder="plain"),
        _report([("resnet18", "none", 0.89, "not protected")], folder="random"),
    )
    for key in ("results", "summary", "verdicts"):
        report[key] += [row for row in other[key] if row["trained_on"] == "random"]
    report["verification"] = {"folder": "plain", "counts": {"mismatch": 1}, "modalities": []}
    page = _words(_write(report, tmp_path, _pair()))
    assert "plain: Verification found 1 files that are not as they should be. Only weakened in 1 of 2 tests" in page
    assert "random: Not protected in 1 of 1 tests" in page
    assert all(
        f"{title} (plain)" in page for title in ("What was protected, and the bounds", "Clinical utility", "Examples")
    )
    for key in ("results", "summary", "verdicts"):
        report[key] = [row for row in report[key] if row["trained_on"] != "random"]
    assert "(plain)" not in _words(_write(report, tmp_path, _pair())).partition("What networks learn")[0], (
        "there is no other"
    )


def test_everything_is_escaped(tmp_path: Path) -> None:
    report = _report(
        [(EVIL, EVIL, 0.85, "not protected")], folder=EVIL, counts={EVIL: 3}, options={EVIL: EVIL}, notes=[EVIL]
    )
    report["utility"] = {
        "victim": EVIL,
        "clean": {EVIL: 0.9},
        "protected": {EVIL: 0.9},
        "change": {EVIL: 0.0},
        "features": [{"feature": EVIL, "clean": 1.0}],
    }
    report["verification"] = {"counts": {EVIL: 1}, "modalities": [{"modality": EVIL, "files": 1}]}
    page = _write(report, tmp_path, _pair(EVIL, EVIL))
    assert page.count("<script>") == 1  # our own
    assert "alert('x')" not in page
    assert EVIL in _words(page)
    assert (
        element("b", EVIL, Markup("<i>"))
        == "<b>&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;&quot;net&quot;<i></b>"
    )


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    page = _write(_report(MIXED), tmp_path, _pair())
    assert not re.search(r"(?i)https?:|//[a-z]|@import|url\(", page)
    for value in re.findall(r"""(?i)(?:src|href|srcset|action|data)=["']?([^"'> ]*)""", page):
        assert value.startswith(("data:", "#")), value
    assert "default-src 'none'" in page


def test_twin_has_the_same_content(tmp_path: Path) -> None:
    report = _report(MIXED)
    (tmp_path / "report.csv").write_text("path,label\n", encoding="utf-8")  # somebody's table of labels
    first = _write(report, tmp_path, _pair())
    twin = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert {key: twin[key] for key in report} == report
    assert set(twin) - set(report) == {"headlines", "examples"}
    assert twin["headlines"][0]["title"] == "Not protected in 1 of 4 tests"
    (example,) = twin["examples"]
    assert example["largest_change_model"] == pytest.approx(EPSILON, abs=1e-6)
    assert example["changed_fraction_of_anatomy"] == 0.4
    mean_square = (31 * (4 / 255) ** 2 + EPSILON**2) / 240
    assert example["psnr"] == pytest.approx(-10 * math.log10(mean_square), abs=1e-3)
    assert example["within_bound"] is True
    names = ["report.csv", "report.html", "report.json", "report.trainings.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / "report.csv").read_text(encoding="utf-8") == "path,label\n"
    with (tmp_path / "report.trainings.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report["results"])
    assert list(rows[0]) == [name for name in report["results"][0] if name != "curve"]
    assert (rows[2]["trained_on"], rows[2]["auc"], rows[2]["peak"], rows[2]["mcc"]) == ("protected", "0.54", "0.53", "")
    assert _write(report, tmp_path, _pair()) == first


def test_only_a_page_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.html"):
        write_report(_report(MIXED), [], tmp_path / "report.json")
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    page = _words(_write(_report(MIXED[:1]), tmp_path))
    assert "Not measured in this report: whether a network trained on clean images" in page
    assert "The files were not verified for this report." in page
    assert "None was tested." in page
    assert "Pretrained networks not measured" in page
    assert "no encryption, no anonymization" in page
    untested = re.search(r"Countermeasures not measured (.*?) Not part of this software", page)
    assert untested is not None
    assert untested[1].split(", ") == list(COUNTERMEASURES)[1:]
    assert _write({}, tmp_path)  # the emptiest report


def test_segmentation_has_no_guess(tmp_path: Path) -> None:
    report = _report([("UNet", "none", 0.1, "protected")], main_score="dice", chance=None, majority_share=None)
    for row in [*report["summary"], *report["results"]]:
        row |= {"dice": row.pop("balanced_accuracy"), "dice_1": 0.3, "hd95": 41.5}
    page = _words(_write(report, tmp_path))
    assert "Dice of class 1 HD95" in page
    assert "guess 0." not in page
    assert score_name("dice_12") == "Dice of class 12"


def test_example_that_breaks_its_promises_says_so(tmp_path: Path) -> None:
    pair = _pair()
    pair.protected_model[0, 0] += np.float32(9 / 255)
    page = _words(_write(_report(MIXED), tmp_path, pair))
    assert "The bound is broken." in page
    assert "1 voxels outside the anatomy were changed." in page
    assert "The bound is broken." not in _words(_write(_report(MIXED), tmp_path, _pair()))


def test_example_without_a_bound_claims_none(tmp_path: Path) -> None:
    words = _words(_write(_report(MIXED), tmp_path, replace(_pair(), epsilon_model=None)))
    assert "of the window; bound not known" in words
    assert "full color is the largest change" in words
    unchanged = replace(_pair(), protected_model=_pair().original_model, epsilon_model=None)
    assert "identical" in _words(_write(_report(MIXED), tmp_path, unchanged))


def test_command_to_repeat_it(tmp_path: Path) -> None:
    run = {
        "command": "monai-salm evaluate 'my data' out --seeds 2 --window=-160,240",
        "date": "2026-01-31 12:00 UTC",
        "seconds": 700.0,
        "training_seconds": 600.0,
    }
    words = _words(_write(_report(MIXED, run=run), tmp_path))
    assert "monai-salm evaluate 'my data' out \\ --seeds 2 \\ --window=-160,240" in words
    assert "Measured on 2026-01-31 12:00 UTC" in words
    assert "about 12 minutes (about 10 minutes of training" in words


def test_what_one_sees_and_what_is_biased_is_said(tmp_path: Path) -> None:
    words = _words(_write(_report(MIXED), tmp_path))
    assert "Who looks for it sees it" in words
    assert "12 HU in a region of 15 x 15 pixels" in words


def test_absent_files_are_told_from_wrong_ones(tmp_path: Path) -> None:
    verification = {"counts": {"protected": 3, "mismatch": 5}, "absent_without_reason": 4, "modalities": []}
    words = _words(_write(_report(MIXED, verification=verification), tmp_path))
    assert (
        "Verification found 1 files that are not as they should be. 4 files are absent, and nothing says why." in words
    )


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
def test_png_is_read_by_others(shape: tuple[int, ...]) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(image.open(io.BytesIO(png(pixels)))), pixels)


def test_pictures_show_the_values(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pair = _pair()
    page = _write(_report(MIXED), tmp_path, pair)
    found = {
        text: np.asarray(image.open(io.BytesIO(base64.b64decode(data))))
        for data, text in re.findall(r'base64,([^"]*)" alt="([^"]*)"', page)
    }
    np.testing.assert_array_equal(found["one.dcm: original"], np.rint(pair.original_model * 255))
    np.testing.assert_array_equal(found["one.dcm: protected"], np.rint(pair.protected_model * 255))
    np.testing.assert_array_equal(
        found["one.dcm: changed voxels marked"][..., 3] > 0, pair.original_model != pair.protected_model
    )
    np.testing.assert_array_equal(found["one.dcm: anatomy marked"][..., 3] > 0, pair.anatomy)
    difference = found["one.dcm: difference, amplified 32 times"]
    assert difference[2, 2].tolist() == [255, 150, 30]
    assert difference[0, 0].tolist() == [0, 0, 0]


def _browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--enable-logging=stderr",
    ]
    # No name resolves, so that a page that loads anything fails aloud.
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={page.parent / 'profile'}",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")

_TRY = """<script>
addEventListener("load", () => {
  const input = document.querySelector(".slider input"), top = document.querySelectorAll(".slider img")[1];
  const before = getComputedStyle(top).clipPath;
  input.value = 80;
  input.dispatchEvent(new Event("input", {bubbles: true}));
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  document.body.dataset.tried = [before, getComputedStyle(top).clipPath, wide,
    [...document.images].every((image) => image.naturalWidth > 0)].join("; ");
});
</script></body>"""


@pytest.mark.slow
@needs_browser
def test_browser_has_nothing_to_complain_about(tmp_path: Path) -> None:
    _write(_report(MIXED), tmp_path, _pair(), _pair("two.nii.gz", "MR"))
    result = _browse(tmp_path / "report.html", "--dump-dom")
    assert "CONSOLE" not in result.stderr  # errors of scripts, refusals of the page's policy, failed loads
    assert result.stdout.count('style="--cut: 50%;"') == 2  # the script has run
    # The same page with something to load does complain: the check above can see.
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (tmp_path / "bad.html").write_text(
        page.replace("</body>", '<img src="http://example.invalid/x.png"></body>'), encoding="utf-8"
    )
    assert "CONSOLE" in _browse(tmp_path / "bad.html", "--dump-dom").stderr


_FRAME = """<!DOCTYPE html><body><iframe width="360" height="800" srcdoc="PAGE"></iframe><script>
const frame = document.querySelector("iframe");
frame.onload = () => { document.body.dataset.found = frame.contentDocument.body.dataset.tried; };
</script></body>"""


@pytest.mark.slow
@needs_browser
def test_slider_moves_and_a_telephone_needs_no_sideways_scrolling(tmp_path: Path) -> None:
    page = _write(_report(MIXED), tmp_path, _pair("a_name_without_spaces_that_is_longer_than_the_screen_is_wide.dcm"))
    tried = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</body>", _TRY)
    (tmp_path / "telephone.html").write_text(_FRAME.replace("PAGE", escape(tried)), encoding="utf-8")
    found = re.search(r'data-found="([^"]*)"', _browse(tmp_path / "telephone.html", "--dump-dom").stdout)
    assert found is not None
    assert found[1] == "inset(0px 0px 0px 50%); inset(0px 0px 0px 80%); 0; true"
