# SPDX-License-Identifier: Apache-2.0
"""SimpleITK in its own process: it is silent, and what ends it does not end us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_salm.io import read_with_simpleitk, second_reader
from monai_salm.pipeline import protect, verify
from tests.exports import block, drawn, mr_slice, nifti_file

pytest.importorskip("SimpleITK")


def test_affine_of_nan_is_read_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """VNL writes thirty lines about it to standard error, past every switch of ITK; who trains on arrays never looks at
    it, so it is protected.
    """
    rows = {f"srow_{axis}": (np.nan,) * 4 for axis in "xyz"}
    nifti_file(tmp_path / "in" / "a.nii", block(1)[0], sform_code=1, **rows)
    assert protect(tmp_path / "in", tmp_path / "out", drawn()).fates["a.nii"].status == "protected"
    (file,) = verify(tmp_path / "in", tmp_path / "out").files
    assert (file.verdict, file.second_reader) == ("protected", "SimpleITK")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_process_that_ends_is_started_again(tmp_path: Path) -> None:
    path = mr_slice(tmp_path / "a.dcm", 1)
    assert read_with_simpleitk(path) is not None
    process = second_reader._simpleitk._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read_with_simpleitk(path) is None, "the file that it was reading"
    assert read_with_simpleitk(path) is not None


def test_process_that_cannot_be_started_is_no_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mr_slice(tmp_path / "a.dcm", 1)
    second_reader._simpleitk.close()
    for program in (str(tmp_path / "no python"), "/bin/false"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", program)
            assert read_with_simpleitk(path) is None
    assert read_with_simpleitk(path) is not None


@pytest.mark.slow
def test_process_ends_with_ours(tmp_path: Path) -> None:
    path = mr_slice(tmp_path / "a.dcm", 1)
    program = (
        "import sys; from pathlib import Path; from monai_salm.io import read_with_simpleitk as r, second_reader as s;"
        "assert r(Path(sys.argv[1])) is not None; print(s._simpleitk._process.pid)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert not done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_compressed_file_beside_another_of_its_name(tmp_path: Path) -> None:
    """ITK opens ``a.nii`` where it is asked for ``a.nii.gz``."""
    nifti_file(tmp_path / "a.nii.gz", block(2)[0])
    nifti_file(tmp_path / "a.nii", block(1)[0])
    found = read_with_simpleitk(tmp_path / "a.nii.gz")
    assert found is not None
    np.testing.assert_array_equal(found, block(2)[0])
