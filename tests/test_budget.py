# SPDX-License-Identifier: Apache-2.0
"""Epsilon, intensity windows, and what they make of a file's stored values."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_salm.background import Background
from monai_salm.budget import MOST_STEPS, Epsilon, FileBudget, PerturbationBudget, step_and_levels
from monai_salm.errors import RefusedError, UsageError
from monai_salm.windows import IntensityWindow
from tests.builders import file_budget


@pytest.mark.parametrize(
    ("text", "value", "units"),
    [
        ("8/255", 8 / 255, "fraction"),
        (" 8 / 255 ", 8 / 255, "fraction"),
        ("0.03", 0.03, "fraction"),
        (0.03, 0.03, "fraction"),
        ("1e-2", 0.01, "fraction"),
        ("12 HU", 12.0, "real"),
        ("0.5 g/ml", 0.5, "real"),
        (Epsilon(3.0, "real"), 3.0, "real"),
    ],
)
def test_epsilon_is_read(text: str | float | Epsilon, value: float, units: str) -> None:
    epsilon = Epsilon.parse(text)
    assert (epsilon.value, epsilon.units) == (pytest.approx(value), units)


@pytest.mark.parametrize("text", ["", "eight", "8/", "8/0", "1.2.3", "8/255/3", "HU 12"])
def test_epsilon_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood; give a fraction"):
        Epsilon.parse(text)


@pytest.mark.parametrize("text", ["0", "-0.1", "1.5", "0 HU", "-3 HU", "1e999"])
def test_epsilon_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        Epsilon.parse(text)


def test_unknown_units_are_refused() -> None:
    with pytest.raises(UsageError, match="units 'HU' are unknown"):
        Epsilon(3.0, "HU")


def test_epsilon_in_real_units_does_not_depend_on_the_window() -> None:
    narrow, wide = IntensityWindow(0, 100), IntensityWindow(0, 1000)
    assert [Epsilon(5, "real").real(w) for w in (narrow, wide)] == [5, 5]
    assert [Epsilon(0.05).real(w) for w in (narrow, wide)] == pytest.approx([5, 50])


@pytest.mark.parametrize(
    ("epsilon_real", "slope", "stored", "expected"),
    [
        pytest.param(8 / 255 * 255, 1.0, np.uint8([0, 255]), (1.0, 8), id="8/255-of-255-is-8"),
        pytest.param(0.3, 0.1, np.int16([0, 9]), (1.0, 3), id="0.3-of-0.1-is-3"),
        pytest.param(12.9, 1.0, np.int16([0, 9]), (1.0, 12), id="rounds-down"),
        pytest.param(12.0, -0.5, np.int16([0, 9]), (1.0, 24), id="negative-slope"),
        pytest.param(12.0, 1.0, np.float32([0, 9]), (1.0, 12), id="whole-floats-like-integers"),
        pytest.param(1.0, 1.0, np.float32([0.25, 9]), (2.0**-6, 63), id="floats-on-a-power-of-two"),
        pytest.param(1e6, 1.0, np.int32([0, 10**9]), (32.0, 31250), id="more-steps-than-16-bits"),
        pytest.param(float(MOST_STEPS), 1.0, np.int32([0, 10**9]), (1.0, MOST_STEPS), id="just-16-bits"),
    ],
)
def test_step_and_levels(epsilon_real: float, slope: float, stored: NDArray[Any], expected: tuple[float, int]) -> None:
    assert step_and_levels(epsilon_real, slope, stored) == expected


@pytest.mark.parametrize(
    "stored",
    [np.uint8([0, 1]), np.float32([2**26, 2**27]), np.float32([0.5, 2.0**21])],
    ids=["integers", "huge", "large"],
)
def test_too_small_an_epsilon_is_refused_and_the_one_named_does(stored: NDArray[Any]) -> None:
    with pytest.raises(RefusedError, match="is less than one stored step of") as caught:
        step_and_levels(0.4, 1.0, stored)
    named = float(str(caught.value).split("'")[1].split()[0])
    assert step_and_levels(named, 1.0, stored)[1] == 1


def test_floats_that_skip_whole_numbers_are_not_moved_in_whole_steps() -> None:
    stored = np.float32(2.0**25 + 4.0 * np.arange(100))
    with pytest.raises(RefusedError, match="is less than one stored step"):
        step_and_levels(3.0, 1.0, stored)
    assert step_and_levels(100.0, 1.0, stored) == (16.0, 6)


def test_only_nan_is_refused() -> None:
    with pytest.raises(RefusedError, match="every value is NaN or infinite"):
        step_and_levels(1.0, 1.0, np.float32([np.nan, np.inf]))


def test_ct_budget_in_its_own_units() -> None:
    budget = PerturbationBudget.for_modality("CT")
    assert budget.epsilon_real == pytest.approx(400 * 8 / 255)
    assert budget.epsilon_model == pytest.approx(8 / 255)
    assert budget.lowest_psnr == pytest.approx(20 * math.log10(255 / 8))
    with pytest.raises(UsageError, match="'MR' has no standard intensity window"):
        PerturbationBudget.for_modality("MR")


def test_bind_keeps_off_the_extremes_and_the_padding() -> None:
    stored = np.int16([-2000, -2000, -1000, 5, 6, 7, 3000])
    bound = PerturbationBudget.for_modality("CT", "12 HU").bind(
        stored, modality="CT", padding_stored=(-2000, -1500), intercept=-24.0
    )
    assert bound.range_stored == (-999, 2999)
    assert (bound.levels, bound.quantum_stored, bound.epsilon_stored) == (12, 1.0, 12.0)
    assert bound.step_model == pytest.approx(1 / 400)
    assert bound.window == IntensityWindow(-160, 240)


@pytest.mark.parametrize(
    ("stored", "padding", "message"),
    [([5, 5, 5], (5, 5), "every value is padding"), ([5, 5, 6], None, "is nearly constant")],
    ids=["padding", "constant"],
)
def test_bind_refuses_what_cannot_hide_noise(
    stored: list[int], padding: tuple[float, float] | None, message: str
) -> None:
    with pytest.raises(RefusedError, match=message):
        PerturbationBudget.for_modality("CT").bind(np.int16(stored), padding_stored=padding)


def test_record_of_a_budget_is_that_of_the_plans_that_are_out_there() -> None:
    record = (
        '{"modality": "MR", "window_low": 199.1, "window_high": 1783.45, "epsilon_real": 49.7, "slope": 2.0, '
        '"intercept": -10.0, "range_stored": [1.0, 896.0], "padding_stored": null, "background_stored": 0.0, '
        '"quantum_stored": 1.0, "steps": 24, "background_real": -10.0, "background_spread_real": 104.4}'
    )
    budget = FileBudget.from_json(json.loads(record))
    assert (budget.levels, budget.range_stored, budget.background) == (24, (1.0, 896.0), Background(-10.0, 104.4, 0.0))
    assert json.dumps(budget.to_json()) == record


def test_file_budget_survives_json() -> None:
    budget = file_budget(padding_stored=(-2000.0, -1500.0), background_real=-1000.0)
    assert FileBudget.from_json(json.loads(json.dumps(budget.to_json()))) == budget
    assert FileBudget.from_json(replace(budget, padding_stored=None).to_json()) == replace(budget, padding_stored=None)


@pytest.mark.parametrize(
    ("stored", "arguments", "error", "message"),
    [
        (np.array([True, False]), {}, UsageError, "stored values of bool carry no noise"),
        (np.array([1j, 2]), {}, UsageError, "stored values of complex128 carry no noise"),
        (np.array(["1", "900"]), {}, UsageError, "carry no noise"),
        (np.array([1, 900], dtype=object), {}, UsageError, "stored values of object carry no noise"),
        (np.zeros(0), {}, RefusedError, "it holds no value"),
        (np.arange(900), {"slope": 0.0}, UsageError, "slope 0 and intercept 0 are no rescaling"),
        (np.arange(900), {"slope": float("nan")}, UsageError, "are no rescaling"),
        (np.arange(900), {"intercept": float("inf")}, UsageError, "are no rescaling"),
        (np.arange(900), {"padding_stored": (5, 1)}, UsageError, "the padding range 5 to 1 is empty"),
        (np.array([0, 2**60 + 1]), {}, RefusedError, r"values reach 1152921504606846977, beyond 2\*\*53"),
        (np.array([0, 2**64 - 1], dtype=np.uint64), {}, RefusedError, r"beyond 2\*\*53"),
        (np.array([-(2**63), 0]), {}, RefusedError, r"beyond 2\*\*53"),
    ],
    ids=[
        "bool",
        "complex",
        "text",
        "object",
        "empty",
        "slope 0",
        "slope NaN",
        "intercept",
        "padding",
        "int64",
        "uint64",
        "lowest",
    ],
)
def test_odd_values_are_refused_in_one_line(
    stored: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        PerturbationBudget(Epsilon(0.1), IntensityWindow(0, 1000)).bind(stored, **arguments)
    assert "\n" not in str(caught.value)
