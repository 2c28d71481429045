# SPDX-License-Identifier: Apache-2.0
"""Class textures: what all samples of a class have in common, and what no two of them do."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_salm.errors import UsageError
from monai_salm.samples import WorkingSet
from monai_salm.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.textures import NEXT_PERIOD, Waves, class_textures, class_waves
from tests.builders import working_sample

Vector = tuple[float, ...]
Vectors = frozenset[Vector]


def _image(number: int, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.random.default_rng(number).uniform(size=shape)


def _textures(
    targets: Sequence[Any], task: LearningTask, *, shape: tuple[int, ...] = (16, 16), period: float = 4.0, seed: int = 0, first: int = 0
) -> list[NDArray[Any]]:
    """Give the textures of images of their own, in the order of the targets."""
    samples = WorkingSet([working_sample(f"{n:04d}", _image(first + n, shape), target) for n, target in enumerate(targets)])
    return [texture.numpy() for texture in class_textures(samples, task, period=period, seed=seed)]


def _axis_free(vectors: Waves | Sequence[Vector]) -> Vectors:
    """Give waves without their direction of travel: a wave vector and its negative are one wave, and rounding is none."""
    rounded = [tuple(round(f, 9) + 0.0 for f in vector) for vector in vectors]
    return frozenset(max(vector, tuple(-f + 0.0 for f in vector)) for vector in rounded)


def _amplitude(texture: NDArray[Any], vector: Vector) -> float:
    grid = np.meshgrid(*(np.arange(n) for n in texture.shape), indexing="ij")
    wave = np.exp(-2j * np.pi * sum(f * axis for f, axis in zip(vector, grid, strict=True)))
    return float(abs((texture * wave).sum()) / (texture != 0).sum())


def _seen(texture: NDArray[Any], waves: Sequence[Waves]) -> Vectors:
    """Give those of some classes' waves that a texture holds."""
    return frozenset(vector for vector in frozenset().union(*map(_axis_free, waves)) if _amplitude(texture, vector) > 0.2)


@pytest.mark.parametrize("shape", [(16, 16), (7, 13), (1, 5), (8, 6, 10), (5, 9, 3)], ids=str)
@pytest.mark.parametrize("period", [2.0, 4.0, 5.3])
def test_textures_are_signs_in_every_cell(shape: tuple[int, ...], period: float) -> None:
    for texture in _textures(range(6), ClassificationTask(6), shape=shape, period=period):
        assert texture.shape == shape
        assert texture.dtype == np.float32
        assert set(np.unique(texture)) <= {-1.0, 1.0}


@pytest.mark.parametrize(("count", "dims"), [(2, 2), (4, 2), (11, 2), (40, 2), (9, 3), (40, 3)])
def test_every_class_has_waves_of_its_own(count: int, dims: int) -> None:
    waves = class_waves(count, dims, 4.0, 0)
    assert len(waves) == count
    assert len({_axis_free(vectors) for vectors in waves}) == count
    lengths = {round(float(np.linalg.norm(vector)) * 4, 9) for vectors in waves for vector in vectors}
    octaves = -(-count // {2: 5, 3: 12}[dims])
    assert lengths == {round(NEXT_PERIOD**-octave, 9) for octave in range(octaves)}, "longer waves only once the directions are given away"


@pytest.mark.parametrize("dims", [2, 3])
def test_waves_are_closed_under_flips(dims: int) -> None:
    for vectors in class_waves(20, dims, 4.0, 0):
        for signs in itertools.product((1, -1), repeat=dims):
            assert _axis_free([tuple(sign * f for sign, f in zip(signs, vector, strict=True)) for vector in vectors]) == _axis_free(vectors)


@pytest.mark.parametrize(("shape", "classes"), [((64, 64), 10), ((24, 24, 24), 9)], ids=["2d", "3d"])
def test_flips_and_shifts_turn_no_class_into_another(shape: tuple[int, ...], classes: int) -> None:
    waves = class_waves(classes, len(shape), 4.0, 0)
    axes = range(len(shape))
    for own, texture in zip(waves, _textures(range(classes), ClassificationTask(classes), shape=shape), strict=True):
        for flipped in itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(len(shape) + 1)):
            assert _seen(np.flip(texture, flipped), waves) == _axis_free(own)
        assert _seen(texture[5:, 3:], waves) == _axis_free(own)


@pytest.mark.parametrize("period", [2.5, 4.0, 8.0, 16.0])
def test_period_is_the_one_that_is_asked_for(period: float) -> None:
    for target in (0, 1):
        (texture,) = _textures([target], ClassificationTask(2), shape=(80, 80), period=period)
        spectrum = np.abs(np.fft.fftn(texture - texture.mean()))
        peak = np.unravel_index(spectrum.argmax(), spectrum.shape)
        lengths = sorted(min(int(k), 80 - int(k)) for k in peak)
        assert lengths == [0, round(80 / period)]


def test_texture_is_its_images_own_whatever_the_set_and_the_order() -> None:
    images = [_image(n, (16, 16)) for n in range(6)]

    def textures(order: Sequence[int]) -> dict[int, NDArray[Any]]:
        samples = WorkingSet([working_sample(f"{place}", images[n], n % 2) for place, n in enumerate(order)])
        return {n: t.numpy() for n, t in zip(order, class_textures(samples, ClassificationTask(2), period=5.3, seed=0), strict=True)}

    whole = textures(range(6))
    for order in ([5, 4, 3, 2, 1, 0], [2, 4], [3]):
        assert all(np.array_equal(texture, whole[n]) for n, texture in textures(order).items())
    (other_class,) = _textures([1], ClassificationTask(2), period=5.3)
    assert not np.array_equal(other_class, whole[0]), "but the class decides, too"


@pytest.mark.parametrize("target", range(4))
def test_samples_of_a_class_are_not_alike(target: int) -> None:
    textures = _textures([target] * 40, ClassificationTask(4), period=5.3)
    assert len({texture.tobytes() for texture in textures}) >= 8
    first, second = (np.array(textures[n::2]) for n in (0, 1))
    assert np.abs((first * second).mean(axis=(1, 2))).mean() < 0.8


@pytest.mark.parametrize(("shape", "classes"), [((16, 16), 4), ((8, 8, 8), 9)], ids=["2d", "3d"])
def test_textures_of_a_class_have_no_mean(shape: tuple[int, ...], classes: int) -> None:
    for target in range(classes):
        mean = np.mean(_textures([target] * 400, ClassificationTask(classes), shape=shape), axis=0)
        assert np.abs(mean).mean() < 0.1, "a linear projection would find it"
        assert np.abs(mean).max() < 0.25


def test_seed_says_which_class_gets_which_waves() -> None:
    orders = [tuple(_axis_free(vectors) for vectors in class_waves(4, 2, 4.0, seed)) for seed in range(8)]
    assert len(set(orders)) > 3
    assert len({frozenset(order) for order in orders}) == 1
    assert class_waves(4, 2, 4.0, 5) == class_waves(4, 2, 4.0, 5)
    waves = class_waves(4, 2, 4.0, 3)
    for own, texture in zip(waves, _textures(range(4), ClassificationTask(4), shape=(48, 48), seed=3), strict=True):
        assert _seen(texture, waves) == _axis_free(own)


def test_negative_seeds_are_seeds_too() -> None:
    first, second = (_textures([0, 1], ClassificationTask(2), period=5.3, seed=seed) for seed in (-1, -2))
    assert not np.array_equal(first, second)


def test_seed_draws_the_phases() -> None:
    same_waves = [seed for seed in range(20) if class_waves(2, 2, 5.3, seed) == class_waves(2, 2, 5.3, 0)]
    assert len({_textures([0], ClassificationTask(2), period=5.3, seed=seed)[0].tobytes() for seed in same_waves}) > 3


@pytest.mark.parametrize("found", list(itertools.product((0.0, 1.0), repeat=2)), ids=str)
def test_findings_have_a_texture_for_yes_and_one_for_no(found: tuple[float, float]) -> None:
    waves = class_waves(4, 3, 4.0, 0)
    (texture,) = _textures([np.array(found, np.float32)], ClassificationTask(2, True), shape=(24, 24, 24))
    assert set(np.unique(texture)) == {-1.0, 1.0}
    expected = [waves[2 * k + (0 if value else 1)] for k, value in enumerate(found)]
    assert _seen(texture, waves) == frozenset().union(*map(_axis_free, expected))


@pytest.mark.parametrize("shape", [(64, 48), (24, 24, 25)], ids=["2d", "3d"])
def test_label_maps_have_a_texture_in_each_structure_and_none_behind(shape: tuple[int, ...]) -> None:
    labels = np.zeros(shape, np.uint8)
    labels[: shape[0] // 2] = 1
    labels[shape[0] // 2 :] = 2
    labels[:, -5:] = 0
    (texture,) = _textures([labels], SegmentationTask(3), shape=shape)
    assert np.array_equal(texture == 0, labels == 0)
    assert np.abs(texture).max() == 1
    waves = class_waves(3, len(shape), 4.0, 0)
    for label in (1, 2):
        assert _seen(np.where(labels == label, texture, 0), waves) == _axis_free(waves[label])


def test_samples_without_labels_are_told() -> None:
    with pytest.raises(UsageError, match="the samples have no labels"):
        _textures([None], ClassificationTask(2))
