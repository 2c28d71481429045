# SPDX-License-Identifier: Apache-2.0
"""Reading and writing in a pipeline: nothing is lost, nothing is guessed, and what goes out is what was meant."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Flipd,
    Invertd,
    LoadImaged,
    Orientationd,
    RandFlipd,
    Spacingd,
)
from PIL import Image

from monai_salm import transforms
from monai_salm.errors import RefusedError, UsageError
from monai_salm.pipeline import protect
from monai_salm.transforms import LoadFaithful, LoadFaithfuld, SALMProtectd, SaveFaithful, SaveFaithfuld
from tests.exports import block, drawn, mr_series, nifti_file, tree
from tests.io.builders import dicom_dataset, functional_groups, nifti_bytes, values_in, write_dicom


def _ct(folder: Path, slices: int = 5, **changes: Callable[[int], Any]) -> list[Path]:
    """Write a CT series of 5 x 4 pixels whose files' names are in no order; a change gives an attribute by number."""
    paths = []
    for number in range(slices):
        dataset = dicom_dataset(shape=(5, 4), signed=True)
        dataset.Modality, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "CT", "1.2.3.4", "1.2.3"
        dataset.SOPInstanceUID = f"1.2.3.4.{number + 1}"
        dataset.InstanceNumber = 100 - number  # the other way round than the positions
        dataset.PixelSpacing, dataset.ImageOrientationPatient = [0.8, 0.6], [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [-10, -20, 2.5 * number]
        dataset.RescaleSlope, dataset.RescaleIntercept = 1 + number, -1024
        for name, change in changes.items():
            setattr(dataset, name, change(number))
        paths.append(folder / f"{(number * 3) % slices if slices % 3 else number}.dcm")
        folder.mkdir(parents=True, exist_ok=True)
        write_dicom(paths[-1], dataset, np.arange(20).reshape(5, 4) + 100 * number)
    return paths


def test_series_is_read_by_position_with_each_rescaling(tmp_path: Path) -> None:
    _ct(tmp_path)
    image = LoadFaithful()(tmp_path)
    assert image.shape == (1, 4, 5, 5)
    for number in range(5):
        stored = np.arange(20).reshape(5, 4) + 100 * number
        assert np.array_equal(image[0, :, :, number].numpy().T, stored * (1 + number) - 1024)
    # from the pixel in row 3, column 2 of slice 4, and LPS to RAS
    assert np.allclose(image.affine.numpy() @ [2, 3, 4, 1], [10 - 2 * 0.6, 20 - 3 * 0.8, 10, 1])
    assert image.meta["affine_known"] is True
    assert image.dtype == torch.float32
    again = EnsureChannelFirstd("image")({"image": image})["image"]
    assert torch.equal(again.as_tensor(), image.as_tensor())


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_values_and_place_are_those_of_monai_where_that_is_right(tmp_path: Path) -> None:
    _ct(tmp_path / "s", RescaleSlope=lambda _: 2, InstanceNumber=lambda number: number)
    nifti_file(tmp_path / "v.nii.gz", block(1)[0])
    for path, reader in ((tmp_path / "s", "PydicomReader"), (tmp_path / "v.nii.gz", "NibabelReader")):
        theirs = LoadImaged("image", reader=reader, ensure_channel_first=True)({"image": path})["image"]
        ours = LoadFaithful()(path)
        assert torch.equal(ours.as_tensor(), theirs.as_tensor())
        assert torch.allclose(ours.affine, theirs.affine)
        assert ours.meta["filename_or_obj"] == theirs.meta["filename_or_obj"]


def test_points_in_time_and_colors_are_channels(tmp_path: Path) -> None:
    values = values_in(-300, 300, (4, 5, 6, 3), "i2")
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "t.nii.gz")
    assert np.array_equal(LoadFaithful()(tmp_path / "t.nii.gz").numpy(), np.moveaxis(values, -1, 0))
    colors = values_in(0, 255, (7, 6, 3), "u1")
    Image.fromarray(colors).save(tmp_path / "c.png")
    assert np.array_equal(LoadFaithful()(tmp_path / "c.png").numpy(), colors.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ImagePositionPatient": lambda n: [0, 0, [0, 1, 2, 5, 6][n]]}, r"its slices lie 1 to 3 mm apart"),
        ({"ImagePositionPatient": lambda n: [0, 0, n // 2]}, "slices lie at the place of another"),
        (
            {"ImageOrientationPatient": lambda n: [1, 0, 0, 0, 1, 0] if n else [0, 1, 0, 1, 0, 0]},
            "turned against each other",
        ),
        (
            {"SeriesInstanceUID": lambda n: f"1.2.{n % 2}"},
            r"it holds 2 series; choose by series_uid: there are 1.2.0 \(3",
        ),
        ({"ImagePositionPatient": lambda n: [0, 0, n] if n else None}, "1 of 5 slices do not say where they lie"),
    ],
    ids=["gap", "same place", "turned", "two series", "one without a place"],
)
def test_slices_that_are_no_volume_are_refused(tmp_path: Path, changes: Any, message: str) -> None:
    _ct(tmp_path, **changes)
    with pytest.raises((RefusedError, UsageError), match=message) as caught:
        LoadFaithful()(tmp_path)
    assert "\n" not in str(caught.value)


def test_one_series_of_several_can_be_chosen(tmp_path: Path) -> None:
    _ct(tmp_path, 6, SeriesInstanceUID=lambda n: f"1.2.{n % 2}")
    assert LoadFaithful("1.2.1")(tmp_path).shape == (1, 4, 5, 3)
    with pytest.raises(UsageError, match=r"it holds no series 9; there are 1\.2\.\d \(3 images\), "):
        LoadFaithful("9")(tmp_path)


def test_a_broken_slice_is_not_left_out(tmp_path: Path) -> None:
    paths = _ct(tmp_path)
    paths[2].write_bytes(paths[2].read_bytes()[:-20])
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(RefusedError, match=rf"{paths[2].name}: .*"):
        LoadFaithful()(tmp_path)
    paths[2].unlink()
    with pytest.raises(RefusedError, match=r"its slices lie 2\.5 to 5 mm apart"):
        LoadFaithful()(tmp_path)


def test_what_no_file_says_is_not_made_up(tmp_path: Path) -> None:
    paths = _ct(tmp_path, ImagePositionPatient=lambda _: None)
    image = LoadFaithful()(tmp_path)
    assert image.meta["affine_known"] is False
    assert np.array_equal(image[0, :, :, 0].numpy().T[0], np.arange(400, 404) * 5 - 1024), "the first by its number"
    assert LoadFaithful()(paths).shape == image.shape


def test_values_that_32_bits_do_not_hold_stay(tmp_path: Path) -> None:
    values = np.array([[[1 << 24, (1 << 24) + 1], [0, -7]]], dtype=np.int32)
    (tmp_path / "v.nii").write_bytes(nifti_bytes(values))
    image = LoadFaithful()(tmp_path / "v.nii")
    assert image.dtype == torch.float64
    assert np.array_equal(image[0].numpy(), values)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_go_through_loaders_in_batches(tmp_path: Path, workers: int) -> None:
    for number, count in enumerate((5, 4)):
        _ct(tmp_path / str(number), count)
    chain = Compose([LoadFaithfuld("image"), RandFlipd("image", prob=0)])
    data = Dataset([{"image": str(tmp_path / str(n))} for n in (0, 0)], chain)
    (batch,) = DataLoader(data, batch_size=2, num_workers=workers)
    items = decollate_batch(batch)
    saver = pickle.loads(pickle.dumps(SaveFaithful(tmp_path / "out", tmp_path, overwrite=True)))  # noqa: S301
    for item in items:
        assert saver(item["image"]).meta["saved_to"] == str(tmp_path / "out" / "0")


@pytest.mark.parametrize("kind", ["series", "NIfTI", "scaled NIfTI", "time", "NRRD", "PNG", "frames"])
def test_written_is_what_was_meant_and_nothing_else(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "v"
    if kind == "series":
        path = tmp_path / "in" / "series"
        _ct(path)
    elif kind == "frames":
        extra: dict[str, Any] = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1", "RescaleSlope": None}
        extra |= {"RescaleIntercept": None} | functional_groups(slopes=(1.0, 2.0, 3.0))
        write_dicom(path, dicom_dataset(shape=(5, 4), frames=3, extra=extra), np.arange(60).reshape(3, 5, 4))
    elif kind == "PNG":
        Image.fromarray(values_in(0, 200, (7, 6, 3), "u1")).save(path, "PNG")
    elif kind == "NRRD":
        sitk: Any = pytest.importorskip("SimpleITK")
        path = path.with_suffix(".nrrd")
        sitk.WriteImage(sitk.GetImageFromArray(values_in(-9, 900, (4, 5, 6), "i2")), path)
    else:
        shape = (4, 5, 6, 3) if kind == "time" else (4, 5, 6)
        scale = {"slope": 0.25, "intercept": -3.0} if kind == "scaled NIfTI" else {}
        path.write_bytes(nifti_bytes(values_in(-300, 300, shape, "i2"), **scale))
    load, save = (
        LoadFaithful(),
        SaveFaithful(tmp_path / "out", tmp_path / "in", uids="keep", provenance="none", image_type="keep"),
    )
    image = load(path)
    save(image)
    assert tree(tmp_path / "in") == tree(tmp_path / "out"), "values that did not change give the file"
    step = torch.zeros_like(image)
    step[:, 1, 2] = 60 if kind == "series" else 6  # some whole steps of each rescaling
    changed = load(SaveFaithful(tmp_path / "other", tmp_path / "in")(image + step).meta["saved_to"])
    assert torch.equal(changed.as_tensor(), (image + step).as_tensor())
    assert torch.allclose(changed.affine, image.affine)
    if kind == "series":
        found = [pydicom.dcmread(path) for path in sorted((tmp_path / "other" / "series").iterdir())]
        assert len({dataset.SeriesInstanceUID for dataset in found}) == 1
        assert len({dataset.SOPInstanceUID for dataset in found} | {found[0].SeriesInstanceUID, "1.2.3.4"}) == 7
        assert {(dataset.ImageType[0], dataset.StudyInstanceUID) for dataset in found} == {("DERIVED", "1.2.3")}
        assert found[0].DerivationDescription == "Changed by a MONAI pipeline"


def test_what_the_file_cannot_hold_is_refused_or_cut(tmp_path: Path) -> None:
    (tmp_path / "v.nii").write_bytes(nifti_bytes(values_in(0, 200, (4, 5, 6), "u1"), slope=0.5, intercept=-10.0))
    image = LoadFaithful()(tmp_path / "v.nii")
    image[0, 0, 0, :2] = torch.tensor([-10.7, 400.0])
    with pytest.raises(
        RefusedError, match=r"v\.nii: 2 values lie outside of -10 to 117.5, .* from -10\.7 to 400\); .*clip"
    ):
        SaveFaithful(tmp_path / "out")(image)
    assert not list((tmp_path / "out").rglob("*.nii")) if (tmp_path / "out").exists() else True
    found = LoadFaithful()(SaveFaithful(tmp_path / "out", outside="clip")(image).meta["saved_to"])
    assert found[0, 0, 0, :2].tolist() == [-10, 117.5]
    image[0, 0, 0, 0] = float("nan")
    with pytest.raises(RefusedError, match="1 values are not finite"):
        SaveFaithful(tmp_path / "o2", outside="clip")(image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.as_tensor(), "does not say which files it was loaded from; load it with LoadFaithful"),
        (
            lambda image: Flipd("i", 0)({"i": image})["i"],
            r"not on the grid of its files any more \(Flip\); bring it back",
        ),
        (lambda image: Spacingd("i", 2.0)({"i": image})["i"], r"not on the grid .*\(SpatialResample\); .*Invertd"),
        (lambda image: Flipd("i", 0, lazy=True)({"i": image})["i"], "not on the grid"),
        (lambda image: image[:, 1:], "the image has shape|not on the grid"),
        (lambda image: image.repeat(2, 1, 1, 1), r"has shape \(2, 4, 5, 6\), its files hold \(1, 4, 5, 6\)"),
    ],
    ids=["no metadata", "flipped", "other spacing", "lazy", "cropped", "channels"],
)
def test_image_that_is_not_on_its_grid_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    nifti_file(tmp_path / "v.nii.gz", block(1, (4, 5, 6))[0])
    with pytest.raises(UsageError, match=message):
        SaveFaithful(tmp_path / "out")(change(LoadFaithful()(tmp_path / "v.nii.gz")))
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_a_changed_source_is_seen(tmp_path: Path) -> None:
    nifti_file(tmp_path / "v.nii.gz", block(1)[0])
    image = LoadFaithful()(tmp_path / "v.nii.gz")
    for folder, options in ((tmp_path, {"overwrite": True}), (tmp_path / "out", {})):
        if folder != tmp_path:
            SaveFaithful(folder)(image)
        with pytest.raises(UsageError, match="a file is there; give another output_dir"):
            SaveFaithful(folder, **options)(image)
    nifti_file(tmp_path / "v.nii.gz", block(2)[0])
    with pytest.raises(RefusedError, match="it changed since the image was loaded; load it again"):
        SaveFaithful(tmp_path / "other")(image)


def test_series_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    _ct(tmp_path / "in")
    image = LoadFaithful()(tmp_path / "in")
    image[0, 0, 0, 4] = 1e9
    with pytest.raises(RefusedError, match="1 values lie outside"):
        SaveFaithful(tmp_path / "out")(image)
    assert not [path for path in tmp_path.rglob("out/**/*") if path.is_file()]


def test_prediction_is_written_after_it_was_brought_back(tmp_path: Path) -> None:
    _ct(tmp_path / "in")
    chain = Compose(
        [LoadFaithfuld("image"), Orientationd("image", "LPI", labels=None), Spacingd("image", (0.4, 0.5, 2.5))]
    )
    data = chain({"image": tmp_path / "in"})
    data["pred"] = MetaTensor(torch.full_like(data["image"].as_tensor(), 3.0))
    back = Invertd("pred", chain, orig_keys="image", nearest_interp=True)(data)["pred"]
    saved = SaveFaithfuld("pred", tmp_path / "out", outside="clip")({"pred": back})["pred"].meta["saved_to"]
    found = LoadFaithful()(saved)
    assert torch.allclose(found.as_tensor(), torch.full_like(found.as_tensor(), 3.0), atol=2.5)


@pytest.mark.parametrize("sample", ["series", "instance"])
def test_protected_and_saved_has_the_values_that_protect_writes(tmp_path: Path, sample: str) -> None:
    mr_series(tmp_path / "in", 0, slices=4)
    protect(tmp_path / "in", tmp_path / "run", drawn(sample=sample))
    chain = Compose(
        [
            LoadFaithfuld("image"),
            SALMProtectd("image", noise=tmp_path / "run.work" / "noise"),
            SaveFaithfuld("image", tmp_path / "out"),
        ]
    )
    saved = Path(chain({"image": tmp_path / "in"})["image"].meta["saved_to"])
    assert torch.equal(LoadFaithful()(saved).as_tensor(), LoadFaithful()(tmp_path / "run").as_tensor())
    assert not torch.equal(LoadFaithful()(saved).as_tensor(), LoadFaithful()(tmp_path / "in").as_tensor())


@pytest.mark.parametrize("name", ["LoadFaithful", "SaveFaithful"])
def test_dictionary_forms(tmp_path: Path, name: str) -> None:
    assert getattr(transforms, f"{name}d") is getattr(transforms, f"{name}D") is getattr(transforms, f"{name}Dict")
    arguments = () if name == "LoadFaithful" else (tmp_path / "out",)
    transform = getattr(transforms, f"{name}d")("image", *arguments, allow_missing_keys=True)
    assert transform({"other": 1}) == {"other": 1}
    with pytest.raises(KeyError):
        getattr(transforms, f"{name}d")("image", *arguments)({"other": 1})


def test_metadata_are_plain(tmp_path: Path) -> None:
    _ct(tmp_path)
    image = LoadFaithful()(tmp_path)
    assert len(json.loads(image.meta["faithful_source"])["files"]) == 5
    assert not [key for key, value in image.meta.items() if value is None or isinstance(value, (Path, np.generic))]


def test_unknown_option(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="uids 'fresh' is unknown; known are new, keep"):
        SaveFaithful(tmp_path, uids="fresh")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nothing is there"):
        LoadFaithful()(tmp_path / "none.dcm")
    with pytest.raises(UsageError, match="it holds no DICOM image; give a file, or the folder of a series"):
        LoadFaithful()(tmp_path)


def test_page_on_pipelines_says_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "pipelines.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    monkeypatch.chdir(tmp_path)
    _ct(tmp_path / "IN" / "s")
    names: dict[str, Any] = {}
    exec(first, names)  # noqa: S102 (our own page)
    names["save"](names["load"]({"image": "IN/s"}))
    assert len(list((tmp_path / "OUT" / "s").iterdir())) == 5
    exec("\n".join(line for line in second.splitlines() if line.startswith("from ")), {})  # noqa: S102
