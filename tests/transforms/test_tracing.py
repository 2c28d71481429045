# SPDX-License-Identifier: Apache-2.0
"""What a protected image says of itself, how its noise is taken off, and labels and channels in all their forms; over
MONAI's three kinds of arrays.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, decollate_batch
from monai.transforms import Compose, Flipd, Invertd, LoadImaged, Resized, ScaleIntensityd, Spacingd

from monai_salm.errors import RefusedError, UsageError
from monai_salm.pipeline import protect
from monai_salm.transforms import AnatomyMask, LoadFaithful, LoadFaithfuld, SALMProtect, SALMProtectd, SparsityMask
from tests.exports import block, body, drawn, mr_export, mr_labels, mr_series, nifti_export, small

NDARRAYS: tuple[Callable[[Any], Any], ...] = (np.array, torch.as_tensor, MetaTensor)
EVERY_KIND = pytest.mark.parametrize("kind", NDARRAYS, ids=["array", "tensor", "MetaTensor"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over NIfTI files with noise that was drawn, over a series, and searches over slices and label maps."""
    folder = tmp_path_factory.mktemp("runs")
    nifti_export(folder / "in", 2)
    mr_series(folder / "series", 0, slices=4)
    for name, sample in (("in", "auto"), ("series", "series")):
        protect(folder / name, folder / f"{name}-out", drawn(sample=sample))
    protect(folder / "series", folder / "slices-out", drawn(sample="instance"))
    mr_export(folder / "2D", 4)
    protect(folder / "2D", folder / "2D-out", small(labels=mr_labels(folder / "l.csv", 4)))
    nifti_export(folder / "maps", 4, suffix=".nii", labels=folder / "labels")
    protect(
        folder / "maps", folder / "maps-out",
        small(labels=folder / "labels", task="segmentation", method="salm:minmin", surrogate="small-unet"),
    )  # fmt: skip
    return folder


def _stored(runs: Path, name: str = "in") -> SALMProtectd:
    return SALMProtectd("image", noise=runs / f"{name}-out.work" / "noise")


def _frozen(runs: Path, name: str = "2D", **options: Any) -> SALMProtect:
    return SALMProtect(surrogate=runs / f"{name}-out.work" / "surrogate.safetensors", rounds=1, **options)


def test_image_says_what_was_done(runs: Path) -> None:
    image = LoadFaithful()(runs / "in" / "v0.nii.gz")
    (entry,) = _stored(runs)({"image": image})["image"].applied_operations
    told = entry["extra_info"]
    assert (entry["class"], told["source"]) == ("SALMProtect", "stored noise")
    assert told["software"].startswith("monai_salm ")
    assert 0 < told["changed_fraction"] < 0.5
    assert told["max_change"] > 0
    assert all(isinstance(value, (str, float)) for value in told.values()), "what every collate function takes"
    (entry,) = _frozen(runs)(MetaTensor(body(9)[None].astype(np.float32)), "ill").applied_operations
    assert entry["extra_info"]["source"] == "frozen surrogate"
    assert entry["extra_info"].keys() == told.keys()


@pytest.mark.parametrize("name", ["in", "series", "slices"])
@pytest.mark.parametrize("between", [[], [Flipd("image", 1)]], ids=["alone", "flipped"])
def test_stored_noise_is_taken_off_exactly(runs: Path, name: str, between: list[Any]) -> None:
    path = runs / "in" / "v1.nii.gz" if name == "in" else runs / "series"
    chain = Compose([LoadFaithfuld("image"), _stored(runs, name), *between])
    found = chain({"image": path})
    assert not torch.equal(found["image"].as_tensor(), LoadFaithful()(path).as_tensor())
    back = chain.inverse(found)["image"]
    assert torch.equal(back.as_tensor(), LoadFaithful()(path).as_tensor())
    assert not back.applied_operations


def test_noise_that_is_not_stored_is_not_taken_off(runs: Path) -> None:
    transform = _frozen(runs)
    found = transform(MetaTensor(body(9)[None].astype(np.float32)), "ill")
    with pytest.raises(UsageError, match=r"optimized here and is stored nowhere, .*load the original"):
        transform.inverse(found)
    assert len(found.applied_operations) == 1, "the image is still the protected one, and says so"
    with pytest.raises(UsageError, match="nothing says that this image was protected"):
        transform.inverse(found.as_tensor())


def test_noise_of_another_run_is_not_taken_off(runs: Path, tmp_path: Path) -> None:
    protect(runs / "in", tmp_path / "out", drawn(seed=5))
    found = _stored(runs)({"image": LoadFaithful()(runs / "in" / "v0.nii.gz")})["image"]
    other = SALMProtect(noise=tmp_path / "out.work" / "noise")
    found.applied_operations[-1]["id"] = id(other)
    with pytest.raises(RefusedError, match="it does not hold the noise of this run; load the original"):
        other.inverse(found)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "surrogate"])
def test_predictions_go_back_through_a_protecting_pipeline(runs: Path, stored: bool) -> None:
    """What the network said is no image: there is nothing to take off, and nothing to refuse."""
    protecting = _stored(runs) if stored else SALMProtectd(
        "image", surrogate=runs / "maps-out.work" / "surrogate.safetensors", label_key="label", rounds=1
    )  # fmt: skip
    chain = Compose(
        [
            LoadFaithfuld(["image", "label"]),
            protecting,
            Flipd("image", 0),
            Spacingd("image", 2.0),
            ScaleIntensityd("image"),
        ]
    )
    names = ("in/v0.nii.gz", "labels/v0.nii")
    data = chain({key: runs / name for key, name in zip(("image", "label"), names, strict=True)})
    data["pred"] = MetaTensor((data["image"] > 0.5).as_tensor().float())
    back = Invertd("pred", chain, orig_keys="image")(data)["pred"]
    assert back.shape == LoadFaithful()(runs / "in" / "v0.nii.gz").shape


def test_batches_carry_the_trace(runs: Path) -> None:
    chain = Compose([LoadFaithfuld("image"), _stored(runs)])
    data = CacheDataset([{"image": runs / "in" / f"v{n}.nii.gz"} for n in range(2)], chain, progress=False)
    (batch,) = DataLoader(data, batch_size=2)
    for item in decollate_batch(batch):
        assert item["image"].applied_operations[-1]["extra_info"]["source"] == "stored noise"
        assert torch.equal(
            chain.inverse(item)["image"].as_tensor(), LoadFaithful()(item["image"].meta["filename_or_obj"])
        )


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Flipd("image", 0)], "right after loading, as float32 or float64, before Flip$"),
        ([Resized("image", (8, 8, 8)), Flipd("image", 0)], "before Resize, Flip$"),
        (
            [ScaleIntensityd("image")],
            r"its values lie in \[0, 1\], those of the file in \[0, 6.*\], so a step that changes",
        ),
        ([lambda data: {"image": data["image"].as_tensor().flip(1)}], "before any change of intensity"),
    ],
    ids=["flip", "two", "intensity", "no metadata"],
)
def test_refusal_names_the_step_in_the_wrong_place(runs: Path, steps: list[Any], message: str) -> None:
    chain = Compose([LoadImaged("image", ensure_channel_first=True), *steps])
    image = chain({"image": runs / "maps" / "v0.nii"})["image"]
    with pytest.raises(UsageError, match=message):
        _stored(runs)({"image": image})
    if isinstance(image, MetaTensor):
        with pytest.raises(UsageError, match=message):
            _frozen(runs, "maps")(image, torch.zeros(1, 16, 16, 12))


def test_second_protection_is_refused(runs: Path) -> None:
    once = _stored(runs)({"image": LoadFaithful()(runs / "in" / "v0.nii.gz")})
    with pytest.raises(UsageError, match="SALMProtect was applied to it before; protect an image once"):
        _stored(runs)(once)


@EVERY_KIND
def test_labels_may_be_one_hot(runs: Path, kind: Callable[[Any], Any]) -> None:
    image = body(9)[None].astype(np.float32)
    protecting = _frozen(runs)
    for number, name in enumerate(("healthy", "ill")):
        one_hot = kind(np.eye(2, dtype=np.float32)[number])
        assert torch.equal(torch.as_tensor(protecting(image, one_hot)), torch.as_tensor(protecting(image, name)))
    values, label_map = block(9)
    protecting, one_hot = _frozen(runs, "maps"), np.moveaxis(np.eye(2, dtype=np.float32)[label_map], -1, 0)
    found = [protecting(values[None].astype(np.float32), label) for label in (kind(label_map[None]), kind(one_hot))]
    assert torch.equal(torch.as_tensor(found[0]), torch.as_tensor(found[1]))
    with pytest.raises(UsageError, match="has 2 channels, of which 1 to 2 are 1 at one place; one-hot labels have one"):
        protecting(values[None].astype(np.float32), np.stack([np.ones_like(label_map), label_map]))


@EVERY_KIND
@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 12)], ids=["2D", "3D"])
def test_masks_of_channels(kind: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    values = block(1)[0].astype(np.float32)[(..., *[6] * (3 - len(shape)))]
    colors = AnatomyMask()(kind(np.stack([values, values / 2, values / 4])))
    assert colors.shape == (3, *shape)
    assert np.array_equal(np.asarray(colors)[0], np.asarray(colors)[2])
    assert 0.2 < float(np.asarray(colors).mean()) < 0.9
    marked = SparsityMask(0.1)(kind(np.stack([values, values / 2, values / 4])))
    assert int(np.asarray(marked).sum()) == int(3 * np.prod(shape) * 0.1)


@EVERY_KIND
def test_channels_that_no_file_explains_are_refused(runs: Path, kind: Callable[[Any], Any]) -> None:
    image = np.stack([body(9), body(9) / 2, body(9) / 3]).astype(np.float32)
    with pytest.raises(UsageError, match=re.escape("shape (3, 24, 24) has 3 channels, and no file says what they are")):
        _frozen(runs)(kind(image), "ill")
    colors = np.stack([body(9) // 3, body(9) // 6, body(9) // 9]).astype(np.float32)
    found = np.asarray(_frozen(runs)(kind(colors), "ill"))
    assert 0 < np.abs(found - colors).max() <= 8
    assert np.array_equal(found, np.rint(found))
