# SPDX-License-Identifier: Apache-2.0
"""Picture, label map, or cannot tell: no made array of any kind is taken for the wrong one, and few clinical pictures
are left open.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from monai_salm.errors import RefusedError
from monai_salm.io.kinds import UndecidedError, judge, whole_labels
from tests.io.kind_samples import LABEL_MAP, PICTURE, Sample, anatomy, cells, samples

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def judged(sample: Sample) -> str:
    return judge(
        sample.values, slope=sample.slope, intercept=sample.intercept, trailing=int(sample.color), color=sample.color
    ).kind


@pytest.mark.slow
@pytest.mark.parametrize("seed", [11, 12])
def test_no_wrong_decision(seed: int) -> None:
    wrong, open_ones, clinical = [], 0, 0
    for sample in samples(seed, 2):
        kind = judged(sample)
        clinical += sample.clinical
        open_ones += sample.clinical and kind == "cannot tell"
        if (kind == "label map" and sample.truth == PICTURE) or (kind == "picture" and sample.truth != PICTURE):
            wrong.append((sample.name, sample.values.shape, kind))
    assert wrong == []
    assert open_ones <= 0.02 * clinical


@pytest.mark.slow
def test_most_label_maps_are_known() -> None:
    found = Counter(judged(sample) for sample in samples(13, 1) if sample.truth == LABEL_MAP)
    assert found["label map"] >= 0.75 * sum(found.values())


@pytest.mark.parametrize("background", [0, 1, 4095])
def test_constant_background_decides_nothing(background: int) -> None:
    picture = np.rint(anatomy(RNG, (40, 40, 12), background=False) * 900).astype(np.uint16) + 100
    picture[picture <= 145] = background
    assert judge(picture).kind == "picture"


def test_wholeness_is_that_of_real_values() -> None:
    labels = cells(np.random.default_rng(3), (40, 40, 20), 4)
    stored = np.rint(labels * (65535 / 4) - 32768).astype(np.int16)
    assert judge(stored, slope=4 / 65535, intercept=4 * 32768 / 65535).kind == "label map"
    assert judge(stored).kind == "cannot tell"  # -32768 is no label


def test_channels_must_agree() -> None:
    picture, labels = np.rint(anatomy(RNG, (48, 48)) * 255), cells(RNG, (48, 48), 5)
    assert judge(np.stack([picture, picture + 1], -1), trailing=1).kind == "picture"
    assert judge(np.stack([labels, labels], -1), trailing=1).kind == "label map"
    both = judge(np.stack([picture, labels], -1), trailing=1)
    assert (both.kind, "some are label map and some picture" in both.evidence) == ("cannot tell", True)
    assert judge(np.stack([labels, np.zeros_like(labels)], -1), trailing=1).kind == "label map"


def test_declared_labels_must_be_whole_and_flat() -> None:
    picture = np.rint(anatomy(RNG, (48, 48)) * 255).astype(np.int16)
    nested = np.zeros((48, 48), np.int16)
    nested[8:40, 8:40], nested[16:32, 16:32] = 1, 2
    assert judge(nested).kind == "cannot tell"
    assert judge(nested, declared="label map", by="its intent").kind == "label map"
    assert judge(picture, declared="label map", by="its intent").kind == "cannot tell"
    assert "not all values are whole" in judge(nested / 3, declared="label map", by="its intent").evidence


@pytest.mark.parametrize("values", [np.full((9, 9), 7), np.full((9, 9), np.nan), np.zeros((4, 4, 4))])
def test_constant_values_hold_nothing(values: np.ndarray) -> None:
    found = judge(values)
    assert (found.kind, found.foreground) == ("cannot tell", 0)
    assert "there is nothing in it to protect" in str(UndecidedError(found))


def test_undecided_names_both_options() -> None:
    text = str(UndecidedError(judge(np.arange(1600).reshape(40, 40) // 200)))
    assert "--pictures PATTERN" in text
    assert "--label-maps PATTERN" in text


def test_labels_that_went_through_floats_are_rounded() -> None:
    assert whole_labels(np.array([0.0, 1.0000001, 2.9999]), "a").tolist() == [0, 1, 3]
    for values in ([0.5], [np.nan], [-1.0], [70000.0]):
        with pytest.raises(RefusedError, match="a has values that are no labels"):
            whole_labels(np.array(values), "a")


@pytest.fixture(scope="module")
def page_maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_kinds", ROOT / "docs" / "make_kinds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_page_has_no_wrong_decision(page_maker: ModuleType) -> None:
    rows = [
        line.strip("| ").split(" | ")
        for line in page_maker.PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and "---" not in line
    ]
    heads, body = rows[0], [row for row in rows if row[0] != rows[0][0]]
    wrong = heads.index("wrong")
    assert len(body) > 60
    assert {row[wrong] for row in body} == {"0"}


@pytest.mark.slow
def test_page_is_made_of_the_samples_of_today(page_maker: ModuleType) -> None:
    made = page_maker.made_rows(times=1)
    named = page_maker.PAGE.read_text(encoding="utf-8")
    assert {row.name for row in made} <= {name for name in (row.name for row in made) if f"| {name} |" in named}
