# SPDX-License-Identifier: Apache-2.0
"""What holds for every file and every noise, not only for those that somebody thought of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from monai_salm.background import Background
from monai_salm.budget import Epsilon, FileBudget, PerturbationBudget
from monai_salm.errors import RefusedError
from monai_salm.methods.sparsity import sparsity_mask
from monai_salm.noise import NoiseStore, SparseNoise, add_noise
from monai_salm.windows import IntensityWindow
from monai_salm.working_grid import axis_cells, cell_counts, labels_to_working, to_native, to_working, working_shape
from tests.builders import NOWHERE

SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=7)
STORED: dict[str, st.SearchStrategy[Any]] = {
    "uint8": st.integers(0, 255),
    "int16": st.integers(-32768, 32767),
    "uint16": st.integers(0, 4095),
    ">i2": st.integers(-2000, 3000),
    "int32": st.integers(-(2**31), 2**31 - 1),
    "float32": st.floats(-1e5, 1e5, width=32),
    ">f4": st.sampled_from(np.float32([np.nan, np.inf, 0.0, 0.1, -1e-3, 7.25, 2.0**24, 2.0**27]).tolist()),
    "float64": st.integers(-1000, 1000).map(float),
}


@st.composite
def stored_arrays(draw: st.DrawFn) -> NDArray[Any]:
    """Stored values of one file."""
    dtype = draw(st.sampled_from(sorted(STORED)))
    return draw(hnp.arrays(np.dtype(dtype), draw(SHAPES), elements=STORED[dtype]))


@st.composite
def files(draw: st.DrawFn) -> tuple[NDArray[Any], FileBudget]:
    """Stored values with a budget that they can carry."""
    stored = draw(stored_arrays())
    finite = np.unique(stored[np.isfinite(stored)]).astype(np.float64).tolist()
    assume(len(finite) > 2)
    slope = draw(st.sampled_from([1.0, -1.0, 0.5, -2.0, 1 / 3, 1e-3]))
    intercept = draw(st.sampled_from([0.0, -1024.0, 3.7]))
    real = sorted(value * slope + intercept for value in (finite[0], finite[-1]))
    low = draw(st.floats(real[0] - 10, real[1] - 1e-6 * (real[1] - real[0])))
    window = IntensityWindow(low, low + draw(st.floats(0.1, 1.5)) * (real[1] - real[0]))
    epsilon = draw(
        st.one_of(st.floats(0.002, 1.0).map(Epsilon), st.floats(0.01, 300.0).map(lambda value: Epsilon(value, "real")))
    )
    padding = draw(
        st.none() | st.tuples(st.sampled_from(finite), st.sampled_from(finite)).map(lambda pair: (min(pair), max(pair)))
    )
    background = draw(st.none() | st.sampled_from(finite).map(lambda value: Background(NOWHERE, 0.0, value)))
    try:
        budget = PerturbationBudget(epsilon, window).bind(
            stored,
            modality=draw(st.sampled_from(["", "MR"])),
            slope=slope,
            intercept=intercept,
            padding_stored=padding,
            background=background,
        )
    except RefusedError:
        assume(False)
        raise
    return stored, budget


@st.composite
def noise_for(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[NDArray[np.int16], int]:
    """Any noise on any working grid of a file, and its levels."""
    working = working_shape(shape, draw(st.integers(1, 8)))
    return draw(hnp.arrays(np.int16, working)), draw(st.integers(1, 32767))


def _in_padding(values: NDArray[Any], budget: FileBudget) -> NDArray[np.bool_]:
    if budget.padding_stored is None:
        return np.zeros(values.shape, dtype=bool)
    return (values >= budget.padding_stored[0]) & (values <= budget.padding_stored[1])


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return first.dtype == second.dtype and first.tobytes() == second.tobytes()


@pytest.mark.slow
@given(st.data())
def test_no_noise_breaks_a_bound(data: st.DataObject) -> None:
    stored, budget = data.draw(files())
    noise, levels = data.draw(noise_for(stored.shape))
    carriers = data.draw(hnp.arrays(bool, stored.shape))
    before = stored.copy()
    changed = add_noise(stored, noise, levels, budget, carriers)
    assert _same(stored, before)
    assert (changed.shape, changed.dtype) == (stored.shape, stored.dtype)
    finite = np.isfinite(stored)
    assert _same(changed[~finite], stored[~finite])
    moved = finite & (changed != stored)
    # The largest change, in the file's own units; a float may round by half a unit in the last place.
    rounding = 0.0 if stored.dtype.kind in "iu" else float(np.spacing(np.abs(stored[finite]).max()))
    change = np.abs(changed[moved].astype(np.longdouble) - stored[moved].astype(np.longdouble))
    assert change.max(initial=0) <= budget.epsilon_stored + rounding
    assert change.max(initial=0) * abs(budget.slope) <= budget.epsilon_real * (1 + 1e-9)
    assert not moved[~carriers].any()
    assert not moved[_in_padding(stored, budget)].any()
    assert not _in_padding(changed[moved], budget).any()
    if budget.background is not None:
        assert not moved[stored == budget.background.exact_stored].any()
        assert not (changed[moved] == budget.background.exact_stored).any()
    assert (changed[moved] >= budget.range_stored[0]).all()
    assert (changed[moved] <= budget.range_stored[1]).all()
    # Noise rises where the real value is to rise.
    direction = np.sign(to_native(noise, stored.shape)[moved]) * np.sign(budget.slope)
    assert (np.sign(changed[moved].astype(np.float64) - stored[moved].astype(np.float64)) == direction).all()


@given(files())
def test_carriers_are_anatomy_and_within_range(file: tuple[NDArray[Any], FileBudget]) -> None:
    stored, budget = file
    anatomy = budget.anatomy(stored)
    carriers = budget.carriers(stored, anatomy, budget.range_stored)
    assert not carriers[~anatomy | ~np.isfinite(stored) | _in_padding(stored, budget)].any()
    real = stored[carriers].astype(np.float64) * budget.slope + budget.intercept
    assert ((real > budget.window.low) & (real < budget.window.high)).all()
    assert ((stored[carriers] >= budget.range_stored[0]) & (stored[carriers] <= budget.range_stored[1])).all()


@given(files())
def test_file_budget_survives_json(file: tuple[NDArray[Any], FileBudget]) -> None:
    budget = file[1]
    assert FileBudget.from_json(json.loads(json.dumps(budget.to_json()))) == budget
    assert FileBudget.from_json(replace(budget, background=None).to_json()).background is None
    assert 1 <= budget.levels <= 32767


@pytest.mark.slow
@given(st.data())
def test_store_gives_back_what_it_got(data: st.DataObject) -> None:
    steps = data.draw(hnp.arrays(np.int16, SHAPES, elements=st.integers(-200, 200)))
    levels = data.draw(st.integers(int(np.abs(steps).max()) or 1, 500))
    sample_id = data.draw(st.text(st.characters(codec="utf-8"), max_size=20))
    noise = SparseNoise.from_dense(steps, levels)
    with TemporaryDirectory() as folder:
        contents = []
        for name in ("first", "second"):
            store = NoiseStore(Path(folder, name))
            store.write(sample_id, noise, {"epsilon": 0.1, "files": [sample_id]})
            contents += [path.read_bytes() for path in store.folder.iterdir()]
            read = store.read(sample_id)
            assert list(store) == [sample_id]
            assert store.record(sample_id) == {"epsilon": 0.1, "files": [sample_id]}
        assert len(set(contents)) == 1
        assert len(contents) == 2
    assert (read.shape, read.levels) == (noise.shape, levels)
    assert _same(read.mask, noise.mask)
    assert _same(np.asarray(read.values), np.asarray(noise.values))
    assert _same(read.dense(), steps)


@given(st.data())
def test_working_grid_and_back(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=12))
    size = data.draw(st.integers(1, 12))
    working = working_shape(shape, size)
    assert all(1 <= cells <= min(native, size) for cells, native in zip(working, shape, strict=True))
    for native, cells in zip(shape, working, strict=True):
        assert sorted(set(axis_cells(native, cells).tolist())) == list(range(cells))
    noise = data.draw(hnp.arrays(np.int16, working, elements=st.integers(-100, 100)))
    native_noise = to_native(noise, shape)
    assert native_noise.shape == shape
    np.testing.assert_allclose(to_working(native_noise, working), noise, atol=1e-4)
    assert np.array_equal(labels_to_working(native_noise % 256, working), noise % 256)
    selected = data.draw(hnp.arrays(bool, shape))
    counts = cell_counts(selected, working)
    sizes = cell_counts(np.ones(shape, dtype=bool), working)
    assert (counts.sum(), sizes.sum()) == (selected.sum(), selected.size)
    assert (sizes >= 1).all()
    np.testing.assert_allclose(to_working(selected, working), counts / sizes, atol=1e-6)
    # What changes in the file is what the counts of the changed cells say.
    assert (to_native(noise, shape)[selected] != 0).sum() == counts[noise != 0].sum()


def _top_cells(score: list[float], voxels: list[int], limit: int) -> list[bool]:
    """Take cells one after the other, the highest score first, until the next one does not fit."""
    chosen, used = [False] * len(score), 0
    for index in sorted(range(len(score)), key=lambda i: (-score[i], i)):
        if score[index] <= 0 or voxels[index] == 0:
            continue
        if used + voxels[index] > limit:
            break
        chosen[index] = True
        used += voxels[index]
    return chosen


@given(
    st.lists(
        st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 1e-30, 1e30]), st.integers(0, 4)), min_size=1, max_size=12
    ),
    st.integers(0, 30),
)
def test_sparsity_mask_is_exact_top_k(cells: list[tuple[float, int]], limit: int) -> None:
    score, voxels = [cell[0] for cell in cells], [cell[1] for cell in cells]
    mask = sparsity_mask(torch.tensor([score]), torch.tensor([voxels]), torch.tensor([limit]))[0]
    assert mask.tolist() == _top_cells(score, voxels, limit)
    assert int((mask * torch.tensor(voxels)).sum()) <= limit
