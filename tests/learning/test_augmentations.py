# SPDX-License-Identifier: Apache-2.0
"""What victims do to their images, by name: repeatable, sample by sample, and label maps follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import get_track_meta
from torch import Tensor

from monai_salm.errors import UsageError
from monai_salm.learning import augmentations
from monai_salm.learning.augmentations import AUGMENTATIONS, NnUNetAugmentation, find_augmentation

NNUNET = NnUNetAugmentation()


def _draws(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, 10), np.float32))


def _boxes(count: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Give images of a bright box, away from the middle, on a ramp, and the box as a label map."""
    labels = torch.zeros(count, *shape, dtype=torch.int64)
    labels[(slice(None), *(slice(length // 8, length // 2) for length in shape))] = 2
    ramp = torch.linspace(0.1, 0.3, shape[-1]).expand(count, *shape)
    return (ramp + 0.3 * labels)[:, None], labels


def test_names() -> None:
    assert list(AUGMENTATIONS) == ["none", "flips", "nnunet"]
    images, labels = _boxes(3, 16, 16)
    for name, changes in (("none", False), ("flips", True), ("nnunet", True)):
        seen, maps = find_augmentation(name).apply(images, _draws(3), labels)
        assert torch.equal(seen, images) is not changes
        assert maps is not None
        assert torch.equal(maps, labels) is not changes
    with pytest.raises(UsageError, match="augmentation 'flip' is unknown; choose among none, flips, nnunet"):
        find_augmentation("flip")


@pytest.mark.parametrize("shape", [(3, 24, 16), (1, 16, 24, 8)])
def test_nnunet_is_repeatable_sample_by_sample(shape: tuple[int, ...]) -> None:
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    draws = _draws(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    together, maps = NNUNET.apply(images, draws)
    assert maps is None
    assert (together.shape, together.dtype, type(together)) == (images.shape, images.dtype, Tensor)
    assert bool(together.isfinite().all())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    order = torch.tensor([3, 1])
    assert torch.equal(NNUNET.apply(images[order], draws[order])[0], together[order])
    assert not torch.equal(NNUNET.apply(images, _draws(5, seed=1))[0], together)


@pytest.mark.parametrize("shape", [(32, 32), (24, 24, 24)])
def test_label_maps_follow_their_images(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """To the voxel: with the intensities left alone, the box is where its label is."""
    images, labels = _boxes(64, *shape)
    monkeypatch.setattr(augmentations, "_changes", lambda dims: [])
    seen, maps = NNUNET.apply(images, _draws(64), labels)
    assert maps is not None
    assert maps.dtype == torch.int64
    assert maps.unique().tolist() == [0, 2]
    bright, inside = seen.flatten(1) > 0.5, maps.flatten(1) == 2
    dice = 2 * (bright & inside).sum(1) / (bright.sum(1) + inside.sum(1))
    assert float(dice.min()) > 0.9
    assert float(dice.mean()) > 0.99


def test_nnunet_does_each_thing_as_often_as_nnunet() -> None:
    """Its map stays where a sample is neither turned nor scaled (0.8 each) nor mirrored (0.5 an axis); of its own image
    nothing changes there in one of three cases (0.9 0.9 0.85 0.85 0.875 0.9 0.7).
    """
    images, labels = _boxes(400, 16, 16)
    labels[:, 2, 3] = 1  # no mirror leaves it where it is
    seen, maps = NNUNET.apply(images, _draws(400), labels)
    assert maps is not None
    unmoved = (maps == labels).flatten(1).all(dim=1)
    assert float(unmoved.float().mean()) == pytest.approx(0.16, abs=0.05)
    same = (seen - images).flatten(1).abs().amax(dim=1)[unmoved] < 1e-5
    assert float(same.float().mean()) == pytest.approx(0.323, abs=0.15)


@pytest.mark.parametrize(("shape", "most"), [((48, 48), 90.0), ((32, 64), 15.0)])
def test_long_slices_are_turned_little(shape: tuple[int, int], most: float) -> None:
    labels = torch.zeros(200, *shape, dtype=torch.int64)
    labels[:, shape[0] // 2, 8:-8] = 1
    _, maps = NNUNET.apply(labels[:, None] * 0.5, _draws(200), labels)
    assert maps is not None
    angles = []
    for one in maps:
        rows, columns = np.nonzero(one.numpy())
        if len(rows) > 8:
            across = np.linalg.eigh(np.cov(rows, columns))[1][:, 1]
            angles.append(math.degrees(math.atan2(abs(across[0]), abs(across[1]))))
    assert most / 2 < max(angles) < most + 2


def test_histories_of_monai_are_kept_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_track_meta()
    images, _ = _boxes(2, 8, 8)
    NNUNET.apply(images, _draws(2))
    assert get_track_meta()

    class BrokenState:
        def __init__(self, seed: object) -> None:
            raise RuntimeError(f"stopped at {get_track_meta()}")

    monkeypatch.setattr(augmentations.np.random, "RandomState", BrokenState)
    with pytest.raises(RuntimeError, match="stopped at False"):
        NNUNET.apply(images, _draws(2))
    assert get_track_meta()


def test_even_images_stay_even() -> None:
    """An image of one value has no spread to divide by."""
    images = torch.full((32, 1, 8, 8), 0.5)
    seen, maps = NNUNET.apply(images, _draws(32), torch.ones(32, 8, 8, dtype=torch.int64))
    assert maps is not None
    assert bool(seen.isfinite().all())
    whole = maps.flatten(1).all(dim=1)  # nothing came from outside
    assert int(whole.sum()) > 8
    assert torch.allclose(seen[whole], images[whole], atol=1e-5)
