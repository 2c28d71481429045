# SPDX-License-Identifier: Apache-2.0
"""Color images: networks see their colors, and each color has noise of its own."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from monai_salm.budget import Epsilon
from monai_salm.canvas import Canvas
from monai_salm.errors import UsageError
from monai_salm.evaluate import evaluate
from monai_salm.evaluate.countermeasures import find_countermeasure
from monai_salm.evaluate.countermeasures.base import Leak
from monai_salm.evaluate.options import EvaluateOptions
from monai_salm.learning.consumers import NO_AUGMENTATION
from monai_salm.learning.networks import seeded_network
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.sample_views import halved
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.strangers import SampleGroups, StrangerPanel
from monai_salm.learning.surrogate import load_surrogate
from monai_salm.learning.tasks import ClassificationTask
from monai_salm.methods.minmin import MinMinOptimizer
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.search_state import SearchState
from monai_salm.pipeline import protect, verify
from monai_salm.pipeline.choices import KindChoices
from monai_salm.working_samples import WorkingMaps, WorkingSample
from tests.builders import file_budget, working_sample
from tests.exports import small

CPU = torch.device("cpu")
SIZE = 24


def _colors(number: int, *, gray: bool = False) -> NDArray[np.uint8]:
    """A patch of noise on black, in colors of its own or in gray ones."""
    generator = np.random.default_rng(number)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[2:-2, 2:-2] = generator.integers(60, 200, (SIZE - 4, SIZE - 4, 1 if gray else 3))
    return image


def _sample(name: str, *, channels: int = 3, size: int = 8) -> WorkingSample:
    image = np.random.default_rng(ord(name)).random((size, size, channels)).astype(np.float32)
    if channels == 1:
        return working_sample(name, image[..., 0], ord(name) % 2)
    share = np.ones(image.shape, np.float32)
    voxels = np.ones(image.shape[:2], np.int64)
    return working_sample(
        name, image, ord(name) % 2, carrier_share=share, carrier_voxels=voxels, anatomy_voxels=size * size
    )


def _export(folder: Path, count: int = 6, *, gray: bool = False) -> Path:
    (folder / "in").mkdir(parents=True)
    rows = [("path", "label")]
    for number in range(count):
        Image.fromarray(_colors(number, gray=gray)).save(folder / "in" / f"{number}.png")
        rows.append((f"{number}.png", str(number % 2)))
    with (folder / "l.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def _options(folder: Path, **changes: Any) -> Any:
    return small(
        **{"labels": folder / "l.csv", "rounds": 2, "method": "salm:exchange", "pictures": ("*.png",)} | changes
    )


def _changes(folder: Path) -> NDArray[np.int64]:
    """Give what protection changed in all images, ``(images, rows, columns, 3)``."""
    pairs = [(folder / "in" / f"{k}.png", folder / "out" / f"{k}.png") for k in range(6)]
    return np.stack([
        np.asarray(Image.open(after)).astype(np.int64) - np.asarray(Image.open(before)) for before, after in pairs
    ])  # fmt: skip


@pytest.mark.parametrize("gray", [False, True])
def test_colors_are_kept_where_there_are_some(*, gray: bool) -> None:
    stored = _colors(0, gray=gray)
    budget = file_budget(
        modality="OT", window_low=0.0, window_high=255.0, intercept=0.0, range_stored=(1.0, 254.0), epsilon_real=8.0,
        steps=8, background_stored=0.0,
    )  # fmt: skip
    canvas = Canvas(views=(budget,), spacing=(1.0, 1.0), trailing=1, color=True)
    assert Canvas.from_json(canvas.to_json()) == canvas
    maps = WorkingMaps.of_file(stored, canvas, (12, 12))
    sample = WorkingSample(sample_id="a", levels=8, step_model=1 / 255, target=0, **vars(maps))
    assert (sample.shape, sample.channels) == ((12, 12), 1 if gray else 3)
    colors = stored.reshape(12, 2, 12, 2, 3).mean((1, 3)) / 255
    assert sample.image_model == pytest.approx(colors.mean(-1) if gray else colors, abs=1e-6)
    assert sample.in_gray().image_model == pytest.approx(colors.mean(-1), abs=1e-6)
    assert WorkingMaps.of_file(stored, replace(canvas, color=False), (12, 12)).image_model.ndim == 2


def test_few_colored_places_are_a_mark_on_a_gray_image() -> None:
    stored = _colors(0, gray=True)
    stored[4:7, 4:7, 0] += 40
    budget = file_budget(modality="OT", window_low=0.0, window_high=255.0, intercept=0.0, background_stored=0.0)
    canvas = Canvas(views=(budget,), spacing=(1.0, 1.0), trailing=1, color=True)
    assert WorkingMaps.of_file(stored, canvas, (SIZE, SIZE)).image_model.ndim == 2


def test_one_gray_image_makes_all_gray() -> None:
    assert WorkingSet([_sample("a"), _sample("b")]).channels == 3
    mixed = WorkingSet([_sample("a"), _sample("b", channels=1)])
    assert mixed.channels == 1
    assert mixed.samples[0].image_model == pytest.approx(_sample("a").image_model.mean(-1), abs=1e-6)


def test_batches_have_channels_and_go_back() -> None:
    working = WorkingSet([_sample("a"), _sample("b", size=5)])
    batch = working.batch([0, 1], CPU)
    assert (batch.images.shape, batch.share.shape, batch.voxels.shape) == ((2, 3, 8, 8), (2, 3, 8, 8), (2, 1, 8, 8))
    assert np.array_equal(working.crop(batch.images[1], 1), working.samples[1].image_model)
    for stacked in (False, True):
        held = ResidentSet(WorkingSet([_sample("a"), _sample("c")]), CPU, stacked=stacked)
        images = held.batch([1, 0]).images
        assert np.array_equal(images[0].movedim(0, -1).numpy(), _sample("c").image_model)
        maps = held.new_maps(channels=3)
        maps.scatter(held.batch([1]).place, images[:1])
        assert np.array_equal(maps[1].movedim(0, -1).numpy(), _sample("c").image_model)
        assert not maps[0].any()


def test_half_the_size_of_a_color_image() -> None:
    sample = _sample("a")
    assert halved(sample).image_model == pytest.approx(sample.image_model.reshape(4, 2, 4, 2, 3).mean((1, 3)), abs=1e-6)
    gray = np.ones((8, 8), np.int16)
    assert np.array_equal(sample.protected(gray).image_model, sample.protected(np.stack([gray] * 3, -1)).image_model)


@pytest.mark.parametrize(
    ("size", "brief", "views"),
    [(16, False, ["", "without colors"]), (48, False, ["", "half the size", "without colors"]),
     (48, True, ["", "half the size"])],
)  # fmt: skip
def test_strangers_of_color_images_try_gray_ones(size: int, brief: bool, views: list[str]) -> None:
    samples = [replace(_sample("a", size=size), sample_id=f"{k:02d}", target=k % 2) for k in range(60)]
    groups = SampleGroups([sample.sample_id for sample in samples], "image")
    panel = StrangerPanel(WorkingSet(samples), groups, ClassificationTask(2), seed=0, device=CPU)
    cells = panel._cells(unusual=not brief)
    assert list(dict.fromkeys(view for _, view in cells)) == views


def test_a_search_goes_on_in_color_where_it_stopped() -> None:
    samples = WorkingSet([_sample(name) for name in "abcdef"])

    def optimizer(rounds: int) -> MinMinOptimizer:
        network = seeded_network("small-cnn", samples.padded_shape, 2, 0, channels=3)
        settings = MinMinSettings(
            max_rounds=rounds, noise_steps=2, batch_size=4, surrogate_batches=2, stop_error=0.0, exchange=1.0,
            texture_period=4, texture_batches=2, renew_every=1,
        )  # fmt: skip
        return MinMinOptimizer(network, ClassificationTask(2), settings, augmentation=NO_AUGMENTATION)

    whole = dict(optimizer(3).run(samples))
    state = optimizer(2).start(samples)
    first = optimizer(2)
    list(first.run(samples, state))
    kept, last = SearchState.from_memory(*state.to_memory(), samples), optimizer(3)
    last.network.load_state_dict(first.network.state_dict())
    assert first.descent is not None
    last.remembered = first.descent.to_memory()
    again = dict(last.run(samples, kept))
    for name, steps in whole.items():
        assert steps.shape == (8, 8, 3)
        assert np.array_equal(steps, again[name])
        assert any(not np.array_equal(steps[..., 0], steps[..., k]) for k in (1, 2))
        assert (steps != 0).any(-1).sum() <= 0.4 * 64


@pytest.mark.slow
def test_each_color_has_noise_of_its_own_in_the_files(tmp_path: Path) -> None:
    folder = _export(tmp_path)
    protect(folder / "in", folder / "out", _options(folder))
    changes = _changes(folder)
    assert np.abs(changes).max() == 8
    assert not np.array_equal(changes[..., 0], changes[..., 1])
    anatomy = np.stack([_colors(k).any(-1) for k in range(6)])
    assert not changes[~anatomy].any()
    assert ((changes != 0).any(-1).sum((1, 2)) <= 0.4 * anatomy.sum((1, 2))).all()
    found = verify(
        folder / "in", folder / "out", check_epsilon=Epsilon.parse("8/255"), choices=KindChoices(pictures=("*.png",))
    )
    assert (len(found.files), found.mismatches) == (6, [])

    _network, card = load_surrogate(tmp_path / "out.work" / "surrogate.safetensors")
    assert (card.channels, card.network) == (3, "small-cnn,small-cnn,small-resnet/gray")
    frozen = _options(folder, surrogate=str(tmp_path / "out.work" / "surrogate.safetensors"))
    protect(folder / "in", folder / "again", frozen)
    gray = _export(tmp_path / "gray", gray=True)
    with pytest.raises(UsageError, match="is gray, and the surrogate was trained on color images"):
        protect(gray / "in", gray / "out", replace(frozen, labels=gray / "l.csv"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "gray"),
    [("random", False), ("textures", False), ("tap", False), ("lsp", False), ("pil", False), ("salm:exchange", True)],
)
def test_all_colors_share_the_noise_of_methods_and_images_without_color(
    tmp_path: Path, method: str, *, gray: bool
) -> None:
    folder = _export(tmp_path, gray=gray)
    protect(folder / "in", folder / "out", _options(folder, method=method))
    changes = _changes(folder)
    assert changes.any()
    images = np.stack([_colors(k, gray=gray) for k in range(6)])
    inside = ((images > 70) & (images < 185)).all(-1)  # no color is cut at the extremes of its file
    assert (changes[inside] == changes[inside][:, :1]).all()


@pytest.mark.slow
def test_victims_see_colors(tmp_path: Path) -> None:
    train, test = _export(tmp_path / "a"), _export(tmp_path / "b")
    for path in (test / "in").iterdir():
        Image.fromarray(np.asarray(Image.open(path))[::-1]).save(path)
    protect(train / "in", train / "out", _options(train))
    options = EvaluateOptions(
        labels=train / "l.csv", test_labels=test / "l.csv", victims="small-cnn", epochs=1, seeds=1, least_steps=5,
        pictures=("*.png",),
        countermeasures="none,jpeg-50,grayscale,gaussian-1,orthogonal-projection", working_size=SIZE, device="cpu",
    )  # fmt: skip
    found = evaluate(train / "in", train / "out", test / "in", options)
    names = {row.countermeasure for row in found.results}
    assert names == {"none", "jpeg-50", "grayscale", "gaussian-1", "orthogonal-projection"}


def test_filters_of_colors() -> None:
    sample = _sample("a", size=16)
    image = sample.image_model
    leak = Leak([sample], [], ClassificationTask(2), 0, CPU)
    plain = Leak([_sample("a", channels=1)], [], ClassificationTask(2), 0, CPU)

    def fitted(name: str, leak: Leak = leak) -> Any:
        fit = find_countermeasure(name).fit
        assert fit is not None
        return fit(leak)

    blurred = fitted("gaussian-1")(image)
    assert np.array_equal(blurred[..., 1], fitted("gaussian-1", plain)(np.ascontiguousarray(image[..., 1])))
    gray = fitted("grayscale")(image)
    assert gray == pytest.approx(np.repeat(image.mean(-1, keepdims=True), 3, -1), abs=1e-6)
    with pytest.raises(UsageError, match="grayscale needs color images, and these are gray"):
        fitted("grayscale", plain)
    # A JPEG keeps half of the places of its colors alone: what differs between them alone is lost.
    signs = (-1.0) ** np.indices((16, 16)).sum(0)
    colored = (0.5 + 0.1 * signs[..., None] * np.array([1.0, -0.51, 0.0])).astype(np.float32)
    assert np.ptp(fitted("jpeg-90")(colored), axis=(0, 1)).max() < 0.1
