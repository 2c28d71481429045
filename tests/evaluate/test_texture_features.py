# SPDX-License-Identifier: Apache-2.0
"""Texture features, held against the published example and another implementation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.feature import graycomatrix, graycoprops

from monai_salm.evaluate.texture_features import TEXTURE_FEATURES, texture_features

PROPERTIES = ("contrast", "homogeneity", "correlation")


def _model(gray: NDArray[np.integer]) -> NDArray[np.float32]:
    """Give model values in the middle of some of 32 gray values."""
    return ((gray + 0.5) / 32).astype(np.float32)


def _by_another(planes: list[NDArray[np.uint8]]) -> list[float]:
    """Give the features of scikit-image, of one matrix for all planes and directions."""
    counts = sum(
        graycomatrix(plane, [1], [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4], levels=32, symmetric=True).sum(axis=(2, 3))
        for plane in planes
    )
    matrix = counts[:, :, None, None] / counts.sum()
    return [float(graycoprops(matrix, name)[0, 0]) for name in PROPERTIES]


def test_contrast_of_the_published_example() -> None:
    """Haralick, Shanmugam and Dinstein (1973), figure 3: the four matrices of a 4 x 4 image, here in one."""
    image = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 2, 2, 2], [2, 2, 3, 3]])
    matrices = np.array([
        [[4, 2, 1, 0], [2, 4, 0, 0], [1, 0, 6, 1], [0, 0, 1, 2]],
        [[4, 1, 0, 0], [1, 2, 2, 0], [0, 2, 4, 1], [0, 0, 1, 0]],
        [[6, 0, 2, 0], [0, 4, 2, 0], [2, 2, 2, 2], [0, 0, 2, 0]],
        [[2, 1, 3, 0], [1, 2, 1, 0], [3, 1, 0, 2], [0, 0, 2, 0]],
    ]).sum(axis=0)  # fmt: skip
    away = (np.arange(4)[:, None] - np.arange(4)) ** 2
    contrast, homogeneity, _ = texture_features(_model(image), np.ones((4, 4), bool), None)
    assert contrast == pytest.approx((matrices * away).sum() / matrices.sum())
    assert homogeneity == pytest.approx((matrices / (1 + away)).sum() / matrices.sum())


@pytest.mark.parametrize("across", [0, 1, 2])
def test_another_implementation_gives_the_same(across: int) -> None:
    gray = np.random.default_rng(0).integers(0, 32, (9, 8, 7)).astype(np.uint8)
    gray = (gray + np.roll(gray, 1, 0) + np.roll(gray, 1, 1)) // 3
    planes = [np.ascontiguousarray(plane) for plane in np.moveaxis(gray, across, 0)]
    assert texture_features(_model(gray), np.ones(gray.shape, bool), across) == pytest.approx(_by_another(planes))
    one = texture_features(_model(planes[0]), np.ones(planes[0].shape, bool), None)
    assert one == pytest.approx(_by_another(planes[:1]))


def test_pairs_that_leave_the_region_do_not_count() -> None:
    gray = np.full((8, 8), 4)
    gray[:, 4:] = 20
    mask = np.ones((8, 8), bool)
    mask[:, 4] = False
    assert texture_features(_model(gray), mask, None)[0] == 0, "no neighbors of both halves are left"
    assert texture_features(_model(gray), np.ones((8, 8), bool), None)[0] > 10


@pytest.mark.parametrize("voxels", [1, 9])
def test_regions_of_one_voxel_or_one_gray_value(voxels: int) -> None:
    mask = np.zeros((5, 5), bool)
    mask.flat[:voxels] = True
    found = dict(zip(TEXTURE_FEATURES, texture_features(np.full((5, 5), 0.3, np.float32), mask, None), strict=True))
    assert found == {"contrast": 0, "homogeneity": 1, "correlation": 1}
