# SPDX-License-Identifier: Apache-2.0
"""The baselines keep the bounds, and do in kind what their authors report, on pictures that train in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from monai_salm.errors import UsageError
from monai_salm.learning.consumers import NO_AUGMENTATION
from monai_salm.learning.networks import build_network
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.methods import generators
from monai_salm.methods import pil as pil_module
from monai_salm.methods import tap as tap_module
from monai_salm.methods import umed as umed_module
from monai_salm.methods import voxshield as voxshield_module
from monai_salm.methods.base import MethodRun, train_clean
from monai_salm.methods.base import Noise as MadeNoise
from monai_salm.methods.lsp import LinearlySeparable
from monai_salm.methods.minmin import renew
from monai_salm.methods.pil import Linearized
from monai_salm.methods.tap import Targeted
from monai_salm.methods.umed import ContourTexture
from monai_salm.methods.voxshield import SpectrallyIncoherent
from tests.builders import cube_set, disk_set, working_sample

Noise = dict[str, NDArray[np.int16]]
CPU = torch.device("cpu")
BaselineMaker = Callable[[WorkingSet, LearningTask, MethodRun], MadeNoise]
tap_noise, lsp_noise, pil_noise = Targeted().noise, LinearlySeparable().noise, Linearized().noise
umed_noise, voxshield_noise = ContourTexture().noise, SpectrallyIncoherent().noise
CLASSIFIERS: dict[str, BaselineMaker] = {"tap": tap_noise, "lsp": lsp_noise, "pil": pil_noise}
GENERATORS: dict[str, BaselineMaker] = {"umed": umed_noise, "voxshield": voxshield_noise}


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the surrogates train for a moment only."""
    for module in (tap_module, pil_module):
        monkeypatch.setattr(module, "EPOCHS", 1)
        monkeypatch.setattr(module, "LEAST_STEPS", 2)
    monkeypatch.setattr(generators, "LEAST_STEPS", 2)
    monkeypatch.setattr(voxshield_module, "SURROGATE_STEPS", 1)


def _run(name: str, dims: int, outputs: int = 2, **changes: Any) -> MethodRun:
    def build() -> nn.Module:
        with torch.random.fork_rng():
            network = build_network(name, spatial_dims=dims, outputs=outputs)
        renew(network, 0)
        return network

    return MethodRun(**({"seed": 0, "device": CPU, "rounds": 3, "build_surrogate": build, "batch_size": 8} | changes))


def _check_bounds(samples: WorkingSet, noise: Noise) -> None:
    assert sorted(noise) == samples.ids
    for sample in samples.samples:
        steps = noise[sample.sample_id]
        assert steps.shape == sample.image_model.shape
        assert steps.dtype == np.int16
        assert 0 < np.abs(steps).max() <= sample.levels
        assert not steps[sample.carrier_voxels == 0].any()


def _blocks(dims: int) -> WorkingSet:
    """Give samples of two shapes and budgets, with a carrier-free rim."""
    generator = np.random.default_rng(0)
    samples = []
    for index in range(6):
        image = generator.uniform(size=((16, 11) if index % 2 else (9, 16)) + (8,) * (dims - 2))
        voxels = np.ones(image.shape, np.int64)
        voxels[:2] = 0
        samples.append(
            working_sample(
                f"s{index}",
                image,
                index % 2,
                levels=3 + index,
                carrier_voxels=voxels,
                carrier_share=(voxels > 0).astype(np.float32),
            )
        )
    return WorkingSet(samples)


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_bounds_of_classifiers(name: str, dims: int) -> None:
    samples = _blocks(dims)
    _check_bounds(samples, dict(CLASSIFIERS[name](samples, ClassificationTask(2), _run("small-cnn", dims))))


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_findings(name: str) -> None:
    samples = disk_set(12, multi_label=True)
    _check_bounds(
        samples, dict(CLASSIFIERS[name](samples, ClassificationTask(2, multi_label=True), _run("small-cnn", 2)))
    )


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("name", GENERATORS)
def test_bounds_of_generators_and_their_gate(name: str) -> None:
    samples = cube_set(4, 16)
    noise = dict(GENERATORS[name](samples, SegmentationTask(2), _run("small-unet", 3)))
    _check_bounds(samples, noise)
    for sample in samples.samples:
        boundary, inside = umed_module.boundary_and_interior(torch.from_numpy(np.asarray(sample.target))[None, None])
        gate = (torch.from_numpy(np.asarray(sample.target)) > 0) if name == "voxshield" else (boundary | inside)[0, 0]
        assert not noise[sample.sample_id][~gate.numpy()].any()


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("maker", "rounds", "passes"),
    # 2 steps of 8 of 12 samples and of the rest train a surrogate once; the linear model has two forward passes a round
    [(lsp_noise, 3, 0.0), (tap_noise, 3, 1 + 3), (pil_noise, 3, 1 + 1.5 * 3)],
    ids=["lsp", "tap", "pil"],
)
def test_passes_are_counted(maker: BaselineMaker, rounds: int, passes: float) -> None:
    run = _run("small-cnn", 2, rounds=rounds)
    dict(maker(disk_set(12), ClassificationTask(2), run))
    assert run.passes == pytest.approx(passes)
    assert len(run.errors) == (0 if maker is lsp_noise else rounds)


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("maker", [*CLASSIFIERS.values(), umed_noise], ids=[*CLASSIFIERS, "umed"])
def test_the_seed_decides(maker: BaselineMaker) -> None:
    spatial = maker is umed_noise
    samples = cube_set(4) if spatial else disk_set(12)
    task: LearningTask = SegmentationTask(2) if spatial else ClassificationTask(2)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    first, second, other = (
        dict(maker(samples, task, _run("small-unet" if spatial else "small-cnn", samples.spatial_dims, seed=s)))
        for s in (1, 1, 2)
    )
    assert all(np.array_equal(first[name], second[name]) for name in samples.ids)
    assert any((first[name] != other[name]).any() for name in samples.ids)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("maker", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_labels_are_needed(maker: BaselineMaker) -> None:
    samples = WorkingSet([replace(sample, target=None) for sample in disk_set(4).samples])
    with pytest.raises(UsageError, match="no labels"):
        dict(maker(samples, ClassificationTask(2), _run("small-cnn", 2)))


# In kind: what the authors report ------------------------------------------------------------------------------------


def _shapes(count: int, seed: int) -> WorkingSet:
    """Give faint disks and rings at any place, which is the class."""
    generator = np.random.default_rng(seed)
    rows, columns = np.ogrid[:16, :16]
    samples = []
    for index in range(count):
        row, column = generator.uniform(4, 12, 2)
        square = (rows - row) ** 2 + (columns - column) ** 2
        shape = square < 10 if index % 2 else (square < 16) & (square > 4)
        samples.append(
            working_sample(f"p{index:03d}", generator.uniform(0.35, 0.55, (16, 16)) + 0.12 * shape, index % 2)
        )
    return WorkingSet(samples)


def _with(samples: WorkingSet, noise: Noise) -> WorkingSet:
    def change(sample: Any) -> Any:
        return replace(
            sample,
            image_model=(sample.image_model + noise[sample.sample_id] * sample.step_model)
            .clip(0, 1)
            .astype(np.float32),
        )

    return WorkingSet([change(sample) for sample in samples.samples])


def _random_signs(samples: WorkingSet) -> Noise:
    generator = np.random.default_rng(0)
    return {
        s.sample_id: (generator.choice([-1, 1], s.image_model.shape) * s.levels * (s.carrier_voxels > 0)).astype(
            np.int16
        )
        for s in samples.samples
    }


def _victim(train: WorkingSet, test: WorkingSet, task: LearningTask, steps: int) -> tuple[float, float]:
    """Train a victim; give its mean loss in the first third and its score on clean images."""
    network = build_network(
        "small-unet" if task.spatial_target else "small-cnn", spatial_dims=train.spatial_dims, outputs=2
    )
    renew(network, 5)
    optimizer = torch.optim.Adam(network.train().parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        batch = train.batch(torch.randperm(len(train), generator=generator)[:16].tolist(), CPU)
        optimizer.zero_grad()
        loss = task.loss(network(batch.images), batch.target).mean()  # type: ignore[arg-type]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    everything = test.batch(range(len(test)), CPU)
    with torch.no_grad():
        scores = task.score(network.eval()(everything.images), everything.target)  # type: ignore[arg-type]
    return float(np.mean(losses[: steps // 3])), scores["dice" if task.spatial_target else "balanced_accuracy"]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clean surrogate train only as long as these pictures need."""
    monkeypatch.setattr(tap_module, "EPOCHS", 1)
    monkeypatch.setattr(tap_module, "LEAST_STEPS", 120)


@pytest.fixture(scope="module")
def shapes() -> tuple[WorkingSet, WorkingSet, tuple[float, float]]:
    train, test = _shapes(96, 0), _shapes(96, 1)
    return train, test, _victim(_with(train, _random_signs(train)), test, ClassificationTask(2), 120)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("name", "rounds", "drop"), [("tap", 20, 0.3), ("lsp", 0, -0.1), ("pil", 20, 0.05)])
def test_victim_learns_the_noise(
    shapes: tuple[WorkingSet, WorkingSet, tuple[float, float]], name: str, rounds: int, drop: float
) -> None:
    train, test, (random_loss, random_score) = shapes
    noise = dict(CLASSIFIERS[name](train, ClassificationTask(2), _run("small-cnn", 2, rounds=rounds, batch_size=32)))
    loss, score = _victim(_with(train, noise), test, ClassificationTask(2), 120)
    assert loss < 0.75 * random_loss
    assert (
        score < random_score - drop
    )  # these pictures are easy: separable noise is learned fast, but the pictures as well


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_targeted_noise_shows_a_clean_network_the_next_class() -> None:
    samples = _shapes(60, 0)
    run = _run("small-cnn", 2, rounds=20, batch_size=32)
    noise = dict(tap_noise(samples, ClassificationTask(2), run))
    assert run.errors[-1] < 0.2 < 0.8 < run.errors[0]
    assert all(np.mean(np.abs(steps)) > 2 for steps in noise.values())
    network, everything = _run("small-cnn", 2).build_surrogate(), samples.batch(range(60), CPU)
    train_clean(
        network,
        ResidentSet(samples, CPU),
        ClassificationTask(2),
        _run("small-cnn", 2, seed=7),
        epochs=1,
        least_steps=400,
        augmentation=NO_AUGMENTATION,
    )
    target = everything.target
    protected = _with(samples, noise).batch(range(60), CPU).images
    assert (network(everything.images).argmax(1) == target).float().mean() > 0.9
    assert (
        network(protected).argmax(1) == 1 - target
    ).float().mean() > 0.6  # another network than the one that was used


def test_separable_noise_is_separable_and_its_own_for_each_sample() -> None:
    samples = disk_set(16)
    noise = dict(lsp_noise(samples, ClassificationTask(2), _run("small-cnn", 2)))
    centers = [np.mean([noise[s.sample_id] for s in samples.samples if s.target == k], axis=0) for k in (0, 1)]
    normal = centers[1] - centers[0]
    middle = (centers[1] + centers[0]) / 2
    assert all(((noise[s.sample_id] - middle) * normal).sum() > 0 for s in samples.samples if s.target == 1)
    assert all(((noise[s.sample_id] - middle) * normal).sum() < 0 for s in samples.samples if s.target == 0)
    alone = dict(lsp_noise(WorkingSet(samples.samples[3:4]), ClassificationTask(2), _run("small-cnn", 2)))
    assert np.array_equal(alone["picture-03"], noise["picture-03"])
    full = [np.abs(noise[s.sample_id])[s.carrier_voxels > 0] == s.levels for s in samples.samples]
    assert np.concatenate(full).all()


@pytest.mark.slow
def test_linear_model_reads_the_label_from_the_noise_alone() -> None:
    samples = _shapes(48, 0)
    noise = dict(pil_noise(samples, ClassificationTask(2), _run("small-cnn", 2, rounds=20, batch_size=16)))
    matrix = np.stack([noise[name].ravel() for name in samples.ids]).astype(float)
    target = np.array([2.0 * sample.target - 1 for sample in samples.samples])  # type: ignore[operator]
    half = np.arange(48) % 4 < 2
    weights = np.linalg.lstsq(matrix[half], target[half], rcond=None)[0]
    assert ((matrix[~half] @ weights > 0) == (target[~half] > 0)).mean() > 0.95


@pytest.mark.slow
def test_release_is_minus_delta() -> None:
    samples = _shapes(24, 0)
    task = ClassificationTask(2)
    noise = dict(pil_noise(samples, task, _run("small-cnn", 2, rounds=20)))
    linear = pil_module.LinearModel((16, 16), 2)
    train_clean(
        linear,
        ResidentSet(samples, CPU),
        task,
        _run("small-cnn", 2),
        epochs=30,
        least_steps=300,
        augmentation=NO_AUGMENTATION,
    )
    steps = torch.from_numpy(np.stack([noise[name] for name in samples.ids]))[:, None].float()
    assert (linear(-steps).argmax(1) == samples.targets()).all()


def _blobs(count: int, seed: int, shape: tuple[int, ...]) -> WorkingSet:
    """Give faint balls before an uneven background."""
    generator = np.random.default_rng(seed)
    grid = np.ogrid[tuple(slice(length) for length in shape)]
    samples = []
    for index in range(count):
        centers = [generator.uniform(length / 2 - 3, length / 2 + 3) for length in shape]
        ball = (
            sum((axis - center) ** 2 for axis, center in zip(grid, centers, strict=True)) < generator.uniform(3, 5) ** 2
        )
        waves = (
            0.1
            * np.sin(generator.uniform(0, 6) + generator.uniform(0.3, 0.9) * grid[0])
            * np.cos(generator.uniform(0.3, 0.9) * grid[1])
        )
        image = 0.45 + waves + generator.uniform(-0.05, 0.05, ball.shape) + 0.06 * ball
        samples.append(working_sample(f"p{index:03d}", image, ball.astype(np.uint8)))
    return WorkingSet(samples)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "rounds", "error"), [("umed", (16, 16), 10, 0.5), ("voxshield", (16, 16, 8), 3, 0.3)]
)
def test_victim_segments_the_noise(name: str, shape: tuple[int, ...], rounds: int, error: float) -> None:
    train, test, task = _blobs(12, 0, shape), _blobs(12, 1, shape), SegmentationTask(2)
    run = _run("small-unet", len(shape), rounds=rounds)
    noise = dict(GENERATORS[name](train, task, run))
    assert run.errors[-1] < error < run.errors[0]
    loss, score = _victim(_with(train, noise), test, task, 60)
    random_loss, random_score = _victim(_with(train, _random_signs(train)), test, task, 60)
    assert score < random_score if name == "voxshield" else loss < random_loss


@pytest.mark.slow
@pytest.mark.parametrize("contrast", [40.0, -40.0], ids=["bright", "dark"])
@pytest.mark.parametrize(("name", "shape"), [("umed", (16, 16)), ("voxshield", (16, 16, 8))])
def test_generators_lower_the_loss_of_their_surrogate(
    name: str, shape: tuple[int, ...], contrast: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a surrogate that never learns and takes bright cells for the structure, or dark ones."""
    monkeypatch.setattr(voxshield_module, "SURROGATE_STEPS", 0)
    monkeypatch.setattr(umed_module, "SURROGATE_TURN", 1000)
    surrogate = nn.Conv2d(1, 2, 1) if len(shape) == 2 else nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        surrogate.weight.flatten().copy_(torch.tensor([0.0, contrast]))
        surrogate.bias.copy_(torch.tensor([0.0, -0.5 * contrast]))  # type: ignore[union-attr]
    run = _run("small-unet", len(shape), rounds=3, build_surrogate=lambda: surrogate)
    samples = _blobs(8, 0, shape)
    noise = dict(GENERATORS[name](samples, SegmentationTask(2), run))
    assert run.errors[-1] < run.errors[0]
    inside = [np.sign(noise[sample.sample_id][np.asarray(sample.target) > 0]).mean() for sample in samples.samples]
    assert all(sign * contrast > 0.2 * abs(contrast) for sign in inside), inside


def test_contours_of_several_structures() -> None:
    labels = torch.zeros(1, 1, 24, 24, dtype=torch.int64)
    labels[..., 4:20, :12] = 1
    labels[..., 4:20, 12:] = 2
    boundary, inside = umed_module.boundary_and_interior(labels)
    assert not boundary[0, 0, 12, 2]
    assert inside[0, 0, 12, 2]
    assert boundary[0, 0, 12, 10:14].all()  # between two structures
    assert boundary[0, 0, 1:7, 2].all()  # three cells to either side
    assert not boundary[0, 0, [0, 7], 2].any()
    assert not (boundary & inside).any()


@pytest.mark.parametrize("shape", [(1, 1, 5, 6), (1, 1, 4, 5, 6)])
def test_binary_patterns(shape: tuple[int, ...]) -> None:
    flat = torch.full(shape, 0.5)
    assert (umed_module.local_binary_pattern(flat) == 1).all()
    middle = (0, 0, *(2 for _ in shape[2:]))
    flat[middle] = 0.6
    pattern, neighbors = umed_module.local_binary_pattern(flat), 3 ** len(shape[2:]) - 1
    assert pattern[middle] == 0
    flat[middle] = 0.4
    pattern = umed_module.local_binary_pattern(flat)
    assert pattern[middle] == 1
    assert pattern[(*middle[:-1], 3)] == pytest.approx(1 - 1 / neighbors)


@pytest.mark.parametrize("dims", [2, 3])
def test_central_difference(dims: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, images = (
        torch.randn(4, 1, *(3,) * dims, generator=generator),
        torch.randn(1, 1, *(8,) * dims, generator=generator),
    )
    convolve = functional.conv2d if dims == 2 else functional.conv3d
    sums = weight.sum(dim=tuple(range(2, dims + 2))).reshape(1, 4, *(1,) * dims)
    wanted = convolve(images, weight, padding=1) - 0.5 * images * sums
    assert torch.allclose(convolve(images, umed_module._CentralDifference()(weight), padding=1), wanted, atol=1e-5)
    contour, texture = (
        network.state_dict()
        for network in (umed_module.ContourTextureNoise(dims).contour, umed_module.ContourTextureNoise(dims).texture)
    )
    assert any("parametrizations" in name for name in contour)
    assert not any("parametrizations" in name for name in texture)


def test_incoherence_of_slices() -> None:
    stripes = torch.zeros(1, 1, 8, 8, 6)
    assert voxshield_module.slice_incoherence(stripes, 2) < 1e-5
    stripes[:, :, ::2] = 1.0
    assert voxshield_module.slice_incoherence(stripes, 2) < 1e-5  # the same in each slice
    stripes[..., ::2] = 0.5  # flat in every second slice
    apart = float(voxshield_module.slice_incoherence(stripes, 2))
    assert 0.4 < apart < 1.5
    large = stripes.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert float(voxshield_module.slice_incoherence(large, 2)) == pytest.approx(apart, rel=0.02)
    stripes.requires_grad_(True)
    (gradient,) = torch.autograd.grad(voxshield_module.slice_incoherence(stripes, 2), stripes)
    assert gradient.isfinite().all()
