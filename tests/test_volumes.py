# SPDX-License-Identifier: Apache-2.0
"""What the files of a volume share, and what becomes of one of them with and without a budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.background import Background
from monai_salm.budget import Epsilon
from monai_salm.errors import RefusedError
from monai_salm.io import SourceImage, read_source
from monai_salm.volumes import VolumeValues, VolumeView
from monai_salm.windows import IntensityWindow
from tests.exports import mr_slice

BOX = np.zeros((32, 32), dtype=np.int16)
BOX[8:24, 8:24] = np.arange(256).reshape(16, 16) * 3 + 100


VOLUME = VolumeView("MR", IntensityWindow(0.0, 2000.0), Background(-10.0, 104.5, -10.0))


def _source(folder: Path, values: Any = BOX) -> SourceImage:
    return read_source(mr_slice(folder / "a.dcm", 1, values, RescaleSlope=2, RescaleIntercept=-10))


def test_window_and_background_are_found_from_the_values_of_all_files(tmp_path: Path) -> None:
    found = VolumeValues(2)
    for number, part in enumerate((BOX, BOX * 2)):
        found.add(_source(tmp_path / str(number), part))
    given = found.view("MR", IntensityWindow(0.0, 2000.0))
    assert (given.modality, given.window) == ("MR", IntensityWindow(0.0, 2000.0))
    assert given.background is not None
    assert (given.background.center_real, given.background.exact_stored) == (-10.0, -10.0)
    both = found.view("MR").window
    assert 2000 < both.high < 2 * 2 * BOX.max()


def test_record_of_a_volume_is_that_of_the_cards_that_are_out_there() -> None:
    record = '{"modality": "MR", "window": [0.0, 2000.0], "background": [-10.0, 104.5, -10.0]}'
    assert json.dumps(VOLUME.to_json()) == record
    assert VolumeView.from_json(json.loads(record)) == VOLUME
    bare = VolumeView("MR", IntensityWindow(0.0, 1.0), None)
    assert VolumeView.from_json(json.loads(json.dumps(bare.to_json()))) == bare


def test_record_of_a_canvas_is_that_of_the_plans_that_are_out_there(tmp_path: Path) -> None:
    assert json.dumps(VOLUME.canvas(_source(tmp_path), Epsilon(0.01)).to_json()) == (
        '{"budgets": [{"modality": "MR", "window_low": 0.0, "window_high": 2000.0, "epsilon_real": 20.0, "slope": 2.0, '
        '"intercept": -10.0, "range_stored": [1.0, 864.0], "padding_stored": null, "background_stored": 0.0, '
        '"quantum_stored": 1.0, "steps": 10, "background_real": -10.0, "background_spread_real": 104.5}], '
        '"spacing": [0.5, 0.25], "trailing": 0, "stacked": false, "regions": []}'
    )


def test_a_file_shows_the_same_with_and_without_a_budget(tmp_path: Path) -> None:
    source = _source(tmp_path)
    shown, canvas = VOLUME.view(source), VOLUME.canvas(source, Epsilon(0.01))
    assert shown.views[0].background == Background(-10.0, 104.5, 0.0)
    anatomy = shown.anatomy(source.stored)
    assert np.array_equal(anatomy, BOX > 0)
    assert np.array_equal(anatomy, canvas.anatomy(source.stored))
    assert np.array_equal(shown.model(source.stored), canvas.model(source.stored))
    assert np.array_equal(shown.carriers(source.stored, anatomy), canvas.carriers(source.stored, anatomy))
    assert VolumeView.of_file(shown) == VolumeView.of_file(canvas) == VOLUME


@pytest.mark.parametrize(
    ("values", "epsilon", "without", "message"),
    [
        pytest.param(BOX, 1e-4, True, "is less than one stored step", id="coarse"),
        pytest.param((BOX > 200).astype(np.int16) * 3, 0.01, False, "is nearly constant", id="constant"),
    ],
)
def test_only_what_no_budget_fits_is_refused_without_one(
    tmp_path: Path, values: Any, epsilon: float, without: bool, message: str
) -> None:
    source = _source(tmp_path, values)
    with pytest.raises(RefusedError, match=message):
        VOLUME.canvas(source, Epsilon(epsilon))
    if without:
        assert VOLUME.view(source).modality == "MR"
    else:
        with pytest.raises(RefusedError, match=message):
            VOLUME.view(source)
