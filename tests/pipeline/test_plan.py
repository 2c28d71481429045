# SPDX-License-Identifier: Apache-2.0
"""The decision about every file, before anything is changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.budget import Epsilon
from monai_salm.errors import UsageError
from monai_salm.pipeline import ProtectionPlan, build_plan, prepare, protect, scan, verify
from monai_salm.pipeline.file_views import BudgetOptions
from monai_salm.pipeline.labels import labels_from_table
from monai_salm.pipeline.loading import working_sample
from monai_salm.views import FileView
from monai_salm.windows import IntensityWindow
from tests.exports import (
    ROOT_UID,
    block,
    body,
    drawn,
    label_table,
    mr_export,
    mr_labels,
    mr_series,
    mr_slice,
    nifti_export,
    nifti_file,
    small,
)


def _plan(source: Path, options: BudgetOptions | None = None, **arguments: Any) -> ProtectionPlan:
    return build_plan(scan(source), options or BudgetOptions(), **arguments)


def test_plan_survives_json(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 4)
    mr_slice(tmp_path / "in" / "unlabeled.dcm", 9)
    (tmp_path / "in" / "copy.dcm").write_bytes((tmp_path / "in" / "case0" / "image.dcm").read_bytes())
    plan = prepare(tmp_path / "in", small(labels=mr_labels(tmp_path / "l.csv", 4)))[1].plan
    again = ProtectionPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.digest() == plan.digest()
    assert len(plan.samples) == 4
    assert "it has no label (path)" in plan.refused["unlabeled.dcm"]
    with pytest.raises(UsageError, match="plan format 'x' is not"):
        ProtectionPlan.from_json(plan.to_json() | {"format": "x"})


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": "6/255"},
        {"perturbed_fraction": 0.3},
        {"window": "0,500"},
        {"rounds": 3},
        {"seed": 1},
        {"method": "em"},
        {"working_size": 16},
        {"surrogate": "small-resnet"},
        {"sample": "series"},
        {"modality": "CT"},
        {"label_column": "label"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_digest_changes_with_every_setting(tmp_path: Path, change: dict[str, Any]) -> None:
    mr_export(tmp_path / "in", 2)
    options = small(labels=mr_labels(tmp_path / "l.csv", 2))
    digests = {prepare(tmp_path / "in", chosen)[1].plan.digest() for chosen in (options, replace(options, **change))}
    assert len(digests) == 2


@pytest.mark.parametrize(
    "change",
    [{"workers": 2}, {"work_dir": Path("x")}, {"resume": True}, {"device": "auto"}],
    ids=lambda change: next(iter(change)),
)
def test_digest_does_not_depend_on_place_and_speed(tmp_path: Path, change: dict[str, Any]) -> None:
    mr_export(tmp_path / "in", 2)
    options = small(labels=mr_labels(tmp_path / "l.csv", 2))
    assert (
        len({prepare(tmp_path / "in", chosen)[1].plan.digest() for chosen in (options, replace(options, **change))})
        == 1
    )


def test_digest_changes_with_labels_and_pixels(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    mr_labels(tmp_path / "l.csv", 2)
    label_table(tmp_path / "m.csv", {"P0": "ill", "P1": "healthy"}, "PatientID")
    before = prepare(tmp_path / "in", small(labels=tmp_path / "l.csv"))[1].plan.digest()
    assert prepare(tmp_path / "in", small(labels=tmp_path / "m.csv"))[1].plan.digest() != before
    mr_slice(tmp_path / "in" / "case0" / "image.dcm", 0, values=body(8))
    assert prepare(tmp_path / "in", small(labels=tmp_path / "l.csv"))[1].plan.digest() != before


def test_series_is_one_sample_in_the_order_of_its_normal(tmp_path: Path) -> None:
    mr_series(tmp_path / "in", 0, slices=4)
    mr_series(tmp_path / "in" / "other", 1, slices=3)
    plan = _plan(tmp_path / "in", sample="series")
    assert {sample.sample_id: [file.path for file in sample.files] for sample in plan.samples} == {
        f"{ROOT_UID}.21.1": ["slice4.dcm", "slice3.dcm", "slice2.dcm", "slice1.dcm"],
        f"{ROOT_UID}.21.2": ["other/slice3.dcm", "other/slice2.dcm", "other/slice1.dcm"],
    }
    assert len(_plan(tmp_path / "in", sample="instance").samples) == 7


def test_slices_without_position_are_ordered_by_their_number(tmp_path: Path) -> None:
    mr_series(tmp_path, 0, slices=4, ImagePositionPatient=None, ImageOrientationPatient=None)
    (sample,) = _plan(tmp_path, sample="series").samples
    assert [file.path for file in sample.files] == ["slice4.dcm", "slice3.dcm", "slice2.dcm", "slice1.dcm"]


@pytest.mark.parametrize(("key", "samples"), [("SeriesInstanceUID", 2), ("PatientID", 2), ("SOPInstanceUID", 6)])
def test_labels_of_series_make_series_the_samples(tmp_path: Path, key: str, samples: int) -> None:
    for number in range(2):
        mr_series(tmp_path / "in" / str(number), number, slices=3)
    inventory = scan(tmp_path / "in")
    names = sorted({header.identifiers[key] for header in inventory.pictures.values()})
    labels = labels_from_table(
        label_table(tmp_path / "l.csv", {name: n % 2 for n, name in enumerate(names)}, key), inventory
    )
    assert len(build_plan(inventory, BudgetOptions(), labels=labels).samples) == samples


@pytest.mark.parametrize(
    ("change", "reason"),
    [("label", "slices with different labels"), ("shape", "slices of 2 shapes")],
)
def test_series_that_is_no_volume_is_refused(tmp_path: Path, change: str, reason: str) -> None:
    mr_series(tmp_path / "in", 0, slices=3)
    if change == "shape":
        own = {
            "SeriesInstanceUID": f"{ROOT_UID}.21.1",
            "SOPInstanceUID": f"{ROOT_UID}.11.99",
            "ImagePositionPatient": [0, 0, 50.0],
        }
        mr_slice(tmp_path / "in" / "odd.dcm", 0, body(0, 20), **own)
    inventory = scan(tmp_path / "in")
    names = [header.identifiers["SOPInstanceUID"] for header in inventory.pictures.values()]
    classes = {name: str(n == 0 and change == "label") for n, name in enumerate(names)}
    labels = labels_from_table(label_table(tmp_path / "l.csv", classes, "SOPInstanceUID"), inventory)
    plan = build_plan(inventory, BudgetOptions(), labels=labels, sample="series")
    assert not plan.samples
    assert all(reason in why and "--sample instance" in why for why in plan.refused.values())


@pytest.mark.slow
def test_unlabeled_slices_do_not_move_the_window_that_verify_finds(tmp_path: Path) -> None:
    paths = mr_series(tmp_path / "in", 0, slices=6)
    mr_slice(
        paths[0],
        0,
        body(0, 16) * 8,
        SeriesInstanceUID=f"{ROOT_UID}.21.1",
        SOPInstanceUID=f"{ROOT_UID}.11.1.1",
        StudyInstanceUID=f"{ROOT_UID}.31.1",
    )
    names = {path.name: number % 2 for number, path in enumerate(paths[1:])}
    plan = _plan(
        tmp_path / "in", labels=labels_from_table(label_table(tmp_path / "l.csv", names), scan(tmp_path / "in"))
    )
    complete = _plan(tmp_path / "in")
    assert list(plan.refused) == ["slice6.dcm"]
    assert {f.path: f.canvas for s in plan.samples for f in s.files}.items() < {
        f.path: f.canvas for s in complete.samples for f in s.files
    }.items()
    protect(tmp_path / "in", tmp_path / "out", small(labels=tmp_path / "l.csv", rounds=1))
    assert not verify(tmp_path / "in", tmp_path / "out").mismatches


@pytest.mark.parametrize(
    ("modality", "options", "window"),
    [
        ("CT", BudgetOptions(), (-160.0, 240.0)),
        ("CT", BudgetOptions(window=IntensityWindow(-1000, 400)), (-1000, 400)),
        ("CR", BudgetOptions(), (10.0, 610.0)),
        ("MR", BudgetOptions(), None),
    ],
    ids=["CT", "given", "plain film", "MR"],
)
def test_window_of_a_modality(
    tmp_path: Path, modality: str, options: BudgetOptions, window: tuple[float, float] | None
) -> None:
    mr_slice(tmp_path / "a.dcm", 1, Modality=modality, WindowCenter=310, WindowWidth=600)
    (sample,) = _plan(tmp_path, options).samples
    budget = sample.files[0].canvas.budgets[0]
    if window is None:
        assert 240 < budget.window.low < 280 < 600 < budget.window.high < 680
    else:
        assert (budget.window.low, budget.window.high) == pytest.approx(window, abs=1)
    assert budget.epsilon_real == pytest.approx(8 / 255 * budget.window.width)


def test_volume_that_looks_like_ct_needs_its_modality(tmp_path: Path) -> None:
    nifti_file(tmp_path / "v.nii", block(0)[0] * 2 - 1024)
    assert "looks like CT" in _plan(tmp_path).refused["v.nii"]
    assert "--modality CT" in _plan(tmp_path).refused["v.nii"]
    (sample,) = _plan(tmp_path, BudgetOptions(modality="CT")).samples
    assert sample.files[0].canvas.budgets[0].modality == "CT"


def test_too_small_epsilon_is_refused_with_one_that_would_do(tmp_path: Path) -> None:
    nifti_export(tmp_path, 1, slope=5.0)
    reason = _plan(tmp_path, BudgetOptions(epsilon=Epsilon.parse("2 units"))).refused["v0.nii.gz"]
    assert "less than one stored step of 5" in reason
    wanted = reason.partition("--epsilon '")[2].partition("'")[0]
    (sample,) = _plan(tmp_path, BudgetOptions(epsilon=Epsilon.parse(wanted))).samples
    assert sample.files[0].canvas.budgets[0].levels == 1


def test_plan_without_an_epsilon_shows_files_that_no_value_moves_in(tmp_path: Path) -> None:
    nifti_export(tmp_path, 1, slope=5.0)
    (sample,) = _plan(tmp_path, BudgetOptions(epsilon=None)).samples
    (bound,) = _plan(tmp_path, BudgetOptions(epsilon=Epsilon(0.5))).samples
    (file,) = sample.files
    assert type(file.view) is FileView
    assert (file.view.views[0].window, file.view.modality) == (bound.files[0].view.views[0].window, "")
    with pytest.raises(TypeError, match="was planned without a budget"):
        file.canvas  # noqa: B018 (it raises)
    loaded = working_sample(scan(tmp_path), sample, 16)
    assert (loaded.levels, loaded.step_model) == (0, 0.0)
    known = working_sample(scan(tmp_path), bound, 16)
    assert np.array_equal(loaded.image_model, known.image_model)
    assert np.array_equal(loaded.carrier_voxels, known.carrier_voxels)


def test_volumes_of_one_content_are_one_sample(tmp_path: Path) -> None:
    nifti_file(tmp_path / "a.nii", block(0)[0])
    nifti_file(tmp_path / "b.nii.gz", block(0)[0])
    plan = _plan(tmp_path)
    assert [sample.files[0].path for sample in plan.samples] == ["a.nii"]
    assert "holds the same values as a.nii" in plan.refused["b.nii.gz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "method 'salm' needs labels; give --labels FILE"),
        ({"task": "segmentation"}, "no SEG object in it can be used as a label map .*give --labels FOLDER"),
        ({"task": "detection"}, "task 'detection' is unknown"),
        ({"sample": "patient"}, "sample 'patient' is unknown"),
        ({"working_size": 4}, "working size 4 is too small"),
        ({"method": "magic"}, "method 'magic' is unknown; give one of salm"),
        ({"rounds": 0}, "rounds 0 must be at least 1"),
        ({"perturbed_fraction": 2.0}, "perturbed fraction 2 is not in"),
        ({"epsilon": "a lot"}, "epsilon 'a lot' is not understood"),
        ({"window": "9"}, "window '9' is not understood"),
        ({"labels": Path(), "labels_from_folders": True}, "contradict each other"),
        ({"labels": Path()}, "is a folder; a table is needed"),
    ],
    ids=lambda value: next(iter(value), "no labels") if isinstance(value, dict) else "",
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    mr_export(tmp_path / "in", 2)
    with pytest.raises(UsageError, match=message):
        prepare(tmp_path / "in", small(**options))


def test_input_without_a_picture(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "l.csv").write_text("path,label\nnotes.txt,1\n")
    with pytest.raises(UsageError, match="none of its 1 labels in column 'path' belongs to an image"):
        prepare(tmp_path / "in", small(labels=tmp_path / "l.csv"))
    plan = prepare(tmp_path / "in", drawn())[1].plan
    assert (list(plan.documents), plan.samples, plan.refused) == (["notes.txt"], (), {})
