# SPDX-License-Identifier: Apache-2.0
"""The demo: the main job on a real brain, from an export to a report, in a few minutes and without a network."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from monai_salm.budget import Epsilon
from monai_salm.demo.brain import CLASSES, FULL_SCALE, PATCH, DemoExport, make_export
from monai_salm.errors import UsageError
from monai_salm.evaluate import EvaluateOptions, EvaluateReport, evaluate
from monai_salm.pipeline import ProtectOptions, protect, verify
from monai_salm.pipeline.file_views import BudgetOptions
from monai_salm.windows import IntensityWindow

WINDOW = IntensityWindow(0.0, float(FULL_SCALE))
VALUES = f"{WINDOW.low:g},{WINDOW.high:g}"
"""The window as an option."""
EPSILON = "8/255"


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much a demo does.

    Args:
        train, test: number of images; even.
        rounds: of the search at most.
        epochs, least_steps: of each victim.
    """

    train: int = 320
    test: int = 160
    rounds: int = 12
    epochs: int = 12
    least_steps: int = 300


def run_demo(
    output: Path, *, echo: Callable[[str], object], show_progress: bool = False, size: DemoSize | None = None
) -> EvaluateReport:
    """Make an export, protect it, verify it, train victims on both, and write the report.

    Args:
        output: folder to make.
        echo: called with each line of the story.
        show_progress: progress bars on standard error.
        size: how much it does; None takes a few minutes.

    Raises:
        UsageError: the folder is not empty, or the demo's extra is not installed.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} exists already; give another folder, or remove it")
    output.mkdir(parents=True, exist_ok=True)
    story = _Story(output, echo, show_progress, size or DemoSize())
    try:
        export = story.make()
        work_dir = story.protect(export)
        story.verify(export)
        return story.evaluate(export, work_dir)
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)  # a half-made demo would only be in the way of the next
        raise


class _Story:
    """The steps of a demo, each told before and after it is done."""

    def __init__(self, output: Path, echo: Callable[[str], object], show_progress: bool, size: DemoSize) -> None:
        self.output, self.protected = output, output / "protected"
        self.echo, self.show_progress, self.size = echo, show_progress, size
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        self.echo(f"[{time.monotonic() - self.began:4.0f} s] {text}")

    def make(self) -> DemoExport:
        train, test = self.size.train, self.size.test
        self.say(
            f"1. An export of real anatomy: {train} patches of {PATCH} x {PATCH} mm of the MNI152 T1 brain, half "
            "DICOM, half NIfTI,"
        )
        self.say(
            f"   labeled by the tissue that they have more of ({' or '.join(CLASSES)}); {test} more, from other "
            "axial slabs, are the test set."
        )
        return make_export(self.output, train=train, test=test, seed=0)

    def protect(self, export: DemoExport) -> Path:
        # One part of salm, unmeasured: there is a test set, and victims are trained below.
        self.say(
            f"2. Protect it: monai-salm protect export protected --labels labels.csv --window {VALUES} "
            "--method salm:texture --no-estimate"
        )
        options = ProtectOptions(
            labels=export.labels, window=VALUES, epsilon=EPSILON, rounds=self.size.rounds, method="salm:texture",
            estimate=False,
        )  # fmt: skip
        result = protect(export.images, self.protected, options, show_progress=self.show_progress)
        summary = result.to_json()
        self.say(
            f"   {summary['counts']['protected']} of {self.size.train} protected after {summary['rounds']} rounds, "
            f"{summary['passes_per_sample']:.0f} passes per image;"
        )
        self.say(
            f"   lowest PSNR {summary['lowest_psnr']:.1f} dB, at most {summary['largest_changed_fraction']:.0%} "
            "of the anatomy's voxels changed."
        )
        self.say(f"   {summary['surrogate']}")
        return result.work_dir

    def verify(self, export: DemoExport) -> None:
        self.say(
            f"3. Verify it, from the files alone: monai-salm verify export protected --window {VALUES} --epsilon "
            f"{EPSILON}"
        )
        report = verify(
            export.images, self.protected, options=BudgetOptions(window=WINDOW), check_epsilon=Epsilon.parse(EPSILON),
            show_progress=self.show_progress,
        )  # fmt: skip
        if report.mismatches:
            raise UsageError(
                f"verification found {len(report.mismatches)} mismatches, the first: {report.mismatches[0].path}: "
                f"{report.mismatches[0].problems}"
            )
        self.say(
            f"   {len(report.files)} files: every change within its bound and inside the anatomy, every header as "
            "it may be."
        )

    def evaluate(self, export: DemoExport, work_dir: Path) -> EvaluateReport:
        epochs, least_steps, page = self.size.epochs, self.size.least_steps, self.output / "report.html"
        self.say(
            "4. Train the same network on the clean and on the protected files, and score both on the clean test set:"
        )
        self.say(
            "   monai-salm evaluate export protected --labels labels.csv --test test --test-labels test_labels.csv \\"
        )
        self.say(
            f"       --window {VALUES} --epochs {epochs} --least-steps {least_steps} --no-utility --report report.html"
        )
        scores = evaluate(
            export.images, self.protected, export.test,
            EvaluateOptions(
                labels=export.labels, test_labels=export.test_labels, window=VALUES, epochs=epochs,
                least_steps=least_steps, utility=False, report=page,
            ),
            show_progress=self.show_progress,
        )  # fmt: skip
        for line in scores.table().splitlines():
            self.echo(f"         {line}")
        self.say(
            f"5. Open {page} in a browser: what was learned, epoch by epoch, the bounds, and images before and after."
        )
        self.say(f"   {self.protected} can be handed out; {work_dir} must not be.")
        return scores
