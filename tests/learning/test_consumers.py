# SPDX-License-Identifier: Apache-2.0
"""What consumers do to images."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from monai_salm.learning.consumers import (
    NO_AUGMENTATION,
    ConsumerAugmentation,
    _move,
    _move_and_zoom,
    binomial_blur,
    halve_and_enlarge,
)

ALL = {"flip": 0.5, "shift": 0.1, "zoom": 0.1, "blur": 0.5, "window": 0.1, "identity": 0.0}
NONE = dict.fromkeys(ALL, 0.0)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=_generator(9))


@pytest.mark.parametrize("shape", [(4, 1, 16, 12), (2, 2, 8, 10, 12)], ids=["2d", "3d"])
def test_shape_stays_and_the_seed_decides(shape: tuple[int, ...]) -> None:
    images = _images(*shape)
    before = images.clone()
    augmentation = ConsumerAugmentation(**ALL)
    first, second, other = (augmentation(images, _generator(seed))[0] for seed in (1, 1, 2))
    assert first.shape == images.shape
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)


def test_only_the_generator_is_random() -> None:
    state = torch.random.get_rng_state()
    ConsumerAugmentation(**ALL)(_images(4, 1, 8, 8), _generator())
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "augmentation",
    [NO_AUGMENTATION, ConsumerAugmentation(**ALL | {"identity": 1.0, "blur": 0.0}), ConsumerAugmentation(**NONE)],
)
def test_identity(augmentation: ConsumerAugmentation) -> None:
    images, labels = _images(4, 1, 8, 8), torch.ones(4, 8, 8, dtype=torch.int64)
    changed, moved = augmentation(images, _generator(), labels)
    assert torch.equal(changed, images)
    assert moved is not None
    assert torch.equal(moved, labels)


def test_some_samples_stay_as_they_are() -> None:
    images = _images(200, 1, 8, 8)
    changed = ConsumerAugmentation(**ALL | {"identity": 0.25, "blur": 0.0})(images, _generator())[0]
    kept = (changed - images).abs().amax(dim=(1, 2, 3)) < 1e-5
    assert 0.15 < float(kept.float().mean()) < 0.35


@pytest.mark.parametrize("shape", [(3, 1, 6, 8), (2, 1, 4, 6, 8)], ids=["2d", "3d"])
def test_flips_are_flips_of_every_axis(shape: tuple[int, ...]) -> None:
    images = _images(*shape)
    changed = ConsumerAugmentation(**NONE | {"flip": 1.0})(images, _generator())[0]
    assert torch.allclose(changed, images.flip(dims=list(range(2, len(shape)))), atol=1e-5)


def test_each_axis_flips_by_itself() -> None:
    images = _images(64, 1, 6, 8)
    changed = ConsumerAugmentation(**NONE | {"flip": 0.5})(images, _generator())[0]
    candidates = [images, images.flip(2), images.flip(3), images.flip(2, 3)]
    which = torch.stack([(changed - candidate).abs().amax(dim=(1, 2, 3)) < 1e-5 for candidate in candidates])
    assert which.sum(dim=0).tolist() == [1] * 64
    assert which.any(dim=1).all()


def test_shifts_are_whole_voxels_with_zeros_behind() -> None:
    images = _images(32, 1, 20, 10) + 0.5
    changed = ConsumerAugmentation(**NONE | {"shift": 0.1})(images, _generator())[0]
    seen = set()
    for image, result in zip(images[:, 0], changed[:, 0], strict=True):
        for down in range(-2, 3):
            for right in range(-1, 2):
                expected = torch.zeros_like(image)
                expected[max(0, -down) : 20 - max(0, down), max(0, -right) : 10 - max(0, right)] = image[
                    max(0, down) : 20 + min(0, down), max(0, right) : 10 + min(0, right)
                ]
                if torch.allclose(expected, result, atol=1e-4):
                    seen.add((down, right))
                    break
            else:
                continue
            break
        else:
            pytest.fail("an image was not moved by whole voxels")
    assert len(seen) > 6


@pytest.mark.parametrize("shape", [(8, 1, 12, 16), (4, 1, 8, 12, 16)], ids=["2d", "3d"])
def test_label_maps_follow_their_images(shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape[0], *shape[2:], dtype=torch.int64)
    labels[:, 2:5, 3:9] = 1
    labels[:, 5:7, 10:12] = 2
    augmentation = ConsumerAugmentation(**NONE | {"flip": 0.5, "shift": 0.2})
    changed, moved = augmentation(labels[:, None].float(), _generator(3), labels)
    assert moved is not None
    assert moved.dtype == torch.int64
    assert torch.equal(changed[:, 0].round().long(), moved)
    assert not torch.equal(moved, labels)


@pytest.mark.parametrize("shape", [(40, 2, 9, 14), (40, 1, 5, 8, 7)], ids=["2d", "3d"])
def test_gathered_move_is_the_affine_one(shape: tuple[int, ...]) -> None:
    draws = _generator(4)
    images, dims, lengths = _images(*shape), len(shape) - 2, torch.tensor(shape[2:])
    labels = torch.randint(0, 4, (shape[0], *shape[2:]), generator=draws).to(torch.uint8)
    flips = torch.where(torch.rand(shape[0], dims, generator=draws) < 0.5, -1.0, 1.0)
    shifts = torch.stack(
        [torch.randint(-int(n) - 1, int(n) + 2, (shape[0],), generator=draws) for n in lengths], dim=1
    ).float()
    gathered, moved = _move(images, labels, flips, shifts)
    expected, followed = _move_and_zoom(images, labels, flips, shifts / lengths * 2, torch.ones(shape[0]))
    assert torch.allclose(gathered, expected, atol=1e-4)
    assert moved is not None
    assert moved.dtype == torch.uint8
    assert torch.equal(moved, followed)
    assert torch.equal(_move(labels[:, None].float(), None, flips, shifts)[0][:, 0], moved.float()), (
        "the labels follow their images"
    )
    assert torch.isin(gathered, torch.cat([images.flatten(), torch.zeros(1)])).all(), "no value is new"


def test_move_sends_gradients_back_where_the_values_came_from() -> None:
    images = _images(6, 1, 9, 14).requires_grad_(True)
    augmentation = ConsumerAugmentation(**NONE | {"flip": 0.5, "shift": 0.2})
    weights = _images(6, 1, 9, 14) + 1
    moved = augmentation(images, _generator(5))[0]
    assert not torch.equal(moved, images)
    (gradient,) = torch.autograd.grad((moved * weights).sum(), images)
    # Each value went to one place or out of the picture, so its gradient is the weight of that place, or 0.
    places, _ = augmentation(torch.arange(1.0, 127.0).reshape(1, 1, 9, 14).expand(6, 1, 9, 14), _generator(5))
    expected = torch.zeros(6, 127).scatter_(1, places.flatten(1).long(), weights.flatten(1))[:, 1:]
    assert torch.equal(gradient.flatten(1), expected)
    assert (gradient == 0).any()


def test_zoom_and_window_change_what_they_say() -> None:
    images = torch.full((16, 1, 8, 8), 0.5)
    changed = ConsumerAugmentation(**NONE | {"window": 0.1})(images, _generator())[0]
    assert (changed[:, 0, 0, 0] - 0.5).abs().max() <= 0.5 * 0.1 + 0.05 + 1e-6
    assert changed.std(dim=(1, 2, 3)).max() < 1e-6
    assert changed[:, 0, 0, 0].std() > 0.01
    ramp = torch.linspace(0, 1, 9).expand(16, 1, 9, 9).contiguous()
    zoomed = ConsumerAugmentation(**NONE | {"zoom": 0.2})(ramp, _generator())[0]
    slopes = zoomed[:, 0, 4, 5] - zoomed[:, 0, 4, 4]
    assert (slopes * 8 - 1).abs().max() <= 0.2 + 1e-4
    assert slopes.std() > 0.001


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_is_binomial_along_every_axis(dims: int) -> None:
    image = torch.zeros(1, 2, *[5] * dims)
    image[(0, 1, *[2] * dims)] = 64.0
    blurred = binomial_blur(image)
    assert blurred[0, 0].abs().sum() == 0
    assert float(blurred[(0, 1, *[2] * dims)]) == 64 / 2**dims
    assert float(blurred[(0, 1, *[1] * dims)]) == 64 / 4**dims
    assert float(blurred.sum()) == 64
    assert torch.allclose(binomial_blur(torch.ones(1, 1, *[4] * dims)), torch.ones(1))


def test_blur_is_drawn() -> None:
    images = _images(2, 1, 8, 8)
    assert torch.equal(ConsumerAugmentation(**NONE | {"blur": 1.0})(images, _generator())[0], binomial_blur(images))


def test_gradients_reach_the_images() -> None:
    images = _images(4, 1, 8, 8).requires_grad_(True)
    ConsumerAugmentation(**ALL)(images, _generator())[0].sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).float().mean() > 0.5


def test_it_survives_json() -> None:
    augmentation = ConsumerAugmentation(**ALL)
    assert ConsumerAugmentation(**json.loads(json.dumps(augmentation.to_json()))) == augmentation


@pytest.mark.parametrize("shape", [(2, 1, 9, 8), (2, 1, 7, 8, 6)])
def test_halving_takes_the_shortest_waves_and_leaves_long_ones(shape: tuple[int, ...]) -> None:
    index = torch.arange(shape[-1])
    shortest = (0.5 + 0.4 * (-1.0) ** index).expand(shape)
    assert torch.allclose(halve_and_enlarge(shortest), torch.full(shape, 0.5))
    ramp = (index / 10).expand(shape)
    assert torch.allclose(halve_and_enlarge(ramp)[..., 1:-1], ramp[..., 1:-1], atol=1e-6)


def test_resampling_is_drawn_and_gradients_flow() -> None:
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    always = ConsumerAugmentation(flip=0, shift=0, resample=1.0)
    changed, _ = always(images, torch.Generator().manual_seed(0))
    assert torch.equal(changed, halve_and_enlarge(images))
    changed.sum().backward()
    assert images.grad is not None
    never, _ = replace(always, resample=0.0)(images, torch.Generator().manual_seed(0))
    assert torch.equal(never, images)
