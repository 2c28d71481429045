# SPDX-License-Identifier: Apache-2.0
"""Bounds as files state them, and what breaks them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_salm.bounds import (
    Change,
    Limit,
    broken_bound,
    describe_bound,
    limits_of,
    measure_changes,
    stated_bounds,
    whole_change,
)
from monai_salm.views import FileView
from monai_salm.windows import IntensityWindow
from tests.builders import file_budget

SIZES = st.floats(1e-12, 1e12)
WITHIN = Change(max_stored=12, max_real=12, changed=5, anatomy=10, outside=0, mean_square=1e-4, values=100)


@given(st.lists(st.tuples(SIZES, SIZES), max_size=3), st.text(max_size=9))
def test_what_a_file_states_is_read_back(bounds: list[tuple[float, float]], around: str) -> None:
    text = around.join(describe_bound(*bound) for bound in bounds)
    found = stated_bounds(text)
    assert len(found) == len(bounds)
    for (stored, real), (known_stored, known_real) in zip(found, bounds, strict=True):
        assert stored == pytest.approx(known_stored, rel=1e-11)
        assert real == pytest.approx(known_real, rel=1e-5)


@given(SIZES, SIZES)
def test_a_stated_bound_holds_what_was_written_within_it(stored: float, real: float) -> None:
    window = IntensityWindow(0.0, real * 2)
    ((stated_stored, stated_real),) = stated_bounds(describe_bound(stored, real))
    limit = Limit.of_statement(window, stated_real, stated_stored)
    assert stored <= limit.stored <= stored * (1 + 1e-8)
    assert real <= limit.real <= real * (1 + 1e-4)
    assert limit.lowest_psnr == pytest.approx(20 * math.log10(2), abs=1e-3)


def test_sentence_is_that_of_the_files_that_are_out_there() -> None:
    assert describe_bound(12.0, 12.549019607843137) == (
        "bounded additive noise, at most 12 stored units (12.549 real units); not for diagnosis"
    )
    assert stated_bounds("") == stated_bounds("at most 12 stored units") == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, ""),
        ({"max_stored": math.nan}, "a value is none any more (NaN), or was none before"),
        ({"max_stored": 13}, "the largest change is 13 stored units, the limit 12"),
        ({"max_real": 12.1}, "the largest change is 12.1 real units, the limit 12"),
        ({"outside": 2}, "2 voxels changed outside the anatomy, the limit is none"),
        ({"mean_square": 1e-2}, "PSNR is 20.00 dB, the limit 30.46 dB"),
    ],
)
def test_first_limit_that_is_broken_is_named(change: dict[str, Any], problem: str) -> None:
    limits = limits_of([file_budget()])
    assert broken_bound([replace(WITHIN, **change)], limits) == problem
    several = broken_bound([WITHIN, replace(WITHIN, **change)], limits)
    assert several == (f"frame 2: {problem}" if problem else "")


def test_each_picture_has_its_limit() -> None:
    limits = limits_of([file_budget(), file_budget(steps=4, epsilon_real=4.0)])
    assert [limit.stored for limit in limits] == [12, 4]
    assert broken_bound([WITHIN, WITHIN], limits) == "frame 2: the largest change is 12 stored units, the limit 4"


def test_change_of_a_file_is_that_of_all_of_its_pictures() -> None:
    before = np.zeros((2, 2, 2), dtype=np.float32)
    before[0, 0, 0] = np.nan
    after = before.copy()
    after[0, 0, 1], after[1] = 3, -8
    view = FileView(views=(file_budget(), file_budget(slope=0.5)), stacked=True)
    anatomy = np.ones((2, 2, 2), dtype=bool)
    anatomy[1, 1] = False
    first, second = measure_changes(before, after, view, anatomy)
    assert (first.max_stored, first.max_real, first.changed, first.anatomy, first.outside) == (3, 3, 1, 4, 0)
    assert (second.max_stored, second.max_real, second.changed, second.anatomy, second.outside) == (8, 4, 2, 2, 2)
    whole = whole_change([first, second])
    assert (whole.max_stored, whole.max_real, whole.changed_fraction, whole.outside) == (8, 4, 0.5, 2)
    assert whole.mean_square == pytest.approx((9 + 4 * 16) / 8 / 400**2)
    assert whole.psnr == pytest.approx(-10 * math.log10(whole.mean_square))
    assert measure_changes(before, before, view, anatomy)[0].psnr == math.inf
    lost = before.copy()
    lost[0, 1, 1] = np.nan
    assert math.isnan(measure_changes(before, lost, view, anatomy)[0].max_stored)
