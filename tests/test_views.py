# SPDX-License-Identifier: Apache-2.0
"""What a file shows: how its values are read, where its anatomy is, and what a network sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from monai_salm.background import Background
from monai_salm.views import FileView, PictureView
from monai_salm.windows import IntensityWindow
from tests.builders import NOWHERE

VIEW = PictureView(modality="CT", window=IntensityWindow(-160.0, 240.0), intercept=-1024.0)
RANGE = (1.0, 4094.0)
EXACT = Background(NOWHERE, 0.0, 1000.0)


def test_anatomy_leaves_out_padding_and_background() -> None:
    stored = np.full((8, 8), 1100, dtype=np.int16)
    stored[0], stored[1] = -2000, 1000
    view = replace(VIEW, modality="MR", padding_stored=(-2000.0, -1900.0), background=EXACT)
    assert np.array_equal(view.anatomy(stored), np.arange(8)[:, None].repeat(8, axis=1) > 1)


def test_places_that_share_a_noise_are_empty_only_where_all_their_values_are() -> None:
    stored = np.full((8, 8, 3), 1100, dtype=np.int16)
    stored[0, :, :2] = 1000  # background at two of three points in time
    stored[1] = 1000
    stored[2], stored[3, :, 0] = -2000, -2000
    view = replace(VIEW, modality="MR", padding_stored=(-2000.0, -1900.0), background=EXACT)
    found = view.anatomy(stored, trailing=1)
    assert found.shape == (8, 8)
    assert found.all(axis=1).tolist() == [True, False, False, True, True, True, True, True]


def test_mean_of_what_shares_a_place_decides_about_its_anatomy() -> None:
    stored = np.zeros((8, 8, 2), dtype=np.int16)
    stored[2:6, 2:6] = (0, 400)  # half of the time dark, but a body
    stored[2:6, 6, 0] = 60  # 30 on average: air
    view = replace(VIEW, modality="MR", intercept=0.0, background=Background(0.0, 50.0, None))
    assert np.array_equal(view.anatomy(stored, trailing=1), stored[..., 1] > 0)


def test_carriers_of_colors_are_told_one_by_one() -> None:
    stored = np.int16([[[900, 1263, 1264], [864, 865, 1000]]])
    carriers = VIEW.carriers(stored, np.array([[True, True]]), RANGE)
    assert carriers.tolist() == [[[True, True, False], [False, True, True]]]
    assert VIEW.carriers(stored, np.array([[True, False]]), RANGE).tolist() == [[[True, True, False], [False] * 3]]


def test_carriers_are_seen_and_not_saturated() -> None:
    stored = np.int16([[0, 1, 863, 864, 865, 1263, 1264, 4095]])
    # Window -160..240 HU is stored 864..1264, itself not inside; range_stored is 1..4094.
    carriers = VIEW.carriers(stored, np.ones(stored.shape, dtype=bool), RANGE)
    assert carriers.tolist() == [[False, False, False, False, True, True, False, False]]
    wide = replace(VIEW, window=IntensityWindow(-3000.0, 5000.0))
    carriers = wide.carriers(stored, np.ones(stored.shape, dtype=bool), RANGE)
    assert carriers.tolist() == [[False, *[True] * 6, False]]
    assert not VIEW.carriers(stored, np.zeros(stored.shape, dtype=bool), RANGE).any()


@pytest.mark.parametrize(
    ("stored", "padding", "expected"),
    [
        (np.int16([3, -2, 9]), None, (-2, 9)),
        (np.int16([3, -2, 9]), (-5.0, -2.0), (3, 9)),
        (np.float32([np.nan, 0.5, np.inf, 2]), None, (0.5, 2)),
        (np.float32([np.nan, np.inf]), None, None),
        (np.int16([3, 3]), (3.0, 3.0), None),
    ],
    ids=["all", "padding", "floats", "nothing finite", "padding alone"],
)
def test_extremes_are_those_of_what_is_no_padding(stored: Any, padding: Any, expected: Any) -> None:
    assert replace(VIEW, padding_stored=padding).extremes(stored) == expected


def test_without_a_budget_the_extremes_of_the_file_are_saturated() -> None:
    view = replace(VIEW, modality="MR", window=IntensityWindow(-5000.0, 5000.0), padding_stored=(0.0, 0.0))
    stored = np.int16([[[0, 1, 2, 3]], [[2, 3, 4, 5]]])
    everywhere = np.ones(stored.shape, dtype=bool)
    for several, expected in ((False, [[0, 0, 1, 1], [1, 1, 1, 0]]), (True, [[0, 0, 1, 0], [0, 1, 1, 0]])):
        file = FileView(views=(view, view) if several else (view,), stacked=True)
        assert file.carriers(stored, everywhere)[:, 0].tolist() == np.array(expected, dtype=bool).tolist()
    whole = stored.astype(np.float32)
    assert FileView(views=(view,)).carriers(whole, everywhere)[:, 0].tolist() == [
        [False, False, True, True],
        [True, True, True, False],
    ]
    whole[:] = np.nan
    assert not FileView(views=(view,)).carriers(whole, everywhere).any()


def test_another_window_changes_what_is_seen_and_nothing_else() -> None:
    file = FileView(views=(VIEW, replace(VIEW, slope=2.0)), stacked=True, spacing=(1.0, 2.0, 3.0))
    through = file.through(IntensityWindow(0.0, 80.0))
    assert [view.window for view in through.views] == [IntensityWindow(0.0, 80.0)] * 2
    assert through.through(VIEW.window) == file
    stored = np.full((2, 1, 1), 1064, dtype=np.int16)
    assert through.model(stored).ravel().tolist() == [0.5, 1.0]
