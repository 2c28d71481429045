# SPDX-License-Identifier: Apache-2.0
"""The demo: the main job on a real brain, from an export to a report, in a few minutes and without a network."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from monai_salm.budget import Epsilon
from monai_salm.demo.brain import CLASSES, FULL_SCALE, PATCH, make_export
from monai_salm.errors import UsageError
from monai_salm.evaluate import EvaluateOptions, EvaluateReport, evaluate
from monai_salm.pipeline import ProtectOptions, protect, verify
from monai_salm.pipeline.file_views import BudgetOptions
from monai_salm.windows import IntensityWindow

WINDOW = IntensityWindow(0.0, float(FULL_SCALE))
EPSILON = "8/255"


def run_demo(
    output: Path,
    *,
    echo: Callable[[str], object],
    show_progress: bool = False,
    train: int = 320,
    test: int = 160,
    rounds: int = 12,
    epochs: int = 12,
) -> EvaluateReport:
    """Make an export, protect it, verify it, train victims on both, and write the report.

    Args:
        output: folder to make.
        echo: called with each line of the story.
        show_progress: progress bars on standard error.
        train, test: number of images; even.
        rounds: of the search at most.
        epochs: of each victim.

    Raises:
        UsageError: the folder is not empty, or the demo's extra is not installed.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} exists already; give another folder, or remove it")
    output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        echo(f"[{time.monotonic() - began:4.0f} s] {text}")

    try:
        say(
            f"1. An export of real anatomy: {train} patches of {PATCH} x {PATCH} mm of the MNI152 T1 brain, half "
            "DICOM, half NIfTI,"
        )
        say(
            f"   labeled by the tissue that they have more of ({' or '.join(CLASSES)}); {test} more, from other "
            "axial slabs, are the test set."
        )
        export = make_export(output, train=train, test=test, seed=0)
        window = f"{WINDOW.low:g},{WINDOW.high:g}"
        say(f"2. Protect it: monai-salm protect export protected --labels labels.csv --window {window}")
        options = ProtectOptions(labels=export.labels, window=window, epsilon=EPSILON, rounds=rounds)
        result = protect(export.images, output / "protected", options, show_progress=show_progress)
        summary = result.to_json()
        say(
            f"   {summary['counts']['protected']} of {train} protected after {summary['rounds']} rounds, "
            f"{summary['passes_per_sample']:.0f} passes per image;"
        )
        say(
            f"   lowest PSNR {summary['lowest_psnr']:.1f} dB, at most {summary['largest_changed_fraction']:.0%} "
            "of the anatomy's voxels changed."
        )
        say(f"   {summary['surrogate']}")
        say(
            f"3. Verify it, from the files alone: monai-salm verify export protected --window {window} --epsilon "
            f"{EPSILON}"
        )
        report = verify(
            export.images,
            output / "protected",
            options=BudgetOptions(window=WINDOW),
            check_epsilon=Epsilon.parse(EPSILON),
            show_progress=show_progress,
        )
        if report.mismatches:
            raise UsageError(
                f"verification found {len(report.mismatches)} mismatches, the first: {report.mismatches[0].path}: "
                f"{report.mismatches[0].problems}"
            )
        say(
            f"   {len(report.files)} files: every change within its bound and inside the anatomy, every header as "
            "it may be."
        )
        say("4. Train the same network on the clean and on the protected files, and score both on the clean test set:")
        say("   monai-salm evaluate export protected --labels labels.csv --test test --test-labels test_labels.csv \\")
        say(f"       --window {window} --epochs {epochs} --no-utility --report report.html")
        scores = evaluate(
            export.images, output / "protected", export.test,
            EvaluateOptions(
                labels=export.labels, test_labels=export.test_labels, window=window, epochs=epochs, utility=False,
                report=output / "report.html"
            ),
            show_progress=show_progress,
        )  # fmt: skip
        for line in scores.table().splitlines():
            echo(f"         {line}")
        say(
            f"5. Open {output / 'report.html'} in a browser: what was learned, epoch by epoch, the bounds, and "
            "images before and after."
        )
        say(f"   {output / 'protected'} can be handed out; {result.work_dir} must not be.")
        return scores
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)  # a half-made demo would only be in the way of the next
        raise
