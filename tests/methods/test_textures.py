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
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.methods.textures import (
    CALM_PERIOD,
    NEXT_PERIOD,
    Waves,
    calm_class,
    class_directions,
    class_textures,
    class_waves,
)
from tests.builders import working_sample

CALM = 1
Vector = tuple[float, ...]
Vectors = frozenset[Vector]


def _in_order(count: int, calm: int | None = CALM) -> list[int | None]:
    """Give the directions of classes in their order."""
    found: list[int | None] = list(range(count if calm is None else count - 1))
    if calm is not None and count:
        found.insert(calm, None)
    return found


def _image(number: int, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.random.default_rng(number).uniform(size=shape)


def _textures(
    targets: Sequence[Any],
    task: LearningTask,
    *,
    shape: tuple[int, ...] = (16, 16),
    period: float = 4.0,
    seed: int = 0,
    calm: int | None = CALM,
) -> list[NDArray[Any]]:
    """Give the textures of images of their own, in the order of the targets."""
    samples = WorkingSet([working_sample(f"{n:04d}", _image(n, shape), target) for n, target in enumerate(targets)])
    directions = _in_order(task.outputs, None if getattr(task, "multi_label", False) else calm)
    return [
        texture.numpy() for texture in class_textures(samples, task, period=period, seed=seed, directions=directions)
    ]


def _axis_free(vectors: Waves | Sequence[Vector]) -> Vectors:
    """Give waves without their direction of travel: a wave vector and its negative are one wave, and
    rounding is none.
    """
    rounded = [tuple(round(f, 9) + 0.0 for f in vector) for vector in vectors]
    return frozenset(max(vector, tuple(-f + 0.0 for f in vector)) for vector in rounded)


def _amplitude(texture: NDArray[Any], vector: Vector) -> float:
    grid = np.meshgrid(*(np.arange(n) for n in texture.shape), indexing="ij")
    wave = np.exp(-2j * np.pi * sum(f * axis for f, axis in zip(vector, grid, strict=True)))
    return float(abs((texture * wave).sum()) / (texture != 0).sum())


def _seen(texture: NDArray[Any], waves: Sequence[Waves]) -> Vectors:
    """Give those of some classes' waves that a texture holds."""
    return frozenset(
        vector for vector in frozenset().union(*map(_axis_free, waves)) if _amplitude(texture, vector) > 0.2
    )


@pytest.mark.parametrize("shape", [(16, 16), (7, 13), (1, 5), (8, 6, 10), (5, 9, 3)], ids=str)
@pytest.mark.parametrize("period", [2.0, 4.0, 5.3])
def test_textures_are_signs_in_every_cell(shape: tuple[int, ...], period: float) -> None:
    for texture in _textures(range(6), ClassificationTask(6), shape=shape, period=period):
        assert texture.shape == shape
        assert texture.dtype == np.float32
        assert set(np.unique(texture)) <= {-1.0, 1.0}


@pytest.mark.parametrize(("count", "dims"), [(2, 2), (4, 2), (11, 2), (40, 2), (9, 3), (40, 3)])
def test_every_class_has_waves_of_its_own(count: int, dims: int) -> None:
    waves = class_waves(_in_order(count, CALM), dims, 4.0)
    assert len(waves) == count
    assert len({_axis_free(vectors) for vectors in waves}) == count
    lengths = [{round(float(np.linalg.norm(vector)) * 4, 9) for vector in vectors} for vectors in waves]
    assert all(len(length) == 1 for length in lengths)
    octaves = -(-(count - 1) // (3 if count <= 4 else 5) if dims == 2 else -(count - 1) // 12)
    fine = {length for k, (length,) in enumerate(lengths) if k != CALM}
    assert fine == {round(NEXT_PERIOD**-octave, 9) for octave in range(octaves)}, (
        "longer waves only once the directions are given away"
    )
    assert lengths[CALM] == {round(min(fine) / CALM_PERIOD, 9)}


@pytest.mark.parametrize("dims", [2, 3])
def test_waves_are_closed_under_flips(dims: int) -> None:
    for vectors in class_waves(_in_order(20, CALM), dims, 4.0):
        for signs in itertools.product((1, -1), repeat=dims):
            assert _axis_free(
                [tuple(sign * f for sign, f in zip(signs, vector, strict=True)) for vector in vectors]
            ) == _axis_free(vectors)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "classes"), [((64, 64), 6), ((24, 24, 24), 9)], ids=["2d", "3d"])
def test_flips_and_shifts_turn_no_class_into_another(shape: tuple[int, ...], classes: int) -> None:
    waves = class_waves(_in_order(classes, CALM), len(shape), 4.0)
    fine = [vectors for k, vectors in enumerate(waves) if k != CALM]
    axes = range(len(shape))
    for number, texture in enumerate(_textures(range(classes), ClassificationTask(classes), shape=shape)):
        own = frozenset() if number == CALM else _axis_free(waves[number])
        for flipped in itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(len(shape) + 1)):
            assert _one_of(_seen(np.flip(texture, flipped), fine), own)
        assert _one_of(_seen(texture[5:, 3:], fine), own)


def _one_of(seen: Vectors, own: Vectors) -> bool:
    """Say whether a texture holds just one of its class's waves, or none where there is none."""
    return len(seen) == min(len(own), 1) and seen <= own


@pytest.mark.parametrize("period", [2.5, 4.0, 8.0, 16.0])
def test_period_is_the_one_that_is_asked_for(period: float) -> None:
    for target, longer in ((0, 1.0), (1, CALM_PERIOD)):
        (texture,) = _textures([target], ClassificationTask(2), shape=(320, 320), period=period)
        spectrum = np.abs(np.fft.fftn(texture - texture.mean()))
        peak = np.unravel_index(spectrum.argmax(), spectrum.shape)
        length = float(np.hypot(*(min(int(k), 320 - int(k)) for k in peak)))
        assert length == pytest.approx(320 / (period * longer), abs=1.0)


def test_samples_take_turns_in_the_mirror_images() -> None:
    textures = _textures([0] * 30, ClassificationTask(2), shape=(32, 32))
    (own, _) = class_waves(_in_order(2, CALM), 2, 4.0)
    assert frozenset().union(*(_seen(texture, [own]) for texture in textures)) == _axis_free(own)
    assert all(len(_seen(texture, [own])) == 1 for texture in textures), "their sum would be weaker"


def test_texture_is_its_images_own_whatever_the_set_and_the_order() -> None:
    images = [_image(n, (16, 16)) for n in range(6)]

    def textures(order: Sequence[int]) -> dict[int, NDArray[Any]]:
        samples = WorkingSet([working_sample(f"{place}", images[n], n % 2) for place, n in enumerate(order)])
        return {
            n: t.numpy()
            for n, t in zip(
                order,
                class_textures(samples, ClassificationTask(2), period=5.3, seed=0, directions=_in_order(2)),
                strict=True,
            )
        }

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


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "classes"), [((16, 16), 4), ((8, 8, 8), 9)], ids=["2d", "3d"])
def test_textures_of_a_class_have_no_mean(shape: tuple[int, ...], classes: int) -> None:
    for target in range(classes):
        mean = np.mean(_textures([target] * 1600, ClassificationTask(classes), shape=shape), axis=0)
        assert np.abs(mean).mean() < 0.1, "a linear projection would find it"
        assert np.abs(mean).max() < 0.25


@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)], ids=["2d", "3d"])
def test_textures_along_an_axis_outlast_halving(shape: tuple[int, ...]) -> None:
    """Averaging two cells a side leaves the whole amplitude, wherever a sample's wave begins."""
    for texture in _textures(
        [n % len(shape) for n in range(40)], ClassificationTask(len(shape)), shape=shape, period=4.0
    ):
        halved = texture.reshape([part for n in shape for part in (n // 2, 2)]).mean(
            axis=tuple(range(1, 2 * len(shape), 2))
        )
        assert np.array_equal(np.abs(halved), np.ones(halved.shape))


def _fine(strength: float, count: int, first: int) -> list[NDArray[Any]]:
    """Give smooth images with grain of a strength that varies by a tenth."""
    grid = np.add.outer(np.arange(16), np.arange(16)) / 60
    draws = [np.random.default_rng(n) for n in range(first, first + count)]
    return [grid + strength * (1 + 0.1 * draw.normal()) * draw.normal(size=(16, 16)) for draw in draws]


@pytest.mark.parametrize(
    ("strengths", "calm"),
    [((0.1, 0.05, 0.2), 1), ((0.2, 0.1, 0.05), 2), ((0.1, 0.1001, 0.1), 1), ((0.1, 0.1001), 1)],
    ids=str,
)
def test_calm_class_is_the_coarsest_or_the_finest_of_like_ones(strengths: tuple[float, ...], calm: int) -> None:
    images = [_fine(strength, 20, 0) for strength in strengths]
    samples = WorkingSet(
        [working_sample(f"{k}-{n:02d}", image, k) for k, group in enumerate(images) for n, image in enumerate(group)]
    )
    assert calm_class(samples) == calm
    waves = class_waves(_in_order(len(strengths), calm), 2, 4.0)
    textures = class_textures(
        samples, ClassificationTask(len(strengths)), period=4.0, seed=0, directions=_in_order(len(strengths), calm)
    )
    for sample, texture in zip(samples.samples, textures, strict=True):
        assert bool(_seen(texture.numpy(), [wave for k, wave in enumerate(waves) if k != calm])) == (
            sample.target != calm
        )


def test_two_classes_far_apart_have_a_texture_each() -> None:
    images = [_fine(strength, 10, 0) for strength in (0.05, 0.2)]
    samples = WorkingSet(
        [working_sample(f"{k}-{n:02d}", image, k) for k, group in enumerate(images) for n, image in enumerate(group)]
    )
    assert calm_class(samples) is None
    (first,), (second,) = class_waves(_in_order(2, None), 2, 4.0)
    assert [abs(round(f, 9)) for f in (*first, *second)] == [0.25, 0.0, 0.0, 0.25], "at right angles"


def test_calm_class_does_without_classes_that_do_not_occur_and_without_carriers() -> None:
    nothing = np.zeros((8, 8), np.int64)
    samples = WorkingSet(
        [working_sample(name, np.zeros((8, 8), np.float32), 2, carrier_voxels=nothing) for name in "ab"]
    )
    assert calm_class(samples) == 2


def _grained(strengths: Sequence[Sequence[float]], count: int = 24) -> WorkingSet:
    """Give images of classes with waves of 4 cells along each axis, of strengths that vary by a tenth."""
    samples = []
    for k, n in itertools.product(range(len(strengths)), range(count)):
        draw = np.random.default_rng(1000 * k + n)
        waves = [
            strength * (1 + 0.1 * draw.normal()) * np.sin(2 * np.pi * (np.arange(24) / 4 + draw.uniform()))
            for strength in strengths[k]
        ]  # fmt: skip
        samples.append(
            working_sample(f"{k}-{n:02d}", 0.5 + np.add.outer(*waves) + 0.05 * draw.normal(size=(24, 24)), k)
        )
    return WorkingSet(samples)


@pytest.mark.parametrize(("along", "direction"), [(0, 1), (1, 0)])
def test_a_lone_fine_class_lies_across_the_axis_in_which_classes_differ(along: int, direction: int) -> None:
    strengths = [[0.1, 0.1], [0.1, 0.1]]
    strengths[1][along] = 0.12
    found = class_directions(_grained(strengths), 2, period=4.0)
    assert sorted(found, key=str) == [direction, None]


def test_each_class_lies_where_it_differs_least() -> None:
    samples = _grained([[0.03, 0.03], [0.12, 0.06], [0.06, 0.12]])
    assert class_directions(samples, 3, period=4.0) == (None, 1, 0)
    samples = _grained([[0.03, 0.03], [0.06, 0.12], [0.12, 0.06]])
    assert class_directions(samples, 3, period=4.0) == (None, 0, 1)


def test_directions_stay_in_order_where_nothing_tells_them_apart() -> None:
    assert class_directions(_grained([[0.02, 0.02], [0.1, 0.1]]), 2, period=4.0) == (0, 1), (
        "two classes differ as much from each other either way"
    )
    one_image = WorkingSet(
        [working_sample("a", np.zeros((8, 8), np.float32), 1, carrier_voxels=np.zeros((8, 8), np.int64))]
    )
    assert class_directions(one_image, 4, period=4.0) == (0, None, 1, 2), "the classes that do not occur, too"
    findings = WorkingSet([working_sample("a", np.zeros((8, 8), np.float32), np.array([1.0, 0.0], np.float32))])
    assert class_directions(findings, 2, period=4.0) == (0, 1)


@pytest.mark.parametrize("shape", [(1, 5), (3, 4, 2), (12, 9, 10)], ids=str)
def test_directions_are_found_in_small_images_and_in_volumes(shape: tuple[int, ...]) -> None:
    samples = WorkingSet([working_sample(f"{n}", _image(n, shape), n % 3) for n in range(9)])
    found = class_directions(samples, 3, period=4.0)
    assert len(class_waves(found, len(shape), 4.0)) == 3
    assert len({place for place in found if place is not None}) == 2


@pytest.mark.slow
def test_directions_of_many_classes() -> None:
    samples = WorkingSet([working_sample(f"{n}", _image(n, (20, 24)), n) for n in range(40)])
    found = class_directions(samples, 40, period=4.0)
    assert len({place for place in found if place is not None}) == 39
    assert len({_axis_free(waves) for waves in class_waves(found, 2, 4.0)}) == 40


def test_a_direction_for_each_class() -> None:
    samples = WorkingSet([working_sample("a", _image(0, (8, 8)), 1)])
    with pytest.raises(UsageError, match="2 directions of textures are given for 3 classes"):
        class_textures(samples, ClassificationTask(3), period=4.0, seed=0, directions=[0, None])


@pytest.mark.parametrize("target", [None, np.array([1.0, 0.0], np.float32)], ids=["none", "findings"])
def test_only_classes_have_a_calm_one(target: Any) -> None:
    assert calm_class(WorkingSet([working_sample("a", np.zeros((8, 8), np.float32), target)])) is None


def test_negative_seeds_are_seeds_too() -> None:
    first, second = (_textures([0, 1], ClassificationTask(2), period=5.3, seed=seed) for seed in (-1, -2))
    assert not np.array_equal(first, second)


def test_seed_draws_the_phases() -> None:
    assert len({_textures([0], ClassificationTask(2), period=5.3, seed=seed)[0].tobytes() for seed in range(10)}) > 5


@pytest.mark.parametrize("found", list(itertools.product((0.0, 1.0), repeat=2)), ids=str)
def test_findings_have_a_texture_each_and_none_is_calm(found: tuple[float, float]) -> None:
    waves = class_waves(_in_order(3, 2), 2, 4.0)
    (texture,) = _textures([np.array(found, np.float32)], ClassificationTask(2, True), shape=(48, 48))
    assert set(np.unique(texture)) == {-1.0, 1.0}
    for value, vectors in zip(found, waves, strict=False):
        assert len(_seen(texture, [vectors])) == value
    assert bool(_seen(texture, waves[2:])) == (not any(found))


def test_label_maps_are_refused() -> None:
    with pytest.raises(UsageError, match="not for label maps; set texture_period to 0"):
        _textures([np.zeros((16, 16), np.uint8)], SegmentationTask(2))


def test_samples_without_labels_are_told() -> None:
    with pytest.raises(UsageError, match="the samples have no labels"):
        _textures([None], ClassificationTask(2))
