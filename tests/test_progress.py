# SPDX-License-Identifier: Apache-2.0
"""Progress: bars where somebody watches, plain lines in a log, nothing where it was not asked for, and times that were
measured.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import pytest

from monai_salm import progress
from monai_salm.cli import main
from monai_salm.evaluate.trainings import TimeLeft
from monai_salm.progress import Progress, in_words, track
from tests.exports import mr_export, mr_labels, mr_slice


class Screen(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_log_has_lines_and_no_frames(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    for _ in track(range(400), "writing", "files", total=400, show_progress=True):
        clock.now += 1
    log = capsys.readouterr().err
    lines = log.splitlines()
    assert "\r" not in log
    assert lines[0] == "writing: 40 of 400 files (10%); about 6 minutes left"
    assert lines[-1] == "writing: 400 files in about 7 minutes"
    assert len(lines) == 10


def test_log_of_a_slow_stage_has_a_line_a_minute(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    with Progress("victims", 50, "victims", show_progress=True) as bar:
        for minute in range(3):
            clock.now += 60
            bar.update(0, "small-cnn on clean", seconds_left=3600.0 - 60 * minute)
    assert capsys.readouterr().err.splitlines() == [
        f"victims: 0 of 50 victims (0%); small-cnn on clean; about {minutes} minutes left" for minutes in (60, 59, 58)
    ]


def test_files_of_other_sizes_are_told_by_their_bytes(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    """Half of the files, which are small, are not half of the time."""
    with Progress("writing", 10, "files", show_progress=True, total_bytes=100 << 20) as bar:
        for _ in range(5):
            clock.now += 12
            bar.update(done_bytes=1 << 20)
        clock.now += 500
        bar.update(done_bytes=45 << 20)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "writing: 1 of 10 files (1%); 1.0 MiB of 100 MiB; about 20 minutes left"
    assert lines[-2] == "writing: 6 of 10 files (50%); 50 MiB of 100 MiB; about 9 minutes left"
    assert lines[-1] == "writing: 6 files in about 9 minutes"


def test_quick_stage_is_one_line_and_an_inner_one_none(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    for inner in (True, False):
        with Progress("loading", 3, "samples", show_progress=True, inner=inner) as bar:
            for _ in range(3):
                clock.now += 0.1
                bar.update()
    with contextlib.suppress(KeyError), Progress("packing", 3, "files", show_progress=True) as bar:
        bar.update()
        raise KeyError
    assert capsys.readouterr().err == "loading: 3 samples in a moment\n"


def test_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("victims", 2, "victims", show_progress=True) as outer:
        outer.update(0, "small-cnn on clean", seconds_left=720.0)
        with Progress("epochs of small-cnn", 5, "epochs", show_progress=True, inner=True) as bar:
            for _ in range(5):
                bar.update(note="balanced accuracy 0.500")
        outer.update()
    assert "\r" in screen.getvalue()
    assert "about 12 minutes left in all" in screen.getvalue()
    assert "epochs of small-cnn" in screen.getvalue()


@pytest.mark.parametrize("watched", [True, False])
def test_nothing_is_shown_unasked(monkeypatch: pytest.MonkeyPatch, watched: bool) -> None:
    screen = Screen() if watched else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(track([1, 2], "writing", "files", total=2, show_progress=False)) == [1, 2]
    with Progress("writing", 2, "files", show_progress=False) as bar:
        bar.update(2, "note", seconds_left=3.0)
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "a moment"), (4, "a few seconds"), (44, "about 40 seconds"), (89, "about 90 seconds"),
        (91, "about 2 minutes"), (720, "about 12 minutes"),
        (5600, "about 2 hours"), (86400, "about 24 hours"), (300000, "about 3 days"),
    ],
)  # fmt: skip
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_time_left_is_that_of_each_network() -> None:
    left = TimeLeft(
        [("small", "none", 100), ("large", "none", 100), ("small", "adversarial-training", 100), ("large", "none", 100)]
    )
    assert left.seconds() is None
    left.measure(5.0, 0.5)
    assert left.seconds(0.5) == pytest.approx(5 + 3 * 10)  # nothing else is known of the others
    left.measure(5.0, 0.5)
    left.finish()
    left.measure(50.0, 0.5)
    assert left.seconds(0.5) == pytest.approx(50 + 10 + 100)
    left.measure(50.0, 0.5)
    left.finish()
    left.measure(60.0, 1.0)
    left.finish()
    assert left.seconds() == pytest.approx(100)
    left.finish()
    assert left.seconds() == 0


@pytest.mark.slow
def test_commands_write_no_frames_into_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mr_export(tmp_path / "in", 4)
    labels = str(mr_labels(tmp_path / "labels.csv", 4))
    for number in range(2):
        mr_slice(tmp_path / "test" / f"case{number}" / "image.dcm", 101 + number)
    places = [str(tmp_path / name) for name in ("in", "out")]
    common = ["--labels", labels, "--working-size", "24", "--device", "cpu"]
    stages = {
        "protect": (["protect", *places, *common, "--rounds", "2", "--surrogate", "small-cnn"], "optimizing"),
        "verify": (["verify", *places], "verifying"),
        "evaluate": (
            [
                "evaluate",
                *places,
                "--test",
                str(tmp_path / "test"),
                *common,
                "--victims",
                "small-cnn",
                "--epochs",
                "1",
                "--least-steps",
                "300",
                "--no-utility",
            ],
            "victims",
        ),
    }
    for command, (words, stage) in stages.items():
        with pytest.raises(SystemExit, match="0"):
            main(words)
        error = capsys.readouterr().err
        assert "\r" not in error, command
        assert sum(line.startswith(f"{stage}:") for line in error.splitlines()) <= 11
        assert f"{stage}: " in error
