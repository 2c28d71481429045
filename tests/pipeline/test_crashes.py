# SPDX-License-Identifier: Apache-2.0
"""A file on which a library crashes, in whatever stage, costs that file; a process that is killed costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_salm.pipeline import protect
from tests.exports import KEY, drawn, mr_export, mr_series, tree

CRASH = """
import os, sys

def crash(event, arguments):
    if event == "open" and {place!r} in str(arguments[0]) and sys.argv[0].endswith("workers/__main__.py"):
        if not {once!r}:
            os.abort()
        if not os.path.exists({once!r}):
            os.mkdir({once!r})
            os.kill(os.getpid(), 9)

sys.addaudithook(crash)
"""


def _crashing(folder: Path, *arguments: object, place: str, once: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command whose processes crash as soon as they open a file of some name."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(CRASH.format(place=place, once=once))
    packages = os.pathsep.join([str(folder / "site"), *filter(None, sys.path)])
    return subprocess.run(
        [sys.executable, "-m", "monai_salm", *map(str, arguments), "--json", "--quiet"],
        env=os.environ | {"PYTHONPATH": packages}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def _left(folder: Path) -> list[Path]:
    return [place for place in folder.rglob(".salm-*") if place.suffix == ".tmp"]


@pytest.mark.parametrize(
    ("place", "status", "told"),
    [("in/case1/image.dcm", "refused", "the process that worked on it ended by signal 6")],
    ids=["plan"],
)
def test_crash_costs_one_file(tmp_path: Path, place: str, status: str, told: str) -> None:
    mr_export(tmp_path / "in", 5)
    done = _crashing(
        tmp_path, "protect", tmp_path / "in", tmp_path / "out", "--method", "random", "--workers", 2,
        place=str(tmp_path / place),
    )  # fmt: skip
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (3, "")
    assert [(it["path"], it["status"]) for it in result["problems"]] == [("case1/image.dcm", status)]
    assert told in result["problems"][0]["reason"]
    assert result["counts"]["protected"] == 4
    assert not _left(tmp_path)


def test_crash_while_a_file_is_written_costs_that_file(tmp_path: Path) -> None:
    """Of a series the other slices are written; what was there of the file is gone."""
    mr_series(tmp_path / "in", 1, slices=5)
    arguments = ["protect", tmp_path / "in", tmp_path / "out", "--method", "random", "--sample", "series"]
    assert (
        _crashing(tmp_path, "plan", tmp_path / "in", tmp_path / "work", *arguments[3:], place="nowhere").returncode == 0
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "slice2.dcm").write_bytes(b"of an earlier run")
    done = _crashing(
        tmp_path, "protect", tmp_path / "out", "--plan", tmp_path / "work", place=str(tmp_path / "in" / "slice2.dcm")
    )
    result = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (3, "")
    assert [(it["path"], it["status"]) for it in result["problems"]] == [("slice2.dcm", "failed")]
    assert result["counts"] == {"protected": 4, "copied": 0, "refused": 0, "failed": 1}
    assert set(tree(tmp_path / "out")) == {f"slice{number}.dcm" for number in (1, 3, 4, 5)}
    assert not _left(tmp_path)
    again = _crashing(tmp_path, "protect", tmp_path / "out", "--plan", tmp_path / "work", "--resume", place="nowhere")
    assert again.returncode == 0
    assert len(tree(tmp_path / "out")) == 5


@pytest.mark.parametrize("place", ["in/case1/image.dcm", "out/case1/.salm-"], ids=["plan", "write"])
def test_killed_process_costs_nothing(tmp_path: Path, place: str) -> None:
    mr_export(tmp_path / "in", 5)
    protect(tmp_path / "in", tmp_path / "whole", drawn())
    done = _crashing(
        tmp_path, "protect", tmp_path / "in", tmp_path / "out", "--method", "random", "--workers", 2,
        "--key-file", KEY, "--working-size", 24, place=str(tmp_path / place), once=str(tmp_path / "been"),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "been").exists()
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert not _left(tmp_path)
