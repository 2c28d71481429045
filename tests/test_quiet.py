# SPDX-License-Identifier: Apache-2.0
"""``--quiet`` prints the result and nothing else: no log, no warning of a library, nothing that one
writes past Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from tests.exports import block, label_table, mr_export, mr_slice, nifti_export, nifti_file

RUN = """
import json, os, sys
from monai_salm.cli import main
for command in json.loads(sys.argv[1]):
    os.write(2, f"<{command[0]}>".encode())
    try:
        main([*command, "--quiet"])
    except SystemExit as stopped:
        os.write(2, str(stopped.code).encode())
"""


@pytest.mark.slow
def test_quiet_commands_print_nothing_but_their_result(tmp_path: Path) -> None:
    source = mr_export(tmp_path / "in", 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mr_slice(
            source / "strange.dcm",
            9,
            FrameOfReferenceUID="1.02.no uid",
            PatientBirthDate="yesterday",
            SpecificCharacterSet="ISO_IR 999",
        )
    nifti_file(source / "nowhere.nii", block(1)[0], sform_code=1, **{f"srow_{axis}": (np.nan,) * 4 for axis in "xyz"})
    labels = label_table(tmp_path / "l.csv", {f"case{n}/image.dcm": n % 2 for n in range(6)} | {"absent.dcm": 1})
    nifti_export(tmp_path / "volumes", 4, labels=tmp_path / "maps")
    for number in range(4):
        mr_slice(tmp_path / "test" / f"{number}.dcm", number + 100)
    test_labels = label_table(tmp_path / "t.csv", {f"{n}.dcm": n % 2 for n in range(4)})
    small = ["--rounds", "1", "--surrogate", "small-cnn", "--working-size", "16"]
    commands = [
        ["scan", "in"],
        ["protect", "in", "drawn", "--method", "random", "--workers", "2", "--copy-unprotected", "--uids", "keep"],
        ["protect", "in", "out", "--labels", str(labels), *small],
        ["protect", "volumes", "segmented", "--labels", "maps", "--task", "segmentation", "--rounds", "1",
        "--working-size", "16"],
        ["protect", "in", "none", "--dry-run", "--method", "random"],
        ["verify", "in", "drawn"],
        ["evaluate", "in", "out", "--labels", str(labels), "--test", "test", "--test-labels", str(test_labels),
        "--epochs", "1", "--least-steps", "20", "--working-size", "16",
         "--no-verification", "--no-utility", "--report", "r.html", "--state", "state"],
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"} | {
        "PYTHONPATH": os.pathsep.join(sys.path)
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "<scan>0<protect>0<protect>3<protect>0<protect>0<verify>0<evaluate>0"
    assert "nothing was written" in done.stdout


@pytest.mark.slow
def test_warnings_are_shown_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_export(tmp_path / "in", 2)
    labels = label_table(tmp_path / "l.csv", {"case0/image.dcm": 0, "case1/image.dcm": 1, "absent.dcm": 1})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    command = [
        sys.executable,
        "-m",
        "monai_salm",
        "protect",
        "in",
        "none",
        "--dry-run",
        "--method",
        "random",
        "--labels",
        str(labels),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "--labels not used" in done.stderr
