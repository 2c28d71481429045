# SPDX-License-Identifier: Apache-2.0
"""Every kind of input from end to end: other software writes it, `protect` and `verify` run, and other software reads
what came out.
"""

from __future__ import annotations

import warnings
import zipfile
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
from monai_salm.evaluate import EvaluateOptions, VictimScores, evaluate
from monai_salm.io import Document, identify, read_segmentation
from monai_salm.pipeline import ProtectResult, protect, scan, verify
from monai_salm.pipeline.verdicts import VerifyReport
from tests.exports import (
    ROOT_UID,
    block,
    body,
    dicom_object,
    drawn,
    file_set,
    mr_export,
    mr_series,
    mr_slice,
    nifti_export,
    nifti_file,
    plan_in,
    plan_lines,
    small,
    tree,
    zip_file,
)
from tests.io.builders import RLE, dicom_dataset, functional_groups, reference, write_compressed, write_dicom

US_LOOP, ENHANCED_CT, SECONDARY = (
    "1.2.840.10008.5.1.4.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.7",
)
KO, SR = "1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.5.1.4.1.1.88.33"
PLAIN: dict[str, Any] = {"WindowCenter": None, "WindowWidth": None, "RescaleSlope": None, "RescaleIntercept": None}


def _pydicom(path: Path) -> NDArray[Any]:
    return pydicom.dcmread(path).pixel_array


def _nibabel(path: Path) -> NDArray[Any]:
    return np.asarray(pytest.importorskip("nibabel").load(path).dataobj)


def _simpleitk(path: Path) -> NDArray[Any]:
    sitk: Any = pytest.importorskip("SimpleITK")
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def _pillow(path: Path) -> NDArray[Any]:
    with pytest.importorskip("PIL.Image").open(path) as image:
        return np.array(image)


def _colors(number: int) -> NDArray[np.uint8]:
    values = np.stack([body(number) // 3, body(number) // 4, body(number) // 5], axis=-1).astype(np.uint8)
    values[12, 12] = (255, 90, 0)
    return values


def _gray(number: int) -> NDArray[np.uint8]:
    return (body(number) // 3).astype(np.uint8)


def _dicom(path: Path, values: NDArray[Any], **how: Any) -> None:
    """Write a picture of 8 or 16 bits, with as many frames and colors as the values have."""
    colors = values.shape[-1] == 3
    grid = values.shape[:-1] if colors else values.shape
    frames = grid[0] if len(grid) == 3 else 1
    bits = values.dtype.itemsize * 8
    photometric = {"photometric": "RGB", "samples": 3} if colors else {}
    extra = PLAIN | {"ImagePositionPatient": None, "ImageOrientationPatient": None} | how.pop("extra")
    dataset = dicom_dataset(
        bits_allocated=bits,
        bits_stored=bits,
        shape=grid[-2:],
        frames=frames,
        signed=values.dtype.kind == "i",
        extra=extra,
        **photometric,
    )
    if "transfer_syntax" in how:
        write_compressed(path, dataset, values, how["transfer_syntax"])
    else:
        write_dicom(path, dataset, values)


def _rgb(folder: Path) -> None:
    _dicom(folder / "a.dcm", _colors(1), extra={"SOPClassUID": SECONDARY, "Modality": "XC"})


def _loop(folder: Path) -> None:
    _dicom(folder / "a.dcm", np.stack([_gray(n) for n in range(5)]), extra={"SOPClassUID": US_LOOP, "Modality": "US"})


def _color_loop(folder: Path) -> None:
    _dicom(folder / "a.dcm", np.stack([_colors(n) for n in range(5)]), extra={"SOPClassUID": US_LOOP, "Modality": "US"})


SLOPES = (1.0, 2.0, 0.5)


def _enhanced(folder: Path) -> None:
    values = np.stack([np.where(body(n) > 0, body(n) // 4 - 60, -1000) / slope for n, slope in enumerate(SLOPES)])
    _dicom(
        folder / "a.dcm",
        values.round().astype(np.int16),
        extra={"SOPClassUID": ENHANCED_CT} | functional_groups(slopes=SLOPES),
    )


def _rle(folder: Path) -> None:
    _dicom(folder / "a.dcm", body(1).astype(np.uint16), extra={"Modality": "MR"}, transfer_syntax=RLE)
    _dicom(
        folder / "b.dcm", _colors(2), extra={"SOPInstanceUID": f"{ROOT_UID}.77", "Modality": "XC"}, transfer_syntax=RLE
    )


def _volumes_in_time(folder: Path) -> None:
    nibabel: Any = pytest.importorskip("nibabel")
    values = np.stack([block(n)[0] for n in range(3)], axis=-1)
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(folder / "a.nii.gz")
    nibabel.Nifti2Image(values.astype(np.float32) + 0.25 * (values > 0), np.eye(4)).to_filename(folder / "b.nii")


def _pair(folder: Path) -> None:
    nibabel: Any = pytest.importorskip("nibabel")
    nibabel.Nifti1Pair(block(1)[0], np.eye(4)).to_filename(folder / "a.img")


def _itk(folder: Path) -> None:
    sitk: Any = pytest.importorskip("SimpleITK")
    for number, name in enumerate(("a.nrrd", "b.mha", "c.nrrd", "d.mha", "e.mhd")):
        sitk.WriteImage(
            sitk.GetImageFromArray(block(number)[0]), str(folder / name), useCompression=number > 1 and name != "e.mhd"
        )


def _raster(folder: Path) -> None:
    image: Any = pytest.importorskip("PIL.Image")
    image.fromarray(_gray(0)).save(folder / "a.png")
    image.fromarray(_colors(1)).save(folder / "b.png")
    image.fromarray(body(2).astype(np.uint16)).save(folder / "c.tif")
    image.fromarray(_colors(3)).save(folder / "d.tiff", compression="tiff_lzw")


EXPORTS: dict[str, tuple[Callable[[Path], None], Callable[[Path], NDArray[Any]], int, tuple[str, ...]]] = {
    "RGB": (_rgb, _pydicom, 1, ()),
    "ultrasound loop": (_loop, _pydicom, 1, ()),
    "color loop": (_color_loop, _pydicom, 1, ()),
    "enhanced CT": (_enhanced, _pydicom, 1, ()),
    "RLE": (_rle, _pydicom, 2, ()),
    "NIfTI in time": (_volumes_in_time, _nibabel, 2, ()),
    "NIfTI pair": (_pair, _nibabel, 1, ("a.hdr",)),
    "NRRD and MetaImage": (_itk, _simpleitk, 5, ("e.mhd",)),
    "PNG and TIFF": (_raster, _pillow, 4, ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("export", EXPORTS)
def test_protect_and_verify(tmp_path: Path, export: str) -> None:
    make, read, count, headers = EXPORTS[export]
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    make(source)
    result = protect(source, output, drawn())
    assert result.to_json()["counts"] == {"protected": count, "copied": len(headers), "refused": 0, "failed": 0}, (
        result.to_json()["problems"]
    )
    assert sorted(tree(output)) == sorted(tree(source))
    report = verify(source, output)
    assert report.to_json()["counts"] == {"protected": count, "copied": len(headers), "absent": 0, "mismatch": 0}, (
        report.mismatches
    )
    by_path = {file.path: file for file in report.files}
    for path, fate in result.fates.items():
        if path in headers:
            assert (source / path).read_bytes() == (output / path).read_bytes()
            continue
        # What a header of its own belongs to is read by that header.
        place = next((name for name in headers if name.endswith(".mhd") and path.endswith(".raw")), path)
        before, after = read(source / place), read(output / place)
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        change = np.abs(after.astype(np.float64) - before.astype(np.float64))
        assert fate.epsilon_stored is not None
        assert 0 < change.max() == fate.max_change_stored <= fate.epsilon_stored
        assert 0 < by_path[path].ssim < 1  # type: ignore[operator]
        assert not change[before == before.min()].any(), "air"
    assert verify(source, output, check_epsilon=Epsilon.parse("8/255")).mismatches == []
    assert {
        file.path for file in verify(source, output, check_epsilon=Epsilon.parse("2/255")).mismatches
    } == result.fates.keys() - set(headers)


def test_colors_share_one_noise_and_saturated_ones_stay(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    _rgb(tmp_path / "in")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    before, after = (_pydicom(tmp_path / folder / "a.dcm").astype(int) for folder in ("in", "out"))
    change = after - before
    assert change[12, 12].tolist()[0] == change[12, 12].tolist()[2] == 0, (
        "255 and 0 are the ends of the picture's range"
    )
    free = (before > 0).all(axis=-1) & (change != 0).all(axis=-1)
    assert free.sum() > 100
    assert (change[free] == change[free][:, :1]).all()


@pytest.mark.parametrize("sample", [0, 1, 2])
def test_one_color_that_changes_outside_the_anatomy_is_found(tmp_path: Path, sample: int) -> None:
    (tmp_path / "in").mkdir()
    _rgb(tmp_path / "in")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    dataset = pydicom.dcmread(tmp_path / "out" / "a.dcm")
    dataset.PixelData = dataset.PixelData[:sample] + b"\1" + dataset.PixelData[sample + 1 :]
    dataset.save_as(tmp_path / "out" / "a.dcm")
    (mismatch,) = verify(tmp_path / "in", tmp_path / "out").mismatches
    assert (mismatch.changed_outside, mismatch.problems) == (
        1,
        ["1 voxels changed outside the anatomy, the limit is none"],
    )


def test_each_frame_of_an_enhanced_ct_keeps_the_bound_in_hounsfield_units(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    _enhanced(tmp_path / "in")
    result = protect(tmp_path / "in", tmp_path / "out", drawn(epsilon="12 HU"))
    before, after = (_pydicom(tmp_path / folder / "a.dcm").astype(int) for folder in ("in", "out"))
    largest = [int(np.abs(new - old).max()) for old, new in zip(before, after, strict=True)]
    assert largest == [12, 6, 24]
    assert result.fates["a.dcm"].epsilon_stored == 24
    assert not verify(tmp_path / "in", tmp_path / "out", check_epsilon=Epsilon.parse("12 HU")).mismatches
    # One value of the frame of slope 2 by 7 steps is 14 HU: within the 24 steps that the file states, but beyond its
    # own frame's.
    dataset = pydicom.dcmread(tmp_path / "out" / "a.dcm")
    pixels = dataset.pixel_array.copy()
    place = tuple(np.argwhere(pixels[1] != before[1])[0])
    pixels[1][place] = before[1][place] + 7
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(tmp_path / "out" / "a.dcm")
    for epsilon in ("12 HU", None):
        (mismatch,) = verify(
            tmp_path / "in", tmp_path / "out", check_epsilon=Epsilon.parse(epsilon) if epsilon else None
        ).mismatches
        assert any(problem.startswith("frame 2: the largest change is") for problem in mismatch.problems), (
            mismatch.problems
        )


def test_jpeg_becomes_png(tmp_path: Path) -> None:
    image: Any = pytest.importorskip("PIL.Image")
    (tmp_path / "in").mkdir()
    image.fromarray(_colors(0)).save(tmp_path / "in" / "a.jpg", quality=95)
    image.fromarray(_gray(1)).save(tmp_path / "in" / "b.JPEG")
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert result.to_json()["counts"] == {"protected": 2, "copied": 0, "refused": 0, "failed": 0}
    assert sorted(tree(tmp_path / "out")) == ["a.png", "b.png"]
    before, after = _pillow(tmp_path / "in" / "a.jpg").astype(int), _pillow(tmp_path / "out" / "a.png").astype(int)
    assert 0 < np.abs(after - before).max() <= result.fates["a.jpg"].epsilon_stored  # type: ignore[operator]
    report = verify(tmp_path / "in", tmp_path / "out")
    assert [(file.path, file.verdict) for file in report.files] == [("a.jpg", "protected"), ("b.JPEG", "protected")]


def test_jpeg_that_would_take_the_name_of_another_file_is_refused(tmp_path: Path) -> None:
    image: Any = pytest.importorskip("PIL.Image")
    (tmp_path / "in").mkdir()
    image.fromarray(_gray(0)).save(tmp_path / "in" / "a.jpg")
    image.fromarray(_gray(1)).save(tmp_path / "in" / "a.png")
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert (result.fates["a.jpg"].status, result.fates["a.png"].status) == ("refused", "protected")
    assert "it would be written as a.png, which is another file" in result.fates["a.jpg"].reason
    assert not verify(tmp_path / "in", tmp_path / "out").mismatches


def test_two_jpeg_files_that_would_take_one_name_are_not_both_written(tmp_path: Path) -> None:
    image: Any = pytest.importorskip("PIL.Image")
    (tmp_path / "in").mkdir()
    image.fromarray(_gray(0)).save(tmp_path / "in" / "a.jpg")
    image.fromarray(_gray(1)).save(tmp_path / "in" / "a.jpeg")
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert {path: fate.status for path, fate in result.fates.items()} == {"a.jpeg": "protected", "a.jpg": "refused"}
    assert result.fates["a.jpg"].reason.startswith(
        "it would be written as a.png, and so would a.jpeg; rename one of the two"
    )
    assert sorted(tree(tmp_path / "out")) == ["a.png"]
    assert not verify(tmp_path / "in", tmp_path / "out").mismatches


@pytest.mark.parametrize("name", ["a.raw", "a.mhd"])
def test_either_file_of_a_pair_stands_for_both(tmp_path: Path, name: str) -> None:
    sitk: Any = pytest.importorskip("SimpleITK")
    (tmp_path / "in").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(block(0)[0]), str(tmp_path / "in" / "a.mhd"))
    nifti_file(tmp_path / "in" / "b.nii", block(1)[0])
    result = protect(tmp_path / "in" / name, tmp_path / "out", drawn())
    assert result.to_json()["counts"] == {"protected": 1, "copied": 1, "refused": 0, "failed": 0}
    assert sorted(tree(tmp_path / "out")) == ["a.mhd", "a.raw"]


@pytest.mark.parametrize("kind", ["hdr", "mhd"])
def test_values_whose_header_is_a_link_out_of_the_input_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    if kind == "hdr":
        _pair(tmp_path / "in")
    else:
        sitk: Any = pytest.importorskip("SimpleITK")
        sitk.WriteImage(sitk.GetImageFromArray(block(0)[0]), str(tmp_path / "in" / "a.mhd"))
    values = "a.img" if kind == "hdr" else "a.raw"
    nifti_file(tmp_path / "in" / "b.nii", block(1)[0])
    assert values in scan(tmp_path / "in").pictures
    (tmp_path / "in" / f"a.{kind}").rename(tmp_path / f"elsewhere.{kind}")
    (tmp_path / "in" / f"a.{kind}").symlink_to(tmp_path / f"elsewhere.{kind}")
    refused = protect(tmp_path / "in", tmp_path / "out", drawn()).fates
    assert (
        refused[values].reason == f"its header a.{kind} is a link that leads out of the input; copy it into the input"
    )
    assert list(tree(tmp_path / "out")) == ["b.nii"]


def test_header_does_not_wait_for_a_file_of_its_own_name(tmp_path: Path) -> None:
    """A refused volume beside a pair of the same stem is none of the pair's halves."""
    sitk: Any = pytest.importorskip("SimpleITK")
    (tmp_path / "in").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(block(0)[0]), str(tmp_path / "in" / "a.mhd"))
    flat = np.full((8, 8, 8), 7, np.float32)
    flat[0, 0, :2] = 7.5, 3.25
    sitk.WriteImage(sitk.GetImageFromArray(flat), str(tmp_path / "in" / "a.mha"))
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert {path: fate.status for path, fate in result.fates.items()} == {
        "a.mha": "refused",
        "a.mhd": "copied",
        "a.raw": "protected",
    }


@pytest.mark.slow
def test_directory_as_input_takes_its_file_set_and_nothing_else(tmp_path: Path) -> None:
    for number in range(2):
        mr_slice(tmp_path / "loose" / f"{number}.dcm", number, StudyDate="20200101")
    place = file_set(tmp_path / "disc", sorted((tmp_path / "loose").iterdir()))
    mr_slice(tmp_path / "disc" / "stranger.dcm", 5)
    (tmp_path / "disc" / "viewer.txt").write_text("x")
    result = protect(place, tmp_path / "out", drawn())
    assert sorted(tree(tmp_path / "out")) == sorted({"DICOMDIR", *identify(place).files})  # type: ignore[union-attr]
    assert result.to_json()["counts"] == {"protected": 2, "copied": 1, "refused": 0, "failed": 0}
    assert not verify(place, tmp_path / "out" / "DICOMDIR").mismatches
    assert {file.path for file in verify(place.parent, tmp_path / "out").mismatches} == {
        "stranger.dcm",
        "viewer.txt",
    }, "of the folder these are lost"


def test_directory_that_lists_a_file_above_itself_does_not_take_it(tmp_path: Path) -> None:
    mr_slice(tmp_path / "loose" / "0.dcm", 0, StudyDate="20200101")
    place = file_set(tmp_path / "disc", [tmp_path / "loose" / "0.dcm"])
    content = place.read_bytes()
    name = content[content.index(b"PT000000") :][:35]
    assert name == rb"PT000000\ST000000\SE000000\IM000000"
    place.write_bytes(content.replace(name, rb"..\loose\0.dcm".ljust(34) + b" "))
    assert [record.path for record in scan(place).files] == ["DICOMDIR"]


def _mixed(folder: Path) -> Path:
    """Write pictures, documents that refer to them, and what else lies about in an export."""
    mr_export(folder, 3)
    dicom_object(folder / "ko.dcm", KO, 1, [f"{ROOT_UID}.40.3"])
    dicom_object(folder / "sr.dcm", SR, 2, [f"{ROOT_UID}.10.1"])
    (folder / "notes.txt").write_text("größer", encoding="utf-8")
    (folder / "report.pdf").write_bytes(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (folder / "case0" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._image.dcm").write_bytes(b"\0\5\x16\7")
    nifti_file(folder / "labels.nii.gz", block(1)[1])
    return folder


PUBLIC = {
    "case0/image.dcm",
    "case1/image.dcm",
    "case2/image.dcm",
    "ko.dcm",
    "sr.dcm",
    "notes.txt",
    "report.pdf",
    "labels.nii.gz",
}


def test_what_is_no_picture_goes_along_and_litter_stays(tmp_path: Path) -> None:
    _mixed(tmp_path / "in")
    result = protect(tmp_path / "in", tmp_path / "out", drawn(copy_unprotected=True))
    assert result.to_json()["counts"] == {"protected": 3, "copied": 5, "refused": 0, "failed": 0}
    assert result.to_json()["problems"] == [], "what is no picture is no problem"
    assert sorted(result.ignored) == [".DS_Store", "__MACOSX/._image.dcm", "case0/Thumbs.db"]
    before, after = tree(tmp_path / "in"), tree(tmp_path / "out")
    assert set(after) == PUBLIC
    assert {name for name in after if after[name] == before[name]} == {"notes.txt", "report.pdf", "labels.nii.gz"}
    notes = {entry["path"]: entry["notes"] for entry in result.to_json()["notes"]}
    assert notes["labels.nii.gz"][0] == "no image (label map)"
    assert "no image was found in the PDF, whose lines and text are not looked at" in notes["report.pdf"]
    report = verify(tmp_path / "in", tmp_path / "out")
    assert report.to_json()["counts"] == {"protected": 3, "copied": 5, "absent": 0, "mismatch": 0}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2])
def test_workers_give_the_same_bytes_with_documents_present(tmp_path: Path, workers: int) -> None:
    _mixed(tmp_path / "in")
    protect(tmp_path / "in", tmp_path / "one", drawn())
    protect(tmp_path / "in", tmp_path / "two", drawn(workers=workers))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert (tmp_path / "one.work" / "manifest.jsonl").read_bytes() == (
        tmp_path / "two.work" / "manifest.jsonl"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "place"), [("out.zip", "out.zip"), ("out", "out/export.zip")], ids=["zip", "folder"])
def test_zip_becomes_a_zip(tmp_path: Path, name: str, place: str) -> None:
    source = zip_file(tmp_path / "export.zip", _mixed(tmp_path / "in"))
    result = protect(source, tmp_path / name, drawn())
    assert result.output == tmp_path / place
    assert result.to_json()["counts"] == {"protected": 3, "copied": 5, "refused": 0, "failed": 0}
    assert not [path.name for path in result.work_dir.iterdir() if path.name in ("input", "output")], (
        "unpacked pictures are left"
    )
    with zipfile.ZipFile(result.output) as packed:
        assert packed.testzip() is None
        assert set(packed.namelist()) == PUBLIC
        found = {member: packed.read(member) for member in packed.namelist()}
    protect(tmp_path / "in", tmp_path / "loose", drawn())
    assert found == tree(tmp_path / "loose"), "the same as from the folder"
    report = verify(source, result.output)
    assert report.to_json()["counts"] == {"protected": 3, "copied": 5, "absent": 0, "mismatch": 0}
    assert not verify(tmp_path / "in", result.output).mismatches


def test_zip_in_a_folder_is_verified_by_the_arguments_of_protect(tmp_path: Path) -> None:
    source = zip_file(tmp_path / "export.zip", mr_export(tmp_path / "in", 1))
    protect(source, tmp_path / "out", drawn())
    assert verify(source, tmp_path / "out").to_json()["counts"] == {
        "protected": 1,
        "copied": 0,
        "absent": 0,
        "mismatch": 0,
    }


def test_unprotected_copies_do_not_make_their_series_wrong(tmp_path: Path) -> None:
    mr_series(tmp_path / "in", 0, slices=3)
    names = {
        "SeriesInstanceUID": f"{ROOT_UID}.21.1",
        "StudyInstanceUID": f"{ROOT_UID}.31.1",
        "SOPInstanceUID": f"{ROOT_UID}.11.9",
    }
    mr_slice(tmp_path / "in" / "air.dcm", 9, np.pad([[6]], (8, 7)), ImagePositionPatient=[0, 0, 9.0], **names)
    dicom_object(tmp_path / "in" / "ko.dcm", KO, 1, [names["SOPInstanceUID"]])
    result = protect(tmp_path / "in", tmp_path / "out", drawn(sample="series", copy_unprotected=True))
    assert result.to_json()["counts"] == {"protected": 3, "copied": 2, "refused": 0, "failed": 0}
    assert [file.path for file in verify(tmp_path / "in", tmp_path / "out").mismatches] == ["air.dcm"]
    assert (
        pydicom.dcmread(tmp_path / "out" / "ko.dcm").ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
        == names["SOPInstanceUID"]
    )


def test_pictures_refer_to_unprotected_copies_by_their_old_names(tmp_path: Path) -> None:
    names = {
        "SeriesInstanceUID": f"{ROOT_UID}.21.1",
        "StudyInstanceUID": f"{ROOT_UID}.31.1",
        "SOPInstanceUID": f"{ROOT_UID}.11.9",
    }
    mr_series(tmp_path / "in", 0, slices=3, ReferencedImageSequence=reference(names["SOPInstanceUID"]))
    mr_slice(tmp_path / "in" / "air.dcm", 9, np.pad([[6]], (8, 7)), ImagePositionPatient=[0, 0, 9.0], **names)
    protect(tmp_path / "in", tmp_path / "out", drawn(sample="series", copy_unprotected=True))
    assert [file.path for file in verify(tmp_path / "in", tmp_path / "out").mismatches] == ["air.dcm"]


@pytest.mark.slow
def test_stopped_run_over_a_zip_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = zip_file(tmp_path / "export.zip", _mixed(tmp_path / "in"))
    protect(source, tmp_path / "whole.zip", drawn())
    output = import_module("monai_salm.pipeline.output")
    real, seen = output.write_file, []  # type: ignore[attr-defined]

    def stopping(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(output, "write_file", stopping)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            protect(source, tmp_path / "out.zip", drawn())
    assert not (tmp_path / "out.zip").exists()
    with pytest.raises(UsageError, match="not empty; give --resume"):
        protect(source, tmp_path / "out.zip", drawn())
    result = protect(source, tmp_path / "out.zip", drawn(resume=True))
    assert result.output.read_bytes() == (tmp_path / "whole.zip").read_bytes()
    assert (tmp_path / "out.zip.work" / "manifest.jsonl").read_bytes() == (
        tmp_path / "whole.zip.work" / "manifest.jsonl"
    ).read_bytes()
    protect(source, tmp_path / "out.zip", drawn(resume=True))
    assert result.output.read_bytes() == (tmp_path / "whole.zip").read_bytes(), "a finished run may be resumed, too"


def _series_with_seg(folder: Path, numbers: range) -> None:
    """Write series of volume slices, each with a SEG object of its bright lesion, by highdicom."""
    highdicom: Any = pytest.importorskip("highdicom")
    names = {
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyID": "",
        "StudyTime": "",
        "ReferringPhysicianName": "",
        "PositionReferenceIndicator": "",
    }
    names |= {"SliceThickness": 2.0, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}
    tissue = pydicom.sr.coding.Code("85756007", "SCT", "Tissue")
    for number in numbers:
        paths = mr_series(folder / str(number), number, slices=4, **names)
        slices = [pydicom.dcmread(path) for path in paths]
        masks = np.stack([(dataset.pixel_array > 500).astype(np.uint8) for dataset in slices])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            described = highdicom.seg.SegmentDescription(1, "lesion", tissue, tissue, "MANUAL")
            seg = highdicom.seg.Segmentation(
                slices,
                masks,
                "BINARY",
                [described],
                f"{ROOT_UID}.60.{number + 1}",
                100,
                f"{ROOT_UID}.61.{number + 1}",
                1,
                "maker",
                "model",
                "1",
                "0",
            )
            seg.save_as(folder / str(number) / "seg.dcm")


@pytest.mark.slow
def test_segmentation_by_seg_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _series_with_seg(tmp_path / "in", range(3))
    _series_with_seg(tmp_path / "test", range(3, 5))
    result = protect(
        tmp_path / "in", tmp_path / "out", small(task="segmentation", rounds=1, surrogate="small-unet", working_size=16)
    )
    assert result.to_json()["counts"] == {"protected": 12, "copied": 3, "refused": 0, "failed": 0}
    plan = plan_in(plan_lines(tmp_path / "out.work" / "plan.jsonl"))
    assert {sample.sample_id: sample.target for sample in plan.samples} == {
        f"{ROOT_UID}.21.{n + 1}": f"{n}/seg.dcm" for n in range(3)
    }
    assert verify(tmp_path / "in", tmp_path / "out").to_json()["counts"] == {
        "protected": 12,
        "copied": 3,
        "absent": 0,
        "mismatch": 0,
    }
    old, new = (read_segmentation(tmp_path / folder / "1" / "seg.dcm").planes for folder in ("in", "out"))
    written = {str(pydicom.dcmread(tmp_path / "out" / "1" / f"slice{n}.dcm").SOPInstanceUID) for n in range(1, 5)}
    assert set(new) == written
    assert [plane.tolist() for plane in new.values()] == [plane.tolist() for plane in old.values()]
    # Victims are not trained here, but all folders are read and paired as for one.
    monkeypatch.setattr(
        "monai_salm.evaluate.trainings.train_victim", lambda *_, **__: VictimScores({"dice": 0.0}, 0.0, (0.0,), 0.0)
    )
    options = EvaluateOptions(task="segmentation", epochs=1, working_size=16, device="cpu", utility=False)
    report = evaluate(tmp_path / "in", tmp_path / "out", tmp_path / "test", options)
    assert report.counts == {"clean": 3, "protected": 3, "test": 2}


def _choices(tmp_path: Path, **choices: Any) -> tuple[pydicom.Dataset, ProtectResult, VerifyReport]:
    mr_slice(tmp_path / "in" / "a.dcm", 1)
    result = protect(tmp_path / "in", tmp_path / "out", drawn(**choices))
    report = verify(tmp_path / "in", tmp_path / "out")
    assert report.mismatches == []
    return pydicom.dcmread(tmp_path / "out" / "a.dcm"), result, report


OLD = f"{ROOT_UID}.10.2"
SOURCES = ("DerivationDescription", "DerivationCodeSequence", "SourceImageSequence", "ContributingEquipmentSequence")


def test_full_provenance_and_new_uids_by_default(tmp_path: Path) -> None:
    dataset, _, report = _choices(tmp_path)
    assert dataset.SOPInstanceUID not in ("", OLD)
    assert dataset.SeriesInstanceUID != f"{ROOT_UID}.20.2"
    assert dataset.StudyInstanceUID == f"{ROOT_UID}.30.2"
    assert dataset.ImageType == ["DERIVED", "PRIMARY", "AXIAL"]
    assert all(keyword in dataset for keyword in SOURCES)
    assert dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == OLD
    assert (report.files[0].bound, report.to_json()["bound_not_stated"]) == ("file", 0)


def test_image_type_may_stay(tmp_path: Path) -> None:
    dataset, _, _ = _choices(tmp_path, image_type="keep")
    assert dataset.ImageType == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert dataset.SourceImageSequence[0].ReferencedSOPInstanceUID == OLD


def test_uids_may_stay(tmp_path: Path) -> None:
    dataset, _, _ = _choices(tmp_path, uids="keep")
    assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID == OLD
    assert dataset.SeriesInstanceUID == f"{ROOT_UID}.20.2"


def test_source_need_not_be_named(tmp_path: Path) -> None:
    _choices(tmp_path, source_reference=False)
    content = (tmp_path / "out" / "a.dcm").read_bytes()
    assert "SourceImageSequence" not in pydicom.dcmread(tmp_path / "out" / "a.dcm")
    assert OLD.encode() + b"\0" not in content, "who has the file cannot find the original"
    assert "DerivationCodeSequence" in pydicom.dcmread(tmp_path / "out" / "a.dcm")


def test_minimal_provenance_is_the_bound_alone(tmp_path: Path) -> None:
    dataset, _, report = _choices(tmp_path, provenance="minimal")
    assert [keyword for keyword in SOURCES if keyword in dataset] == ["DerivationDescription"]
    assert report.files[0].bound == "file"


def test_without_provenance_the_bound_has_to_be_given(tmp_path: Path) -> None:
    dataset, result, report = _choices(tmp_path, provenance="none", image_type="keep")
    assert not [keyword for keyword in SOURCES if keyword in dataset]
    assert b"monai" not in (tmp_path / "out" / "a.dcm").read_bytes().lower()
    assert (report.files[0].bound, report.to_json()["bound_not_stated"]) == ("none", 1)
    checked = verify(tmp_path / "in", tmp_path / "out", check_epsilon=Epsilon.parse("8/255"))
    assert (checked.files[0].bound, checked.mismatches) == ("option", [])
    assert checked.files[0].max_change_stored == result.fates["a.dcm"].epsilon_stored
    assert verify(tmp_path / "in", tmp_path / "out", check_epsilon=Epsilon.parse("6/255")).mismatches
    # Noise outside the anatomy shows without any bound.
    dataset.PixelData = dataset.PixelData[:-2] + b"\1\0"
    dataset.save_as(tmp_path / "out" / "a.dcm")
    (mismatch,) = verify(tmp_path / "in", tmp_path / "out").mismatches
    assert "1 voxels changed outside the anatomy, the limit is none" in mismatch.problems


def test_documents_alone_go_out_as_they_are(tmp_path: Path) -> None:
    dicom_object(tmp_path / "in" / "sr.dcm", SR, 1, ["1.2.3"])
    (tmp_path / "in" / "notes.txt").write_text("x")
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert result.to_json()["counts"] == {"protected": 0, "copied": 2, "refused": 0, "failed": 0}
    assert tree(tmp_path / "out") == tree(tmp_path / "in")
    with pytest.raises(UsageError, match=r"needs labels|none of its 2 files can be protected"):
        protect(tmp_path / "in", tmp_path / "more", small())


def test_label_maps_among_images_are_copied(tmp_path: Path) -> None:
    nifti_export(tmp_path / "in" / "images", 2, labels=tmp_path / "in" / "labels")
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    before, after = tree(tmp_path / "in"), tree(tmp_path / "out")
    assert {name for name in before if before[name] == after[name]} == {"labels/v0.nii.gz", "labels/v1.nii.gz"}
    assert result.to_json()["counts"] == {"protected": 2, "copied": 2, "refused": 0, "failed": 0}
    assert isinstance(identify(tmp_path / "out" / "labels" / "v0.nii.gz"), Document)
