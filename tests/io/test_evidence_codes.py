# SPDX-License-Identifier: Apache-2.0
"""Integers are counted by their codes; what is found is what sorting and floats find."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from monai_salm.io.evidence import MeasuredGrid, integers, neighbors, weigh
from monai_salm.io.evidence.neighbors import Pairs
from monai_salm.io.kinds import judge


@st.composite
def grids(draw: st.DrawFn) -> NDArray[Any]:
    """Grain, smooth values, plateaus, labels and marks of every integer type; some of it repeated or of one value."""
    shape = tuple(draw(st.lists(st.integers(1, 40), min_size=2, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    grain = rng.normal(0, 1, shape)
    smooth = scipy.ndimage.gaussian_filter(grain, 3)
    values = [
        grain * 300,
        smooth * 2000,
        smooth * 25,
        np.where(smooth > 0, grain * 200 + 1000, -1000),
        np.clip(grain * 400 + 500, 0, 700),
        scipy.ndimage.maximum_filter((grain > 2) * rng.integers(1, 40, shape), 5),
        (grain > 2.5) * rng.integers(1, 9, shape),
        rng.integers(-40000, 40000, shape),
    ][draw(st.integers(0, 7))]
    for axis in range(len(shape)):
        values = np.repeat(values, draw(st.sampled_from([1, 1, 2])), axis)
    dtype = np.dtype(draw(st.sampled_from(["uint8", "int8", "int16", ">i2", "uint16", "int32", "int64", "uint64"])))
    ends = np.iinfo(dtype)
    found = np.clip(np.rint(values), float(ends.min), float(ends.max)).astype(dtype)
    if draw(st.booleans()):
        found = np.asfortranarray(found)
    return found[:: draw(st.sampled_from([1, -1]))]


def _facts(grid: MeasuredGrid) -> list[object]:
    pairs = grid.pairs()
    besides = grid.pairs(besides=grid.values[::2])
    return [
        grid.values.tolist(),
        grid.counts.tolist(),
        grid.counted()[0],
        [getattr(found, field.name) for found in (pairs, besides) for field in fields(Pairs) if field.name != "own"],
        grid.plateaus(pairs).tolist(),
        [grid.has_plateaus(pairs), grid.has_bulk(pairs), grid.may_be_computed()] if len(grid.values) > 1 else [],
        grid.regions(grid.counted()[0]),
    ]


@pytest.mark.parametrize("at_once", [1, 32])
@settings(deadline=None, max_examples=150)
@given(grids(), st.booleans())
def test_codes_find_what_sorting_and_floats_find(at_once: int, values: NDArray[Any], ordered: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "_AT_ONCE", at_once)
        found = MeasuredGrid(values, 1.0, 0.0, ordered=ordered)
        patch.setattr(integers.Codes, "of", lambda _: None)
        plain = MeasuredGrid(values, 1.0, 0.0, ordered=ordered)
        expected = weigh(MeasuredGrid(values, 1.0, 0.0, ordered=ordered))
    assert (found.codes is None) == (int(values.max()) - int(values.min()) >= 65536)
    for repeated in (False, True):
        if repeated:
            found.keep_what_repeats()
            plain.keep_what_repeats()
        assert str(_facts(found)) == str(_facts(plain))
    assert weigh(MeasuredGrid(values, 1.0, 0.0, ordered=ordered)) == expected


def test_all_codes_that_there_are() -> None:
    """Of 65536 values the highest and the lowest are not next to each other."""
    values = np.arange(-32768, 32768, dtype=np.int16).reshape(256, 256)
    values[0, 0], values[0, 1] = 32767, -32768
    values[0, 2] = -32767
    values[-1, -1] = 1
    found = MeasuredGrid(np.concatenate([values, [np.arange(-32768, 32768, 256)]]).astype(np.int16), 1, 0, ordered=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(integers.Codes, "of", lambda _: None)
        plain = MeasuredGrid(found.stack[0], 1, 0, ordered=True)
    assert found.codes is not None
    assert str(_facts(found)) == str(_facts(plain))


def test_integers_beyond_floats_have_no_codes() -> None:
    assert integers.Codes.of(np.array([[2**53, 2**53 + 1]])) is None
    assert integers.Codes.of(np.empty((0, 3), int)) is None
    assert integers.Codes.of(np.zeros((2, 2))) is None


@pytest.mark.parametrize("seed", range(120))
def test_who_asks_for_flat_values_alone_gets_the_same_answer(seed: int) -> None:
    """Whether values are flat, and how many there are; and of flat ones all that is known."""
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(1, 60, 2 + seed % 2))
    smooth = scipy.ndimage.gaussian_filter(generator.normal(size=shape), generator.uniform(0, 6))
    levels = int(generator.integers(2, 400))
    values = np.digitize(smooth, np.quantile(smooth, np.linspace(0, 1, levels)))
    values = np.where(generator.random(shape) < generator.choice([0, 0.02, 0.5]), 0, values * generator.integers(1, 9))
    values = values.astype(generator.choice(["u1", "i2", "u2", "i4", "f4"]))
    whole, quick = judge(values), judge(values, flat_only=True)
    assert (quick.flat, quick.foreground) == (whole.flat, whole.foreground)
    if whole.flat:
        assert quick == whole
