# SPDX-License-Identifier: Apache-2.0
"""SimpleITK in its own process: it is silent, and what ends it does not end us."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_salm.io import dcmtk_finds_within, read_with_simpleitk, second_reader
from monai_salm.pipeline import protect, verify
from tests.exports import block, body, drawn, mr_slice, nifti_file

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


@pytest.mark.parametrize("suffix", [".dcm", ".nii"])
def test_bytes_that_are_given_stand_for_the_file(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no files in memory, the file itself is read."""
    path, other = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    if suffix == ".dcm":
        mr_slice(path, 1)
        mr_slice(other, 2)
    else:
        nifti_file(path, block(1)[0])
        nifti_file(other, block(2)[0])
    values = [read_with_simpleitk(place) for place in (path, other)]
    assert values[0] is not None
    assert values[1] is not None
    assert not np.array_equal(*values)
    found = read_with_simpleitk(path, content=other.read_bytes())
    in_memory = sys.platform == "linux"
    assert found is not None
    np.testing.assert_array_equal(found, values[in_memory])
    for name, value in (("_FILES_IN_MEMORY", "/no/{}/{}"), ("Path", Path)):
        with monkeypatch.context() as patch:
            patch.setattr(second_reader, name, value)
            patch.setattr(os, "memfd_create", _no_memory, raising=False)
            found = read_with_simpleitk(path, content=other.read_bytes())
        assert found is not None
        np.testing.assert_array_equal(found, values[0])


def _no_memory(*_: object) -> int:
    raise OSError("no memory")


@pytest.mark.skipif(shutil.which("dcmicmp") is None or sys.platform != "linux", reason="needs dcmicmp, and Linux")
def test_dcmtk_compares_the_bytes_that_are_given(tmp_path: Path) -> None:
    path = mr_slice(tmp_path / "a.dcm", 1)
    changed = mr_slice(tmp_path / "b.dcm", 1, body(1) + 3)
    contents = path.read_bytes(), changed.read_bytes()
    assert [dcmtk_finds_within(path, path, limit, contents) for limit in (2, 3)] == [False, True]
    assert dcmtk_finds_within(path, changed, 0, (contents[0], contents[0])) is True
    assert dcmtk_finds_within(path, changed, 2, (contents[0], None)) is False


def test_reader_that_does_not_know_a_file_leaves_it_to_others(tmp_path: Path) -> None:
    """It begins as a DICOM file does, and is none."""
    path = nifti_file(tmp_path / "a.nii", block(1)[0])
    content = path.read_bytes()
    path.write_bytes(content[:128] + b"DICM" + content[132:])
    assert second_reader._is_dicom(path, None)
    assert read_with_simpleitk(path) is not None


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
