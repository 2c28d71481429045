# SPDX-License-Identifier: Apache-2.0
"""The shift of the mean over regions: a planted one is found as it is, balanced noise as none, and where spacing is
unknown nothing is guessed.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_salm.pipeline import protect, verify
from monai_salm.pipeline.region_means import DIAMETERS, MeanShift, mean_shifts, shifts_in_words, worst_shifts
from monai_salm.views import FileView
from tests.builders import file_budget
from tests.exports import body, drawn, mr_labels, mr_slice, small

SPACING = (0.8, 1.2)


def _view(spacing: tuple[float, ...] = SPACING, *, stacked: bool = False, **changes: Any) -> FileView:
    return FileView(views=(file_budget(**changes),), spacing=spacing, stacked=stacked)


def _shifts(
    change: NDArray[Any], anatomy: NDArray[np.bool_] | None = None, view: FileView | None = None, *, known: bool = True
) -> dict[float, MeanShift]:
    before = np.full(change.shape, 1000, np.int16)
    view = view or _view()
    found = mean_shifts(
        before, (before + change).astype(np.int16), view, np.ones(change.shape, bool) if anatomy is None else anatomy,
        largest_real=float(np.abs(change).max() * abs(view.views[0].slope)), spacing_known=known,
    )  # fmt: skip
    assert tuple(shift.diameter for shift in found) == DIAMETERS
    return {shift.diameter: shift for shift in found}


def _disc(shape: tuple[int, int], center: tuple[int, int], millimeters: float) -> NDArray[np.bool_]:
    rows, columns = (np.arange(n) - c for n, c in zip(shape, center, strict=True))
    return (rows[:, None] * SPACING[0]) ** 2 + (columns * SPACING[1]) ** 2 <= (millimeters / 2) ** 2


def _by_hand(change: NDArray[Any], anatomy: NDArray[np.bool_], millimeters: float) -> list[float]:
    """Average one disc after the other."""
    reach = [int(millimeters / 2 / step) for step in SPACING]
    places = product(*(range(most, n - most) for most, n in zip(reach, change.shape, strict=True)))
    return [abs(float(change[_disc(change.shape, place, millimeters)].mean())) for place in places if anatomy[place]]


@pytest.mark.parametrize("shift", [7, -7])
@pytest.mark.parametrize("planted", DIAMETERS)
def test_a_planted_shift_is_found_as_it_is(planted: float, shift: int) -> None:
    """A disc that moved as a whole moves its own mean by that, and that of larger discs by less."""
    change = shift * _disc((60, 50), (30, 26), planted).astype(int)
    for diameter, found in _shifts(change).items():
        if diameter <= planted:
            assert found.largest_real == pytest.approx(7)
        else:
            share = _disc((60, 50), (30, 26), planted).sum() / _disc((60, 50), (30, 26), diameter).sum()
            assert found.largest_real == pytest.approx(7 * share, rel=1e-5)


@pytest.mark.parametrize("most", [3, 60, 900, 60000])
@pytest.mark.parametrize("slope", [1.0, -0.01])
def test_running_sums_find_what_transforms_find(most: int, slope: float) -> None:
    """Integers of 32 bits are averaged as floats; sums of those of 16 have 16, 32 or 64 bits."""
    generator = np.random.default_rng(most)
    before = generator.integers(0, 60000, (70, 90)).astype(np.uint16)
    after = np.clip(before + generator.integers(-most, most + 1, before.shape), 0, 65535).astype(np.uint16)
    anatomy = generator.random(before.shape) < 0.7
    largest = float(np.abs(after.astype(int) - before).max() * abs(slope))
    found = [
        mean_shifts(*pair, _view(slope=slope), anatomy, largest_real=largest, spacing_known=True)
        for pair in ((before, after), (before.astype(np.int32), after.astype(np.int32)))
    ]
    for sums, transforms in zip(*found, strict=True):
        assert sums.regions == transforms.regions > 0
        assert sums.largest_real == pytest.approx(transforms.largest_real, rel=2e-6)
        assert sums.p99_real == pytest.approx(transforms.p99_real, rel=2e-6)


def test_sums_of_wide_discs_do_not_overflow() -> None:
    """Of columns that are much closer than rows: 60000 in each of 200000 pixels."""
    before = np.zeros((70, 4100), np.uint16)
    found = mean_shifts(
        before, before + np.uint16(60000), _view((0.3, 0.005)), before == 0, largest_real=60000.0, spacing_known=True
    )
    assert [shift.largest_real for shift in found] == pytest.approx([60000] * 3)


def test_balanced_noise_shifts_next_to_nothing() -> None:
    """A checkerboard: what is left of 12 units is the odd cells at the rim of a disc."""
    rows, columns = np.indices((64, 64))
    found = _shifts(12 * (1 - 2 * ((rows + columns) % 2)))
    left = [shift.largest_real for shift in found.values()]
    assert left == pytest.approx([0, 0, 0], abs=1)
    assert left[2] == pytest.approx(0, abs=0.5)


def test_all_discs_are_averaged_and_those_around_the_anatomy_count() -> None:
    generator = np.random.default_rng(0)
    change, anatomy = generator.integers(-12, 13, (41, 37)), generator.random((41, 37)) < 0.5
    for diameter, found in _shifts(change, anatomy).items():
        expected = _by_hand(change, anatomy, diameter)
        assert found.regions == len(expected) > 0
        assert found.largest_real == pytest.approx(max(expected), rel=1e-5)
        assert found.p99_real == pytest.approx(np.quantile(expected, 0.99, method="inverted_cdf"), abs=12 / 4096)


@pytest.mark.parametrize("place", [(0, 0), (40, 36), (18, 3)], ids=str)
def test_a_change_of_a_few_pixels_counts_wherever_it_is(place: tuple[int, int]) -> None:
    """Discs that do not reach it stay as they were, all the others are found."""
    change, anatomy = np.zeros((41, 37), int), np.random.default_rng(0).random((41, 37)) < 0.5
    change[place] = 12
    change[20, 8] = -7
    for diameter, found in _shifts(change, anatomy).items():
        expected = _by_hand(change, anatomy, diameter)
        assert found.regions == len(expected) > 0
        assert found.largest_real == pytest.approx(max(expected), rel=1e-5)
        assert found.p99_real == pytest.approx(np.quantile(expected, 0.99, method="inverted_cdf"), abs=12 / 4096)


def test_real_units_and_colors() -> None:
    change = 7 * _disc((60, 50), (30, 26), 20).astype(int)
    assert _shifts(change, view=_view(slope=-0.5))[10].largest_real == pytest.approx(3.5)
    before = np.full((60, 50, 3), 100, np.uint8)
    after = before.copy()
    after[..., 1] += change.astype(np.uint8)
    view = FileView(views=(file_budget(),), spacing=SPACING, trailing=1)
    found = mean_shifts(before, after, view, np.ones((60, 50), bool), largest_real=7, spacing_known=True)
    assert found[1].largest_real == pytest.approx(7), "a color that moves alone moves"


@pytest.mark.parametrize(
    ("spacing", "stacked", "across"),
    [((9, *SPACING), True, 0), ((*SPACING, 5.0), False, 2), ((5.0, *SPACING), False, 0)],
)
def test_discs_lie_in_the_plane(spacing: tuple[float, ...], stacked: bool, across: int) -> None:
    """In the one plane that moved, not in those beside it."""
    change = np.zeros((3, 60, 50), int)
    change[1] = 7 * _disc((60, 50), (30, 26), 20)
    found = _shifts(np.moveaxis(change, 0, across), view=_view(spacing, stacked=stacked))
    assert found[20].largest_real == pytest.approx(7)
    # Two of three planes lie still, so the middle one's highest 3 % are the highest 1 % of all.
    alone = np.sort(_by_hand(change[1], np.ones((60, 50), bool), 20))[::-1]
    assert found[20].p99_real == pytest.approx(alone[int(0.01 * 3 * len(alone))], abs=0.05)


def test_nothing_is_guessed_where_spacing_is_unknown() -> None:
    change = np.zeros((40, 40), int)
    change[10:31, 10:31] = 6
    known, unknown = (_shifts(change, known=known) for known in (True, False))
    assert {shift.unit for shift in known.values()} == {"mm"}
    assert {shift.unit for shift in unknown.values()} == {"pixels"}
    assert unknown[20].largest_real == pytest.approx(6), "a disc of 20 pixels lies in 21 x 21"
    assert "the files do not say how far pixels are apart" in shifts_in_words(list(unknown.values()))
    assert "pixels" not in shifts_in_words(list(known.values()))


def test_regions_that_do_not_fit_are_none() -> None:
    found = _shifts(np.ones((20, 20), int))
    assert (found[20].regions, found[20].largest_real, found[20].p99_real) == (0, None, None)
    assert found[10].largest_real == pytest.approx(1)
    assert "nothing of 20 mm fits" in shifts_in_words(list(found.values()))
    tiny = _shifts(np.ones((20, 20), int), view=_view((1e-9, 1e-9)))
    assert all(shift.regions == 0 for shift in tiny.values()), "such a disc would need more memory than there is"
    nowhere = _shifts(np.ones((40, 40), int), np.zeros((40, 40), bool))
    assert all(shift.regions == 0 for shift in nowhere.values())


def test_nothing_changed_and_values_that_are_not_finite() -> None:
    assert all(shift.largest_real == shift.p99_real == 0 for shift in _shifts(np.zeros((40, 40), int)).values())
    before = np.ones((40, 40), np.float32)
    before[0, 0] = np.nan
    after = before.copy()
    after[20, 20] = 2
    inside = np.ones((40, 40), bool)
    found = mean_shifts(before, after, _view(), inside, largest_real=1.0, spacing_known=True)
    assert found[0].largest_real is not None
    assert found[0].largest_real > 0.03, "a NaN that stays hides nothing"
    assert mean_shifts(before, after, _view(), inside, largest_real=float("nan"), spacing_known=True) == []


def test_several_files_have_the_figures_of_the_worst() -> None:
    files = [
        [MeanShift(5, "mm", 10, 2.0, 1.0), MeanShift(20, "mm", 0, None, None)],
        [MeanShift(5, "mm", 30, 1.5, 1.2), MeanShift(20, "mm", 0, None, None)],
        [MeanShift(5, "pixels", 7, 0.5, 0.1)],
    ]
    assert worst_shifts(files) == {
        "mm": [MeanShift(5, "mm", 40, 2.0, 1.2), MeanShift(20, "mm", 0, None, None)],
        "pixels": [MeanShift(5, "pixels", 7, 0.5, 0.1)],
    }
    assert shifts_in_words([]) == "not measured"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["salm:texture", "salm:exchange"])
def test_salm_keeps_the_means_of_regions_where_spacing_is_known(method: str, tmp_path: Path) -> None:
    """By at most a quarter of the budget over 10 mm, in the files as they are written."""
    shifts = {}
    for name, spacing in (("known", [1.5, 2.0]), ("unknown", None)):
        for number in range(6):
            values = (body(number, 48) + 20).astype(np.int16)
            mr_slice(tmp_path / name / f"case{number}" / "image.dcm", number, values, PixelSpacing=spacing)
        labels = mr_labels(tmp_path / "labels.csv", 6)
        options = small(labels=labels, method=method, working_size=48, estimate=False)
        protect(tmp_path / name, tmp_path / f"{name}-out", options)
        files = verify(tmp_path / name, tmp_path / f"{name}-out").files
        shifts[name] = [file.mean_shifts[1].largest_real / file.epsilon_stored for file in files]  # type: ignore[operator]
    assert 0.05 < max(shifts["known"]) <= 0.25
    assert max(shifts["unknown"]) > 0.25, "discs of ten pixels, of which nothing is promised"


@pytest.mark.parametrize(("extra", "unit"), [({"PixelSpacing": [0.8, 1.2]}, "mm"), ({"PixelSpacing": None}, "pixels")])
def test_verify_measures_the_written_files(extra: dict[str, Any], unit: str, tmp_path: Path) -> None:
    values = np.full((48, 48), 300, np.int16)
    values[:24] = body(1, 48)[:24] + 20
    mr_slice(tmp_path / "in" / "a.dcm", 1, values, **extra)
    protect(tmp_path / "in", tmp_path / "out", drawn(epsilon="16/255"))
    report = verify(tmp_path / "in", tmp_path / "out")
    (file,) = report.files
    assert [(shift.diameter, shift.unit) for shift in file.mean_shifts] == [(size, unit) for size in DIAMETERS]
    assert all(0 < shift.p99_real <= shift.largest_real <= file.max_change_real for shift in file.mean_shifts)  # type: ignore[operator]
    assert report.to_json()["files"][0]["mean_shifts"][1]["diameter"] == 10
    (line,) = report.mean_shift_lines()
    assert line.startswith("shift of a region's mean, real units: at most ")
    assert f"over 20 {unit}" in line
