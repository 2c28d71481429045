# SPDX-License-Identifier: Apache-2.0
"""The script that compares the bytes of two checkouts: its inputs, its cases and its words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.same_bytes.cases import METHODS, VOLUME_LABELS, all_cases, chosen_cases
from tests.same_bytes.comparing import compare, differences
from tests.same_bytes.images import PLANE, anatomy, gray
from tests.same_bytes.inputs import FAMILIES, make_inputs, tree_digest
from tests.same_bytes.running import draw_as, pack, unpack

CHEAP = ("dicom-us", "nifti-2d", "png", "zip")


def test_inputs_depend_on_the_seed_alone(tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        make_inputs(tmp_path / name, seed, CHEAP)
    digests = [tree_digest(tmp_path / name) for name in ("first", "again", "other")]
    assert digests[0] == digests[1] != digests[2]


def test_pictures_have_many_values_on_a_dark_background() -> None:
    ill, healthy = (anatomy(0, number, PLANE) for number in (1, 2))
    stored = gray(ill, 1500)
    assert len(np.unique(stored)) > 400
    assert stored[~ill.inside].max() < 60 < stored[ill.inside].min()
    assert ill.values[ill.lesion].mean() > healthy.values[healthy.lesion].mean() + 0.05


def test_every_method_and_every_family_has_cases() -> None:
    names = [case.name for case in all_cases()]
    assert len(names) == len(set(names))
    assert {f"{family}/{method}" for family in FAMILIES for method in ("salm", "random")} <= set(names)
    assert {name.partition("/")[2] for name in names} >= set(METHODS)
    volumes = {f"{VOLUME_LABELS}/{method}" for method in ("umed", "voxshield")}
    assert volumes <= set(names)


def test_cases_are_chosen_by_patterns() -> None:
    chosen = [case.name for case in chosen_cases("zip/*,bundle")]
    assert chosen == ["zip/salm", "zip/random", "bundle"]


def test_arrays_come_back() -> None:
    values = np.arange(-6, 6, dtype=np.int16).reshape(3, 4)
    np.testing.assert_array_equal(unpack(pack(values)), values)


def test_an_unknown_chance_is_an_error() -> None:
    draw_as("own")
    with pytest.raises(ValueError, match="give one of own"):
        draw_as("other")


# Comparison ----------------------------------------------------------------------------------------------------------


def _row(**changes: Any) -> dict[str, Any]:
    steps = np.zeros((4, 4), np.int16)
    row: dict[str, Any] = {
        "case": "png/salm",
        "exit_codes": [0],
        "problems": [],
        "files": {"out/a.png": "1", "out.work/noise/a.safetensors": "2"},
        "arrays": {"out.work/noise/a.safetensors": {"sample": "a", "array": pack(steps)}},
        "tensors": {"out.work/surrogate.safetensors": {"weight": "3", "bias": "4"}},
        "fates": {"out.work: a.png": "protected"},
        "reasons": {},
    }
    return row | changes


def _written(path: Path, *rows: dict[str, Any], inputs: str = "i") -> Path:
    header = {"inputs": inputs, "package": "p", "chance": "own", "versions": {"numpy": "2"}}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in (header, *rows)), encoding="utf-8")
    return path


def test_equal_runs_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = _row(case="png/em", exit_codes=[2], files={}, arrays={}, tensors={})
    first, second = (_written(tmp_path / f"{n}.json", _row(seconds=n), failed) for n in (1, 2))
    assert compare(first, second) == 0
    assert capsys.readouterr().out.splitlines() == [
        "png/salm: same (2 files, 1 of them noise, 2 tensors)",
        "png/em: same (exit codes [2], 0 files, 0 of them noise, 0 tensors)",
        "0 of 2 cases differ; 1 are the same, but ended with an error",
    ]


def test_differences_are_told_with_their_size() -> None:
    steps = np.zeros((4, 4), np.int16)
    steps[0, 0], steps[1, 1] = 3, -1
    noise = "out.work/noise/a.safetensors"
    other = _row(
        exit_codes=[3],
        files={"out/b.png": "1", noise: "9"},
        arrays={noise: {"sample": "a", "array": pack(steps)}},
        tensors={"out.work/surrogate.safetensors": {"weight": "5", "bias": "4"}},
        fates={"out.work: a.png": "refused"},
        reasons={"out.work: a.png": "too dark"},
        problems=["it ended early"],
    )
    assert differences(_row(), other) == [
        "exit codes [0] and [3]",
        "run B: it ended early",
        "fate of out.work: a.png: protected | refused too dark",
        f"{noise}: by at most 3, 2 of 16 values of sample a",
        "out/a.png: only in A",
        "out/b.png: only in B",
        "out.work/surrogate.safetensors: 1 of 2 tensors",
    ]


def test_what_cannot_be_compared_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _written(tmp_path / "a.json", _row())
    assert compare(first, _written(tmp_path / "b.json", _row(), inputs="other")) == 2
    assert compare(first, _written(tmp_path / "c.json", _row(), _row(case="more"))) == 1
    assert "more: 1 difference\n    only in B" in capsys.readouterr().out
