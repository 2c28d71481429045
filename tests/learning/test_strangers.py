# SPDX-License-Identifier: Apache-2.0
"""What a protection run says a stranger would learn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from monai_salm.learning import strangers
from monai_salm.learning.estimates import BLURRED, FULL, LearningEstimate, NetworkEstimate, what_is_left
from monai_salm.learning.sample_views import halved, patch_of
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.strangers import SampleGroups, StrangerPanel, held_out
from monai_salm.learning.tasks import ClassificationTask, SegmentationTask
from monai_salm.pipeline import protect
from monai_salm.working_grid import CellPlanes
from tests.builders import cube_set, disk_set, working_sample
from tests.exports import mr_export, mr_labels, nifti_export, small

CPU = torch.device("cpu")
Noise = Callable[[str], NDArray[np.integer[Any]]]


def _estimate(working: WorkingSet, noise: Noise) -> LearningEstimate:
    task = ClassificationTask.balanced(working.targets())
    groups = SampleGroups(working.ids, "image")
    return StrangerPanel(working, groups, task, seed=0, device=CPU).estimate(noise)


def _none(_: str) -> NDArray[np.integer[Any]]:
    return np.zeros((16, 16), np.int16)


def _other_cue(working: WorkingSet, contrast: float) -> Noise:
    """Take the disks away, and put columns that are bright and dark in turn there instead."""
    rows, columns = np.ogrid[:16, :16]
    disk = (rows - 8) ** 2 + (columns - 8) ** 2 < (16 / 5) ** 2
    change = ((0.3 * (-1.0) ** columns - contrast * disk) * 255).round().astype(np.int64)
    targets = dict(zip(working.ids, working.targets().tolist(), strict=True))
    return lambda name: change * targets[name]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one network train for a moment."""
    monkeypatch.setattr(strangers, "STEPS", {2: 60, 3: 120})
    monkeypatch.setattr(strangers, "NETWORKS", {False: ("small-cnn",), True: ("small-unet",)})


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_images_without_noise_are_not_protected() -> None:
    found = _estimate(disk_set(80, contrast=0.25), _none)
    assert [(network.network, network.view) for network in found.networks] == [
        ("small-cnn", view) for view in (FULL, BLURRED)
    ]
    assert (found.trained_on, found.held_out, found.apart, found.chance) == (60, 20, "image", 0.5)
    assert all(network.clean == network.protected > 0.9 for network in found.networks)
    assert [network.moved for network in found.networks] == [0.0, None], "of the images as they are"
    assert found.moved == 0.0
    assert found.verdict == "not protected"
    assert found.lines()[-1] == "estimate: NOT PROTECTED: treat these files as you would the originals"


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_noise_that_is_learned_instead_protects() -> None:
    working = disk_set(80, contrast=0.25)
    found = _estimate(working, _other_cue(working, 0.25))
    network, blurred = found.networks
    assert network.clean > 0.9
    assert network.protected == network.peak == 0.5
    assert found.verdict == network.verdict == "protected"
    assert blurred.protected >= network.protected


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_a_network_of_clean_images_is_moved_by_disks_that_went_to_the_other_class() -> None:
    working = disk_set(80, contrast=0.25)
    rows, columns = np.ogrid[:16, :16]
    disk = (rows - 8) ** 2 + (columns - 8) ** 2 < (16 / 5) ** 2
    targets = dict(zip(working.ids, working.targets().tolist(), strict=True))
    found = _estimate(working, lambda name: disk * 64 * (1 - 2 * targets[name]))
    assert found.networks[0].moved is not None
    assert found.networks[0].moved < -0.9
    assert found.moved == -found.networks[0].moved
    assert found.lines()[-2] == (
        f"a network of clean images scores the protected ones with another AUC: small-cnn {-found.moved:+.3f} (on "
        "images that it never saw)"
    )


@pytest.mark.usefixtures("brief")
def test_networks_see_half_of_a_large_grid_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "LEAST_SIDE", {2: 16})
    monkeypatch.setattr(strangers, "STEPS", {2: 2})
    assert [network.side for network in _estimate(disk_set(80), _none).networks] == [16, 8]
    sample = working_sample(
        "a", np.arange(35.0).reshape(5, 7) / 35, spacing=(1.0, 2.0), planes=CellPlanes(None, (1.0, 2.0))
    )
    half = halved(sample)
    assert half.spacing == (2.0, 4.0)
    assert half.planes == CellPlanes(None, (2.0, 4.0))
    assert half.image_model.shape == (3, 4)
    assert half.image_model[0, 0] == pytest.approx((0 + 1 + 7 + 8) / 4 / 35)
    assert half.image_model[2, 3] == pytest.approx(34 / 35)
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[2:, :, :] = 3
    assert (halved(working_sample("b", np.zeros((4, 4, 4)), labels)).target == labels[::2, ::2, ::2]).all()


def test_classes_that_nobody_can_tell_apart_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "STEPS", {2: 2})
    working = disk_set(80, contrast=0.0)
    found = _estimate(working, _none)
    assert found.verdict == "not learned"
    assert "even the originals taught these networks nothing" in found.lines()[-1]


def test_few_images_say_nothing() -> None:
    found = _estimate(disk_set(59), _none)
    assert found == LearningEstimate(why_not=found.why_not)
    assert "59 images are too few" in found.lines()[0]
    assert found.verdict == ""


def test_classes_of_one_image_say_nothing() -> None:
    samples = [*disk_set(80).samples, working_sample("z", np.zeros((16, 16), np.float32), 2)]
    found = _estimate(WorkingSet(samples), _none)
    assert found.why_not == "a class has too few images to hold some of them out"


@pytest.mark.parametrize("seed", range(5))
def test_patients_stay_on_one_side_and_every_class_is_on_both(seed: int) -> None:
    samples = disk_set(90).samples
    groups = [f"patient-{number // 3}" for number in range(90)]
    held = held_out(samples, groups, seed)
    assert {groups[number] for number in held}.isdisjoint(groups[number] for number in range(90) if number not in held)
    for label in (0, 1):
        share = sum(samples[number].target == label for number in held) / 45
        assert 0.25 <= share <= 0.5


def test_division_follows_the_seed_and_not_the_order() -> None:
    samples = disk_set(80).samples
    names = [sample.sample_id for sample in samples]
    first = {names[number] for number in held_out(samples, names, 0)}
    turned = {names[79 - number] for number in held_out(samples[::-1], names[::-1], 0)}
    assert first == turned
    assert first != {names[number] for number in held_out(samples, names, 1)}


def test_a_group_of_everybody_is_never_held_out() -> None:
    samples = disk_set(80).samples
    assert held_out(samples, ["one"] * 80, 0) == frozenset()


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_label_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "LEAST_SAMPLES", 8)
    working = cube_set(12, contrast=0.5)
    groups = SampleGroups(working.ids, "image")
    panel = StrangerPanel(working, groups, SegmentationTask(2), seed=0, device=CPU)
    found = panel.estimate(lambda _: np.zeros((8, 8, 8), np.int16))
    network = found.networks[0]
    assert network.clean == network.protected > 0.5
    assert (found.chance, network.auc, network.side, network.moved) == (None, None, 8, 0.0)


def test_label_maps_are_given_to_a_network_of_full_resolution_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "LEAST_SAMPLES", 8)
    monkeypatch.setattr(strangers, "STEPS", {3: 1})
    working = cube_set(8)
    panel = StrangerPanel(working, SampleGroups(working.ids, "image"), SegmentationTask(2), seed=0, device=CPU)
    found = panel.estimate(lambda _: np.zeros((8, 8, 8), np.int16))
    assert [network.network for network in found.networks] == ["small-unet", "small-segresnet"]


def test_record_is_read_back() -> None:
    network = NetworkEstimate("small-cnn", FULL, 28, 0.8, 0.5, 0.6, 0.55, "protected", 0.004)
    for found in (LearningEstimate((network,), 60, 20, "PatientID", 0.5), LearningEstimate(why_not="few")):
        assert LearningEstimate.from_json(json.loads(json.dumps(found.to_json()))) == found
    earlier = LearningEstimate((network,)).to_json()
    del earlier["networks"][0]["moved"]
    assert LearningEstimate.from_json(earlier).moved is None


@pytest.mark.parametrize(("verdicts", "worst"), [
    (["protected", "weakened"], "weakened"), (["protected", "not learned"], "protected"),
    (["not learned"], "not learned"), (["not protected", "protected"], "not protected"),
])  # fmt: skip
def test_the_worst_network_decides(verdicts: list[str], worst: str) -> None:
    networks = tuple(NetworkEstimate("x", FULL, 28, 0.8, 0.5, 0.6, 0.55, verdict) for verdict in verdicts)
    networks += (NetworkEstimate("x", BLURRED, 28, 0.8, 0.8, 0.6, 0.8, "not protected"),)
    assert LearningEstimate(networks, 60, 20, "image", 0.5).verdict == worst


@pytest.mark.slow
def test_a_run_stores_its_estimate_and_a_resumed_one_gives_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strangers, "LEAST_SAMPLES", 8)
    monkeypatch.setattr(strangers, "STEPS", {2: 4})
    mr_export(tmp_path / "in", 16)
    options = small(labels=mr_labels(tmp_path / "l.csv", 16))
    first = protect(tmp_path / "in", tmp_path / "out", options).to_json()["estimate"]
    assert first["apart"] == "PatientID"
    assert first["trained_on"] + first["held_out"] == 16
    again = small(labels=tmp_path / "l.csv", resume=True)
    assert protect(tmp_path / "in", tmp_path / "out", again).to_json()["estimate"] == first


@pytest.mark.slow
def test_no_estimate_without_labels_or_where_it_is_not_wanted(tmp_path: Path) -> None:
    nifti_export(tmp_path / "in", 2)
    done = protect(tmp_path / "in", tmp_path / "out", small(method="random", surrogate="", rounds=None))
    assert done.to_json()["estimate"] is None
    mr_export(tmp_path / "mr", 4)
    options = small(labels=mr_labels(tmp_path / "l.csv", 4), estimate=False)
    assert protect(tmp_path / "mr", tmp_path / "mr_out", options).to_json()["estimate"] is None


def test_a_comparison_leaves_out_what_few_would_do() -> None:
    samples = disk_set(80)
    panel = StrangerPanel(
        samples, SampleGroups(samples.ids, "image"), ClassificationTask(2), seed=0, device=torch.device("cpu")
    )
    assert panel._cells() == [("small-cnn", ""), ("small-resnet", ""), ("small-resnet", "after a blur")]
    assert panel._cells(unusual=False) == [("small-cnn", ""), ("small-resnet", "")]


@pytest.mark.usefixtures("brief")
def test_a_comparison_needs_no_network_of_clean_images() -> None:
    samples = disk_set(80)
    panel = StrangerPanel(
        samples, SampleGroups(samples.ids, "image"), ClassificationTask(2), seed=0, device=torch.device("cpu")
    )
    left = panel.what_is_left(lambda _: np.zeros((16, 16), np.int16))
    assert left > 0.6, "of 1"
    assert not panel._clean
    few = disk_set(20)
    panel = StrangerPanel(
        few, SampleGroups(few.ids, "image"), ClassificationTask(2), seed=0, device=torch.device("cpu")
    )
    assert panel.what_is_left(lambda _: np.zeros((16, 16), np.int16)) == math.inf


def test_a_piece_of_a_volume_lies_around_what_is_marked() -> None:
    sample = cube_set(1, size=12).samples[0]
    label = np.zeros((12, 12, 12), np.uint8)
    label[9:11, 0:2, 5:7] = 1
    piece = patch_of(replace(sample, target=label), 6)
    assert piece.shape == piece.image_model.shape == (6, 6, 6)
    assert piece.target[3:5, 0:2, 2:4].all()
    assert piece.target.sum() == 8
    assert np.array_equal(piece.image_model, sample.image_model[6:12, 0:6, 3:9])
    assert piece.anatomy_voxels == round(
        sample.anatomy_voxels * piece.carrier_voxels.sum() / sample.carrier_voxels.sum()
    )
    assert patch_of(replace(sample, target=0 * label), 6).image_model[0, 0, 0] == sample.image_model[3, 3, 3]
    assert patch_of(sample, 12) is sample


@pytest.mark.usefixtures("brief")
def test_networks_see_pieces_of_large_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "LEAST_SAMPLES", 8)
    monkeypatch.setattr(strangers, "LARGEST_PATCH", {3: 8})
    volumes = cube_set(8, size=12)
    panel = StrangerPanel(volumes, SampleGroups(volumes.ids, "image"), SegmentationTask(2), seed=0, device=CPU)
    found = panel.estimate(lambda _: np.zeros((12, 12, 12), np.int16))
    assert panel._seen(volumes.samples, FULL)[0].shape == (8, 8, 8)
    assert found.networks[0].moved == 0.0


@pytest.mark.parametrize(
    ("score", "peak", "auc", "chance", "left"),
    [
        (0.5, 0.5, 0.5, 0.5, 0.0), (1.0, 1.0, 1.0, 0.5, 1.0), (0.4, 0.5, 0.3, 0.5, 0.2),
        (0.25, 0.4, 0.4, 0.25, 0.2 / 3), (0.6, 0.8, None, None, 0.7), (0.5, 0.5, math.nan, 0.5, 0.0),
    ],
)  # fmt: skip
def test_what_is_left_is_beyond_a_guess(
    score: float, peak: float, auc: float | None, chance: float | None, left: float
) -> None:
    assert what_is_left(score, peak, auc, chance) == pytest.approx(left)
