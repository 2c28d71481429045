# SPDX-License-Identifier: Apache-2.0
"""Victims: what they learn from images that anybody can learn, where their randomness comes from, and
what is frozen.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.evaluate.pretraining import pretrain
from monai_salm.evaluate.victims import build_victim, is_pretrained
from monai_salm.learning.consumers import NO_AUGMENTATION
from monai_salm.learning.networks import head_layers
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.learning.training import Descent
from monai_salm.learning.victims import (
    VictimRecipe,
    VictimScores,
    VictimTraining,
    main_score,
    score_network,
    train_victim,
)
from monai_salm.working_samples import WorkingSample

CPU = torch.device("cpu")
QUICK = VictimRecipe(epochs=2, least_steps=1, batch_size=4)


def _sample(number: int, image: Any, target: Any, spacing: tuple[float, ...] = ()) -> WorkingSample:
    return WorkingSample(
        sample_id=f"{number:03d}", image_model=image.astype(np.float32), carrier_voxels=np.ones(image.shape, np.int64),
        levels=4, step_model=0.01,
        carrier_share=np.ones(image.shape, np.float32), anatomy_voxels=image.size, target=target, spacing=spacing,
    )  # fmt: skip


def _textures(count: int, first: int = 0) -> WorkingSet:
    """Two classes: smooth and striped."""
    samples = []
    for number in range(first, first + count):
        image = np.random.default_rng(number).uniform(0.3, 0.5, (16, 16))
        if number % 2:
            image[::2] += 0.3
        samples.append(_sample(number, image, number % 2))
    return WorkingSet(samples)


def _blobs(count: int, first: int = 0, shape: tuple[int, ...] = (16, 16)) -> WorkingSet:
    """A bright box in a dark image, and where it is."""
    samples = []
    for number in range(first, first + count):
        generator = np.random.default_rng(number)
        region = tuple(slice(start, start + 5) for start in generator.integers(1, 7, len(shape)))
        image, labels = generator.uniform(0.1, 0.4, shape), np.zeros(shape, np.uint8)
        image[region] += 0.4
        labels[region] = 1
        samples.append(_sample(number, image, labels))
    return WorkingSet(samples)


def _victim(name: str, seed: int = 0) -> nn.Module:
    return build_victim(name, outputs=2, image_shape=(16, 16), channels=1, seed=seed)


def _train(name: str, recipe: VictimRecipe = QUICK, *, seed: int = 0, count: int = 10, **changes: Any) -> VictimScores:
    training = _training(_textures(count), _textures(6, 100), recipe, seed=seed)
    return train_victim(_victim(name, seed), training, **changes)


def _training(train: WorkingSet, test: WorkingSet, recipe: VictimRecipe = QUICK, **others: Any) -> VictimTraining:
    """Give a training that is of classes and on the CPU unless it is told otherwise."""
    usual = {"task": ClassificationTask(2), "seed": 0, "device": CPU}
    return VictimTraining(train=train, test=test, recipe=recipe, **(usual | others))


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "epochs"), [("small-cnn", 10), ("small-resnet", 20), ("ViT", 6)])
def test_victims_learn_what_is_easy(name: str, epochs: int) -> None:
    if name == "ViT":
        pytest.importorskip("einops")
    scores = _train(name, VictimRecipe(epochs=epochs, least_steps=1, batch_size=8, score_every=3), count=32)
    assert scores.final["balanced_accuracy"] == 1
    assert scores.curve[-1] == scores.peak == max(scores.curve) == 1
    assert scores.seconds > 0


@pytest.mark.slow
def test_segmenter_learns_what_is_easy() -> None:
    network = _victim("small-unet")
    recipe = VictimRecipe(epochs=30, least_steps=1, batch_size=4, score_every=10)
    scores = train_victim(network, _training(_blobs(24), _blobs(6, 100), recipe, task=SegmentationTask(2)))
    assert scores.final["dice"] > 0.8
    assert set(scores.final) == {"dice", "dice_1", "hd95", "hd95_1"}
    assert 0 <= scores.final["hd95"] < math.hypot(16, 16)


def test_scores_are_taken_as_seldom_as_told_and_at_the_end() -> None:
    every = _train("small-cnn", replace(QUICK, epochs=5))
    seldom = _train("small-cnn", replace(QUICK, epochs=5, score_every=2))
    assert seldom.curve == (every.curve[1], every.curve[3], every.curve[4])
    assert seldom.final == every.final


def test_least_steps_make_more_epochs() -> None:
    assert len(_train("small-cnn", replace(QUICK, least_steps=10)).curve) == 4  # 10 images, 3 steps each


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small-cnn", "EfficientNetBN"])
def test_all_randomness_comes_from_the_seed(name: str) -> None:
    """EfficientNet drops whole layers by chance, which torch draws from its global state."""
    wide = WorkingSet(_textures(4).samples, (32, 32))
    runs = []
    for number, seed in enumerate((3, 3, 4)):
        torch.manual_seed(100 + number)
        before = torch.get_rng_state()
        network = _victim(name, seed)
        train_victim(network, _training(wide, wide, replace(QUICK, epochs=1), seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
        runs.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_augmentation_and_loss_can_be_replaced() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def batch_loss(
        logits_of: Any, task: LearningTask, images: Tensor, target: Tensor, generator: torch.Generator
    ) -> Tensor:
        assert isinstance(generator, torch.Generator)
        seen.append((images, target))
        return task.loss(logits_of(images), target).mean() * 0

    plain = _textures(4)
    network = _victim("small-cnn")
    before = [parameter.detach().clone() for parameter in network.parameters()]
    recipe = replace(QUICK, epochs=1)
    train_victim(network, _training(plain, plain, recipe, augmentation=NO_AUGMENTATION, batch_loss=batch_loss))
    ((images, target),) = seen
    originals = plain.batch(range(4), CPU).images
    assert sorted(images.sum(dim=(1, 2, 3)).tolist()) == pytest.approx(sorted(originals.sum(dim=(1, 2, 3)).tolist()))
    assert sorted(target.tolist()) == [0, 0, 1, 1]
    assert all(torch.equal(parameter, old) for parameter, old in zip(network.parameters(), before, strict=True))


def test_reliance_is_what_the_noise_is_worth() -> None:
    """The stripes of the training images say the class; the test images have none, so all that was learned is them."""
    plain = WorkingSet(
        [replace(sample, image_model=sample.image_model * 0 + 0.4) for sample in _textures(6, 100).samples]
    )
    recipe = VictimRecipe(epochs=12, least_steps=1, batch_size=8, augmentation=NO_AUGMENTATION)

    def reliance(relied_on: WorkingSet | None) -> float:
        training = _training(_textures(32), plain, recipe, relied_on=relied_on)
        scores = train_victim(_victim("small-cnn"), training)
        assert scores.final["balanced_accuracy"] == 0.5
        return scores.reliance

    assert reliance(_textures(8, 200)) == 0.5
    assert reliance(plain) == 0
    assert math.isnan(reliance(None))


def test_reliance_of_segmenters_is_one_of_dice() -> None:
    recipe = VictimRecipe(epochs=1, least_steps=1, batch_size=4)
    own, test = _blobs(4), _blobs(2, 100)
    network = _victim("small-unet")
    scores = train_victim(network, _training(own, test, recipe, task=SegmentationTask(2), relied_on=own))
    dice = [score_network(network, SegmentationTask(2), images, 4, CPU)["dice"] for images in (own, test)]
    assert scores.reliance == pytest.approx(dice[0] - dice[1])


VICTIMS = {
    3: ("SegResNet", "DynUNet", "AttentionUnet", "SwinUNETR", "UNet", "small-unet"),
    2: ("resnet18", "resnet50", "DenseNet121", "EfficientNetBN", "ViT"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "name"), [(dims, name) for dims, names in VICTIMS.items() for name in names])
def test_networks_of_the_field_train_and_are_scored(dims: int, name: str) -> None:
    if name in ("ViT", "SwinUNETR"):
        pytest.importorskip("einops")
    shape, task = (32,) * dims, ClassificationTask(2) if dims == 2 else SegmentationTask(2)
    images = WorkingSet((_textures(2) if dims == 2 else _blobs(2, shape=(16, 12, 14))).samples, shape)
    network = build_victim(name, outputs=2, image_shape=shape, channels=1, seed=0)
    before = _state(network)
    recipe = VictimRecipe(epochs=2, least_steps=2, batch_size=2)
    scores = train_victim(network, _training(images, images, recipe, task=task, relied_on=images))
    main = main_score(task)
    assert 0 <= scores.final[main] <= 1
    assert (scores.reliance, scores.curve[-1], len(scores.curve)) == (0, scores.final[main], 2)
    after = _state(network)
    assert all(bool(after[weight].isfinite().all()) for weight in after)
    changed = sum(not torch.equal(after[weight], before[weight]) for weight in after)
    assert changed > len(after) / 2, "two steps move most weights"


def test_label_maps_follow_their_images() -> None:
    """A victim of a countermeasure sees maps that fit: the box is bright wherever it went."""

    def batch_loss(logits_of: Any, task: LearningTask, images: Tensor, target: Tensor, _: torch.Generator) -> Tensor:
        inside = target.bool()[:, None]
        assert float(images[inside].min()) > float(images[~inside].max())
        return task.loss(logits_of(images), target).mean()

    maps = _training(
        _blobs(8),
        _blobs(2, 100),
        task=SegmentationTask(2),
        batch_loss=batch_loss,
    )
    train_victim(_victim("small-unet"), maps)


def test_padding_does_not_count() -> None:
    """Images of different shapes, padded to 16; the network finds the class everywhere behind the tenth row."""

    class Everything(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = torch.zeros(len(images), 2, *images.shape[2:])
            logits[:, 1] = (images[:, 0] - 0.5) * 10
            logits[:, 1, 10:] = 10
            return logits

    samples = _blobs(3, shape=(10, 12)).samples
    for sample in samples:
        sample.image_model[...] = np.asarray(sample.target)
    spaced = [replace(sample, spacing=(3.0, 3.0)) for sample in samples]
    assert score_network(Everything(), SegmentationTask(2), WorkingSet(samples, (16, 16)), 2, CPU) == {
        "dice": 1,
        "dice_1": 1,
        "hd95": 0,
        "hd95_1": 0,
    }
    assert set(score_network(Everything(), SegmentationTask(2), WorkingSet(samples), 2, CPU, distances=False)) == {
        "dice",
        "dice_1",
    }
    for sample in spaced:
        sample.image_model[...] = 0
    assert score_network(Everything(), SegmentationTask(2), WorkingSet(spaced), 2, CPU)["hd95"] == pytest.approx(
        3 * math.hypot(10, 12)
    )


def test_step_without_a_finite_gradient_is_left_out() -> None:
    layer = nn.Linear(1, 1)
    descent = Descent(layer, 10)
    before = _state(layer)
    for factor in (math.nan, math.inf):
        descent.step(layer(torch.ones(1, 1)).sum() * factor)
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    descent.step(layer(torch.ones(1, 1)).sum())
    assert not torch.equal(layer.weight, before["weight"])


def test_transformers_warm_up() -> None:
    rates: dict[str, list[float]] = {}
    for name, network in (("plain", nn.Linear(2, 2)), ("transformer", nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2)))):
        descent = Descent(network, 100)
        rates[name] = []
        for _ in range(100):
            descent.step(network(torch.ones(1, 2)).sum())
            rates[name].append(descent.optimizer.param_groups[0]["lr"])
    assert rates["plain"][0] == max(rates["plain"]) == 2e-3
    assert rates["transformer"][0] == pytest.approx(5e-5)
    assert rates["transformer"].index(max(rates["transformer"])) == 9
    assert rates["plain"][-1] < 2e-6
    assert Descent(nn.Linear(2, 2), 10, 0.1).rate == 0.1


def test_names_of_victims() -> None:
    assert [is_pretrained(name) for name in ("resnet18", "resnet18+pretrained", "resnet18-3x3+frozen")] == [
        False,
        True,
        True,
    ]
    assert [main_score(task) for task in (ClassificationTask(2), SegmentationTask(2))] == ["balanced_accuracy", "dice"]
    assert all(parameter.requires_grad for parameter in _victim("small-cnn+pretrained").parameters())
    with pytest.raises(
        UsageError,
        match=r"victim 'small-cnn\+better' has an unknown suffix; give small-cnn, small-cnn\+pretrained or "
        r"small-cnn\+frozen",
    ):
        _victim("small-cnn+better")


def test_network_of_a_search_is_no_victim() -> None:
    with pytest.raises(UsageError, match="learns from clean images alone; give small-cnn/2"):
        build_victim("small-cnn/2/clean", outputs=2, image_shape=(32, 32), channels=1, seed=0)


def test_frozen_victim_learns_with_its_head_alone() -> None:
    network = _victim("small-resnet+frozen")
    before = _state(network)
    head = next(iter(head_layers(network)))
    train_victim(network, _training(_textures(8), _textures(4, 100)))
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"{head}.weight", f"{head}.bias"}


@pytest.mark.parametrize(
    ("name", "images"),
    [("small-resnet", _textures(8)), ("small-cnn+frozen", _textures(8)), ("small-unet+frozen", _blobs(8))],
)
def test_pretraining_changes_all_but_the_head_by_seed(name: str, images: WorkingSet) -> None:
    states = []
    for seed in (1, 1, 2):
        network = _victim(name)
        before, layout = _state(network), [module_name for module_name, _ in network.named_modules()]
        trainable = [parameter.requires_grad for parameter in network.parameters()]
        global_state = torch.get_rng_state()
        pretrain(network, images, seed=seed, device=CPU, steps=2)
        assert torch.equal(torch.get_rng_state(), global_state)
        assert [parameter.requires_grad for parameter in network.parameters()] == trainable
        assert [module_name for module_name, _ in network.named_modules()] == layout
        states.append(_state(network))
        heads = tuple(f"{layer}." for layer in head_layers(network))
        for key, parameter in network.named_parameters():
            assert torch.equal(parameter, before[key]) == key.startswith(heads), key
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not all(torch.equal(value, states[2][key]) for key, value in states[0].items())


@pytest.mark.slow
def test_pretraining_brings_views_of_one_image_together() -> None:
    """Features of an image and of its mirror image become more alike than those of different images; all are alike in
    the beginning.
    """
    images, network = _textures(16), _victim("small-cnn")
    pretrain(network, images, seed=0, device=CPU, steps=30)
    features = network.eval()[:-1]  # type: ignore[index]
    batch = images.batch(range(16), CPU).images
    with torch.no_grad():
        first, second = (nn.functional.normalize(features(view), dim=1) for view in (batch, batch.flip(3)))
    likeness = first @ second.T
    margin = likeness.diagonal().mean() - likeness[~torch.eye(16, dtype=torch.bool)].mean()
    assert float(margin) > 0.08  # 0.005 before; pairing the wrong views gives 0.04
