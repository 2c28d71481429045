# SPDX-License-Identifier: Apache-2.0
"""The anatomy, what was burned in, and exact top-k."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from monai_salm.anatomy import anatomy_mask
from monai_salm.background import Background, border_values, find_background
from monai_salm.burned_in import graphics_mask, static_pixels
from monai_salm.methods.sparsity import sparsity_mask


def _disk(size: int, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:size, :size]
    disk: NDArray[np.bool_] = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < radius**2
    return disk


def test_border_is_the_rim_of_a_picture_and_the_sides_of_a_volume() -> None:
    picture = np.arange(12).reshape(3, 4)
    assert set(border_values(picture).tolist()) == set(range(12)) - {5, 6}
    volume = np.arange(60).reshape(3, 4, 5)
    assert set(border_values(volume).tolist()) == set(range(60)) - set(volume[1, 1:3].ravel().tolist())


def test_ct_anatomy_is_the_body_with_its_lungs_and_without_the_table() -> None:
    values = np.full((96, 96), -1000.0)
    body, lung = _disk(96, 30), _disk(96, 10)
    values[body] = 40
    values[lung] = -850
    values[90:92] = 100  # a table top of 2 mm
    found = anatomy_mask(values, modality="CT", spacing=(1.0, 1.0))
    assert found[lung].all()
    assert not found[88:].any()
    assert np.count_nonzero(found != body) < 0.02 * body.sum()


def test_ct_anatomy_in_3d_fills_a_lung_that_leaves_the_volume() -> None:
    values = np.full((48, 48, 4), -1000.0)
    values[_disk(48, 18)] = 40
    values[_disk(48, 6)] = -850
    found = anatomy_mask(values, modality="CT", spacing=(1.0, 1.0, 5.0))
    assert found[_disk(48, 6)].all()
    assert not found[0].any()


def test_nan_is_no_anatomy() -> None:
    values = np.where(_disk(32, 10), 40.0, -1000.0)
    values[16, 16] = np.nan
    for modality, background in (("CT", None), ("MR", Background(-1000.0, 10.0, None)), ("MR", None)):
        found = anatomy_mask(values, modality=modality, background=background)
        assert not found[16, 16]
        assert found[16, 15]


def test_mr_anatomy_differs_from_its_background() -> None:
    generator = np.random.default_rng(0)
    stored = np.abs(generator.normal(0, 4, (64, 64))) + np.where(_disk(64, 20), 400.0, 0.0)
    stored[2:4, 2:4] = 300  # a speck
    background = find_background(stored, border_values(stored), 2.0, 10.0)
    assert background is not None
    assert background.exact_stored is None
    assert background.center_real == pytest.approx(10, abs=12)
    found = anatomy_mask(stored * 2 + 10, modality="MR", background=background)
    assert np.array_equal(found, _disk(64, 20))


def test_two_legs_are_both_anatomy() -> None:
    values = np.zeros((40, 60))
    values[5:35, 5:25] = values[5:35, 35:55] = 100
    found = anatomy_mask(values, modality="MR", background=Background(0.0, 5.0, None))
    assert np.array_equal(found, values > 0)


def test_empty_background_is_exact() -> None:
    stored = np.where(_disk(32, 10), 900, 7)
    background = find_background(stored, border_values(stored), -1.0, 0.0)
    assert background is not None
    assert background.exact_stored == 7
    assert background.center_real == -7


@pytest.mark.parametrize("lively", [True, False], ids=["crop", "nothing-finite"])
def test_no_background(lively: bool) -> None:
    stored = np.random.default_rng(0).uniform(0, 100, (32, 32)) if lively else np.full((4, 4), np.nan)
    assert find_background(stored, border_values(stored), 1.0, 0.0) is None


def _screen(colors: int) -> NDArray[np.uint8]:
    """Give a dark gray picture with black areas and one letter."""
    picture = np.full((20, 20), 60, dtype=np.uint8) if colors == 1 else np.full((20, 20, colors), 60, dtype=np.uint8)
    picture[15:] = 0
    picture[5:8, 5] = 255 if colors == 1 else (0, 255, 0)
    return picture


@pytest.mark.parametrize("colors", [1, 3], ids=["gray", "color"])
@pytest.mark.parametrize("modality", ["US", "OT", "SC"])
def test_text_and_its_edges_are_graphics(modality: str, colors: int) -> None:
    found = graphics_mask(_screen(colors), modality, trailing=colors // 3)
    expected = np.zeros((20, 20), dtype=bool)
    for row in (5, 6, 7):
        rows, columns = np.ogrid[:20, :20]
        expected |= abs(rows - row) + abs(columns - 5) <= 2
    assert np.array_equal(found, expected)


def test_what_is_no_graphics() -> None:
    picture = _screen(1)
    for modality in ("CT", "MR", "CR", ""):
        assert not graphics_mask(picture, modality).any()
    us = "US"
    assert not graphics_mask(picture.astype(np.float32), us).any()
    assert not graphics_mask(np.stack([picture] * 2), us).any()
    white = np.full((20, 20), 255, dtype=np.uint8)
    assert not graphics_mask(white, us).any()
    tinted = np.where(_screen(3) == 255, np.uint8(254), _screen(3))
    assert not graphics_mask(tinted, us, trailing=1).any()
    assert not graphics_mask(np.where(_screen(1) == 255, np.uint8(0), _screen(1)), us).any(), "black is no text"


@pytest.mark.parametrize("colors", [(), (3,)], ids=["gray", "color"])
def test_what_stands_still_over_a_loop_is_no_image(colors: tuple[int, ...]) -> None:
    loop = np.random.default_rng(0).integers(1, 200, (5, 6, 7, *colors)).astype(np.uint8)
    loop[:, 0] = 77
    loop[:, 1, 1] = 5
    if colors:
        loop[:, 2] = 3
        loop[1, 2, :, 2] = 4  # moves in blue, and in one frame
    expected = np.zeros((6, 7), dtype=bool)
    expected[0] = expected[1, 1] = True
    found = static_pixels(loop, "US", trailing=len(colors))
    assert found.shape == (1, 6, 7)
    assert np.array_equal(found[0], expected)
    for few, modality in ((loop[:3], "US"), (loop, "XA"), (loop, "MR"), (loop, "")):
        assert not static_pixels(few, modality, trailing=len(colors)).any()
    assert static_pixels(loop[:4], "IVUS", trailing=len(colors))[0, 0].all()


@pytest.mark.parametrize(
    ("score", "voxels", "limit", "expected"),
    [
        pytest.param([3, 1, 2], [1, 1, 1], 2, [True, False, True], id="highest"),
        pytest.param([1, 1, 1], [1, 1, 1], 2, [True, True, False], id="ties-to-the-lower-index"),
        pytest.param([3, 0, 2], [1, 1, 1], 3, [True, False, True], id="no-score-no-noise"),
        pytest.param([3, float("nan"), 2], [1, 1, 1], 3, [True, False, True], id="nan"),
        pytest.param([3, 2, 1], [0, 1, 1], 1, [False, True, False], id="no-carriers"),
        pytest.param([3, 2, 1], [2, 2, 1], 3, [True, False, False], id="stops-at-the-first-that-is-too-large"),
        pytest.param([3, 2, 1], [1, 1, 1], 0, [False, False, False], id="nothing-allowed"),
    ],
)
def test_sparsity_mask(score: list[float], voxels: list[int], limit: int, expected: list[bool]) -> None:
    mask = sparsity_mask(torch.tensor([score]).float(), torch.tensor([voxels]), torch.tensor([limit]))
    assert mask.tolist() == [expected]


def test_sparsity_mask_takes_each_sample_for_itself() -> None:
    score = torch.tensor([[1.0, 2.0], [200.0, 100.0]])
    assert sparsity_mask(score, torch.ones(2, 2, dtype=torch.int64), torch.tensor([1, 1])).tolist() == [
        [False, True],
        [True, False],
    ]


def test_ties_of_a_whole_picture_go_to_its_first_cells() -> None:
    cells = 50_000
    mask = sparsity_mask(torch.ones(1, cells), torch.ones(1, cells, dtype=torch.int64), torch.tensor([cells // 3]))[0]
    assert mask[: cells // 3].all()
    assert not mask[cells // 3 :].any()
