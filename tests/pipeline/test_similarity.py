# SPDX-License-Identifier: Apache-2.0
"""Structural similarity: 1 for the same picture, less for a changed one, and as its definition says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics.regression import compute_ssim_and_cs
from numpy.typing import NDArray
from scipy import ndimage

from monai_salm.pipeline.similarity import structural_similarity


def _picture(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0.2, 0.8, shape).astype(np.float32)


@pytest.mark.parametrize(
    "shape", [(24, 30), (24, 30, 5), (40, 24, 30), (5, 7), (11, 3), (1, 9), (2, 2), (4, 4, 4)], ids=str
)
def test_same_picture_is_one_and_a_changed_one_is_less(shape: tuple[int, ...]) -> None:
    before = _picture(*shape)
    assert structural_similarity(before, before) == pytest.approx(1, abs=1e-12)
    after = before.copy()
    after[tuple(n // 2 for n in shape)] += 0.2
    assert structural_similarity(before, after) < 1 - 1e-6


def test_more_noise_is_less_alike() -> None:
    before = _picture(32, 32)
    noise = np.random.default_rng(1).choice([-1, 1], before.shape).astype(np.float32)
    found = [structural_similarity(before, before + noise * size / 255) for size in (1, 4, 16, 64)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.99 > 0.9 > found[-1] > -1


def test_is_the_mean_over_the_slices_of_the_shortest_axis() -> None:
    before, after = _picture(16, 20, 35)[..., :5], _picture(16, 20, 35)[..., 30:]
    slices = [structural_similarity(before[..., k], after[..., k]) for k in range(5)]
    assert structural_similarity(before, after) == pytest.approx(np.mean(slices))
    for axis in (0, 1):
        turned = [np.moveaxis(values, -1, axis) for values in (before, after)]
        assert structural_similarity(*turned) == pytest.approx(np.mean(slices))
    many = [np.repeat(values[..., :1], 18, axis=2).transpose(2, 0, 1)[:, :, :] for values in (before, after)]
    many = [np.pad(values, ((0, 0), (4, 4), (0, 0)), mode="wrap") for values in many]
    assert structural_similarity(*many) == pytest.approx(structural_similarity(many[0][0], many[1][0])), (
        "more slices than are taken at once"
    )


def test_is_what_monai_finds() -> None:
    before, after = _picture(40, 48), np.clip(_picture(40, 48) + 0.05 * _picture(48, 40).T, 0, 1)
    pair = (torch.from_numpy(values)[None, None] for values in (before, after))
    found, _ = compute_ssim_and_cs(*pair, spatial_dims=2, kernel_size=(11, 11), kernel_sigma=(1.5, 1.5))
    assert structural_similarity(before, after) == pytest.approx(float(found.mean()), abs=1e-5)


def test_is_what_its_definition_says() -> None:
    """Wang et al. 2004: a Gaussian window of 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1."""
    before, after = (
        _picture(24, 26).astype(np.float64),
        np.clip(_picture(24, 26) + 0.1 * _picture(26, 24).T, 0, 1).astype(np.float64),
    )
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.convolve(values, window)[5:-5, 5:-5]

    first, second = mean(before), mean(after)
    spread = [mean(values**2) - middle**2 for values, middle in ((before, first), (after, second))]
    together = mean(before * after) - first * second
    c1, c2 = 0.01**2, 0.03**2
    expected = (
        (2 * first * second + c1) * (2 * together + c2) / ((first**2 + second**2 + c1) * (spread[0] + spread[1] + c2))
    )
    assert structural_similarity(before.astype(np.float32), after.astype(np.float32)) == pytest.approx(
        expected.mean(), abs=1e-7
    ), "to the digits of single precision"


def test_where_nothing_changed_is_one() -> None:
    """Windows of 11 x 11 that see a change of 3 x 2 lie in 23 x 22, at 13 x 12 places; all others are alike."""
    before = _picture(70, 60)
    after = before.copy()
    after[40:43, 20:22] += 0.1
    changed, places = 13 * 12, 60 * 50
    part = structural_similarity(before[30:53, 10:32], after[30:53, 10:32])
    assert part < 0.999
    expected = (places - changed * (1 - part)) / places
    assert structural_similarity(before, after) == pytest.approx(expected, abs=1e-9)
    after[0, 59] = np.nan
    assert np.isnan(structural_similarity(before, after))
