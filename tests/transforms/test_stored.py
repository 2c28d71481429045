# SPDX-License-Identifier: Apache-2.0
"""Stored noise in a MONAI pipeline: the values are those of the files that a run wrote."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, PersistentDataset, set_track_meta
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, EnsureChannelFirstd, LazyTransform, LoadImaged, Randomizable

from monai_salm.errors import UsageError
from monai_salm.pipeline import protect
from monai_salm.transforms import LoadFaithful, SALMProtect, SALMProtectd
from tests.exports import block, drawn, mr_export, mr_series, nifti_export, nifti_file
from tests.io.builders import dicom_dataset, functional_groups, write_dicom

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs over NIfTI files of integers, of rescaled integers and of floats, over DICOM instances, and over a DICOM
    series.
    """
    folder = tmp_path_factory.mktemp("runs")
    nifti_export(folder / "integers", 3)
    nifti_export(folder / "rescaled", 3, dtype=np.uint16, slope=0.5, intercept=10.0)
    nifti_export(folder / "floats", 3, dtype=np.float32)
    mr_export(folder / "instances", 3)
    mr_series(folder / "series", 0, slices=4)
    for name in ("integers", "rescaled", "floats", "instances", "series"):
        protect(folder / name, folder / f"{name}-out", drawn(sample="series" if name == "series" else "auto"))
    return folder


def _load(path: Path, reader: str | None = None) -> MetaTensor:
    image: MetaTensor = Compose(
        [LoadImaged("image", reader=reader), EnsureChannelFirstd("image", channel_dim="no_channel")]
    )({"image": path})["image"]
    return image


def _noise(runs: Path, name: str) -> Path:
    return runs / f"{name}-out.work" / "noise"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["integers", "rescaled", "floats"])
def test_volumes_are_those_that_were_written(runs: Path, name: str) -> None:
    transform = SALMProtectd("image", noise=_noise(runs, name))
    for number in range(3):
        image = _load(runs / name / f"v{number}.nii.gz")
        result = transform({"image": image, "other": 1})
        assert torch.equal(result["image"].as_tensor(), _load(runs / f"{name}-out" / f"v{number}.nii.gz").as_tensor())
        assert not torch.equal(result["image"].as_tensor(), image.as_tensor())
        assert isinstance(result["image"], MetaTensor)
        assert result["image"].meta["filename_or_obj"] == image.meta["filename_or_obj"]
        assert torch.equal(result["image"].affine, image.affine)
        assert result["image"].dtype == image.dtype
        assert result["other"] == 1


def test_instances_are_those_that_were_written(runs: Path) -> None:
    transform = SALMProtect(noise=_noise(runs, "instances"))
    for number in range(3):
        path = Path(f"case{number}", "image.dcm")
        found = transform(_load(runs / "instances" / path, "PydicomReader"))
        assert torch.equal(found.as_tensor(), _load(runs / "instances-out" / path, "PydicomReader").as_tensor())


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_series_is_that_which_was_written(runs: Path) -> None:
    found = SALMProtect(noise=_noise(runs, "series"))(_load(runs / "series", "PydicomReader"))
    assert found.shape == (1, 16, 16, 4)
    assert torch.equal(found.as_tensor(), _load(runs / "series-out", "PydicomReader").as_tensor())


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("order", [[3, 2, 1, 0], [2, 0, 3, 1]], ids=["reversed", "mixed"])
def test_slices_may_come_in_any_order(runs: Path, order: list[int]) -> None:
    transform = SALMProtect(noise=_noise(runs, "series"))
    image = _load(runs / "series", "PydicomReader")
    assert torch.equal(transform(image[..., order]).as_tensor(), transform(image).as_tensor()[..., order])


def test_header_and_values_of_a_pair_give_the_written_values(tmp_path: Path) -> None:
    nibabel: Any = pytest.importorskip("nibabel")
    (tmp_path / "in").mkdir()
    nibabel.Nifti1Pair(block(1)[0], np.eye(4)).to_filename(tmp_path / "in" / "v.img")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    transform = SALMProtect(noise=tmp_path / "out.work" / "noise")
    images = [_load(tmp_path / folder / "v.img", "NibabelReader") for folder in ("in", "out")]
    assert torch.equal(transform(images[0]).as_tensor(), images[1].as_tensor())


def test_noise_of_coarse_cells_stays_inside_the_anatomy_as_in_the_file(tmp_path: Path) -> None:
    """A cell on the outline of the body reaches out of it, and its noise does not."""
    mr_export(tmp_path / "in", 1)
    protect(tmp_path / "in", tmp_path / "out", drawn(working_size=8))
    path = Path("case0", "image.dcm")
    found = SALMProtect(noise=tmp_path / "out.work" / "noise")(_load(tmp_path / "in" / path, "PydicomReader"))
    assert torch.equal(found.as_tensor(), _load(tmp_path / "out" / path, "PydicomReader").as_tensor())


def _frames() -> Any:
    """Give three frames with a body each at another place."""
    frames = np.zeros((3, 24, 24), dtype=np.int16)
    for number, frame in enumerate(frames):
        frame[4 + number : 16 + number, 5:18] = block(number, (12, 13, 4))[0][..., 2] // 4 + 30
    return frames


def test_frames_are_those_that_were_written(tmp_path: Path) -> None:
    """Each with an anatomy of its own: one of the whole stack, as of a volume, would give other values."""
    dataset = dicom_dataset(
        shape=(24, 24), frames=3, extra={"Modality": "XA", "RescaleSlope": 1, "RescaleIntercept": 0}
    )
    (tmp_path / "in").mkdir()
    write_dicom(tmp_path / "in" / "a.dcm", dataset, _frames())
    protect(tmp_path / "in", tmp_path / "out", drawn())
    before, after = (pydicom.dcmread(tmp_path / folder / "a.dcm").pixel_array for folder in ("in", "out"))
    assert (before != after).any(axis=(1, 2)).all()
    found = SALMProtect(noise=tmp_path / "out.work" / "noise")(before[None].astype(np.float32))
    assert np.array_equal(np.asarray(found)[0], after)


def test_frames_of_other_rescalings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    extra = {
        "SOPClassUID": ENHANCED_CT,
        "RescaleSlope": None,
        "RescaleIntercept": None,
        **functional_groups(slopes=(1.0, 2.0, 0.5)),
    }
    values = np.where(_frames() > 0, _frames(), -1000)
    write_dicom(
        tmp_path / "in" / "a.dcm",
        dicom_dataset(shape=(24, 24), frames=3, bits_stored=16, signed=True, extra=extra),
        values,
    )
    slopes = np.reshape((1.0, 2.0, 0.5), (3, 1, 1))
    image = (values * slopes + np.arange(3).reshape(3, 1, 1))[None]
    assert protect(tmp_path / "in", tmp_path / "out", drawn()).to_json()["counts"]["protected"] == 1
    with pytest.raises(UsageError, match="apply SALMProtect right after loading"):
        SALMProtect(noise=tmp_path / "out.work" / "noise")(image.astype(np.float32))


@pytest.mark.parametrize("first", [True, False], ids=["channels first", "channels last"])
def test_time_series_is_that_which_was_written(tmp_path: Path, first: bool) -> None:
    values = np.stack([block(number)[0] for number in range(3)], axis=-1)
    nifti_file(tmp_path / "in" / "a.nii", values)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    loaded = [LoadFaithful()(tmp_path / folder / "a.nii") for folder in ("in", "out")]
    if not first:
        loaded = [image.permute(1, 2, 3, 0)[None] for image in loaded]
    found = SALMProtect(noise=tmp_path / "out.work" / "noise")(loaded[0])
    assert torch.equal(found.as_tensor(), loaded[1].as_tensor())
    assert not torch.equal(found.as_tensor(), loaded[0].as_tensor())


@pytest.mark.parametrize("make", [np.array, torch.as_tensor, MetaTensor], ids=["array", "tensor", "MetaTensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16], ids=str)
def test_types(runs: Path, make: Callable[[Any], Any], dtype: torch.dtype) -> None:
    plain = _load(runs / "integers" / "v0.nii.gz").as_tensor().to(dtype)
    image = make(plain.numpy())
    result = SALMProtect(noise=_noise(runs, "integers"))(image)
    assert isinstance(result, MetaTensor)
    assert (result.shape, result.dtype) == (plain.shape, dtype)
    assert np.array_equal(np.asarray(image), plain.numpy()), "the input was changed"
    set_track_meta(False)
    try:
        untracked = SALMProtect(noise=_noise(runs, "integers"))(image)
    finally:
        set_track_meta(True)
    assert type(untracked) is torch.Tensor
    assert torch.equal(untracked, result.as_tensor())


def test_sample_id(runs: Path) -> None:
    transform = SALMProtectd("image", noise=_noise(runs, "integers"), id_key="id")
    stored = {
        name: transform.transform.stored.store.record(name)["files"][0]["fingerprint"]
        for name in transform.transform.stored.store
    }  # type: ignore[union-attr]
    images = [_load(runs / "integers" / f"v{number}.nii.gz") for number in range(2)]
    from monai_salm.transforms.array import image_fingerprint

    names = [image_fingerprint(image) for image in images]
    assert set(names) < set(stored)
    assert torch.equal(
        transform({"image": images[0], "id": names[0]})["image"], SALMProtect(noise=_noise(runs, "integers"))(images[0])
    )
    with pytest.raises(UsageError, match=rf"does not hold the values of sample '{names[1]}'"):
        transform({"image": images[0], "id": names[1]})
    with pytest.raises(UsageError, match="no noise for sample 'unknown'"):
        transform({"image": images[0], "id": "unknown"})


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image / 1000,
        lambda image: image + 0.3,
        lambda image: image + 65536,
        lambda image: image * 1e30,
        lambda image: image * float("nan"),
        lambda image: image.flip(1),
        lambda image: image[:, 1:],
        lambda image: image[..., 0],
        lambda image: image.transpose(1, 3),
    ],
    ids=["scaled", "off the grid", "wrapped", "huge", "NaN", "flipped", "cropped", "slice", "turned"],
)
@pytest.mark.parametrize("name", ["integers", "floats"])
def test_changed_image_is_refused(runs: Path, name: str, change: Callable[[Any], Any]) -> None:
    image = _load(runs / name / "v0.nii.gz").as_tensor()
    changed = change(image)
    if changed.shape == (1, 12, 16, 16):  # the axis order of other readers
        assert torch.equal(
            SALMProtect(noise=_noise(runs, name))(changed).transpose(1, 3), SALMProtect(noise=_noise(runs, name))(image)
        )
        return
    with pytest.raises(UsageError, match="apply SALMProtect right after loading"):
        SALMProtect(noise=_noise(runs, name))(changed)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((16, 16), "the channels first"),
        ((1, 1, 16, 16, 12, 2), "one image at a time"),
        ((2, 16, 16), "does not hold the values of any of the 3 samples"),
        ((1, 16, 16, 12, 2), "does not hold the values of any of the 3 samples"),
    ],
    ids=str,
)
def test_image_of_another_shape_is_refused(runs: Path, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SALMProtect(noise=_noise(runs, "integers"))(torch.zeros(shape))


def test_missing_keys(runs: Path) -> None:
    assert SALMProtectd("image", noise=_noise(runs, "integers"), allow_missing_keys=True)({"x": 1}) == {"x": 1}
    with pytest.raises(KeyError, match="image"):
        SALMProtectd("image", noise=_noise(runs, "integers"))({"x": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either noise=FOLDER of a run, or surrogate=FILE"),
        ({"noise": "n", "surrogate": "s", "label_key": "label"}, "either noise=FOLDER of a run, or surrogate=FILE"),
        ({"surrogate": "s"}, "give label_key, too"),
        ({"noise": "nowhere"}, "no noise in this folder"),
    ],
    ids=["neither", "both", "no label", "empty folder"],
)
def test_wrong_arguments(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SALMProtectd("image", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, lambda transform: pickle.loads(pickle.dumps(transform))],  # noqa: S301
    ids=["copy", "pickle"],
)
def test_copies_do_the_same(runs: Path, again: Callable[[Any], Any]) -> None:
    transform = SALMProtectd("image", noise=_noise(runs, "integers"))
    before, data = pickle_hashing({"t": transform}), {"image": _load(runs / "integers" / "v0.nii.gz")}
    result = transform(data)["image"]
    assert torch.equal(again(transform)(data)["image"], result)
    assert pickle_hashing({"t": transform}) == before, "use changed the hash"
    assert not isinstance(transform, (Randomizable, LazyTransform))


def _chain(runs: Path, name: str = "integers") -> Compose:
    return Compose([LoadImaged("image"), EnsureChannelFirstd("image"), SALMProtectd("image", noise=_noise(runs, name))])


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_caching_and_workers(runs: Path, context: str) -> None:
    paths = [{"image": str(runs / "integers" / f"v{number}.nii.gz")} for number in range(3)]
    data = CacheDataset(paths, _chain(runs), progress=False, num_workers=1)
    wanted = [_load(runs / "integers-out" / f"v{number}.nii.gz").as_tensor() for number in range(3)]
    assert all(torch.equal(item["image"].as_tensor(), image) for item, image in zip(data, wanted, strict=True))
    from monai.data import Dataset

    loader = DataLoader(Dataset(paths, _chain(runs)), batch_size=1, num_workers=2, multiprocessing_context=context)
    assert all(torch.equal(batch["image"][0].as_tensor(), image) for batch, image in zip(loader, wanted, strict=True))


def test_persistent_cache_knows_the_run(runs: Path, tmp_path: Path) -> None:
    paths = [{"image": str(runs / "integers" / "v0.nii.gz")}]
    protect(runs / "integers", tmp_path / "other", drawn(seed=1))
    results: list[Any] = []
    for noise in (_noise(runs, "integers"), _noise(runs, "integers"), tmp_path / "other.work" / "noise"):
        chain = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), SALMProtectd("image", noise=noise)])
        results.append(
            PersistentDataset(paths, chain, cache_dir=tmp_path / "cache", hash_transform=pickle_hashing)[0]["image"]
        )
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
