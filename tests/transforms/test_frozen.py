# SPDX-License-Identifier: Apache-2.0
"""Noise made in the pipeline with a run's surrogate, and the masks."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import monai_salm.transforms as transforms
from monai_salm.background import border_values, find_window
from monai_salm.errors import UsageError
from monai_salm.pipeline import protect
from monai_salm.transforms import AnatomyMask, AnatomyMaskd, SALMProtect, SALMProtectd, SparsityMask, SparsityMaskd
from tests.exports import block, body, lesion_table, mr_export, mr_labels, nifti_export, small

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def surrogates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("surrogates")
    mr_export(folder / "2D", 4)
    nifti_export(folder / "3D", 4, suffix=".nii")
    nifti_export(folder / "maps", 4, suffix=".nii", labels=folder / "labels")
    tables = {
        "2D": mr_labels(folder / "a.csv", 4),
        "3D": lesion_table(folder / "b.csv", (f"v{n}.nii" for n in range(4))),
    }
    for name, labels in tables.items():
        protect(folder / name, folder / f"{name}-out", small(labels=labels))
    protect(
        folder / "maps",
        folder / "maps-out",
        small(labels=folder / "labels", task="segmentation", method="salm:minmin", surrogate="small-unet"),
    )
    return {name: folder / f"{name}-out.work" / "surrogate.safetensors" for name in ("2D", "3D", "maps")}


def _image(kind: str) -> tuple[torch.Tensor, Any]:
    if kind == "2D":
        return torch.from_numpy(body(9).astype(np.float32))[None], "ill"
    values, label_map = block(9)
    return torch.from_numpy(values.astype(np.float32))[None], 1 if kind == "3D" else torch.from_numpy(label_map)[None]


@pytest.mark.parametrize("kind", ["2D", "3D", "maps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16], ids=str)
def test_noise_is_bounded_repeatable_and_inside(surrogates: dict[str, Path], kind: str, dtype: torch.dtype) -> None:
    image, label = _image(kind)
    data = {"image": MetaTensor(image.to(dtype), meta={"patient": "x"}), "label": label}
    transform = SALMProtectd("image", surrogate=surrogates[kind], label_key="label", rounds=2)
    state, unused = torch.get_rng_state(), pickle.dumps(transform)
    first = transform(data)["image"]
    with torch.no_grad():
        second = pickle.loads(pickle.dumps(transform))(data)["image"]  # noqa: S301
    assert torch.equal(torch.get_rng_state(), state)
    assert pickle.dumps(transform) == unused, "the network was pickled"
    assert torch.equal(first, second)
    assert (first.dtype, first.meta["patient"]) == (dtype, "x")
    change = first.as_tensor().double() - image.double()
    values = image[0].numpy().astype(np.float64)
    window, _ = find_window("", values.ravel(), border_values(values))
    assert 0 < change.abs().max() <= 8 / 255 * window.width
    assert not change[image == 0].any()
    assert 0.2 < (change != 0).sum() / (image > 0).sum() <= 0.41


def test_bound_holds_for_floats_that_are_not_whole(surrogates: dict[str, Path]) -> None:
    image, label = _image("2D")
    scaled = image * 0.7317
    result = SALMProtect(surrogate=surrogates["2D"], rounds=2)(scaled, label)
    values = scaled[0].numpy().astype(np.float64)
    window, _ = find_window("", values.ravel(), border_values(values))
    assert 0 < (torch.as_tensor(result).double() - scaled.double()).abs().max() <= 8 / 255 * window.width


def test_class_may_be_a_name_or_a_number(surrogates: dict[str, Path]) -> None:
    image, _ = _image("2D")
    transform = SALMProtect(surrogate=surrogates["2D"], rounds=1)
    results = [transform(image, label) for label in ("ill", 1, torch.tensor(1), np.array([1]))]
    assert all(torch.equal(result, results[0]) for result in results)
    assert not torch.equal(transform(image, "healthy"), results[0])


@pytest.mark.parametrize(
    ("kind", "label", "message"),
    [
        ("2D", None, "there is none; give label_key"),
        ("2D", "unknown", r"label 'unknown' is not one of the surrogate's classes \['healthy', 'ill'\]"),
        ("2D", 2, "label 2 is no class from 0 to 1"),
        ("maps", torch.zeros(1, 8, 8, 8), "the label map has shape"),
        ("maps", torch.full((1, 16, 16, 12), 7), r"values \[7\]"),
    ],
    ids=["none", "name", "number", "shape", "values"],
)
def test_wrong_label(surrogates: dict[str, Path], kind: str, label: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SALMProtect(surrogate=surrogates[kind])(_image(kind)[0], label)


def test_image_of_another_dimension(surrogates: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="it was trained on 2D images, this one has 3 axes"):
        SALMProtect(surrogate=surrogates["2D"])(_image("3D")[0], 1)


@pytest.mark.parametrize("name", ["AnatomyMask", "SparsityMask", "SALMProtect"])
def test_aliases(name: str) -> None:
    assert getattr(transforms, f"{name}d") is getattr(transforms, f"{name}D") is getattr(transforms, f"{name}Dict")
    assert {name, f"{name}d", f"{name}D", f"{name}Dict"} <= set(transforms.__all__)


@pytest.mark.parametrize("make", [np.array, torch.as_tensor, MetaTensor], ids=["array", "tensor", "MetaTensor"])
@pytest.mark.parametrize("kind", ["2D", "3D"])
def test_anatomy(kind: str, make: Any) -> None:
    image = _image(kind)[0].numpy()
    mask = AnatomyMask()(make(image))
    assert isinstance(mask, MetaTensor)
    assert (mask.dtype, mask.shape) == (torch.float32, image.shape)
    assert np.array_equal(np.asarray(mask) > 0, image > 0)


def test_sparsity() -> None:
    score = torch.tensor([[[0.0, 5.0, 1.0, 2.0], [9.0, 8.0, 7.0, 6.0]]])
    assert torch.equal(SparsityMask(0.5)(score), MetaTensor([[[0.0, 0, 0, 0], [1, 1, 1, 1]]]))
    anatomy = torch.tensor([[[1, 1, 1, 1], [0, 0, 0, 0]]])
    assert torch.equal(SparsityMask(0.5)(score, anatomy), MetaTensor([[[0.0, 1, 0, 1], [0, 0, 0, 0]]]))
    with pytest.raises(UsageError, match="they must be the same"):
        SparsityMask()(score, anatomy[:, :1])
    with pytest.raises(UsageError, match=r"perturbed fraction 0 is not in \(0, 1\]"):
        SparsityMask(0)


def test_masks_of_dictionaries() -> None:
    data = {"image": _image("2D")[0], "score": torch.rand(1, 24, 24)}
    result = SparsityMaskd("score", 0.25, anatomy_key="mask_image", new_key_prefix="top_")(
        AnatomyMaskd("image", new_key_prefix="mask_")(data)
    )
    assert set(result) == {"image", "score", "mask_image", "top_score"}
    assert float(result["top_score"].sum()) == int(float(result["mask_image"].sum()) * 0.25)
    assert not result["top_score"][result["mask_image"] == 0].any()
    assert set(AnatomyMaskd("image")(data)) == set(data)
    assert AnatomyMaskd("x", allow_missing_keys=True)(data).keys() == data.keys()
