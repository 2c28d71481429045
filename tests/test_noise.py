# SPDX-License-Identifier: Apache-2.0
"""Noise in memory, in a store, and in a file's values."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.budget import MOST_STEPS
from monai_salm.errors import SalmError, UsageError
from monai_salm.noise import STORE_FORMAT, NoiseStore, SparseNoise, add_noise, fingerprint
from monai_salm.working_grid import axis_cells
from tests.builders import file_budget

STEPS = np.array([[0, 3, -8], [0, 0, 1]])


@pytest.mark.parametrize(("levels", "dtype"), [(8, np.int8), (127, np.int8), (128, np.int16), (MOST_STEPS, np.int16)])
def test_packing(levels: int, dtype: type) -> None:
    noise = SparseNoise.from_dense(STEPS, levels)
    assert noise.values.dtype == dtype
    assert noise.values.tolist() == [3, -8, 1]
    assert noise.mask.tolist() == [0b01100100]
    assert np.array_equal(noise.dense(), STEPS)


@pytest.mark.parametrize("count", [3, 5, 7])
def test_noise_of_one_slice_is_the_plane_that_it_lies_in(count: int) -> None:
    steps = np.random.default_rng(0).integers(-2, 3, (3, 4, 5))
    steps[1] = 0
    noise = SparseNoise.from_dense(steps, 2)
    planes = [noise.of_slice(number, count) for number in range(count)]
    assert np.array_equal(planes, steps[axis_cells(count, 3)])


def test_noise_beyond_its_budget_is_an_error() -> None:
    with pytest.raises(ValueError, match="noise of 8 steps is beyond its budget of 7 steps"):
        SparseNoise.from_dense(STEPS, 7)
    with pytest.raises(ValueError, match="noise of 128 steps"):
        SparseNoise.from_dense(np.int8([[-128]]), 127)
    with pytest.raises(ValueError, match="a budget of 32768 steps is beyond the 32767"):
        SparseNoise.from_dense(STEPS, 32768)


def test_store(tmp_path: Path) -> None:
    store = NoiseStore(tmp_path / "new" / "noise")
    assert (len(store), list(store), "a" in store) == (0, [], False)
    record = {"files": ["a.dcm"], "epsilon": 0.03}
    for sample_id in ("a", "../b/ü", "c" * 500):
        store.write(sample_id, SparseNoise.from_dense(STEPS, 8), record)
    assert len(store) == 3
    assert sorted(store) == sorted(["a", "../b/ü", "c" * 500])
    assert "../b/ü" in store
    assert 5 not in store
    assert store.record("a") == record
    assert {path.parent for path in tmp_path.rglob("*.*")} == {store.folder}
    read = store.read("../b/ü")
    assert (read.shape, read.levels) == ((2, 3), 8)
    assert np.array_equal(read.dense(), STEPS)


def test_store_replaces(tmp_path: Path) -> None:
    store = NoiseStore(tmp_path)
    store.write("a", SparseNoise.from_dense(STEPS, 8))
    store.write("a", SparseNoise.from_dense(-STEPS, 8))
    assert np.array_equal(store.read("a").dense(), -STEPS)
    assert (len(store), store.record("a")) == (1, {})
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


def test_noise_of_nothing(tmp_path: Path) -> None:
    store = NoiseStore(tmp_path)
    store.write("empty", SparseNoise.from_dense(np.zeros((3, 4, 5), dtype=np.int16), 200))
    assert np.array_equal(store.read("empty").dense(), np.zeros((3, 4, 5)))


def test_noise_at_a_tenth_of_the_cells_takes_a_seventeenth_of_float32(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    steps = np.zeros(64**3, dtype=np.int16)
    steps[generator.choice(steps.size, steps.size // 10, replace=False)] = generator.choice(
        [-12, -5, 5, 12], steps.size // 10
    )
    steps = steps.reshape(64, 64, 64)
    store = NoiseStore(tmp_path)
    store.write("a", SparseNoise.from_dense(steps, 12), {"files": [{"fingerprint": "0" * 32, "canvas": "x" * 800}]})
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size * 17 <= steps.size * 4
    assert np.array_equal(store.read("a").dense(), steps)


def test_missing_sample_says_what_to_do(tmp_path: Path) -> None:
    store = NoiseStore(tmp_path)
    store.write("a", SparseNoise.from_dense(STEPS, 8))
    for read in (store.read, store.record):
        with pytest.raises(UsageError, match=r"no noise for sample 'b' in .*, which holds 1 samples"):
            read("b")


def test_damaged_and_foreign_files_are_told(tmp_path: Path) -> None:
    store = NoiseStore(tmp_path)
    store.write("a", SparseNoise.from_dense(STEPS, 8))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SalmError, match="damaged noise file"):
        store.read("a")
    path.write_bytes(content.replace(STORE_FORMAT.encode(), b"monai_salm.noise/9"))
    with pytest.raises(SalmError, match=r"noise format 'monai_salm.noise/9' is not"):
        list(store)


def test_store_is_small_to_send_to_a_process(tmp_path: Path) -> None:
    store = NoiseStore(tmp_path)
    store.write("a", SparseNoise.from_dense(STEPS, 8))
    assert list(pickle.loads(pickle.dumps(store))) == ["a"]  # noqa: S301 (our own bytes)
    assert repr(store) == f"NoiseStore({str(tmp_path)!r})"


def test_equal_noise_is_equal_bytes(tmp_path: Path) -> None:
    record = {"b": 1, "a": [1, 2]}
    contents = set()
    for name in "pqrs":
        store = NoiseStore(tmp_path / name)
        store.write("x", SparseNoise.from_dense(STEPS, 8), json.loads(json.dumps(record)))
        contents |= {path.read_bytes() for path in store.folder.iterdir()}
    assert len(contents) == 1


def test_fingerprint_is_of_values_and_shape() -> None:
    values = np.int16([[1, 2], [3, 4]])
    assert (
        fingerprint(values)
        == fingerprint(values.astype(np.float32))
        == fingerprint(np.asfortranarray(values).astype(">i4"))
    )
    assert len({fingerprint(v) for v in (values, values.ravel(), values + 1, values.T)}) == 4


EVERYWHERE = np.ones((1, 4), dtype=bool)
STORED = np.int16([[1000, 1100, 1200, 1250]])


@pytest.mark.parametrize(
    ("noise", "levels", "budget", "expected"),
    [
        pytest.param([[3, -12, 0, 12]], 12, {}, [[1003, 1088, 1200, 1262]], id="steps"),
        pytest.param([[12, -100, 0, 100]], 12, {}, [[1012, 1088, 1200, 1262]], id="beyond-the-budget"),
        pytest.param([[3, -12, 0, 12]], 12, {"slope": -1.0}, [[997, 1112, 1200, 1238]], id="negative-slope"),
        pytest.param(
            [[12, -12, 5, -5]], 12, {"steps": 4}, [[1004, 1096, 1201, 1249]], id="fewer-levels-scale-toward-zero"
        ),
        pytest.param([[4, -4]], 4, {}, [[1012, 1112, 1188, 1238]], id="cells-of-two-and-more-steps"),
        pytest.param([[3, 0, 0, 12]], 12, {"range_stored": (1001.0, 1251.0)}, [[1000, 1100, 1200, 1251]], id="range"),
        pytest.param(
            [[0, 5, 5, 5]],
            12,
            {"padding_stored": (1103.0, 1106.0)},
            [[1000, 1100, 1205, 1255]],
            id="never-into-padding",
        ),
        pytest.param(
            [[5, 5, 5, 5]],
            12,
            {"padding_stored": (900.0, 1002.0)},
            [[1000, 1105, 1205, 1255]],
            id="never-out-of-padding",
        ),
        pytest.param(
            [[0, 5, -5, 5]], 12, {"background_stored": 1195.0}, [[1000, 1105, 1200, 1255]], id="never-onto-background"
        ),
        pytest.param(
            [[0, 5, -5, 5]], 12, {"background_stored": 1250.0}, [[1000, 1105, 1195, 1250]], id="never-off-background"
        ),
        pytest.param([[1, -1, 0, 2]], 2, {"quantum_stored": 4.0, "steps": 2}, [[1004, 1096, 1200, 1258]], id="quantum"),
    ],
)
def test_add_noise(noise: list[list[int]], levels: int, budget: dict[str, Any], expected: list[list[int]]) -> None:
    changed = add_noise(STORED, np.int16(noise), levels, file_budget(**budget), EVERYWHERE)
    assert changed.tolist() == expected
    assert changed.dtype == STORED.dtype


def test_noise_outside_the_carriers_is_dropped() -> None:
    carriers = np.array([[True, False, True, False]])
    assert add_noise(STORED, np.int16([[5, 5, 5, 5]]), 12, file_budget(), carriers).tolist() == [
        [1005, 1100, 1205, 1250]
    ]


def test_a_value_outside_the_range_is_never_pulled_into_it() -> None:
    stored = np.int16([[-2000, 1100, 4095, 0]])
    assert add_noise(stored, np.int16([[5, 5, -5, 5]]), 12, file_budget(), EVERYWHERE).tolist() == [
        [-2000, 1105, 4095, 0]
    ]


@pytest.mark.parametrize("dtype", [">i2", "<u2", ">f4", "<f8"])
def test_dtype_and_byte_order_stay(dtype: str) -> None:
    stored = STORED.astype(dtype)
    changed = add_noise(stored, np.int16([[1, 2, 3, 4]]), 12, file_budget(), EVERYWHERE)
    assert changed.dtype == np.dtype(dtype)
    assert changed.tolist() == [[1001, 1102, 1203, 1254]]


def test_nan_stays() -> None:
    stored = np.float32([[np.nan, np.inf, 1200.5, -np.inf]])
    changed = add_noise(stored, np.int16([[1, 1, 1, 1]]), 12, file_budget(quantum_stored=0.25), EVERYWHERE)
    assert np.array_equal(changed, np.float32([[np.nan, np.inf, 1200.75, -np.inf]]), equal_nan=True)


def test_colors_and_points_in_time_share_one_noise() -> None:
    stored = np.int16(1000 + np.arange(12).reshape(1, 2, 2, 3))
    changed = add_noise(stored, np.int16([[5, -7]]), 12, file_budget(), np.ones(stored.shape, dtype=bool))
    assert (changed - stored)[0].reshape(2, -1).tolist() == [[5] * 6, [-7] * 6]
    carriers = np.ones(stored.shape, dtype=bool)
    carriers[0, 0, 1, 2] = False
    changed = add_noise(stored, np.int16([[5, -7]]), 12, file_budget(padding_stored=(1000.0, 1000.0)), carriers)
    assert (changed - stored)[0].reshape(2, -1).tolist() == [[0, 5, 5, 5, 5, 0], [-7, 0, *[-7] * 4]], (
        "each value for itself"
    )


def test_a_float_sum_that_is_rounded_beyond_the_budget_is_taken_back() -> None:
    stored = np.float32([[8388607.5, -8388607.5]])  # from 2**23 on 32-bit floats are whole numbers
    budget = file_budget(range_stored=(-3e7, 3e7), quantum_stored=1.25, steps=1)
    changed = add_noise(stored, np.int16([[1, -1]]), 1, budget, np.ones((1, 2), dtype=bool))
    assert changed.tolist() == [[8388608.0, -8388608.0]], "1.25 more is 8388608.75, which rounds to 1.5 more"


def test_the_input_and_the_noise_stay_as_they_are() -> None:
    noise = np.int16([[1, 2, 3, 4]])
    before = STORED.copy()
    add_noise(STORED, noise, 12, file_budget(), EVERYWHERE)
    assert np.array_equal(STORED, before)
    assert noise.tolist() == [[1, 2, 3, 4]]
