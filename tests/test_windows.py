# SPDX-License-Identifier: Apache-2.0
"""Intensity windows and how one is chosen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from monai_salm.errors import RefusedError, UsageError
from monai_salm.windows import WINDOW_PRESETS, IntensityWindow, default_window, parse_window


def test_window_maps_and_clips() -> None:
    window = IntensityWindow(-100, 300)
    values = np.array([-500.0, -100, 100, 300, 1000, np.nan, np.inf])
    assert window.to_model(values).tolist() == [0, 0, 0.5, 1, 1, 0, 1]
    assert window.to_model(values).dtype == np.float32
    assert window.sees(values).tolist() == [False, False, True, False, False, False, False]


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (math.nan, 1), (0, math.inf)])
def test_empty_window_is_refused(low: float, high: float) -> None:
    with pytest.raises(UsageError, match="is empty or not finite"):
        IntensityWindow(low, high)


def test_window_texts() -> None:
    assert parse_window("auto") is None
    assert parse_window("-5, 10.5") == IntensityWindow(-5, 10.5)
    assert parse_window("lung") == IntensityWindow(*WINDOW_PRESETS["lung"])
    for text in ("liver", "1", "1,2,3"):
        with pytest.raises(UsageError, match="is not understood; give LOW,HIGH"):
            parse_window(text)


VALUES = np.linspace(1000.0, 2000.0, 1001)


@pytest.mark.parametrize(
    ("modality", "voi", "full_scale", "expected"),
    [
        pytest.param("CT", (0, 10), (0, 255), (-160, 240), id="ct-has-its-own"),
        pytest.param("MR", (0, 10), None, (1005, 1995), id="mr-percentiles"),
        pytest.param("MR", (0, 10), (0, 255), (1005, 1995), id="mr-of-8-bits-percentiles"),
        pytest.param("DX", (0, 10), None, (0, 10), id="film-voi"),
        pytest.param("DX", (0, 10), (0, 255), (0, 255), id="film-of-8-bits-full-scale"),
        pytest.param("DX", (10, 10), None, (1005, 1995), id="film-with-empty-voi"),
        pytest.param("US", None, (0, 255), (0, 255), id="ultrasound-of-8-bits"),
        pytest.param("", None, (0, 255), (1005, 1995), id="unknown-percentiles"),
    ],
)
def test_default_window(modality: str, voi: Any, full_scale: Any, expected: tuple[float, float]) -> None:
    window = default_window(modality, voi_real=voi, full_scale_real=full_scale, anatomy_values_real=VALUES)
    assert (window.low, window.high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "no anatomy was found"),
        ([np.nan], "no anatomy was found"),
        ([-1000, 0], "looks like CT"),
        ([7, 7], "is constant at 7"),
    ],
    ids=["empty", "nan", "hounsfield", "constant"],
)
def test_default_window_is_not_guessed(values: list[float], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        default_window("", voi_real=None, full_scale_real=None, anatomy_values_real=np.array(values))
