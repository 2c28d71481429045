# SPDX-License-Identifier: Apache-2.0
"""Noise that is made on other samples' images, by several surrogates."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from monai_salm.learning.chance import SampleChance
from monai_salm.learning.consumers import NO_AUGMENTATION
from monai_salm.learning.networks import (
    CleanNetwork,
    NetworkEnsemble,
    build_network,
    members_of,
    seeded_network,
    size_multiple,
)
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.targets import next_class
from monai_salm.learning.tasks import ClassificationTask
from monai_salm.learning.training import logits_in
from monai_salm.methods import minmin_settings
from monai_salm.methods.base import MethodRun
from monai_salm.methods.minmin import MinMinOptimizer, SearchWork, renew
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.registry import METHODS
from monai_salm.methods.search_time import search_seconds
from monai_salm.methods.sparsity import block_means, relative
from tests.builders import disk_set, working_sample

CPU = torch.device("cpu")


def _settings(**changes: Any) -> MinMinSettings:
    usual = {"max_rounds": 2, "noise_steps": 2, "batch_size": 8, "surrogate_batches": 1, "stop_error": 0.0}
    return MinMinSettings(**usual | {"exchange": 1.0} | changes)


def _optimizer(samples: WorkingSet, network: nn.Module | None = None, **changes: Any) -> MinMinOptimizer:
    network = network or seeded_network("small-cnn", samples.padded_shape, 2, 0)
    return MinMinOptimizer(network, ClassificationTask(2), _settings(**changes), augmentation=NO_AUGMENTATION)


def _contents(optimizer: MinMinOptimizer, work: SearchWork) -> Tensor:
    """Give what lies under the noise of all samples in one turn."""
    partners = optimizer._partners(work, 1, "partners")
    batch = work.resident.batch(list(range(len(work.resident.samples))))
    return partners.contents(batch, 0)


def test_content_is_that_of_other_samples() -> None:
    samples = disk_set(24)
    own = samples.batch(range(24), CPU).images
    for share, low, high in ((0.0, 24, 24), (0.5, 6, 20), (1.0, 0, 4)):
        optimizer = _optimizer(samples, exchange=share)
        contents = _contents(optimizer, optimizer.begin(samples))
        kept = sum(torch.equal(content, image) for content, image in zip(contents, own, strict=True))
        assert low <= kept <= high
        assert all(any(torch.equal(content, image) for image in own) for content in contents)


def test_noise_for_half_of_the_size_lies_in_blocks() -> None:
    images = [np.random.default_rng(k).random((32, 32)) for k in range(8)]
    samples = WorkingSet([working_sample(f"{k}", image, k % 2) for k, image in enumerate(images)])
    method = METHODS["salm:blocks"]["classification"]
    assert not method.suits(samples), "half of it is no image that anybody would train on"
    assert method.suits(WorkingSet([working_sample("a", np.ones((48, 9)), 0)]))

    def build() -> nn.Module:
        return seeded_network("small-cnn", samples.padded_shape, 2, 0)

    run = MethodRun(seed=0, device=CPU, build_surrogate=build, rounds=2)
    for _, steps in method.noise(samples, ClassificationTask(2), run):
        assert (steps != 0).any()
        blocks = steps.reshape(16, 2, 16, 2).swapaxes(1, 2).reshape(-1, 4)
        assert (np.ptp(blocks, axis=1) == 0).mean() > 0.99, "the mask may end inside a block"
    assert run.surrogate is not None
    assert (run.surrogate.view, run.surrogate.beside) == ("2", ("small-cnn/2",))


def test_partner_of_a_sample_does_not_depend_on_its_batch() -> None:
    samples = disk_set(24)
    optimizer = _optimizer(samples)
    work = optimizer.begin(samples)
    partners = optimizer._partners(work, 1, "partners")
    together = partners.contents(work.resident.batch(list(range(24))), 0)
    alone = partners.contents(work.resident.batch([5]), 0)
    assert torch.equal(together[5], alone[0])


def test_content_of_another_shape_is_cut_or_padded() -> None:
    shapes = ((16, 16), (10, 20), (24, 9))
    samples = WorkingSet([working_sample(str(n), np.full(shape, (n + 1) / 4)) for n, shape in enumerate(shapes)])
    resident = ResidentSet(samples, CPU)
    place = resident.batch([0]).place
    content = resident.contents(place, torch.tensor([1]))[0, 0]
    assert content.shape == (16, 16)
    assert (content[:10, :16] == 0.5).all()
    assert not content[10:].any()
    assert (resident.contents(place, torch.tensor([2]))[0, 0, :, :9] == 0.75).all()


@pytest.mark.slow
def test_surrogates_learn_the_noise_and_not_the_images() -> None:
    """On clean images such a surrogate guesses; one that saw each image under its own noise does not need the noise."""
    samples = disk_set(48, contrast=0.25)
    images, targets = samples.batch(range(48), CPU).images, samples.targets()
    right = {}
    for share in (0.0, 1.0):
        optimizer = _optimizer(
            samples, max_rounds=4, surrogate_batches=40, noise_steps=4, full_strength=True, exchange=share,
            mask_rule="dense",
        )  # fmt: skip
        dict(optimizer.run(samples))
        with torch.no_grad():
            found = logits_in(optimizer.network.eval(), images, bfloat16=False).argmax(1)
        right[share] = float((found == targets).float().mean())
    assert right[0.0] > 0.9
    assert right[1.0] < 0.75


def test_frozen_surrogate_sees_each_sample_alone() -> None:
    samples = disk_set(8)
    optimizer = MinMinOptimizer(
        seeded_network("small-cnn", samples.padded_shape, 2, 0), ClassificationTask(2), _settings(),
        freeze_surrogate=True,
    )  # fmt: skip
    assert optimizer._partners(optimizer.begin(samples), 1, "partners").draws is None
    alone = dict(optimizer.run(WorkingSet(samples.samples[:1])))
    (name,) = alone
    assert (dict(optimizer.run(samples))[name] == alone[name]).all()


def test_names_with_commas_make_an_ensemble() -> None:
    network = build_network("small-cnn,small-resnet", spatial_dims=2, outputs=3)
    assert isinstance(network, NetworkEnsemble)
    assert [member(torch.rand(2, 1, 16, 16)).shape for member in members_of(network)] == [(2, 3), (2, 3)]
    assert members_of(network.members[0]) == [network.members[0]]
    assert size_multiple("small-cnn,ViT") == 16


class _Scaled(nn.Module):
    """Gives logits that are some factor as large."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images) * self.factor


def test_each_member_has_the_same_weight_however_sure_it_is() -> None:
    samples = disk_set(8)
    nets = [seeded_network("small-cnn", samples.padded_shape, 2, seed) for seed in (0, 1)]
    batch = samples.batch(range(8), CPU)
    draws = SampleChance(samples, 0, CPU).draws(0, 1, 10, "noise").at(batch.place, 0)

    def gradient(network: nn.Module) -> Tensor:
        optimizer = _optimizer(samples, network)
        network.eval()
        return optimizer.gradient.at(batch.images.clone(), batch.images.clone(), replace(batch, draws=draws))[0]

    first, second = (relative(gradient(net)) for net in nets)
    shy = relative(gradient(_Scaled(nets[1], 1e-4)))
    assert torch.allclose(gradient(NetworkEnsemble(nets)), first + second, atol=1e-5)
    assert torch.allclose(gradient(NetworkEnsemble([nets[0], _Scaled(nets[1], 1e-4)])), first + shy, atol=1e-4)


def test_all_members_are_drawn_anew() -> None:
    network = build_network("small-cnn,small-resnet", spatial_dims=2, outputs=2)
    renew(network, 3)
    before = [parameter.clone() for parameter in network.parameters() if parameter.ndim > 1]
    renew(network, 4)
    after = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize(("renew_every", "wanted"), [(0, [6, 2, 2, 2]), (2, [6, 2, 6, 2])])
def test_new_surrogates_train_longer(renew_every: int, wanted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    samples = disk_set(16)
    monkeypatch.setattr(minmin_settings, "LEARNED", math.inf)
    optimizer = _optimizer(
        samples, max_rounds=4, surrogate_batches=2, surrogate_epochs=0, renewed_batches=6, renew_every=renew_every
    )
    seen: list[int] = []
    inner = optimizer.move_noise

    def count(work: SearchWork) -> tuple[float, float]:
        seen.append(round(work.state.passes * 16 / 8))
        return inner(work)

    monkeypatch.setattr(optimizer, "move_noise", count)
    dict(optimizer.run(samples))
    spent = np.diff([0, *seen]) - np.array([0, *[2 * 16 // 8] * 3])
    assert spent.tolist() == wanted


@pytest.mark.parametrize(
    ("errors", "drawn"),
    [
        ([0.9, 0.3, 0.3, 0.3, 0.3], [0, 2, 4]),
        ([0.9, 0.8, 0.8, 0.4, 0.3, 0.3, 0.3], [0, 4, 6]),
        ([0.9] * 13, [0, 6, 12]),
    ],
    ids=["learned at once", "learned later", "never learned"],
)
def test_surrogates_are_drawn_anew_once_they_have_learned(errors: list[float], drawn: list[int]) -> None:
    settings = _settings(renew_every=2)
    assert [number for number in range(len(errors) + 1) if settings.is_new(errors[:number])] == drawn
    once = _settings(renew_every=0)
    assert [number for number in range(len(errors) + 1) if once.is_new(errors[:number])] == [0]


def test_estimated_time_counts_new_surrogates(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, clock = disk_set(16), itertools.count()
    monkeypatch.setattr(
        "monai_salm.methods.search_time.time.perf_counter", lambda: float(next(clock))
    )  # a second a step
    optimizer = _optimizer(
        samples, max_rounds=4, surrogate_batches=2, surrogate_epochs=0, renewed_batches=6, renew_every=2
    )
    rounds, new = 4 * (2 + 2 * 2), 2 * (6 - 2)
    assert search_seconds(optimizer, samples, optimizer.start(samples)) == rounds + new
    optimizer.settings = replace(optimizer.settings, balance=0.25)
    balancing = 2 * (4 + 1)  # both batches, once a round and in the end
    assert search_seconds(optimizer, samples, optimizer.start(samples)) == rounds + new + balancing
    optimizer.network = NetworkEnsemble([optimizer.network, CleanNetwork(optimizer.network)])
    optimizer.settings = replace(optimizer.settings, balance=0.0, clean_batches=10)
    assert search_seconds(optimizer, samples, optimizer.start(samples)) == rounds + new + 5, "a half of the members"


def test_nothing_is_exchanged_while_the_first_round_only_looks() -> None:
    samples = disk_set(8)
    optimizer = _optimizer(samples, texture_period=4.0, mask_blur=5, class_directions=(0, 1))
    work = optimizer.begin(samples)
    assert optimizer._partners(work, 1, "partners").draws is None
    work.state.round = 1
    assert optimizer._partners(work, 1, "partners").draws is not None


def test_targeted_noise_leads_clean_surrogates_to_the_next_class() -> None:
    samples = disk_set(24)
    optimizer = _optimizer(
        samples, seeded_network("small-cnn/clean", (16, 16), 2, 0),
        max_rounds=6, noise_steps=4, clean_batches=60, step_size=0.2,
    )  # fmt: skip
    trained: list[int] = []
    training = optimizer._learn
    optimizer._learn = lambda *given: (trained.append(given[3].round), training(*given))[1]  # type: ignore[method-assign]
    noise = dict(optimizer.run(samples))
    assert trained == [0], "on clean samples, before there is any noise"
    network, targets = optimizer.network.eval(), samples.targets()
    protected = WorkingSet([sample.protected(noise[sample.sample_id]) for sample in samples.samples])
    with torch.no_grad():
        before, after = (network(part.batch(range(24), CPU).images).softmax(1) for part in (samples, protected))
    assert (before.argmax(1) == targets).float().mean() > 0.9
    aims = next_class(targets, 2)[:, None]
    assert (after.gather(1, aims) > before.gather(1, aims)).all()
    findings = next_class(torch.tensor([[0.0, 1.0]]), 2)
    assert findings.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 1)])
def test_cells_of_a_block_have_its_mean(shape: tuple[int, ...]) -> None:
    values = torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(0))
    means = block_means(values, 2)
    assert means.shape == values.shape
    first = (slice(None), slice(None), *[slice(0, 2)] * len(shape))
    assert torch.allclose(means[first], values[first].mean(dim=tuple(range(2, values.ndim)), keepdim=True))
    last = (0, 0, -1, *[slice(0, 2)] * (len(shape) - 1)) if shape[0] % 2 else (0, 0, *[slice(2, 3)] * 2)
    if shape[0] % 2:
        assert torch.allclose(means[last], values[last].mean()), "a block at the edge is what there is of it"
    assert block_means(values, 1) is values


def test_noise_for_other_sizes_lies_in_blocks() -> None:
    samples = disk_set(8)
    batch, gradient = (
        samples.batch(range(8), CPU),
        torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0)),
    )
    for block in (1, 2, 4):
        direction = _optimizer(samples, block=block).limits.direction(gradient, batch, samples)
        blocks = direction.reshape(8, 16 // block, block, 16 // block, block)
        assert float((blocks.amax((2, 4)) - blocks.amin((2, 4))).max()) < 1e-6
        assert block > 1 or torch.equal(direction, gradient)


def test_members_that_know_clean_images_stand_beside_those_that_learn_the_noise() -> None:
    samples = disk_set(24)
    network = seeded_network("small-cnn,small-cnn/clean", (16, 16), 2, 0)
    optimizer = _optimizer(samples, network, max_rounds=3, renew_every=1, clean_batches=40, surrogate_batches=2)
    learned: list[tuple[int, int]] = []
    training = optimizer._learn
    optimizer._learn = lambda *given: (learned.append((given[3].round, len(given[0]))), training(*given))[1]  # type: ignore[method-assign]
    kept: list[dict[str, Tensor]] = []
    clean = members_of(network)[1]
    list(
        optimizer.run(samples, after_round=lambda _: kept.append({k: v.clone() for k, v in clean.state_dict().items()}))
    )
    assert learned == [(0, 1), (0, 1), (1, 1), (2, 1)]
    assert all(torch.equal(value, kept[-1][name]) for name, value in kept[0].items()), "it is never drawn anew"


def test_weight_of_members_that_know_clean_images() -> None:
    samples = disk_set(4)
    batch = samples.batch(range(4), CPU)
    draws = torch.full((4, 10), 0.9)
    network = seeded_network("small-cnn,small-resnet/clean", (16, 16), 2, 0).eval().requires_grad_(False)

    def gradient(weight: float) -> Tensor:
        found = _optimizer(samples, network, clean_weight=weight).gradient
        return found.at(batch.images.clone(), batch.images.clone(), replace(batch, draws=draws))[0]

    alone = _optimizer(samples, members_of(network)[0]).gradient
    own = alone.at(batch.images.clone(), batch.images.clone(), replace(batch, draws=draws))[0]
    assert torch.allclose(gradient(0.0), relative(own), atol=1e-6)
    assert torch.allclose(gradient(2.0) - gradient(0.0), 2 * (gradient(1.0) - gradient(0.0)), atol=1e-4)
    assert not torch.allclose(gradient(1.0), gradient(0.0), atol=1e-3)
    given = batch.images.clone(), batch.images.clone(), replace(batch, draws=draws)
    assert torch.equal(_optimizer(samples, network).gradient.at(*given)[1], alone.at(*given)[1]), "of the others"
