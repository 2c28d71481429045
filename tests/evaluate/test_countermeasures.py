# SPDX-License-Identifier: Apache-2.0
"""What each countermeasure does to images and to the loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

import monai_salm.evaluate.countermeasures as room
from monai_salm.errors import UsageError
from monai_salm.evaluate.countermeasures import (
    COUNTERMEASURES,
    NO_COUNTERMEASURE,
    Leak,
    filters,
    find_countermeasure,
    purify,
)
from monai_salm.evaluate.countermeasures.training import EPSILON, adversarial_loss, cutout_loss, mixup_loss
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.working_samples import WorkingSample

Image = NDArray[np.float32]
CPU = torch.device("cpu")
TWO = ClassificationTask(2)
NAMES = [
    "none", "strong-augmentation", "grayscale", "jpeg-90", "jpeg-75", "jpeg-50", "jpeg-30", "jpeg-10",
    "median-3", "median-5", "gaussian-0.5", "gaussian-1",
    "gaussian-2", "down-up", "6-bit", "5-bit", "4-bit", "window-shift", "percentile-clip", "clahe", "n4", "low-pass",
    "cutout", "mixup",
    "adversarial-training", "orthogonal-projection", "denoiser-10", "denoiser-100", "denoiser-500",
]  # fmt: skip
FILTERS = [found.name for found in filters.FILTERS]


def _images(number: int, shape: tuple[int, ...], seed: int = 0) -> list[Image]:
    """Smooth images that use the whole range."""
    smooth = [gaussian_filter(noise, 2) for noise in np.random.default_rng(seed).random((number, *shape))]
    return [((image - image.min()) / max(np.ptp(image), 1e-9)).astype(np.float32) for image in smooth]


def _checkerboard(*shape: int) -> Image:
    return ((-1.0) ** np.indices(shape).sum(axis=0)).astype(np.float32)


def _leak(
    samples: list[tuple[Image, object]],
    pairs: list[tuple[Image, Image]] | None = None,
    task: LearningTask = TWO,
    seed: int = 0,
) -> Leak:
    train = [
        WorkingSample(
            sample_id=f"{number:04}", image_model=image, carrier_voxels=np.ones(image.shape, np.int64),
            carrier_share=np.ones(image.shape, np.float32),
            anatomy_voxels=image.size, levels=8, step_model=1 / 255, target=target,
        )
        for number, (image, target) in enumerate(samples)
    ]  # fmt: skip
    return Leak(train, pairs or [], task, seed, CPU)


def _fit(name: str, leak: Leak | None = None) -> Callable[[Image], Image]:
    fit = find_countermeasure(name).fit
    assert fit is not None
    return fit(leak or _leak([]))


def test_all_that_were_promised_are_there() -> None:
    assert sorted(COUNTERMEASURES) == sorted(NAMES)
    assert all(found.name == name for name, found in COUNTERMEASURES.items())
    assert {name: found.leaked_pairs for name, found in COUNTERMEASURES.items() if found.leaked_pairs} == {
        f"denoiser-{n}": n for n in (10, 100, 500)
    }
    assert NO_COUNTERMEASURE.fit is NO_COUNTERMEASURE.augmentation is NO_COUNTERMEASURE.batch_loss is None
    steps = [
        (found.fit, found.augmentation, found.batch_loss) for name, found in COUNTERMEASURES.items() if name != "none"
    ]
    assert all(sum(part is not None for part in parts) == 1 for parts in steps)


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"'jpeg' is unknown; choose among none, grayscale, jpeg-90, .*denoiser-500"):
        find_countermeasure("jpeg")


def test_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"'clahe' needs the package scikit-image, .*; pip install 'scikit-image>=\d"):
        find_countermeasure("clahe")
    find_countermeasure("median-3")


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("shape", [(28, 27), (5, 7), (1, 9), (12, 16, 11), (1, 8, 9)], ids=str)
def test_filter_gives_an_image_of_the_same_kind(name: str, shape: tuple[int, ...]) -> None:
    (image,) = _images(1, shape)
    before = image.copy()
    change = _fit(name)
    result = change(image)
    assert (result.shape, result.dtype) == (shape, np.float32)
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert np.array_equal(image, before)
    assert np.array_equal(result, change(image))
    if min(shape) > 10:
        assert not np.array_equal(result, image)


@pytest.mark.parametrize("name", [name for name in FILTERS if name != "window-shift"])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_constant_image_stays_constant(name: str, value: float) -> None:
    result = _fit(name)(np.full((16, 16), value, dtype=np.float32))
    assert np.ptp(result) < 1e-6
    assert abs(float(result[0, 0]) - value) <= 0.5 / 15


@pytest.mark.parametrize("name", ["n4", "clahe", "percentile-clip"])
def test_one_bright_cell_in_the_dark(name: str) -> None:
    image = np.zeros((20, 20), np.float32)
    image[3, 4] = 0.5
    assert np.isfinite(_fit(name)(image)).all()


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("jpeg-90", 0.7, 1.3), ("jpeg-10", -0.05, 0.05), ("median-3", -1.1, 1.1), ("gaussian-0.5", 0.05, 0.7),
    ("gaussian-2", -0.01, 0.01),
     ("down-up", -0.01, 0.01), ("low-pass", -0.15, 0.15), ("6-bit", 0.7, 1.3)],
)  # fmt: skip
def test_how_much_of_a_checkerboard_is_left(name: str, least: float, most: float) -> None:
    board = _checkerboard(32, 32) * np.float32(8 / 255)
    left = float(((_fit(name)(0.5 + board) - 0.5) * board).sum() / (board * board).sum())
    assert least < left < most


def test_compression_takes_more_the_lower_the_quality() -> None:
    (image,) = _images(1, (32, 32))
    lost = [float(np.abs(_fit(f"jpeg-{quality}")(image) - image).mean()) for quality in (90, 75, 50, 30, 10)]
    assert lost == sorted(lost)
    assert lost[-1] > 3 * lost[0]


def test_values_are_rounded_to_8_bits_before_they_are_compressed() -> None:
    assert (_fit("jpeg-90")(np.full((16, 16), 100.7 / 255, np.float32)) == np.float32(101 / 255)).all()


def test_a_volume_is_compressed_slice_by_slice() -> None:
    (volume,) = _images(1, (3, 16, 20))
    for name in ("jpeg-30", "clahe"):
        change = _fit(name)
        assert np.array_equal(change(volume), np.stack([change(pixels) for pixels in volume]))


def test_median_removes_isolated_cells() -> None:
    image = np.full((16, 16), 0.5, np.float32)
    image[4::5, 4::5] += 8 / 255
    assert (_fit("median-3")(image) == 0.5).all()
    image[8:11, 8:11] = 1.0
    assert _fit("median-3")(image).max() == 1.0
    assert _fit("median-5")(image).max() == 0.5


@pytest.mark.parametrize("bits", [6, 5, 4])
def test_fewer_bits_leave_fewer_values(bits: int) -> None:
    image = np.linspace(0, 1, 900, dtype=np.float32).reshape(30, 30)
    result = _fit(f"{bits}-bit")(image)
    assert len(np.unique(result)) == 2**bits
    assert np.abs(result - image).max() <= 0.5 / (2**bits - 1) + 1e-6


def test_low_pass_keeps_what_is_coarse() -> None:
    coarse, fine = (
        0.5 + 0.4 * np.sin(2 * np.pi * np.arange(32) / period)[None].repeat(32, 0).astype(np.float32)
        for period in (16, 2.5)
    )
    change = _fit("low-pass")
    assert np.ptp(change(coarse)) > 0.95 * np.ptp(coarse)
    assert np.ptp(change(fine)) < 0.4 * np.ptp(fine)


def test_window_is_the_same_for_all_images_and_another_for_another_seed() -> None:
    middle = np.linspace(0.3, 0.7, 100, dtype=np.float32).reshape(10, 10)
    lines = [
        np.polyfit(middle.ravel(), _fit("window-shift", _leak([], seed=seed))(middle).ravel(), 1)
        for seed in (0, 0, 1, 2, 3)
    ]
    assert np.array_equal(lines[0], lines[1])
    assert len({round(float(gain), 5) for gain, _ in lines}) == 4
    for gain, offset in lines:
        assert 1 / 1.2 <= gain <= 1 / 0.8
        assert 0.39 <= (0.5 - offset) / gain <= 0.61


def test_filter_is_one_function_for_all_so_that_images_are_changed_once() -> None:
    leaks = _leak([]), _leak([], seed=1)
    same = [name for name in FILTERS if _fit(name, leaks[0]) is _fit(name, leaks[1])]
    assert same == [name for name in FILTERS if name != "window-shift"]


def test_percentiles_become_black_and_white() -> None:
    image = np.linspace(0.2, 0.6, 400, dtype=np.float32).reshape(20, 20)
    image[0, 0] = 1.0
    result = _fit("percentile-clip")(image)
    assert result[0, 1] == 0
    assert result.max() == 1
    assert (result == 1).sum() <= 3


def test_clahe_raises_local_contrast() -> None:
    (image,) = _images(1, (32, 32))
    flat = 0.4 + 0.1 * image
    flat[0, 0], flat[0, 1] = 0.0, 1.0
    assert _fit("clahe")(flat)[8:].std() > 1.5 * flat[8:].std()


def test_n4_finds_the_field_of_a_coil() -> None:
    blocks = np.kron(np.random.default_rng(0).choice([0.3, 0.6], (8, 8)), np.ones((4, 4)))
    field = np.exp(np.linspace(-0.15, 0.15, 32))[None]
    before = (blocks * field).astype(np.float32)
    after = _fit("n4")(before)

    def spread(image: Image) -> float:
        return float(
            np.mean([np.std(image[blocks == value]) / np.mean(image[blocks == value]) for value in (0.3, 0.6)])
        )

    assert spread(after) < 0.2 * spread(before)


def _linear(images: Tensor) -> Tensor:
    return torch.stack([images.flatten(1).sum(dim=1), images.flatten(1)[:, 0]], dim=1)


def test_cutout_hides_one_box_of_a_quarter_of_each_side() -> None:
    for shape in ((16, 24), (8, 12, 16)):
        images = torch.rand(6, 1, *shape, generator=torch.Generator().manual_seed(1))
        seen: list[Tensor] = []
        target = torch.tensor([0, 1, 0, 1, 0, 1])
        loss = cutout_loss(
            lambda x, seen=seen: seen.append(x) or _linear(x), TWO, images, target, torch.Generator().manual_seed(0)
        )
        assert loss.item() == pytest.approx(TWO.loss(_linear(seen[0]), target).mean().item())
        hidden = seen[0] != images
        corners = set()
        for image, cells, result in zip(images, hidden, seen[0], strict=True):
            where = cells[0].nonzero()
            assert len(where) == np.prod([n // 4 for n in shape])
            extent = where.max(dim=0).values - where.min(dim=0).values + 1
            assert extent.tolist() == [n // 4 for n in shape]
            assert torch.allclose(result[cells], image.mean())
            corners.add(tuple(where[0].tolist()))
        assert len(corners) > 2


@pytest.mark.parametrize("task", [ClassificationTask(4), SegmentationTask(4)], ids=["classes", "maps"])
def test_mixup_mixes_losses_as_it_mixes_images(task: LearningTask) -> None:
    images = torch.eye(4).reshape(4, 1, 2, 2)  # so that a mixed image says what it is made of
    target = (
        torch.arange(4)
        if isinstance(task, ClassificationTask)
        else torch.randint(4, (4, 2, 2), generator=torch.Generator().manual_seed(3))
    )
    seen: list[Tensor] = []

    def logits_of(x: Tensor) -> Tensor:
        seen.append(x)
        return (
            3 * x.flatten(1)
            if isinstance(task, ClassificationTask)
            else x.repeat(1, 4, 1, 1) * torch.arange(4.0).reshape(1, 4, 1, 1)
        )

    shares = set()
    for seed in range(4):
        loss = mixup_loss(logits_of, task, images, target, torch.Generator().manual_seed(seed))
        mixture = seen[-1].flatten(1)
        assert torch.allclose(mixture.sum(dim=1), torch.ones(4))
        losses = torch.stack([task.loss(logits_of(seen[-1]), target[[k] * 4]) for k in range(4)], dim=1)
        assert loss.item() == pytest.approx(float((mixture * losses).sum(dim=1).mean()), rel=1e-5)
        shares |= {round(float(share), 4) for share in mixture[mixture > 0]}
    assert len(shares) > 4


def test_adversarial_images_are_worse_than_random_ones_and_within_the_budget() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(144, 2, generator=generator, requires_grad=True)
    images, target = torch.rand(8, 1, 12, 12, generator=generator), torch.tensor([0, 1] * 4)
    images[:, :, :3] = 0.0
    seen: list[Tensor] = []

    def logits_of(x: Tensor) -> Tensor:
        seen.append(x)
        return x.flatten(1) @ weights / 12

    loss = adversarial_loss(logits_of, TWO, images, target, torch.Generator().manual_seed(0))
    plain = TWO.loss(logits_of(images), target).mean()
    start, last = seen[0], seen[5]
    assert len(seen) == 7
    random = TWO.loss(logits_of(start.detach()), target).mean()
    assert abs(random - plain) < 0.3 * (loss - plain)
    assert loss > plain + 0.1
    assert (last - images).abs().max() == pytest.approx(EPSILON, abs=1e-6)
    assert last.min() == 0
    # The best possible against a linear model: every value by epsilon, where it may go.
    side = torch.where(target == 0, -1.0, 1.0)[:, None] * (weights[:, 0] - weights[:, 1])
    best = TWO.loss(logits_of((images + EPSILON * side.sign().reshape(8, 1, 12, 12)).clamp(0, 1)), target).mean()
    assert loss.item() == pytest.approx(best.item(), rel=1e-4)
    assert not last.requires_grad  # the images are given, only the weights learn
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("change", [cutout_loss, mixup_loss, adversarial_loss])
@pytest.mark.parametrize(
    ("task", "shape", "target"),
    [(TWO, (8, 8), torch.tensor([0, 1, 1])),
    (ClassificationTask(2, True), (4, 8, 8), torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])),
     (SegmentationTask(2), (8, 4), torch.ones(3, 8, 4, dtype=torch.int64))],
    ids=["classes", "findings", "maps"],
)  # fmt: skip
def test_generator_decides_and_nothing_else(
    change: room.BatchLoss, task: LearningTask, shape: tuple[int, ...], target: Tensor
) -> None:
    images = torch.rand(3, 1, *shape, generator=torch.Generator().manual_seed(2))
    before = images.clone()
    seen: list[Tensor] = []

    def logits_of(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return torch.cat([x, -x], dim=1) if task.spatial_target else _linear(x)

    state = torch.random.get_rng_state()
    results = []
    for seed in (0, 0, 1):
        seen.clear()
        results.append(
            (
                float(change(logits_of, task, images, target, torch.Generator().manual_seed(seed))),
                *(float(x.sum()) for x in seen),
            )
        )
    assert results[0] == results[1] != results[2]
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def _protected(number: int, seed: int = 0, shape: tuple[int, ...] = (12, 12)) -> list[tuple[Image, Image, int]]:
    """Clean images, the same with a noise of their class, and the class."""
    noise = np.random.default_rng(7).choice([-8 / 255, 8 / 255], (2, *shape))
    clean = [0.1 + 0.8 * image for image in _images(number, shape, seed)]
    return [(image, (image + noise[k % 2]).astype(np.float32), k % 2) for k, image in enumerate(clean)]


def _linear_accuracy(train: list[tuple[Image, int]], test: list[tuple[Image, int]]) -> float:
    (x, y), (u, v) = (
        (np.stack([image.ravel() for image, _ in part]), np.array([label for _, label in part]))
        for part in (train, test)
    )
    inputs, labels = torch.from_numpy(x - x.mean(axis=0)), torch.from_numpy(y)
    weights = torch.zeros(x.shape[1], 2, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(inputs @ weights, labels) + 1e-4 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    guess = (torch.from_numpy(u - x.mean(axis=0)) @ weights.detach()).argmax(dim=1).numpy()
    return float((guess == v).mean())


@pytest.mark.slow
def test_projection_takes_from_a_linear_model_what_it_reads() -> None:
    train, test = _protected(300), _protected(60, seed=1)
    change = _fit("orthogonal-projection", _leak([(image, label) for _, image, label in train]))
    before = _linear_accuracy(
        [(image, label) for _, image, label in train], [(image, label) for _, image, label in test]
    )
    after = _linear_accuracy(
        [(change(image), label) for _, image, label in train], [(change(image), label) for _, image, label in test]
    )
    assert before == 1.0
    assert after < 0.7
    average, changed = (
        np.mean(images, axis=0) for images in ([x for _, x, _ in train], [change(x) for _, x, _ in train])
    )
    assert np.abs(changed - average).max() < 1e-3
    for clean, image, _ in test:
        assert np.abs(change(image) - clean).mean() < np.abs(image - clean).mean()


@pytest.mark.slow
def test_projection_handles_findings_and_volumes() -> None:
    samples = [(image, np.array([label, 1 - label], np.float32)) for _, image, label in _protected(20, shape=(4, 6, 5))]
    change = _fit("orthogonal-projection", _leak(samples, task=ClassificationTask(2, True)))
    result = change(samples[0][0])
    assert (result.shape, result.dtype) == ((4, 6, 5), np.float32)
    assert not np.array_equal(result, samples[0][0])
    again = _fit("orthogonal-projection", _leak(samples, task=ClassificationTask(2, True)))
    assert np.array_equal(again(samples[0][0]), result)


def test_projection_needs_one_shape_and_one_label_an_image() -> None:
    samples = [(image, label) for _, image, label in _protected(4)]
    with pytest.raises(UsageError, match=r"one shape, and there are \(12, 12\) and \(8, 8\)"):
        _fit("orthogonal-projection", _leak([*samples, (np.zeros((8, 8), np.float32), 1)]))
    with pytest.raises(UsageError, match=r"one shape, and there are \(12, 12\) and \(8, 8\)"):
        _fit("orthogonal-projection", _leak(samples))(np.zeros((8, 8), np.float32))
    with pytest.raises(UsageError, match="labels are label maps"):
        _fit(
            "orthogonal-projection",
            _leak([(image, np.ones((12, 12), np.uint8)) for image, _ in samples], task=SegmentationTask(2)),
        )


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "other"), [((16, 16), (20, 13)), ((8, 10, 12), (9, 8, 8))], ids=["2d", "3d"])
def test_denoiser_finds_the_noise_of_images_it_never_saw(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    monkeypatch.setattr(purify, "_DENOISER_STEPS", 60)
    state = torch.random.get_rng_state()
    pairs = [(clean, noisy) for size in (shape, other) for clean, noisy, _ in _protected(8, shape=size)]
    change = _fit("denoiser-10", _leak([], pairs))
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        again = _fit("denoiser-10", _leak([], pairs))
    unseen = _protected(6, seed=5, shape=shape)
    for clean, noisy, _ in unseen:
        result = change(noisy)
        assert np.square(result - clean).mean() < 0.5 * np.square(noisy - clean).mean()
        assert (result.shape, result.dtype) == (noisy.shape, np.float32)
        assert np.array_equal(result, again(noisy))
    assert not np.array_equal(_fit("denoiser-10", _leak([], pairs, seed=1))(unseen[0][1]), change(unseen[0][1]))


def test_denoiser_learns_from_its_share_of_the_pairs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purify, "_DENOISER_STEPS", 2)
    pairs = [(clean, noisy) for clean, noisy, _ in _protected(12)]
    fewer, more = (_fit("denoiser-10", _leak([], chosen)) for chosen in (pairs[:10], pairs))
    assert np.array_equal(fewer(pairs[0][1]), more(pairs[0][1]))


def test_denoiser_needs_noise_and_enough_pairs() -> None:
    images = _images(99, (8, 8))
    pairs = [(image, image) for image in images]
    assert np.array_equal(_fit("denoiser-10", _leak([], pairs))(images[0]), images[0])
    with pytest.raises(UsageError, match=r"denoiser-100 needs 100 pairs .* there are 99"):
        _fit("denoiser-100", _leak([], pairs))
