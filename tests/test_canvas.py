# SPDX-License-Identifier: Apache-2.0
"""The canvas of a file: pictures with budgets and an anatomy of their own, and values that share one noise."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from monai_salm.canvas import Canvas
from monai_salm.noise import SparseNoise
from monai_salm.working_grid import to_native, working_shape
from tests.builders import file_budget

MR: dict[str, Any] = {
    "modality": "MR",
    "intercept": 0.0,
    "window_low": 0.0,
    "window_high": 1000.0,
    "range_stored": (1.0, 2000.0),
}
SCREEN: dict[str, Any] = MR | {"modality": "US", "window_high": 256.0, "range_stored": (1.0, 254.0)}


def _canvas(*budgets: dict[str, Any], **changes: Any) -> Canvas:
    return Canvas(views=tuple(file_budget(**budget) for budget in budgets or ({},)), **changes)


def _bodies(shape: tuple[int, ...] = (3, 24, 24), dtype: Any = np.int16) -> NDArray[Any]:
    """Give frames of a body in air, each at another place."""
    values = np.full(shape, 24, dtype=dtype)
    for number, frame in enumerate(values):
        frame[3 + number : 15 + number, 4 : 16 + 2 * number] = 1000
    return values


def _added(canvas: Canvas, stored: NDArray[Any], steps: Any, levels: int) -> NDArray[np.int64]:
    """Give what noise changes where every value may carry it."""
    changed = canvas.add(stored, np.array(steps), levels, np.ones(stored.shape, dtype=bool))
    assert (changed.shape, changed.dtype) == (stored.shape, stored.dtype)
    return changed.astype(np.int64) - stored.astype(np.int64)


def test_json_round_trip() -> None:
    canvas = _canvas(
        {"padding_stored": (-2000.0, -1900.0)}, {"slope": 0.25, "background_stored": 7.0, "background_real": 3.5},
        spacing=(2.0, 0.5, 0.25), trailing=1, stacked=True, regions=((1, 5, 2, 9), (6, 8, 0, 4)),
    )  # fmt: skip
    read = Canvas.from_json(json.loads(json.dumps(canvas.to_json())))
    assert read == canvas
    assert hash(read) == hash(canvas), "tuples have to come back as tuples"
    plain = _canvas()
    assert Canvas.from_json(json.loads(json.dumps(plain.to_json()))) == plain


def test_figures_are_those_of_the_largest_budget() -> None:
    canvas = _canvas(
        {"steps": 12}, {"steps": 3, "slope": 4.0}, {"steps": 6, "slope": -2.0, "epsilon_real": 12.5}, stacked=True
    )
    assert (canvas.levels, canvas.epsilon_stored, canvas.epsilon_real, canvas.modality) == (12, 12, 12.5, "CT")
    assert canvas.step_model == pytest.approx(1 / 400), "all of these budgets reach as far in model values"
    assert _canvas({"steps": 12}, {"steps": 4}, stacked=True).step_model == pytest.approx((12 + 4) / 2 / 12 / 400)


def test_each_picture_has_its_budget() -> None:
    canvas = _canvas({"steps": 12}, {"steps": 6, "slope": 2.0}, {"steps": 3, "slope": -4.0}, stacked=True)
    stored = np.full((3, 1, 3), 1000, dtype=np.int16)
    assert [budget.levels for _, budget in canvas.pictures(stored)] == [12, 6, 3]
    change = _added(canvas, stored, [[[12, -12, 5]]] * 3, 12)
    assert change[:, 0].tolist() == [[12, -12, 5], [6, -6, 2], [-3, 3, -1]]


def test_one_budget_is_that_of_all_pictures() -> None:
    canvas = _canvas({"steps": 4}, stacked=True)
    stored = np.full((3, 1, 2), 1000, dtype=np.int16)
    assert [budget.levels for _, budget in canvas.pictures(stored)] == [4, 4, 4]
    assert _added(canvas, stored, [[[4, -2]]] * 3, 4)[:, 0].tolist() == [[4, -2]] * 3
    assert [picture.shape for picture, _ in _canvas().pictures(stored)] == [(3, 1, 2)], "not stacked, so one picture"


def test_frames_may_share_cells_of_the_working_grid() -> None:
    stored = np.full((5, 2, 2), 1000, dtype=np.int16)
    change = _added(_canvas(stacked=True), stored, [[[1]], [[2]]], 12)
    assert change.reshape(5, -1).tolist() == [[1] * 4] * 3 + [[2] * 4] * 2


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_anatomy_is_that_of_each_frame(modality: str) -> None:
    stored = _bodies()
    budget = {"modality": modality, "background_real": -1000.0, "background_spread_real": 50.0}
    spacing = (40.0, 1.0, 1.0)  # of 40 mm between frames nothing would be left of a body that is opened as a volume
    anatomy = _canvas(budget, spacing=spacing, stacked=True).anatomy(stored)
    expected = np.stack([file_budget(**budget).anatomy(frame, (1.0, 1.0)) for frame in stored])
    assert np.array_equal(anatomy, expected)
    assert np.count_nonzero(anatomy != (stored == 1000)) <= 3 * 12, "corners of a body in CT are thinner than a table"


def test_small_body_of_one_frame_is_kept_beside_a_large_one_of_another() -> None:
    stored = np.full((2, 60, 60), 24, dtype=np.int16)
    stored[0, 5:55, 5:55] = 1000
    stored[1, 30:36, 30:36] = 1000  # 36 of 2500: less than the share that a component of one picture needs
    budget = {"modality": "MR", "background_real": -1000.0, "background_spread_real": 50.0}
    assert np.array_equal(_canvas(budget, stacked=True).anatomy(stored), stored == 1000)


def test_each_frame_is_rescaled_as_it_says() -> None:
    stored = np.full((2, 8, 8), 400, dtype=np.int16)
    stored[:, :, 0] = -2000
    budgets = ({"intercept": 0.0}, {"slope": 0.25, "intercept": -1000.0})
    canvas = _canvas(*budgets, spacing=(1.0, 1.0, 1.0), stacked=True)
    assert canvas.anatomy(stored).any(axis=(1, 2)).tolist() == [True, False], "400 HU and -900 HU"
    assert canvas.model(stored)[:, 0, 4].tolist() == [1.0, 0.0]


def test_outside_the_regions_is_no_anatomy() -> None:
    stored = np.full((4, 10, 12), 100, dtype=np.uint8)
    stored += np.arange(4, dtype=np.uint8)[:, None, None]
    expected = np.zeros((10, 12), dtype=bool)
    expected[1:5, 2:6] = expected[7:9, 0:12] = True
    regions = ((1, 5, 2, 6), (7, 9, 0, 12))
    assert np.array_equal(_canvas(SCREEN, regions=regions).anatomy(stored[0]), expected)
    assert np.array_equal(_canvas(SCREEN, regions=regions, stacked=True).anatomy(stored), np.stack([expected] * 4))


@pytest.mark.parametrize(("modality", "is_screen"), [("US", True), ("MR", False)])
def test_text_and_what_stands_still_is_no_anatomy_of_an_ultrasound_loop(modality: str, is_screen: bool) -> None:
    stored = np.random.default_rng(0).integers(20, 200, (5, 12, 12, 3)).astype(np.uint8)
    stored[2, 6, 6] = (255, 0, 0)
    stored[:, 0] = 99
    anatomy = _canvas(SCREEN | {"modality": modality}, trailing=1, stacked=True).anatomy(stored)
    expected = np.ones((5, 12, 12), dtype=bool)
    if is_screen:
        expected[:, 0] = False
        rows, columns = np.ogrid[:12, :12]
        expected[2] &= abs(rows - 6) + abs(columns - 6) > 2
    assert np.array_equal(anatomy, expected)


def test_colors_share_one_noise_and_a_saturated_one_stays() -> None:
    canvas = _canvas(SCREEN | {"modality": "OT", "steps": 8}, trailing=1)
    stored = np.uint8([[[100, 150, 200], [100, 255, 0], [254, 1, 60]]])
    carriers = canvas.carriers(stored, np.ones((1, 3), dtype=bool))
    assert carriers.tolist() == [[[True] * 3, [True, False, False], [True] * 3]]
    changed = canvas.add(stored, np.array([[5, 5, 5]]), 8, carriers)
    assert changed.tolist() == [[[105, 155, 205], [105, 255, 0], [254, 6, 65]]]


def test_a_time_series_keeps_background_and_nan_at_each_point() -> None:
    canvas = _canvas(
        MR
        | {
            "background_stored": 0.0,
            "background_real": 0.0,
            "background_spread_real": 5.0,
            "window_low": -1.0,
            "range_stored": (-9.0, 2000.0),
        },
        spacing=(1.0,) * 3,
        trailing=1,
    )
    stored = np.full((6, 6, 6, 3), 500, dtype=np.float32)
    stored[0] = 0
    stored[1, 1, 1, 2] = 0  # empty at one point in time
    stored[2, 2, 2, 1] = np.nan
    stored[3, 3, 3, 0] = 4  # could step onto the background
    anatomy = canvas.anatomy(stored)
    assert anatomy.shape == (6, 6, 6)
    assert not anatomy[0].any()
    assert anatomy[1, 1, 1]
    changed = canvas.add(stored, np.full((6, 6, 6), -4), 12, canvas.carriers(stored, anatomy))
    moved = ~((changed == stored) | np.isnan(stored))
    assert not moved[0].any()
    assert moved[1, 1, 1].tolist() == [True, True, False]
    assert np.array_equal(np.isnan(changed), np.isnan(stored))
    assert moved[3, 3, 3].tolist() == [False, True, True]
    assert moved[4:].all()
    assert (changed[4:] == 496).all()


def test_protecting_a_file_adds_its_part_of_the_noise_to_what_can_carry_it() -> None:
    canvas = _canvas(MR | {"background_real": 24.0, "background_spread_real": 9.0, "window_high": 3000.0})
    steps = np.zeros((2, 4, 4), dtype=np.int16)
    steps[0], steps[1] = 5, -7
    noise = SparseNoise.from_dense(steps, 12)
    stored = _bodies()[0]
    stored[3, 4] = 2001  # saturated
    for place, expected in (((0, 3), 5), ((1, 3), 5), ((2, 3), -7)):
        values, anatomy = canvas.protect(stored, noise, place)
        assert np.array_equal(anatomy, stored > 24)
        assert np.array_equal(values - stored, np.where(stored == 1000, expected, 0))
    whole = _canvas(MR | {"window_high": 3000.0}, stacked=True)
    values, anatomy = whole.protect(_bodies(), noise)
    assert anatomy.all()
    assert (values - _bodies())[:, 0, 0].tolist() == [5, 5, -7]


def test_model_values_of_a_color_are_its_gray() -> None:
    canvas = _canvas(SCREEN, trailing=1)
    stored = np.uint8([[[0, 64, 128], [255, 255, 255]]])
    assert canvas.model(stored) == pytest.approx(np.array([[0.25, 255 / 256]]))
    assert canvas.model(stored).dtype == np.float32
    series = np.full((2, 2, 1, 3, 2), 400, dtype=np.int16)
    series[..., 1] = 600
    assert _canvas(MR, trailing=2).model(series) == pytest.approx(np.full((2, 2, 1), 0.5))


def test_model_values_of_a_stack_keep_their_shape() -> None:
    stored = _bodies((3, 24, 24))
    assert _canvas(MR, stacked=True).model(stored).shape == (3, 24, 24)
    colored = np.repeat(stored[..., None], 3, axis=-1)
    assert _canvas(MR, stacked=True, trailing=1).model(colored) == pytest.approx(
        _canvas(MR, stacked=True).model(stored)
    )


@st.composite
def _cases(draw: st.DrawFn) -> tuple[Canvas, NDArray[Any], NDArray[np.int16], int]:
    """Any stack, any trailing axes, any budgets, any noise on any working grid."""
    grid = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=5))
    stacked = len(grid) == 3 and draw(st.booleans())
    trailing = draw(st.sampled_from([(), (3,), (2,), (2, 3)]))
    dtype = draw(st.sampled_from(["u1", "i2", "f4"]))
    elements: st.SearchStrategy[Any] = (
        st.integers(0, 255) if dtype != "f4" else st.sampled_from([0.0, 0.5, 3.25, 200.0, float("nan")])
    )
    stored = draw(hnp.arrays(np.dtype(dtype), (*grid, *trailing), elements=elements))
    budgets = []
    for _ in range(grid[0] if stacked and draw(st.booleans()) else 1):
        low = draw(st.integers(0, 5))
        padding = draw(st.none() | st.integers(0, 250))
        slope = draw(st.sampled_from([1.0, -1.0, 0.5, 3.0]))
        levels = draw(st.integers(1, 20))
        fields: dict[str, Any] = {
            "modality": draw(st.sampled_from(["", "MR", "US"])), "slope": slope, "steps": levels,
            "epsilon_real": abs(slope) * levels,
            "intercept": 0.0, "window_low": -800.0, "window_high": 800.0, "range_stored": (float(low), 250.0),
            "padding_stored": None if padding is None else (float(padding), padding + 5.0),
            "background_stored": draw(st.none() | st.sampled_from([0.0, 3.25, 200.0])),
        }  # fmt: skip
        budgets.append(fields)
    levels = max(budget["steps"] for budget in budgets)
    steps = draw(
        hnp.arrays(
            np.int16, working_shape(grid, draw(st.integers(1, 5))), elements=st.integers(-levels - 3, levels + 3)
        )
    )
    return (
        _canvas(*budgets, spacing=(1.0,) * len(grid), trailing=len(trailing), stacked=stacked),
        stored,
        steps,
        levels,
    )


@pytest.mark.slow
@given(_cases())
def test_no_noise_breaks_the_bound_of_any_picture(case: tuple[Canvas, NDArray[Any], NDArray[np.int16], int]) -> None:
    canvas, stored, steps, levels = case
    with np.errstate(invalid="ignore"):
        anatomy = canvas.anatomy(stored)
        carriers = canvas.carriers(stored, anatomy)
    assert anatomy.shape == stored.shape[: stored.ndim - canvas.trailing]
    assert not (carriers & ~anatomy.reshape(anatomy.shape + (1,) * canvas.trailing)).any()
    before = stored.copy()
    changed = canvas.add(stored, steps, levels, carriers)
    assert np.array_equal(stored, before, equal_nan=stored.dtype.kind == "f")
    assert (changed.shape, changed.dtype) == (stored.shape, stored.dtype)
    same = (changed == stored) | ((stored != stored) & (changed != changed))
    assert same[~carriers].all()
    native = to_native(steps, anatomy.shape)
    for (old, budget), (new, _), (equal, _), (noise, _) in zip(
        *map(canvas.pictures, (stored, changed, same, native)), strict=True
    ):
        moved = ~equal
        change = new[moved].astype(np.float64) - old[moved].astype(np.float64)
        assert (np.abs(change) <= budget.epsilon_stored).all()
        direction = np.broadcast_to(noise.reshape(noise.shape + (1,) * (old.ndim - noise.ndim)), old.shape)[moved]
        assert (np.sign(change * budget.slope) == np.sign(direction)).all()
        for values in (old[moved], new[moved]):
            background = budget.background
            assert background is None or not (values == background.exact_stored).any()
            if budget.padding_stored is not None:
                assert not ((values >= budget.padding_stored[0]) & (values <= budget.padding_stored[1])).any()
            assert ((values >= budget.range_stored[0]) & (values <= budget.range_stored[1])).all()
