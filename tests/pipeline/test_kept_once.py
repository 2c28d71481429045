# SPDX-License-Identifier: Apache-2.0
"""What the files of an input have in common is one object, whatever it went through on the way."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm import disk
from monai_salm.background import Background
from monai_salm.budget import FileBudget
from monai_salm.canvas import Canvas
from monai_salm.io import ImageHeader
from monai_salm.io.sharing import TextMapping
from monai_salm.pipeline.kept_once import found_kept_once, view_kept_once
from monai_salm.pipeline.plan import FilePlan, SamplePlan
from monai_salm.seals import sealed_json, sealed_json_parts
from monai_salm.views import PictureView
from monai_salm.windows import IntensityWindow


def _canvas(highest: int = 100, intercept: float = 0.0) -> Canvas:
    view = PictureView(
        modality="CT", window=IntensityWindow(-160.0, 240.0), background=Background(-1000.0, 3.0, None),
        intercept=intercept,
    )  # fmt: skip
    budget = FileBudget.of_view(view, 12.0, np.array([0, 50, highest], np.int16))
    return Canvas(views=(budget,), spacing=(0.8, 0.7))


def _anew(item: Any) -> Any:
    return pickle.loads(pickle.dumps(item))  # noqa: S301 (of this test)


def test_views_of_equal_parts_are_one() -> None:
    first, second, other = (view_kept_once(_anew(_canvas(highest))) for highest in (100, 100, 200))
    assert first == _canvas(100)
    assert other == _canvas(200)
    assert first is second
    assert first is not other
    assert first.views[0] is not other.views[0]
    assert first.views[0].window is other.views[0].window
    assert first.spacing is other.spacing


def test_values_that_are_written_differently_are_not_shared() -> None:
    zero, minus_zero = view_kept_once(_canvas(intercept=0.0)), view_kept_once(_canvas(intercept=-0.0))
    assert [json.dumps(canvas.to_json()) for canvas in (zero, minus_zero)] == [
        json.dumps(_canvas(intercept=value).to_json()) for value in (0.0, -0.0)
    ]


def test_plans_that_are_read_share_their_parts() -> None:
    plans = [SamplePlan(name, (FilePlan(name, "0", "1", _canvas()),)) for name in ("a", "b")]
    texts = [json.dumps(plan.to_json()) for plan in plans]
    first, second = (SamplePlan.from_json(json.loads(text)) for text in texts)
    assert [first, second] == plans
    assert first.files[0].canvas is second.files[0].canvas


def test_headers_share_what_is_of_the_series(tmp_path: Path) -> None:
    identifiers = {"SeriesInstanceUID": "1.2", "SOPInstanceUID": "1.2.3", "PatientID": "P"}
    header = ImageHeader(
        path=tmp_path, format="dicom", shape=(4, 5), dtype=np.dtype("i2"), modality="CT", spacing=(0.8, 0.7),
        identifiers=TextMapping(identifiers, own=frozenset({"SOPInstanceUID"})),
    )  # fmt: skip
    others = identifiers | {"SOPInstanceUID": "1.2.4"}
    first = found_kept_once(_anew(header), tmp_path / "a")
    second = found_kept_once(_anew(replace(header, identifiers=others)), tmp_path / "b")
    assert first == replace(header, path=tmp_path / "a")
    assert second == replace(header, path=tmp_path / "b", identifiers=others)
    for name in ("shape", "dtype", "spacing", "modality", "references"):
        assert getattr(first, name) is getattr(second, name)
    assert first.identifiers["PatientID"] is second.identifiers["PatientID"]
    assert first.identifiers["SOPInstanceUID"] == "1.2.3"
    assert second.identifiers["SOPInstanceUID"] == "1.2.4"


@pytest.mark.parametrize("own", [(), ("b",), ("a", "c"), ("a", "b", "c")])
def test_texts_of_one_file_are_found_by_their_keys(own: tuple[str, ...]) -> None:
    texts = {"a": "1", "b": "2", "c": "3"}
    mapping = TextMapping(texts, own=frozenset(own))
    assert dict(mapping) == dict(_anew(mapping)) == texts
    with pytest.raises(KeyError):
        mapping["d"]


@pytest.mark.parametrize(
    "record", [{"a": 1}, {"b": {"c": "}", "d": {}}, "a": [1.5, {}]}, {"z": {"y": {}}}, {"é": "\ud800"}]
)
def test_a_record_in_parts_is_the_same_text(record: dict[str, Any]) -> None:
    assert "".join(sealed_json_parts(record)) == sealed_json(record)


def test_every_file_of_many_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_SYNCED_TOGETHER", 2)
    files = [tmp_path / folder / name for folder in "ab" for name in "123"]
    asked: list[Path] = []
    monkeypatch.setattr(disk, "_sync", asked.append)
    disk.sync(iter(files))
    assert sorted(asked[: len(files)]) == files
    assert sorted(asked[len(files) :]) == [tmp_path / "a", tmp_path / "b"]
