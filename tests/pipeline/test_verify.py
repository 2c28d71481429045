# SPDX-License-Identifier: Apache-2.0
"""Checking two folders from their files alone: whatever is wrong is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from monai_salm.budget import Epsilon
from monai_salm.errors import UsageError
from monai_salm.io import dcmtk_finds_within, read_source, read_with_simpleitk
from monai_salm.pipeline import VerifyReport, protect, verify
from monai_salm.pipeline.file_views import BudgetOptions
from tests.exports import ROOT_UID, body, dicom_object, drawn, file_set, mr_export, mr_slice, nifti_export, nifti_file
from tests.io.builders import reference

IMAGE = "case1/image.dcm"
VOLUME = "v1.nii"
KO, SR = "1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.5.1.4.1.1.88.33"


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


def _verify_copy(
    done: Path, tmp_path: Path, name: str, change: Callable[[Path, Path], object], epsilon: str | None = None
) -> VerifyReport:
    """Change a copy of an output, and verify it."""
    shutil.copytree(done / f"{name}-out", tmp_path / "out")
    change(done / name, tmp_path / "out")
    return verify(done / name, tmp_path / "out", check_epsilon=Epsilon.parse(epsilon) if epsilon else None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mr", "nifti"])
@pytest.mark.parametrize("epsilon", [None, "8/255"])
def test_clean_pass(done: Path, name: str, epsilon: str | None) -> None:
    report = verify(done / name, done / f"{name}-out", check_epsilon=Epsilon.parse(epsilon) if epsilon else None)
    copied = int(name == "mr")
    assert report.to_json()["counts"] == {
        "protected": len(report.files) - copied,
        "copied": copied,
        "absent": 0,
        "mismatch": 0,
    }
    assert report.to_json()["bound_not_stated"] == (3 if name == "nifti" and epsilon is None else 0)
    assert all(
        file.changed_outside == 0 and file.psnr and file.psnr > 30
        for file in report.files
        if file.verdict == "protected"
    )


def _set_pixel(path: Path, original: Path, place: tuple[int, int], change: int) -> None:
    values = read_source(original).stored
    file = pydicom.dcmread(path)
    pixels = file.pixel_array.copy()
    pixels[place] = values[place] + change
    file.PixelData = pixels.tobytes()
    file.save_as(path)


@pytest.mark.parametrize("epsilon", [None, "8/255"])
def test_a_value_that_became_none_is_a_mismatch(epsilon: str | None, tmp_path: Path) -> None:
    nifti_export(tmp_path / "in", 1, dtype=np.float32, suffix=".nii")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    path = tmp_path / "out" / "v0.nii"
    start = path.stat().st_size - read_source(path).stored.nbytes
    values = np.frombuffer(path.read_bytes()[start:], "<f4")
    _set_bytes(path, start + 4 * int(np.argmax(values)), np.float32(np.nan).tobytes())
    report = verify(tmp_path / "in", tmp_path / "out", check_epsilon=Epsilon.parse(epsilon) if epsilon else None)
    assert report.files[0].verdict == "mismatch"
    assert "a value is none any more (NaN), or was none before" in report.files[0].problems
    json.dumps(report.to_json(), allow_nan=False)


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
        (lambda before, after: _set_pixel(after / IMAGE, before / IMAGE, (12, 12), 99), IMAGE,
        "the largest change is 99 stored units, the limit 1"),
        (lambda before, after: _set_pixel(after / IMAGE, before / IMAGE, (0, 0), 1), IMAGE,
        "1 voxels changed outside the anatomy"),
        (lambda before, after: shutil.copy(before / IMAGE, after / IMAGE), IMAGE,
        "no voxel differs from the original: an unprotected image"),
        (lambda _, after: _set_attribute(after / IMAGE, "PatientName", "Roe^Jane"), IMAGE,
        "PatientName is PN of 8 bytes, which is not shown, in the original PN of 8 bytes, which is not shown"),
        (lambda _, after: _set_attribute(after / IMAGE, "RescaleSlope", 2), IMAGE,
        "RescaleSlope is DS 2.0, in the original DS 1.0"),
        (lambda _, after: shutil.copy(after / IMAGE, after / "extra.dcm"), "extra.dcm",
        "it is not in the original folder"),
        (lambda _, after: (after / IMAGE).write_bytes((after / IMAGE).read_bytes()[:-50]), IMAGE,
        "the protected file cannot be read: truncated"),
        (lambda _, after: (after / IMAGE).write_bytes(b""), IMAGE,
        "the protected file cannot be read: the file is "
        "empty"),
        (lambda _, after: shutil.copy(after / "case0" / "image.dcm", after / IMAGE), IMAGE, "largest change"),
        (lambda before, after: _set_pixel(after / "padded.dcm", before / "padded.dcm", (0, 0), 1), "padded.dcm",
        "padding was entered or left"),
        (lambda _, after: (after / "raw.bin").write_bytes(b"\0y"), "raw.bin",
        "it should be as it was, but its bytes differ"),
    ],
    ids=[
        "beyond the bound", "outside the anatomy", "unprotected", "PatientName", "RescaleSlope", "extra file",
        "truncated", "empty", "other image", "padding",
        "copied file",
    ],
)  # fmt: skip
def test_wrong_dicom_file_is_named(
    done: Path, tmp_path: Path, change: Callable[[Path, Path], object], path: str, problem: str
) -> None:
    report = _verify_copy(done, tmp_path, "mr", change)
    (mismatch,) = report.mismatches
    assert mismatch.path == path
    assert any(problem in found for found in mismatch.problems), mismatch.problems


def test_padding_that_is_entered_is_named(done: Path, tmp_path: Path) -> None:
    value = 2000 - int(read_source(done / "mr" / "padded.dcm").stored[12, 12])
    report = _verify_copy(
        done,
        tmp_path,
        "mr",
        lambda before, after: _set_pixel(after / "padded.dcm", before / "padded.dcm", (12, 12), value),
    )
    (mismatch,) = report.mismatches
    assert "padding was entered or left" in mismatch.problems


@pytest.mark.parametrize(
    ("change", "epsilon", "problem"),
    [
        (lambda path: _set_bytes(path, 148, b"other"), None, "descrip"),
        (lambda path: _set_bytes(path, 352, b"\1\0"), None, "1 voxels changed outside the anatomy"),
        (
            lambda path: _set_bytes(path, 352 + 2 * (8 + 8 * 16 + 6 * 256), b"\x7f\x7f"),
            "8/255",
            "the largest change is",
        ),
        (lambda path: _set_bytes(path, 70, b"\x10\0\x20\0"), None, "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), None, "cannot be read: truncated"),
        (lambda path: path.write_bytes(path.read_bytes() + b"junk"), None, "(bytes after the voxels) is 4 bytes"),
    ],
    ids=["descrip", "outside the anatomy", "beyond the bound", "datatype", "truncated", "appended"],
)
def test_wrong_nifti_file_is_named(
    done: Path, tmp_path: Path, change: Callable[[Path], object], epsilon: str | None, problem: str
) -> None:
    report = _verify_copy(done, tmp_path, "nifti", lambda _, after: change(after / VOLUME), epsilon)
    (mismatch,) = report.mismatches
    assert mismatch.path == VOLUME
    assert any(problem in found for found in mismatch.problems), mismatch.problems


@pytest.mark.slow
def test_smaller_epsilon_is_broken_by_every_file(done: Path) -> None:
    for name in ("mr", "nifti"):
        stated = verify(done / name, done / f"{name}-out").files
        assert all(
            (file.epsilon_stored is not None) == (file.bound == "file") == (name == "mr")
            for file in stated
            if file.verdict == "protected"
        )
        report = verify(done / name, done / f"{name}-out", check_epsilon=Epsilon.parse("2/255"))
        assert all(file.max_change_stored > file.epsilon_stored > 0 for file in report.mismatches)  # type: ignore[operator]
        assert len(report.mismatches) == report.to_json()["counts"]["mismatch"] >= 3
        assert all("the largest change is" in file.problems[0] and file.bound == "option" for file in report.mismatches)


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
    assert (
        verify(tmp_path / "in", tmp_path / "out", options=BudgetOptions(modality="CT")).to_json()["counts"]["protected"]
        == 2
    )


def test_same_folder_twice_is_no_verification(done: Path) -> None:
    with pytest.raises(UsageError, match="are the same; give the original and the protected folder"):
        verify(done / "mr", done / "mr" / ".." / "mr")


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run over a file-set of three pictures with a report that refers to one of them, a key object that refers to
    the report, and a text.
    """
    folder = tmp_path_factory.mktemp("disc")
    for number in range(3):
        mr_slice(folder / "loose" / f"{number}.dcm", number, StudyDate="20200101")
    file_set(folder / "in", sorted((folder / "loose").iterdir()))
    dicom_object(folder / "in" / "sr.dcm", SR, 1, [f"{ROOT_UID}.10.1"], SeriesDescription="findings")
    dicom_object(folder / "in" / "ko.dcm", KO, 2, [f"{ROOT_UID}.40.2"])
    dicom_object(folder / "in" / "alone.dcm", KO, 3, ["1.2.3"])
    (folder / "in" / "notes.txt").write_text("x")
    protect(folder / "in", folder / "out", drawn())
    return folder


def _verify_disc(
    disc: Path, tmp_path: Path, change: Callable[[Path], object], *, allow_absent: bool = False
) -> VerifyReport:
    shutil.copytree(disc / "out", tmp_path / "out")
    change(tmp_path / "out")
    return verify(disc / "in", tmp_path / "out", allow_absent=allow_absent)


def _refer_to(path: Path, uid: str) -> None:
    file = pydicom.dcmread(path)
    file.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = uid
    file.save_as(path)


def _first_picture(folder: Path) -> Path:
    return min(folder.rglob("IM*"))


@pytest.mark.slow
def test_documents_that_follow_are_no_mismatch(disc: Path) -> None:
    report = verify(disc / "in", disc / "out")
    assert report.to_json()["counts"] == {"protected": 3, "copied": 5, "absent": 0, "mismatch": 0}
    assert report.to_json()["dangling_references"] == 0
    changes = {file.path: file.header_changes for file in report.files}
    assert {"SOPInstanceUID", "SeriesInstanceUID"} <= set(changes["sr.dcm"])
    assert changes["alone.dcm"] == changes["notes.txt"] == ()


@pytest.mark.parametrize(
    ("change", "path", "problem"),
    [
        (
            lambda out: _set_attribute(out / "sr.dcm", "SeriesDescription", "other findings"),
            "sr.dcm",
            "SeriesDescription is LO other findings",
        ),
        (
            lambda out: _set_attribute(out / "sr.dcm", "PatientID", "P9"),
            "sr.dcm",
            "PatientID is LO of 2 bytes, which is not shown, in the original LO of 2 bytes, which is not shown",
        ),
        (lambda out: _refer_to(out / "sr.dcm", "1.2.3.4"), "sr.dcm", f"the reference to {ROOT_UID}.10.1 is gone"),
        (lambda out: _refer_to(out / "sr.dcm", f"{ROOT_UID}.10.1"), "sr.dcm", f"it still refers to {ROOT_UID}.10.1"),
        (lambda out: _refer_to(out / "ko.dcm", f"{ROOT_UID}.40.2"), "ko.dcm", f"it still refers to {ROOT_UID}.40.2"),
        (lambda out: _set_attribute(out / "alone.dcm", "Modality", "KO"), "alone.dcm", "Modality is CS KO"),
        (
            lambda out: _refer_to(out / "alone.dcm", "1.2.4"),
            "alone.dcm",
            "it refers to 1.2.4, where the original refers to 1.2.3",
        ),
        (lambda out: (out / "notes.txt").write_text("y"), "notes.txt", "it should be as it was, but its bytes differ"),
        (lambda out: (out / "sr.dcm").write_text("y"), "sr.dcm", "bytes differ"),
        (lambda out: (out / "sr.dcm").write_bytes((out / "sr.dcm").read_bytes()[:-40]), "sr.dcm", "its bytes differ"),
    ],
    ids=[
        "content",
        "patient",
        "wrong UID",
        "old UID",
        "old UID of a document",
        "Modality",
        "reference without need",
        "text",
        "a text",
        "truncated",
    ],
)
def test_altered_document_is_named(
    disc: Path, tmp_path: Path, change: Callable[[Path], object], path: str, problem: str
) -> None:
    (mismatch,) = _verify_disc(disc, tmp_path, change).mismatches
    assert mismatch.path == path
    assert any(problem in found for found in mismatch.problems), mismatch.problems


def test_document_as_it_was_beside_protected_pictures_is_a_mismatch(disc: Path, tmp_path: Path) -> None:
    report = _verify_disc(disc, tmp_path, lambda out: shutil.copy(disc / "in" / "sr.dcm", out / "sr.dcm"))
    problems = {file.path: " ".join(file.problems) for file in report.mismatches}
    assert f"it still refers to {ROOT_UID}.10.1" in problems["sr.dcm"]
    assert f"the reference to {ROOT_UID}.40.2 is gone" not in problems["sr.dcm"]
    assert "the object is " + f"{ROOT_UID}.40.2 now" in problems["ko.dcm"], (
        "the key object names a report that nobody has"
    )


def test_unprotected_picture_among_protected_ones_is_a_mismatch(disc: Path, tmp_path: Path) -> None:
    name = _first_picture(disc / "in").relative_to(disc / "in")
    report = _verify_disc(disc, tmp_path, lambda out: shutil.copy(disc / "in" / name, out / name))
    problems = {file.path: file.problems for file in report.mismatches}
    assert "no voxel differs from the original: an unprotected image" in problems[name.as_posix()]
    assert {"sr.dcm", "DICOMDIR"} <= problems.keys(), "they name the protected one"


def test_directory_that_names_an_absent_file_is_a_mismatch(disc: Path, tmp_path: Path) -> None:
    report = _verify_disc(disc, tmp_path, lambda out: _first_picture(out).unlink())
    name = _first_picture(disc / "in").relative_to(disc / "in").as_posix()
    problems = {file.path: file.problems for file in report.mismatches}
    assert problems == {
        "DICOMDIR": [f"it lists 1 files that are not there, the first of them {name}"],
        name: ["it is absent, and nothing says why"],
    }


def test_what_was_not_handed_out_is_counted(disc: Path, tmp_path: Path) -> None:
    def change(out: Path) -> None:
        _first_picture(out).unlink()
        (out / "DICOMDIR").unlink()

    report = _verify_disc(disc, tmp_path, change, allow_absent=True)
    assert report.mismatches == []
    assert report.to_json()["counts"]["absent"] == 2
    assert report.to_json()["dangling_references"] == 1
    assert {file.path: file.dangling for file in report.files if file.dangling} == {"sr.dcm": [f"{ROOT_UID}.10.1"]}


def _second(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Path, NDArray[np.float64]], NDArray[np.float64] | None]
) -> None:
    """Let the second reader see other values than there are."""
    pytest.importorskip("SimpleITK")
    module: Any = import_module("monai_salm.pipeline.second_opinions")
    real = read_with_simpleitk

    def read(path: Path, **how: Any) -> NDArray[np.float64] | None:
        values = real(path, **how)
        return None if values is None else change(path, values.copy())

    monkeypatch.setattr(module, "read_with_simpleitk", read)


def _is_output(path: Path) -> bool:
    return any(part.endswith("-out") for part in path.parts)


def _by_reader(done: Path, name: str) -> dict[str, list[str]]:
    report = verify(done / name, done / f"{name}-out")
    assert all(file.second_reader.startswith("SimpleITK") for file in report.files if file.verdict != "copied")
    return {file.path: file.problems for file in report.mismatches}


@pytest.mark.parametrize("name", ["mr", "nifti"])
def test_second_reader_finds_the_same_change(done: Path, name: str) -> None:
    pytest.importorskip("SimpleITK")
    for file in verify(done / name, done / f"{name}-out").files:
        if file.verdict == "protected":
            assert file.second_reader.startswith("SimpleITK")
            assert file.second_max_change_real == file.max_change_real


@pytest.mark.parametrize("name", ["mr", "nifti"])
def test_second_reader_that_finds_more_is_heard(done: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _second(monkeypatch, lambda path, values: values + 100.0 * _is_output(path))
    problems = _by_reader(done, name)
    assert len(problems) == {"mr": 4, "nifti": 3}[name]
    assert all(
        "SimpleITK finds a change of 1" in found[0] and "real units, this package one of" in found[0]
        for found in problems.values()
    )


def test_second_reader_that_finds_nothing_is_heard(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first: dict[str, NDArray[np.float64]] = {}
    _second(monkeypatch, lambda path, values: first.setdefault(path.name, values))
    assert _by_reader(done, "nifti") == {
        f"v{number}.nii": ["SimpleITK finds no change: a reader of its kind sees the unprotected image"]
        for number in range(3)
    }  # fmt: skip


def test_second_reader_that_finds_another_shape_is_heard(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _second(monkeypatch, lambda path, values: values[1:] if _is_output(path) else values)
    assert _by_reader(done, "mr")[IMAGE] == ["SimpleITK reads shape (23, 24), of the original (24, 24)"]


@pytest.mark.parametrize(
    "change",
    [
        lambda path, values: values + 3.0 + 100 * _is_output(path),
        lambda path, values: None,
        lambda path, values: None if _is_output(path) else values,
    ],
    ids=["misreads the original", "reads nothing", "reads the original alone"],
)
def test_second_reader_that_is_no_judge_is_not_heard(done: Path, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    _second(monkeypatch, change)
    report = verify(done / "nifti", done / "nifti-out")
    assert report.mismatches == []
    assert all((file.second_reader, file.second_max_change_real) == ("", None) for file in report.files)


def test_second_reader_may_invert_both(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _second(monkeypatch, lambda _, values: 4095 - values)
    assert _by_reader(done, "mr") == {}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dcmicmp") is None, reason="needs dcmicmp of dcmtk")
def test_dcmtk_judges_dicom_files_exactly(done: Path, tmp_path: Path) -> None:
    for file in verify(done / "mr", done / "mr-out").files:
        if file.verdict == "protected":
            assert file.second_reader.endswith("dcmtk")
            limit, places = int(file.max_change_stored or 0), (done / "mr" / file.path, done / "mr-out" / file.path)
            assert (dcmtk_finds_within(*places, limit), dcmtk_finds_within(*places, limit - 1)) == (True, False)
    (tmp_path / "text").write_text("no DICOM file")
    assert dcmtk_finds_within(done / "mr" / IMAGE, tmp_path / "text", 1) is None


@pytest.mark.parametrize(("found", "problems"), [(True, 0), (None, 0), (False, 4)])
def test_dcmtk_that_finds_more_is_heard(
    done: Path, monkeypatch: pytest.MonkeyPatch, found: bool | None, problems: int
) -> None:
    monkeypatch.setattr(import_module("monai_salm.pipeline.second_opinions"), "dcmtk_finds_within", lambda *_: found)
    report = verify(done / "mr", done / "mr-out")
    assert len(report.mismatches) == problems
    assert all("dcmtk finds a change of more than" in file.problems[0] for file in report.mismatches)


def test_dcmtk_that_is_not_installed_is_no_judge(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert dcmtk_finds_within(done / "mr" / IMAGE, done / "mr-out" / IMAGE, 0) is None


@pytest.mark.slow
def test_similarity_is_below_one_where_something_changed(done: Path, tmp_path: Path) -> None:
    for file in verify(done / "mr", done / "mr-out").files:
        assert file.ssim is None if file.verdict == "copied" else 0.5 < file.ssim < 1  # type: ignore[operator]
    report = _verify_copy(done, tmp_path, "mr", lambda before, after: shutil.copy(before / IMAGE, after / IMAGE))
    (mismatch,) = report.mismatches
    assert mismatch.ssim == pytest.approx(1, abs=1e-12)
    assert mismatch.psnr is None


@pytest.mark.parametrize(
    "extra", [{"PhotometricInterpretation": "PALETTE COLOR"}, {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}]
)
def test_label_map_whose_pixels_are_not_supported_is_compared_by_its_bytes(
    extra: dict[str, Any], tmp_path: Path
) -> None:
    mr_export(tmp_path / "in", 2)
    references = [str(pydicom.dcmread(tmp_path / "in" / IMAGE).SOPInstanceUID)]
    mr_slice(
        tmp_path / "in" / "labels.dcm",
        9,
        body(9) > 0,
        Modality="SEG",
        ReferencedImageSequence=reference(references[0]),
        **extra,
    )
    protect(tmp_path / "in", tmp_path / "out", drawn())
    written = tmp_path / "out" / "labels.dcm"
    assert written.read_bytes() != (tmp_path / "in" / "labels.dcm").read_bytes()
    assert verify(tmp_path / "in", tmp_path / "out").mismatches == []
    dataset = pydicom.dcmread(written)
    dataset.PixelData = dataset.PixelData[:-2] + b"\1\1"
    dataset.save_as(written)
    (wrong,) = verify(tmp_path / "in", tmp_path / "out").mismatches
    assert wrong.path == "labels.dcm"
    assert "PixelData is " in wrong.problems[0]
