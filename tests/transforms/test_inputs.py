# SPDX-License-Identifier: Apache-2.0
"""Whatever a pipeline hands in is protected within its bound, or refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Flip, LoadImaged
from safetensors.numpy import save

from monai_salm.errors import RefusedError, SalmError, UsageError, VerificationError
from monai_salm.noise import STORE_FORMAT, NoiseStore, SparseNoise
from monai_salm.pipeline import protect
from monai_salm.seals import sealed_safetensors
from monai_salm.transforms import AnatomyMask, SALMProtect, SALMProtectd
from tests.exports import block, lesion_table, nifti_export, nifti_file, small

Door = Callable[[Any], Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    nifti_export(folder / "in", 2)
    protect(folder / "in", folder / "out", small(labels=lesion_table(folder / "l.csv", ["v0.nii.gz", "v1.nii.gz"])))
    return folder


@pytest.fixture(params=["noise", "surrogate"])
def door(request: pytest.FixtureRequest, run: Path) -> Door:
    if request.param == "noise":
        return SALMProtect(noise=run / "out.work" / "noise")
    transform = SALMProtect(surrogate=run / "out.work" / "surrogate.safetensors")
    return lambda image: transform(image, "healthy")


def _image() -> torch.Tensor:
    return torch.from_numpy(block(0)[0].astype(np.float32))[None]


def _pending() -> MetaTensor:
    image = MetaTensor(_image())
    return Flip(0)(image, lazy=True)  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            lambda: _image().requires_grad_(),
            r"the image requires a gradient, which cannot flow .*; give image.detach\(\)",
        ),
        (lambda: _image().requires_grad_() * 1, r"the image requires a gradient"),
        (_pending, "the image has 1 pending operations"),
        (lambda: _image()[:, :0], "the image of shape .* is empty"),
        (lambda: _image().half(), "the image is float16, .* load it as float32"),
        (lambda: _image().bfloat16(), "the image is bfloat16"),
        (lambda: _image() > 0, "the image is bool"),
        (lambda: _image() + 0j, "the image is complex64"),
        (lambda: None, "an array or a tensor is needed, this is NoneType"),
        (lambda: "v0.nii.gz", "an array or a tensor is needed, this is str"),
        (lambda: {"image": _image()}, "an array or a tensor is needed, this is dict"),
        (lambda: _image()[0, 0], "the channels first"),
        (lambda: torch.full_like(_image(), float("nan")), "no anatomy was found|does not hold the values"),
        (lambda: torch.full_like(_image(), float("inf")), "no anatomy was found|does not hold the values"),
        (lambda: torch.zeros_like(_image()), "empty or constant|does not hold the values"),
        (lambda: torch.full_like(_image(), 3, dtype=torch.int64) << 58, "constant|does not hold the values"),
    ],
    ids=[
        "leaf",
        "no leaf",
        "lazy",
        "empty",
        "half",
        "bfloat16",
        "bool",
        "complex",
        "nothing",
        "path",
        "dict",
        "no channel",
        "NaN",
        "inf",
        "zeros",
        "huge",
    ],
)
def test_odd_image_is_one_line(door: Door, image: Callable[[], Any], message: str) -> None:
    with pytest.raises(SalmError, match=message) as caught:
        door(image())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        lambda image: image.numpy(),
        lambda image: image.double(),
        lambda image: image.short(),
        lambda image: image.long(),
        lambda image: image.transpose(1, 2).contiguous().transpose(1, 2),
        lambda image: image.numpy()[:, ::-1][:, ::-1],
        lambda image: MetaTensor(image),
        lambda image: image.expand(1, *image.shape[1:]),
        lambda image: torch.nn.Parameter(image).detach(),
    ],
    ids=["numpy", "double", "short", "long", "not contiguous", "numpy view", "MetaTensor", "expanded", "detached"],
)
def test_every_form_of_an_image_gives_the_same(door: Door, form: Callable[[torch.Tensor], Any]) -> None:
    image = form(_image())
    kept = np.asarray(image).copy()
    result = door(image)
    assert np.array_equal(np.asarray(result), np.asarray(door(_image())))
    assert np.array_equal(np.asarray(image), kept), "the input was changed"
    assert not result.requires_grad


def test_values_that_are_not_finite_stay(run: Path) -> None:
    image = _image() * 0.73
    image[0, 8, 8, 6], image[0, 8, 9, 6], image[0, 0, 0, 0] = float("nan"), float("inf"), float("nan")
    result = SALMProtect(surrogate=run / "out.work" / "surrogate.safetensors")(image, 1)
    assert np.array_equal(np.isfinite(np.asarray(result)), np.isfinite(image.numpy()))
    assert not np.array_equal(np.asarray(result), image.numpy(), equal_nan=True)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (float("nan"), "a finite number, an array of numbers, or the name of a class is needed"),
        (0.5, "label 0.5 is no class from 0 to 1"),
        (-1, "label -1 is no class from 0 to 1"),
        ([0, 2], "the label has shape"),
        ([1, 1], "the label has shape"),
        (np.array(["a", "b"]), "the name of a class is needed"),
        ({}, "the name of a class is needed|the label has shape"),
        (torch.tensor([0.0, 1.0, 0.0]), r"the label has shape \(3,\); one class is needed"),
        ("Healthy", r"label 'Healthy' is not one of the surrogate's classes"),
    ],
    ids=str,
)
def test_odd_label_is_one_line(run: Path, label: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        SALMProtect(surrogate=run / "out.work" / "surrogate.safetensors")(_image(), label)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rounds": 0}, "rounds 0 must be at least 1"),
        ({"device": "nonsense"}, "device 'nonsense' cannot be used"),
        ({"device": "cuda:99"}, "cannot be used"),
    ],
    ids=str,
)
def test_odd_arguments(run: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        SALMProtect(surrogate=run / "out.work" / "surrogate.safetensors", **arguments)
    assert "\n" not in str(caught.value)


def test_masks_refuse_what_has_no_values() -> None:
    with pytest.raises(UsageError, match="requires a gradient"):
        AnatomyMask()(_image().requires_grad_())


# Stored noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.2, -0.2, 0.01])
def test_image_that_was_moved_by_less_than_a_step_is_refused(run: Path, shift: float) -> None:
    """Its voxels would move by the shift beyond the budget."""
    with pytest.raises(UsageError, match="does not hold the values"):
        SALMProtect(noise=run / "out.work" / "noise")(_image() + shift)


def test_integers_that_cannot_hold_what_was_written_are_refused(tmp_path: Path) -> None:
    values = block(0)[0] * 2  # even, so that half of each is whole and the noise is not
    nifti_file(tmp_path / "in" / "v.nii.gz", values, slope=0.5, intercept=0.0)
    protect(tmp_path / "in", tmp_path / "out", small(method="random"))
    transform, real = SALMProtect(noise=tmp_path / "out.work" / "noise"), torch.from_numpy(values // 2)[None]
    with pytest.raises(
        UsageError, match="the protected values are not whole, and the image is int16; load it as float32"
    ):
        transform(real)
    assert not torch.equal(transform(real.float()).as_tensor(), real.float())


def _copy(run: Path, folder: Path) -> tuple[NoiseStore, str]:
    shutil.copytree(run / "out.work" / "noise", folder / "noise")
    store = NoiseStore(folder / "noise")
    name = next(name for name in store if store.record(name)["files"][0]["fingerprint"] == name)
    return store, name


def test_noise_that_changes_nothing_is_refused(run: Path, tmp_path: Path) -> None:
    store, _ = _copy(run, tmp_path)
    for name in list(store):
        noise = store.read(name)
        store.write(name, SparseNoise.from_dense(np.zeros(noise.shape, np.int16), noise.levels), store.record(name))
    with pytest.raises(RefusedError, match="changes nothing of this image, which would stay unprotected"):
        SALMProtect(noise=store.folder)(_image())


def test_noise_beyond_its_files_budget_is_cut_to_it(run: Path, tmp_path: Path) -> None:
    store, _ = _copy(run, tmp_path)
    for name in list(store):
        noise = store.read(name)
        store.write(name, SparseNoise.from_dense(np.full(noise.shape, 120), 127), store.record(name))
    limits = {name: store.record(name)["files"][0]["canvas"]["budgets"][0]["epsilon_real"] for name in store}
    change = (SALMProtect(noise=store.folder)(_image()).as_tensor() - _image()).abs().max()
    assert 0 < change <= max(limits.values())


def test_broken_bound_is_never_returned(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_salm.canvas.Canvas.add", lambda _, stored, *__: stored + 50)
    with pytest.raises(VerificationError, match="break a bound: the largest change is 50 stored units, the limit"):
        door(_image())


@pytest.mark.parametrize("damage", ["cut", "mask", "values", "levels", "shape", "record", "other sample"])
def test_damaged_noise_is_told(run: Path, tmp_path: Path, damage: str) -> None:
    store, _ = _copy(run, tmp_path)
    for name in list(store):
        path, noise = store._path(name), store.read(name)
        tensors: dict[str, Any] = {"mask": noise.mask, "values": noise.values}
        metadata = {
            "format": STORE_FORMAT,
            "sample_id": name,
            "shape": json.dumps(noise.shape),
            "levels": str(noise.levels),
        }
        metadata["record"] = json.dumps(store.record(name))
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-9])
            continue
        if damage == "mask":
            tensors["mask"] = noise.mask[:-1]
        elif damage == "values":
            tensors["values"] = noise.values[:1]
        elif damage in ("levels", "shape"):
            metadata[damage] = {"levels": "1", "shape": "[2, 2, 2]"}[damage]
        elif damage == "record":
            del metadata["record"]
        else:
            metadata["sample_id"] = name[::-1]
        path.write_bytes(sealed_safetensors(save(tensors, metadata)))
    with pytest.raises(SalmError, match=r"damaged noise file|no noise for sample") as caught:
        SALMProtect(noise=store.folder)(_image())
    assert "\n" not in str(caught.value)


def test_advice_for_damaged_noise_helps(tmp_path: Path) -> None:
    nifti_export(tmp_path / "in", 2)
    options: dict[str, Any] = {"method": "random"}
    protect(tmp_path / "in", tmp_path / "out", small(**options))
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    noise = next((tmp_path / "out.work" / "noise").iterdir())
    whole = noise.read_bytes()
    noise.write_bytes(whole[:-9])
    transform = SALMProtectd("image", noise=tmp_path / "out.work" / "noise")
    chain = Compose([LoadImaged("image"), EnsureChannelFirstd("image", channel_dim="no_channel")])
    items = [chain({"image": path}) for path in sorted((tmp_path / "in").iterdir())]
    with pytest.raises(SalmError, match="run again with --resume, which makes it anew"):
        [transform(item) for item in items]
    protect(tmp_path / "in", tmp_path / "out", small(**options, resume=True))
    assert noise.read_bytes() == whole
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == written
    [transform(item) for item in items]
