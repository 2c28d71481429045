# SPDX-License-Identifier: Apache-2.0
"""What is computed from pixel arrays, slab by slab and in integers, is what the plain formulas give, bit for bit."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from monai_salm import anatomy, bounds, burned_in, morphology, slabs, spans, views
from monai_salm.anatomy import CT_BODY_HU, CT_OPENING_MM, SMALL_COMPONENT
from monai_salm.background import Background
from monai_salm.bounds import measure_changes
from monai_salm.budget import FileBudget
from monai_salm.errors import RefusedError
from monai_salm.noise import add_noise
from monai_salm.pipeline import region_means
from monai_salm.views import FileView, PictureView
from monai_salm.windows import IntensityWindow
from monai_salm.working_grid import to_native

SHAPES = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=14)
TYPES = ["uint8", "int16", ">i2", "uint16", "int32", "int64", "float32", ">f4", "float64"]
FLOATS = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 0.1, -500.0, -499.75, 1e3, 3e38]


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let also small arrays be looked at in several slabs."""
    monkeypatch.setattr(slabs, "SLAB", 40)
    monkeypatch.setattr(morphology, "_BLOCK", 40)


@st.composite
def arrays(draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES) -> NDArray[Any]:
    """Values of one image: of few or of many values, in C or Fortran order, perhaps with strides."""
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    shape = draw(shapes)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    if dtype.kind == "f":
        values = rng.choice(FLOATS, shape) if draw(st.booleans()) else rng.normal(0, 600, shape)
    else:
        ends = np.iinfo(dtype)
        low, high = (max(ends.min, -1200), min(ends.max, 1200)) if draw(st.booleans()) else (ends.min, ends.max)
        values = rng.integers(low, int(high) + 1, shape, dtype=np.dtype(dtype.str.replace(">", "=")))
        if draw(st.booleans()):
            values = (values.astype(np.int64) // draw(st.sampled_from([100, 700])) * 500).astype(values.dtype)
    values = np.asarray(values).astype(dtype)
    if draw(st.booleans()):
        values = scipy.ndimage.maximum_filter(values.astype(np.float64), 3).astype(dtype)  # shapes, not specks
    if draw(st.booleans()):
        values = np.asfortranarray(values)
    return values[tuple(slice(None, None, draw(st.sampled_from([1, 1, -1, 2]))) for _ in shape)]


BACKGROUNDS = st.one_of(
    st.none(),
    st.builds(
        Background,
        st.sampled_from([0.0, -1000.0, 3.7, float("nan")]),
        st.sampled_from([0.0, 1.0, 300.5, -1.0, float("inf")]),
        st.sampled_from([None, 0.0, -500.0, 0.5]),
    ),
)
RESCALES = st.tuples(st.sampled_from([1.0, -1.0, 0.37, 1e-3, -2.0, 1e305]), st.sampled_from([0.0, -1024.0, 3.7]))
PADDINGS = st.sampled_from([None, (-2000.0, -1000.0), (0.0, 0.0), (0.5, 3.5), (-1e9, 1e9), (-np.inf, 5.0)])
WINDOWS = st.builds(
    lambda low, width: IntensityWindow(low, low + width), st.sampled_from([-160.0, 0.0, 3.7]), st.floats(0.1, 5e3)
)


@st.composite
def picture_views(draw: st.DrawFn) -> PictureView:
    slope, intercept = draw(RESCALES)
    return PictureView(
        modality=draw(st.sampled_from(["CT", "MR", "US", ""])),
        window=draw(WINDOWS),
        slope=slope,
        intercept=intercept,
        padding_stored=draw(PADDINGS),
        background=draw(BACKGROUNDS),
    )


def plain_body(
    values: NDArray[np.float64], modality: str, background: Background | None, spacing: tuple[float, ...]
) -> NDArray[np.bool_]:
    """The anatomy mask, as ``scipy.ndimage`` spells it."""
    finite = np.isfinite(values)
    if modality == "CT":
        inside = finite & (np.nan_to_num(values, nan=-np.inf) > CT_BODY_HU)
        reach = [max(0, round(CT_OPENING_MM / 2 / step)) if step > 0 else 1 for step in spacing]
        axes = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
        disk = sum((axis / max(r, 1)) ** 2 for axis, r in zip(axes, reach, strict=True)) <= 1.0
        core = scipy.ndimage.binary_erosion(inside, disk)
        inside = scipy.ndimage.binary_dilation(core, disk) & inside if core.any() else inside
    elif background is None:
        return finite
    else:
        center = background.center_real
        inside = finite & (np.abs(np.nan_to_num(values, nan=center) - center) > background.spread_real)
    if inside.ndim == 2:
        filled = scipy.ndimage.binary_fill_holes(inside)
    else:
        axis = int(np.argmin(inside.shape))
        planes = [scipy.ndimage.binary_fill_holes(plane) for plane in np.moveaxis(inside, axis, 0)]
        filled = np.moveaxis(np.stack(planes), 0, axis)
    components, count = scipy.ndimage.label(filled)
    if count > 1:
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        filled = (sizes >= SMALL_COMPONENT * sizes.max())[components]
    return filled & finite


def plain_empty(view: PictureView, stored: NDArray[Any]) -> NDArray[np.bool_]:
    marks = np.zeros(stored.shape, dtype=bool)
    if view.padding_stored is not None:
        marks |= (stored >= view.padding_stored[0]) & (stored <= view.padding_stored[1])
    if view.background is not None and view.background.exact_stored is not None:
        marks |= stored == view.background.exact_stored
    return marks


def plain_real(view: PictureView, stored: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):
        return stored.astype(np.float64) * view.slope + view.intercept


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None, max_examples=400)
@given(arrays(), picture_views(), st.lists(st.sampled_from([0.4, 0.7, 1.0, 3.0, 0.0, 9.0]), min_size=3, max_size=3))
def test_anatomy(stored: NDArray[Any], view: PictureView, steps: list[float]) -> None:
    spacing = tuple(steps[: stored.ndim])
    expected = plain_body(plain_real(view, stored), view.modality, view.background, spacing)
    expected = expected & ~plain_empty(view, stored)
    found = view.anatomy(stored, spacing)
    assert found.dtype == bool
    assert found.tobytes() == expected.tobytes()
    real = plain_real(view, stored)
    own = anatomy.anatomy_mask(real, modality=view.modality, background=view.background, spacing=spacing)
    assert (own == plain_body(real, view.modality, view.background, spacing)).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None, max_examples=100)
@given(arrays(hnp.array_shapes(min_dims=3, max_dims=4, min_side=1, max_side=9)), picture_views())
def test_anatomy_of_several_values_a_place(stored: NDArray[Any], view: PictureView) -> None:
    real, behind = plain_real(view, stored), (stored.ndim - 1,)
    expected = plain_body(
        np.asarray(real.mean(axis=behind)), view.modality, view.background, (1.0,) * (stored.ndim - 1)
    )
    expected = expected & ~plain_empty(view, stored).all(axis=behind)
    assert (view.anatomy(stored, trailing=1) == expected).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None, max_examples=200)
@given(arrays(), picture_views(), PADDINGS)
def test_carriers_model_extremes_and_empty(
    stored: NDArray[Any], view: PictureView, within: tuple[float, float] | None
) -> None:
    low, high = within or (-np.inf, np.inf)
    marks = np.random.default_rng(0).random(stored.shape) < 0.8
    real = plain_real(view, stored)
    expected = marks & view.window.sees(real) & (stored >= low) & (stored <= high)
    assert (view.carriers(stored, marks, (low, high)) == expected).all()
    assert (view.empty(stored) == plain_empty(view, stored)).all()
    assert FileView(views=(view,)).model_values(stored).tobytes() == view.window.to_model(real).tobytes()
    valid = np.isfinite(stored)
    if view.padding_stored is not None:
        valid &= (stored < view.padding_stored[0]) | (stored > view.padding_stored[1])
    ends = (float(stored[valid].min()), float(stored[valid].max())) if valid.any() else None
    assert view.extremes(stored) == ends


def plain_sum(
    stored: NDArray[Any], noise: NDArray[Any], levels: int, budget: FileBudget, carriers: NDArray[np.bool_]
) -> NDArray[Any]:
    """What noise makes of an image, in 64 bits and at once."""
    native = to_native(noise, stored.shape[: noise.ndim]).astype(np.int64)
    if levels != budget.levels:
        native = np.sign(native) * (np.abs(native) * budget.levels // levels)
    native = np.clip(native, -budget.levels, budget.levels) * (1 if budget.slope > 0 else -1)
    low, high = budget.range_stored
    native = np.broadcast_to(native.reshape(native.shape + (1,) * (stored.ndim - noise.ndim)), stored.shape).copy()
    native[~carriers | ~((stored >= low) & (stored <= high))] = 0
    if np.issubdtype(stored.dtype, np.integer):
        changed = np.clip(stored.astype(np.int64) + native * int(budget.quantum_stored), int(low), int(high))
    else:
        with np.errstate(invalid="ignore"):
            changed = np.clip(
                (stored.astype(np.float64) + native * budget.quantum_stored).astype(stored.dtype), low, high
            ).astype(stored.dtype)
            beyond = np.abs(changed.astype(np.float64) - stored.astype(np.float64)) > budget.epsilon_stored
        changed = np.where(beyond, np.nextafter(changed, stored), changed)
    forbidden = plain_empty(budget, stored) | plain_empty(budget, changed)
    return np.where((native != 0) & ~forbidden, changed, stored).astype(stored.dtype)


def plain_change(
    before: NDArray[Any], after: NDArray[Any], view: PictureView, inside: NDArray[np.bool_]
) -> tuple[float, int, int, float]:
    same = before == after
    if before.dtype.kind == "f":
        same |= np.isnan(before) & np.isnan(after)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(same, 0.0, after.astype(np.float64) - before.astype(np.float64))
        square = float(np.mean((difference * view.slope / view.window.width) ** 2))
    places = (~same).any(axis=tuple(range(inside.ndim, same.ndim)))
    largest = float(np.abs(difference).max(initial=0.0))
    return largest, int((places & inside).sum()), int((places & ~inside).sum()), square


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None, max_examples=300)
@given(
    arrays(hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=9)),
    RESCALES.filter(lambda rescale: rescale[0] < 1e300),
    PADDINGS,
    BACKGROUNDS,
    st.floats(0.001, 1.0),
    st.integers(0, 1 << 30),
)
def test_noise_and_its_measures(
    stored: NDArray[Any],
    rescale: tuple[float, float],
    padding: tuple[float, float] | None,
    background: Background | None,
    share: float,
    seed: int,
) -> None:
    window = IntensityWindow(-1000 * abs(rescale[0]), 1000 * abs(rescale[0]))
    view = PictureView(
        modality="",
        window=window,
        slope=rescale[0],
        intercept=rescale[1],
        padding_stored=padding,
        background=background,
    )
    try:
        budget = FileBudget.of_view(view, share * window.width, stored, may_be_constant=bool(seed % 2))
    except RefusedError:
        return
    rng = np.random.default_rng(seed)
    shape = tuple(int(rng.integers(1, length + 1)) for length in stored.shape[: rng.integers(2, stored.ndim + 1)])
    levels = budget.levels if seed % 3 else int(rng.integers(1, 200))
    noise = rng.integers(-levels, levels + 1, shape).astype(np.int16)
    carriers = rng.random(stored.shape) < 0.8
    expected = plain_sum(stored, noise, levels, budget, carriers)
    found = add_noise(stored, noise, levels, budget, carriers)
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()
    inside = rng.random(stored.shape[: len(shape)]) < 0.7
    with pytest.MonkeyPatch.context() as patch:
        (change,) = measure_changes(stored, found, FileView(views=(view,)), inside)
        patch.setattr(bounds, "_AT_ONCE", 40)
        (parts,) = measure_changes(stored, found, FileView(views=(view,)), inside)
    largest, changed, outside, square = plain_change(stored, found, view, inside)
    assert (change.max_stored, change.changed, change.outside, change.mean_square) == (
        largest,
        changed,
        outside,
        square,
    )
    assert (parts.max_stored, parts.changed, parts.outside) == (largest, changed, outside)
    assert parts.mean_square == pytest.approx(square, rel=1e-12)


def test_a_value_that_is_none_is_measured_in_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "_AT_ONCE", 4)
    before = np.arange(24, dtype=np.float32).reshape(6, 4)
    view = FileView(views=(PictureView(modality="", window=IntensityWindow(0, 1)),))
    for place in range(24):
        after = before.copy()
        after.flat[place] = np.nan
        after.flat[(place + 5) % 24] += 1
        (change,) = measure_changes(before, after, view, np.ones((6, 4), bool))
        assert np.isnan(change.max_stored)


@settings(deadline=None, max_examples=300)
@given(
    hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9)),
    st.lists(st.integers(0, 3), min_size=3, max_size=3),
    st.sampled_from(["", "corner", "gap"]),
    st.booleans(),
)
def test_erosion_and_dilation(marks: NDArray[np.bool_], reach: list[int], odd: str, turned: bool) -> None:
    axes = np.ogrid[tuple(slice(-r, r + 1) for r in reach[: marks.ndim])]
    structure = np.asarray(
        sum((axis / max(r, 1)) ** 2 for axis, r in zip(axes, reach[: marks.ndim], strict=True)) <= 1.0
    )
    if odd == "corner":
        structure[(0,) * structure.ndim] = True  # no longer the same from all sides
    elif odd == "gap":
        structure[reach[0]] = reach[0] == 0  # made of rows along the last axis alone
    marks = np.asfortranarray(marks) if turned else marks
    for found, expected in (
        (morphology.eroded(marks, morphology.Structure(structure)), scipy.ndimage.binary_erosion(marks, structure)),
        (morphology.dilated(marks, morphology.Structure(structure)), scipy.ndimage.binary_dilation(marks, structure)),
    ):
        assert (found == expected).all()


@pytest.mark.parametrize("reach", [(3, 3), (2, 3, 4), (40, 2)])
def test_disks_need_no_slow_way(reach: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    axes = np.ogrid[tuple(slice(-r, r + 1) for r in reach)]
    disk = np.asarray(sum((axis / r) ** 2 for axis, r in zip(axes, reach, strict=True)) <= 1.0)
    marks = np.random.default_rng(0).random((30, 31, 32)[: len(reach)]) < 0.97
    expected = scipy.ndimage.binary_erosion(marks, disk)
    monkeypatch.delattr(scipy.ndimage, "binary_erosion")
    assert (morphology.eroded(marks, morphology.Structure(disk)) == expected).all()


@settings(deadline=None, max_examples=300)
@given(
    st.floats(0, 1),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    st.integers(0, 1 << 30),
    hnp.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=12),
)
def test_components(density: float, share: float, seed: int, shape: tuple[int, ...]) -> None:
    marks = np.random.default_rng(seed).random(shape) < density
    components, count = scipy.ndimage.label(marks)
    sizes = np.bincount(components.ravel(), minlength=1)
    sizes[0] = 0
    expected = (sizes >= share * sizes.max())[components] & marks if count > 1 else marks.copy()
    for order in "CF":
        found = marks.copy(order=order)
        morphology.drop_small_components(found, share)
        assert (found == expected).all()


@settings(deadline=None)
@given(
    st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "uint32"]),
    st.floats(allow_nan=True, width=32),
    st.floats(allow_nan=True, width=32),
)
def test_span_of_stored_values(name: str, low: float, high: float) -> None:
    ends = np.iinfo(name)
    near = [int(end) for end in (low, high) if np.isfinite(end) and ends.min < end < ends.max]
    some = {*(value + step for value in [0, *near] for step in (-1, 0, 1)), int(ends.min), int(ends.max)}
    stored = np.array([value for value in sorted(some) if ends.min <= value <= ends.max], dtype=name)
    found = spans.stored_span(stored.dtype, low, high).marks(stored)
    assert (found == ((stored >= low) & (stored <= high))).all()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(1, 50), st.booleans())
def test_slabs_are_the_whole_array_once(shape: list[int], size: int, turned: bool) -> None:
    values = np.zeros(shape, dtype=int)
    values = values.T if turned else values
    parts = list(slabs.slabs(values, size=size))
    for slab in parts:
        values[slab] += 1
    assert (values == 1).all()
    assert len(parts) >= values.size / max(size, values.size / max(values.shape)) / 2
    assert all(one[-1].stop == other[-1].start for one, other in pairwise(parts))


@pytest.mark.parametrize("trailing", [0, 1])
@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 30), full=st.sampled_from([255, 254, 65535]), modality=st.sampled_from(["US", "MR"]))
def test_graphics_and_what_stands_still(trailing: int, seed: int, full: int, modality: str) -> None:
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 200, (5, 12, 13, *(3,) * trailing)).astype(np.uint16)
    stored[:, rng.random(stored.shape[1:3]) < 0.05] = full
    stored[:, rng.random(stored.shape[1:3]) < 0.05] = 0
    picture = stored[0]
    colors = picture.reshape(12, 13, -1)
    pure = ((colors == 0) | (colors == full)).all(axis=-1) & (colors == full).any(axis=-1)
    expected = scipy.ndimage.binary_dilation(pure, iterations=2)
    if modality == "MR" or full == 254 or pure.mean() > 0.2:
        expected = np.zeros((12, 13), bool)
    assert (burned_in.graphics_mask(picture, modality, trailing=trailing) == expected).all()
    same = (stored == stored[:1]).reshape(5, 12, 13, -1).all(axis=(0, -1))
    found = burned_in.static_pixels(stored, modality, trailing=trailing)
    assert (found == (same if modality == "US" else False)).all()
    assert views.FileView(views=(PictureView(modality=modality, window=IntensityWindow(0, 1)),), stacked=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None)
@given(arrays(), RESCALES, st.integers(1, 5))
def test_change_of_a_plane(stored: NDArray[Any], rescale: tuple[float, float], turn: int) -> None:
    view = PictureView(modality="", window=IntensityWindow(0, 1), slope=rescale[0], intercept=rescale[1])
    after = np.roll(stored, turn)
    change = (after.astype(np.float64) - stored.astype(np.float64)) * abs(view.slope)
    if stored.dtype.kind in "iu" and not np.isfinite(change).all():
        return  # of a change that is no number there are no means, and nobody asks
    expected = np.nan_to_num(change, nan=0.0, posinf=0.0, neginf=0.0)
    moved = region_means._change(stored, after, view)
    assert (moved.values * moved._scale == expected).all()
    assert moved.is_any() == expected.any()


@pytest.mark.parametrize("seed", range(40))
def test_planes_of_bodies_are_taken_apart_into_runs(seed: int) -> None:
    """Large planes with few runs go another way than noise and small ones, to the same marks."""
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(180, 400, 2))
    blurred = scipy.ndimage.gaussian_filter(generator.normal(size=shape), generator.uniform(3, 25))
    marks = blurred > generator.normal() * 0.01
    marks = {0: marks.T, 1: np.full(shape, seed % 2 == 0)}.get(seed % 5, marks)
    filled, kept = marks.copy(), marks.copy()
    morphology.fill_cavities(filled)
    assert np.array_equal(filled, scipy.ndimage.binary_fill_holes(marks))
    morphology.drop_small_components(kept, 0.02)
    numbers, count = scipy.ndimage.label(marks)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    sizes[0] = 0
    assert np.array_equal(kept, marks & (sizes >= 0.02 * sizes.max())[numbers])
