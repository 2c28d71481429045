# SPDX-License-Identifier: Apache-2.0
"""The min-min optimizer on pictures that train in seconds."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.learning.consumers import NO_AUGMENTATION, ConsumerAugmentation
from monai_salm.learning.networks import build_network
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.methods.minmin import MinMinOptimizer, renew
from monai_salm.methods.minmin_settings import MASK_RULES, MinMinSettings
from monai_salm.methods.search_state import SearchState
from monai_salm.methods.sparsity import box_blur, local_contrast
from monai_salm.methods.textures import class_directions, class_textures
from tests.builders import cube_set, disk_set, working_sample

Noise = dict[str, NDArray[Any]]

TEXTURED: dict[str, Any] = {"texture_period": 4.0, "mask_blur": 5, "texture_batches": 1, "class_directions": (0, 1)}
"""Changes of the settings for a search that starts from class textures."""


def _settings(**changes: Any) -> MinMinSettings:
    return MinMinSettings(
        **(
            {
                "max_rounds": 2,
                "noise_steps": 3,
                "batch_size": 8,
                "surrogate_epochs": 1.0,
                "surrogate_batches": 1,
                "stop_error": 0.0,
            }
            | changes
        )
    )


def _network(samples: WorkingSet, outputs: int = 2) -> nn.Module:
    """Build the same network each time."""
    network = build_network(
        "small-cnn" if samples.spatial_dims == 2 else "small-unet", spatial_dims=samples.spatial_dims, outputs=outputs
    )
    renew(network, 0)
    return network


def _optimizer(
    samples: WorkingSet, task: LearningTask | None = None, network: nn.Module | None = None, **changes: Any
) -> MinMinOptimizer:
    task = task or ClassificationTask(2)
    settings = {name: changes.pop(name) for name in list(changes) if name in MinMinSettings.__dataclass_fields__}
    return MinMinOptimizer(network or _network(samples, task.outputs), task, _settings(**settings), **changes)


def _weights(network: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def _same(first: Noise, second: Noise) -> bool:
    return list(first) == list(second) and all(np.array_equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def pictures() -> WorkingSet:
    return disk_set()


def _check_bounds(samples: WorkingSet, noise: Noise, fraction: float) -> None:
    assert list(noise) == samples.ids
    for sample in samples.samples:
        steps = noise[sample.sample_id]
        assert steps.shape == sample.image_model.shape
        assert steps.dtype == np.int16
        assert np.abs(steps).max() <= sample.levels
        assert not steps[sample.carrier_voxels == 0].any()
        assert sample.carrier_voxels[steps != 0].sum() <= fraction * sample.anatomy_voxels
        assert steps.any()


@pytest.mark.slow
@pytest.mark.parametrize("fraction", [0.1, 0.4])
@pytest.mark.parametrize("rule", ["gradient", "random"])
@pytest.mark.parametrize(
    "textured", [{}, TEXTURED, TEXTURED | {"max_rounds": 1}], ids=["plain", "textured", "textured, first round"]
)
def test_bounds_of_pictures(pictures: WorkingSet, rule: str, fraction: float, textured: dict[str, Any]) -> None:
    _check_bounds(
        pictures,
        dict(_optimizer(pictures, mask_rule=rule, perturbed_fraction=fraction, **textured).run(pictures)),
        fraction,
    )


def test_bounds_of_findings_with_textures() -> None:
    samples = disk_set(8, multi_label=True)
    _check_bounds(
        samples,
        dict(_optimizer(samples, ClassificationTask(2, True), perturbed_fraction=0.2, **TEXTURED).run(samples)),
        0.2,
    )


def test_bounds_of_volumes() -> None:
    volumes = cube_set()
    _check_bounds(volumes, dict(_optimizer(volumes, SegmentationTask(2), perturbed_fraction=0.2).run(volumes)), 0.2)


def _textures(samples: WorkingSet, task: LearningTask | None = None) -> list[NDArray[Any]]:
    """Give the textures of TEXTURED in steps."""
    task = task or ClassificationTask(2)
    maps = class_textures(samples, task, period=4.0, seed=0, directions=range(task.outputs))
    return [texture.numpy() * sample.levels for texture, sample in zip(maps, samples.samples, strict=True)]


class Watched(nn.Module):
    """A network that keeps what it sees."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += [
            image for image in images.detach().clone() if image.any()
        ]  # an empty one is shown to see what comes out
        result: torch.Tensor = self.network(images)
        return result


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_first_round_with_textures_only_looks(pictures: WorkingSet, frozen: bool) -> None:
    network = Watched(_network(pictures))
    optimizer = _optimizer(
        pictures, network=network, max_rounds=2, augmentation=NO_AUGMENTATION, freeze_surrogate=frozen, **TEXTURED
    )
    state = optimizer.start(pictures)
    clean = {sample.image_model.tobytes() for sample in pictures.samples}
    seen: list[set[bytes]] = []

    def after_round(now: SearchState) -> None:
        seen.append({image.numpy().tobytes() for image in network.seen})
        network.seen.clear()
        if now.round == 1:
            assert all(
                np.array_equal(steps[0], texture) for steps, texture in zip(now.steps, _textures(pictures), strict=True)
            )
            assert all((score > 0).float().mean() > 0.9 for score in now.score)
            assert 0.3 < now.history[0].changed_fraction <= 0.4, "the texture lies in the mask from now on"

    noise = dict(optimizer.run(pictures, state, after_round))
    assert seen[0] == clean
    assert not seen[1] & clean
    assert any(
        not np.array_equal(steps, texture) for steps, texture in zip(state.steps, _textures(pictures), strict=True)
    )
    agreement = [
        (np.sign(noise[name]) * np.sign(texture))[noise[name] != 0].mean()
        for name, texture in zip(pictures.ids, _textures(pictures), strict=True)
    ]
    assert np.mean(agreement) > 0.5, "the steps fit the texture, they do not replace it"


def test_first_round_leaves_the_texture_in_the_mask(pictures: WorkingSet) -> None:
    noise = dict(_optimizer(pictures, max_rounds=1, **TEXTURED).run(pictures))
    for steps, texture in zip(noise.values(), _textures(pictures), strict=True):
        assert np.array_equal(steps[steps != 0], texture[steps != 0])


@pytest.mark.parametrize("textured", [False, True])
def test_surrogate_is_drawn_anew_after_looking(pictures: WorkingSet, textured: bool) -> None:
    network = _network(pictures)
    weights: list[list[torch.Tensor]] = []

    def keep(_: SearchState) -> None:
        weights.append([parameter.detach().clone() for parameter in network.parameters()])

    # Without learning, only the draws change the weights.
    list(
        _optimizer(pictures, network=network, max_rounds=3, learning_rate=0.0, **(TEXTURED if textured else {})).run(
            pictures, after_round=keep
        )
    )
    same = [
        all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        for first, second in itertools.pairwise(weights)
    ]
    assert same == [not textured, True]


def test_box_blur_averages_with_zeros_outside() -> None:
    for dims in (2, 3):
        maps = torch.rand(2, 1, *[7] * dims, generator=torch.Generator().manual_seed(0))
        blurred = box_blur(maps, 3)
        assert blurred.shape == maps.shape
        assert torch.allclose(blurred[(0, 0, *[3] * dims)], maps[(0, 0, *[slice(2, 5)] * dims)].mean())
        assert torch.allclose(blurred[(1, 0, *[0] * dims)], maps[(1, 0, *[slice(0, 2)] * dims)].sum() / 3**dims)
        padded = torch.nn.functional.pad(maps, [0, 8] * dims)
        assert torch.allclose(box_blur(padded, 5)[(..., *[slice(0, 7)] * dims)], box_blur(maps, 5)), (
            "whatever the padding of a batch"
        )
        thin = torch.ones(1, 1, *[2] * dims)
        assert torch.allclose(box_blur(thin, 7), torch.tensor((2 / 7) ** dims)), "a box may be larger than the image"


@pytest.mark.parametrize("dims", [2, 3])
def test_local_contrast_is_the_standard_deviation_in_a_box(dims: int) -> None:
    maps = torch.rand(2, 1, *[7] * dims, generator=torch.Generator().manual_seed(0))
    box = maps[(1, 0, *[slice(1, 4)] * dims)]
    assert torch.allclose(local_contrast(maps, 3)[(1, 0, *[2] * dims)], box.std(correction=0), atol=1e-4)
    assert not local_contrast(torch.full_like(maps, 0.9), 3)[(0, 0, *[3] * dims)].isnan(), (
        "rounding below zero has a root of zero"
    )


@pytest.mark.slow
def test_surrogate_finds_the_textures_before_the_first_step(pictures: WorkingSet) -> None:
    network = Watched(_network(pictures))
    counts: list[int] = []

    def after_round(_: SearchState) -> None:
        counts.append(len(network.seen))
        network.seen.clear()

    changes = TEXTURED | {"texture_batches": 9, "max_rounds": 3, "batch_size": 4}
    list(_optimizer(pictures, network=network, **changes).run(pictures, after_round=after_round))
    usual = counts[2]
    assert counts[0] == usual, "it only looks"
    assert counts[1] - usual == 9 * 4 - len(pictures)


def test_textures_go_where_the_gradient_is_large_for_the_contrast(pictures: WorkingSet) -> None:
    """Of two halves with the same gradient, the flat one carries the texture."""
    optimizer = _optimizer(pictures, perturbed_fraction=0.4, **TEXTURED | {"mask_blur": 3})
    image = np.full((16, 16), 0.5, np.float32)
    image[:, 8:] += 0.3 * (np.indices((16, 8)).sum(axis=0) % 2)
    samples = WorkingSet([working_sample(name, image, 0) for name in "ab"])
    batch = samples.batch([0, 1], torch.device("cpu"))
    mask = optimizer.limits.mask(torch.ones(2, 1, 16, 16), batch)
    assert mask[..., :8].sum() > 0.95 * mask.sum()
    plain = _optimizer(pictures, perturbed_fraction=0.4, mask_blur=3).limits.mask(torch.ones(2, 1, 16, 16), batch)
    assert plain[..., :8].sum() < 0.8 * plain.sum(), "noise that is searched for goes by the gradient alone"


def test_directions_are_chosen_unless_they_are_given(pictures: WorkingSet) -> None:
    choices: list[Any] = ["auto", (0, 1), (1, 0), (None, 0), (0, None)]
    starts = {
        given: _optimizer(pictures, **TEXTURED | {"class_directions": given}).start(pictures).steps for given in choices
    }
    same = [
        given
        for given, steps in starts.items()
        if all(torch.equal(a, b) for a, b in zip(steps, starts["auto"], strict=True))
    ]
    assert same == ["auto", class_directions(pictures, 2, period=4.0)]


@pytest.mark.slow
def test_mask_blur_gives_the_texture_room(pictures: WorkingSet) -> None:
    def neighbors(blur: int) -> float:
        noise = dict(
            _optimizer(pictures, max_rounds=1, texture_period=4.0, mask_blur=blur, perturbed_fraction=0.3).run(pictures)
        )
        changed = np.stack([noise[name] != 0 for name in pictures.ids])
        return float((changed[:, :, 1:] & changed[:, :, :-1]).sum() / changed.sum())

    single, few, many = (neighbors(blur) for blur in (1, 3, 7))
    assert single + 0.1 < few
    assert few < many
    assert many > 0.7


def test_dense_noise_fills_the_carriers(pictures: WorkingSet) -> None:
    noise = dict(_optimizer(pictures, mask_rule="dense", perturbed_fraction=0.1, noise_steps=5).run(pictures))
    _check_bounds(pictures, noise, 1.0)
    assert np.mean([(noise[s.sample_id][s.carrier_voxels > 0] != 0).mean() for s in pictures.samples]) > 0.8


@pytest.mark.slow
def test_random_mask_does_not_follow_the_gradient(pictures: WorkingSet) -> None:
    supports = []
    for seed in (0, 1):
        network = _network(pictures)
        noise = dict(
            _optimizer(pictures, network=network, mask_rule="random", seed=seed, perturbed_fraction=0.2).run(pictures)
        )
        supports.append(np.stack([noise[name] != 0 for name in pictures.ids]))
    overlap = (supports[0] & supports[1]).sum() / supports[0].sum()
    assert overlap < 0.4


def test_shapes_and_levels_are_each_samples_own() -> None:
    generator = np.random.default_rng(0)
    samples = WorkingSet(
        [
            working_sample("a", generator.uniform(size=(16, 16)), 0, levels=3),
            working_sample("b", generator.uniform(size=(9, 14)), 1, levels=200, step_model=1 / 6000),
        ]
    )
    noise = dict(_optimizer(samples, max_rounds=3, noise_steps=5).run(samples))
    assert {name: steps.shape for name, steps in noise.items()} == {"a": (16, 16), "b": (9, 14)}
    assert {name: int(np.abs(steps).max()) for name, steps in noise.items()} == {"a": 3, "b": 200}


@pytest.mark.slow
def test_the_seed_decides(pictures: WorkingSet) -> None:
    first, second, other = (dict(_optimizer(pictures, seed=seed).run(pictures)) for seed in (1, 1, 2))
    assert _same(first, second)
    assert not _same(first, other)


@pytest.mark.slow
def test_every_round_and_step_draws_anew(pictures: WorkingSet) -> None:
    seen: list[tuple[float, ...]] = []

    class Recorder(ConsumerAugmentation):
        def apply(
            self, images: torch.Tensor, draws: torch.Tensor, label_map: torch.Tensor | None = None
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            seen.extend(tuple(row) for row in draws.tolist())
            return super().apply(images, draws, label_map)

    for seed in (0, 1):
        list(_optimizer(pictures, augmentation=Recorder(), max_rounds=3, seed=seed).run(pictures))
    assert len(set(seen)) == len(seen) > 6 * len(pictures)


def test_mask_of_chance_is_each_samples_own(pictures: WorkingSet) -> None:
    """Which samples there are decides what the surrogate learns, and so the sign of the noise, but not its place."""
    changes: dict[str, Any] = {"mask_rule": "random", "max_rounds": 1, "perturbed_fraction": 0.3, "full_strength": True}
    everywhere = dict(_optimizer(pictures, **changes).run(pictures))
    fewer = WorkingSet(pictures.samples[2:6])
    alone = dict(_optimizer(fewer, **changes).run(fewer))
    for name, steps in alone.items():
        both = (steps != 0) & (everywhere[name] != 0)
        assert both.sum() >= 0.9 * max((steps != 0).sum(), (everywhere[name] != 0).sum())


@pytest.mark.parametrize("kind", [{}, TEXTURED, {"mask_rule": "random"}], ids=["plain", "textured", "chance"])
def test_a_stack_on_the_device_is_the_same_as_maps_one_by_one(
    pictures: WorkingSet, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dict(_optimizer(pictures, max_rounds=3, batch_size=5, **kind).run(pictures))
    monkeypatch.setattr("monai_salm.methods.minmin.ResidentSet", partial(ResidentSet, stacked=True))
    assert _same(before, dict(_optimizer(pictures, max_rounds=3, batch_size=5, **kind).run(pictures)))


def test_the_device_is_asked_four_times_a_round(pictures: WorkingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question waits for a GPU, and then it waits for the next batch."""
    asked: list[str] = []
    monkeypatch.setattr(torch.optim.Adam, "step", lambda _: None)  # it asks for its own count, which lies on the CPU
    for name in ("__bool__", "__float__", "__int__", "item", "tolist", "cpu", "numpy", "nonzero"):
        real = getattr(torch.Tensor, name)

        def counted(tensor: torch.Tensor, *given: Any, real: Any = real, name: str = name) -> Any:
            asked.append(name)
            return real(tensor, *given)

        monkeypatch.setattr(torch.Tensor, name, counted)
    optimizer = _optimizer(pictures, batch_size=2, max_rounds=2, surrogate_batches=12)
    work = optimizer.begin(pictures)
    for _ in range(2):
        asked.clear()
        optimizer.round(work)
        assert asked == ["__bool__", "__bool__", "tolist", "tolist"], "finite losses, finite gradients, errors, changes"


def test_global_random_state_is_left_alone(pictures: WorkingSet) -> None:
    optimizer = _optimizer(pictures, renew_every=1)
    state = torch.random.get_rng_state()
    list(optimizer.run(pictures))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [1, 2, 3])
@pytest.mark.parametrize("kind", [{"renew_every": 2}, TEXTURED], ids=["plain", "textured"])
def test_resumed_run_ends_like_an_uninterrupted_one(pictures: WorkingSet, stopped: int, kind: dict[str, Any]) -> None:
    changes: dict[str, Any] = {"max_rounds": 4} | kind
    saved: dict[int, tuple[SearchState, nn.Module, dict[str, Tensor]]] = {}
    optimizer = _optimizer(pictures, network=_network(pictures), **changes)

    def save(state: SearchState) -> None:
        assert optimizer.descent is not None
        saved[state.round] = copy.deepcopy((state, optimizer.network, optimizer.descent.to_memory()))

    whole = dict(optimizer.run(pictures, after_round=save))
    state, half_trained, remembered = saved[stopped]
    again = _optimizer(pictures, network=half_trained, **changes)
    again.remembered = remembered
    resumed = dict(again.run(pictures, state))
    assert _same(whole, resumed)
    assert [log.round for log in state.history] == [1, 2, 3, 4]
    assert [log.error for log in state.history] == [log.error for log in saved[4][0].history]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "task", "share"),
    [
        (lambda: disk_set(contrast=0.0), ClassificationTask(2), 0.3),
        (lambda: disk_set(contrast=0.0, multi_label=True), ClassificationTask(2, True, (1.0, 2.0)), 0.3),
        (lambda: cube_set(contrast=0.0), SegmentationTask(2), 0.98),
    ],
    ids=["classes", "findings", "segmentation"],
)
def test_noise_makes_the_error_smaller(make: Callable[[], WorkingSet], task: LearningTask, share: float) -> None:
    """The same weights see less error on the protected samples than on the clean ones."""
    samples = make()
    network = _network(samples)
    optimizer = _optimizer(
        samples,
        task,
        network,
        augmentation=NO_AUGMENTATION,
        max_rounds=8,
        noise_steps=5,
        surrogate_epochs=3.0,
        perturbed_fraction=0.8,
    )
    noise = dict(optimizer.run(samples))
    batch = samples.batch(range(len(samples)), torch.device("cpu"))
    assert batch.target is not None
    protected = batch.images + samples.pad([noise[name] for name in samples.ids]) * batch.share * batch.step_model
    with torch.no_grad():
        clean_loss, loss = (
            float(task.loss(network.eval()(images), batch.target).mean()) for images in (batch.images, protected)
        )
    assert loss < share * clean_loss


@pytest.mark.slow
def test_error_goes_down() -> None:
    pictures = disk_set(contrast=0.0)
    optimizer = _optimizer(
        pictures,
        max_rounds=8,
        surrogate_epochs=3.0,
        noise_steps=5,
        perturbed_fraction=0.8,
        augmentation=NO_AUGMENTATION,
    )
    state = optimizer.start(pictures)
    list(optimizer.run(pictures, state))
    errors = [log.error for log in state.history]
    assert errors[0] > 0.4
    assert errors[-1] < 0.1
    assert state.history[-1].passes == state.passes == 8 * (3 + 5)
    assert 0.3 < state.history[-1].changed_fraction <= 0.8


def test_stop_rule(pictures: WorkingSet) -> None:
    optimizer = _optimizer(pictures, max_rounds=20, stop_error=1.01, patience=2)
    state = optimizer.start(pictures)
    rounds: list[int] = []
    list(optimizer.run(pictures, state, lambda reached: rounds.append(reached.round)))
    assert rounds == [1, 2]
    list(optimizer.run(pictures, state))
    assert state.round == 2


@pytest.mark.slow
def test_frozen_surrogate_keeps_its_weights(pictures: WorkingSet) -> None:
    network = _network(pictures)
    before = _weights(network)
    frozen = dict(_optimizer(pictures, network=network, freeze_surrogate=True, renew_every=1).run(pictures))
    assert all(torch.equal(a, b) for a, b in zip(before, _weights(network), strict=True))
    assert any(steps.any() for steps in frozen.values())
    list(_optimizer(pictures, network=network).run(pictures))
    assert any(not torch.equal(a, b) for a, b in zip(before, _weights(network), strict=True))


def test_renew_is_repeatable() -> None:
    network = build_network("small-cnn", spatial_dims=2, outputs=2)
    state = torch.random.get_rng_state()
    results = []
    for seed in (5, 6, 5):
        renew(network, seed)
        results.append(_weights(network))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))


@pytest.mark.parametrize("textured", [{}, TEXTURED], ids=["plain", "textured"])
def test_samples_without_labels_are_told(textured: dict[str, Any]) -> None:
    samples = WorkingSet([working_sample("a", np.full((8, 8), 0.5))])
    with pytest.raises(UsageError, match="the samples have no labels"):
        _optimizer(samples, **textured).run(samples)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"perturbed_fraction": 0.0}, r"perturbed fraction 0 is not in \(0, 1\]"),
        ({"perturbed_fraction": 1.1}, r"perturbed fraction 1.1 is not in \(0, 1\]"),
        ({"mask_rule": "best"}, f"mask rule 'best' is unknown; give one of {', '.join(MASK_RULES)}"),
        ({"mask_blur": 4}, "mask blur 4 is not odd; a box around a cell is 1, 3, 5, ... cells wide"),
        ({"mask_blur": 0}, "mask blur 0 is not odd"),
        ({"exchange": 1.5}, r"exchange 1.5 is not in \[0, 1\]"),
        (
            {"texture_period": 1.9},
            "texture period 1.9 is below 2 cells, which no grid shows; give 2 or more, or 0 for none",
        ),
        ({"texture_period": -4.0}, "texture period -4 is below 2 cells"),
        ({"max_rounds": 0}, "max_rounds 0 must be at least 1"),
        ({"batch_size": -1}, "batch_size -1 must be at least 1"),
    ],
)
def test_settings_out_of_bounds(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _settings(**changes)


def test_settings_survive_json() -> None:
    settings = _settings(seed=3, renew_every=2, **TEXTURED)
    assert MinMinSettings(**settings.to_json()) == settings


@pytest.mark.cuda
def test_cuda_agrees_with_the_cpu_on_its_bounds(pictures: WorkingSet) -> None:
    generators = torch.cuda.get_rng_state_all()
    noise = dict(
        _optimizer(
            pictures, device="cuda", renew_every=1, augmentation=ConsumerAugmentation(zoom=0.1, blur=0.5, window=0.1)
        ).run(pictures)
    )
    _check_bounds(pictures, noise, 0.4)
    assert all(torch.equal(a, b) for a, b in zip(generators, torch.cuda.get_rng_state_all(), strict=True))
    volumes = cube_set()
    _check_bounds(volumes, dict(_optimizer(volumes, SegmentationTask(2), device="cuda").run(volumes)), 0.4)
