# SPDX-License-Identifier: Apache-2.0
"""Checking two folders from their files alone: whatever is wrong is found and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from monai_salm.budget import Epsilon
from monai_salm.errors import UsageError
from monai_salm.io import read_source
from monai_salm.pipeline import VerifyReport, protect, verify
from monai_salm.pipeline.plan import BudgetOptions
from tests.exports import body, drawn, mr_export, mr_slice, nifti_export, nifti_file

IMAGE = "case1/image.dcm"
VOLUME = "v1.nii"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run over DICOM files, of which one has padding, and one over NIfTI files; no work folder is left."""
    folder = tmp_path_factory.mktemp("done")
    mr_export(folder / "mr", 3)
    padded = np.where(body(3) == 0, 2000, body(3))
    mr_slice(folder / "mr" / "padded.dcm", 3, padded, PixelPaddingValue=2000)
    (folder / "mr" / "raw.bin").write_bytes(b"\0x")
    nifti_export(folder / "nifti", 3, suffix=".nii")
    for name in ("mr", "nifti"):
        protect(folder / name, folder / f"{name}-out", drawn(copy_unprotected=True))
        shutil.rmtree(folder / f"{name}-out.work")
    return folder


def _verify_copy(done: Path, tmp_path: Path, name: str, change: Callable[[Path, Path], object], epsilon: str | None = None) -> VerifyReport:
    """Change a copy of an output, and verify it."""
    shutil.copytree(done / f"{name}-out", tmp_path / "out")
    change(done / name, tmp_path / "out")
    return verify(done / name, tmp_path / "out", check_epsilon=Epsilon.parse(epsilon) if epsilon else None)


@pytest.mark.parametrize("name", ["mr", "nifti"])
@pytest.mark.parametrize("epsilon", [None, "8/255"])
def test_clean_pass(done: Path, name: str, epsilon: str | None) -> None:
    report = verify(done / name, done / f"{name}-out", check_epsilon=Epsilon.parse(epsilon) if epsilon else None)
    copied = int(name == "mr")
    assert report.to_json()["counts"] == {"protected": len(report.files) - copied, "copied": copied, "absent": 0, "mismatch": 0}
    assert report.to_json()["bound_not_stated"] == (3 if name == "nifti" and epsilon is None else 0)
    assert all(file.changed_outside == 0 and file.psnr and file.psnr > 30 for file in report.files if file.verdict == "protected")


def _set_pixel(path: Path, original: Path, place: tuple[int, int], change: int) -> None:
    values = read_source(original).stored
    file = pydicom.dcmread(path)
    pixels = file.pixel_array.copy()
    pixels[place] = values[place] + change
    file.PixelData = pixels.tobytes()
    file.save_as(path)


def _set_attribute(path: Path, keyword: str, value: object) -> None:
    file = pydicom.dcmread(path)
    setattr(file, keyword, value)
    file.save_as(path)


def _set_bytes(path: Path, offset: int, content: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[offset : offset + len(content)] = content
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("change", "path", "problem"),
    [
        (lambda before, after: _set_pixel(after / IMAGE, before / IMAGE, (12, 12), 99), IMAGE, "the largest change is 99 stored units, the limit 1"),
        (lambda before, after: _set_pixel(after / IMAGE, before / IMAGE, (0, 0), 1), IMAGE, "1 voxels changed outside the anatomy"),
        (lambda before, after: shutil.copy(before / IMAGE, after / IMAGE), IMAGE, "no voxel differs from the original: an unprotected picture"),
        (lambda _, after: _set_attribute(after / IMAGE, "PatientName", "Roe^Jane"), IMAGE, "PatientName is PN Roe^Jane, in the original PN Doe^Jane"),
        (lambda _, after: _set_attribute(after / IMAGE, "RescaleSlope", 2), IMAGE, "RescaleSlope is DS 2.0, in the original DS 1.0"),
        (lambda _, after: shutil.copy(after / IMAGE, after / "extra.dcm"), "extra.dcm", "it is not in the original folder"),
        (lambda _, after: (after / IMAGE).write_bytes((after / IMAGE).read_bytes()[:-50]), IMAGE, "the protected file cannot be read: truncated"),
        (lambda _, after: (after / IMAGE).write_bytes(b""), IMAGE, "the protected file cannot be read: the file is empty"),
        (lambda _, after: shutil.copy(after / "case0" / "image.dcm", after / IMAGE), IMAGE, "largest change"),
        (lambda before, after: _set_pixel(after / "padded.dcm", before / "padded.dcm", (0, 0), 1), "padded.dcm", "padding was entered or left"),
        (lambda _, after: (after / "raw.bin").write_bytes(b"\0y"), "raw.bin", "it should be as it was, but its bytes differ"),
    ],
    ids=[
        "beyond the bound", "outside the anatomy", "unprotected", "PatientName", "RescaleSlope", "extra file", "truncated", "empty", "other image", "padding",
        "copied file",
    ],
)  # fmt: skip
def test_wrong_dicom_file_is_named(done: Path, tmp_path: Path, change: Callable[[Path, Path], object], path: str, problem: str) -> None:
    report = _verify_copy(done, tmp_path, "mr", change)
    (mismatch,) = report.mismatches
    assert mismatch.path == path
    assert any(problem in found for found in mismatch.problems), mismatch.problems


def test_padding_that_is_entered_is_named(done: Path, tmp_path: Path) -> None:
    value = 2000 - int(read_source(done / "mr" / "padded.dcm").stored[12, 12])
    report = _verify_copy(done, tmp_path, "mr", lambda before, after: _set_pixel(after / "padded.dcm", before / "padded.dcm", (12, 12), value))
    (mismatch,) = report.mismatches
    assert "padding was entered or left" in mismatch.problems


@pytest.mark.parametrize(
    ("change", "epsilon", "problem"),
    [
        (lambda path: _set_bytes(path, 148, b"other"), None, "descrip"),
        (lambda path: _set_bytes(path, 352, b"\1\0"), None, "1 voxels changed outside the anatomy"),
        (lambda path: _set_bytes(path, 352 + 2 * (8 + 8 * 16 + 6 * 256), b"\x7f\x7f"), "8/255", "the largest change is"),
        (lambda path: _set_bytes(path, 70, b"\x10\0\x20\0"), None, "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), None, "cannot be read: truncated"),
        (lambda path: path.write_bytes(path.read_bytes() + b"junk"), None, "(bytes after the voxels) is 4 bytes"),
    ],
    ids=["descrip", "outside the anatomy", "beyond the bound", "datatype", "truncated", "appended"],
)
def test_wrong_nifti_file_is_named(done: Path, tmp_path: Path, change: Callable[[Path], object], epsilon: str | None, problem: str) -> None:
    report = _verify_copy(done, tmp_path, "nifti", lambda _, after: change(after / VOLUME), epsilon)
    (mismatch,) = report.mismatches
    assert mismatch.path == VOLUME
    assert any(problem in found for found in mismatch.problems), mismatch.problems


def test_smaller_epsilon_is_broken_by_every_file(done: Path) -> None:
    for name in ("mr", "nifti"):
        report = verify(done / name, done / f"{name}-out", check_epsilon=Epsilon.parse("2/255"))
        assert len(report.mismatches) == report.to_json()["counts"]["mismatch"] >= 3
        assert all("the largest change is" in file.problems[0] and file.bound == "option" for file in report.mismatches)


def test_missing_files_are_absent(done: Path, tmp_path: Path) -> None:
    report = _verify_copy(done, tmp_path, "mr", lambda _, after: (after / IMAGE).unlink())
    assert [file.path for file in report.files if file.verdict == "absent"] == [IMAGE]
    assert not report.mismatches


def test_copies_have_to_stay_copies(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    (tmp_path / "in" / "copy.dcm").write_bytes((tmp_path / "in" / IMAGE).read_bytes())
    protect(tmp_path / "in", tmp_path / "out", drawn())
    assert verify(tmp_path / "in", tmp_path / "out").to_json()["counts"]["protected"] == 3
    (tmp_path / "out" / IMAGE).write_bytes((tmp_path / "in" / IMAGE).read_bytes())
    assert {file.path for file in verify(tmp_path / "in", tmp_path / "out").mismatches} == {"copy.dcm", IMAGE}


def test_modality_of_volumes(tmp_path: Path) -> None:
    for number in range(2):
        values = np.pad(body(number, 24)[..., None].repeat(8, axis=2), ((4, 4), (4, 4), (0, 0))) // 3 - 100
        nifti_file(tmp_path / "in" / f"{number}.nii", np.where(values == -100, -1000, values).astype(np.int16))
    protect(tmp_path / "in", tmp_path / "out", drawn(modality="CT"))
    assert verify(tmp_path / "in", tmp_path / "out", options=BudgetOptions(modality="CT")).to_json()["counts"]["protected"] == 2


def test_same_folder_twice_is_no_verification(done: Path) -> None:
    with pytest.raises(UsageError, match="are the same; give the original and the protected folder"):
        verify(done / "mr", done / "mr" / ".." / "mr")
