# SPDX-License-Identifier: Apache-2.0
"""Which trainings there are, what each sees, and what is kept of it; nothing is trained here but one
pretrained victim.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from monai_salm.errors import UsageError
from monai_salm.evaluate import EvaluateOptions
from monai_salm.evaluate import trainings as grid
from monai_salm.evaluate.countermeasures import COUNTERMEASURES, NO_COUNTERMEASURE, Countermeasure, Leak
from monai_salm.evaluate.folders import Folder, Folders, stratified_part
from monai_salm.evaluate.state import EvaluationState
from monai_salm.evaluate.trainings import Grid, GridCell, VictimBuilder, plan_cells
from monai_salm.learning.augmentations import AUGMENTATIONS
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask
from monai_salm.learning.victims import VictimRecipe, VictimScores, VictimTraining
from monai_salm.working_samples import WorkingSample

CPU = torch.device("cpu")


def sample(number: int, value: float, target: Any = 0, prefix: str = "s") -> WorkingSample:
    cells = np.ones((8, 8), np.int64)
    return WorkingSample(
        sample_id=f"{prefix}{number:03d}", image_model=np.full((8, 8), value, np.float32), carrier_voxels=cells,
        carrier_share=cells.astype(np.float32),
        anatomy_voxels=64, levels=1, step_model=0.1, target=target,
    )  # fmt: skip


def folders(count: int = 20) -> Folders:
    """Give images whose value says where they are from: clean 0.1, protected 0.2, other 0.3, test 0.4."""
    values = {"clean": 0.1, "protected": 0.2, "other": 0.3}
    by_name = {
        name: Folder(
            SimpleNamespace(),
            SimpleNamespace(),
            [sample(number, value, int(number % 4 == 0)) for number in range(count)],
        )  # type: ignore[arg-type]
        for name, value in values.items()
    }
    by_name["test"] = Folder(
        SimpleNamespace(), SimpleNamespace(), [sample(number, 0.4, number % 2, "t") for number in range(6)]
    )  # type: ignore[arg-type]
    return Folders(by_name, ["protected", "other"], ClassificationTask(2), (8, 8))


class Trainings:
    """Takes the place of ``train_victim``: keeps what it is given, and knows its own score."""

    def __init__(self) -> None:
        self.train: list[WorkingSet] = []
        self.test: list[WorkingSet] = []
        self.relied_on: list[WorkingSet] = []
        self.augmentations: list[Any] = []

    def __call__(self, network: Any, training: VictimTraining, **more: Any) -> VictimScores:
        self.train.append(training.train)
        self.test.append(training.test)
        assert training.relied_on is not None
        self.relied_on.append(training.relied_on)
        self.augmentations.append(training.augmentation)
        score = len(self.train) / 100
        return VictimScores({"balanced_accuracy": score, "auc": float("nan")}, 0.9, (0.9, score), 1.0, score - 0.5)

    def origins(self, index: int = -1) -> list[float]:
        return [round(float(one.image_model[0, 0]), 3) for one in self.train[index].samples]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    record = Trainings()
    monkeypatch.setattr(grid, "train_victim", record)
    return record


def runner(images: Folders | None = None, state: Path | None = None, **recipe: Any) -> Grid:
    images = images or folders()
    return Grid(images, VictimBuilder(images, CPU), VictimRecipe(**recipe), EvaluationState(state))


def cell(
    trained_on: str = "protected", countermeasure: Countermeasure = NO_COUNTERMEASURE, share: float = 1.0, seed: int = 0
) -> GridCell:
    return GridCell("small-cnn", trained_on, countermeasure, share, seed)


def test_whole_folders_come_first_and_each_training_comes_once() -> None:
    cells = plan_cells(["a", "b"], [NO_COUNTERMEASURE, COUNTERMEASURES["median-3"]], [1.0, 0.4], 2, ["protected"])
    assert len(cells) == len(set(cells)) == 2 * (2 * 2 * 2 + 2 * 2 * 2)
    first = [(one.victim, one.trained_on, one.protected_share, one.seed) for one in cells[:8]]
    assert first == [
        (victim, name, 1.0, seed) for seed in (0, 1) for victim in ("a", "b") for name in ("clean", "protected")
    ]
    assert {one.countermeasure.name for one in cells[:16]} == {"none"}
    assert {one.trained_on for one in cells[8:16]} == {"clean part", "protected"}


def test_clean_images_are_trained_on_also_where_no_folder_is_whole() -> None:
    cells = plan_cells(["a"], [NO_COUNTERMEASURE], [0.6, 0.2], 1, ["protected"])
    assert [(one.trained_on, one.protected_share) for one in cells] == [
        ("clean", 1.0), ("clean part", 0.6), ("protected", 0.6), ("clean part", 0.2), ("protected", 0.2),
    ]  # fmt: skip


@pytest.mark.parametrize("share", [0.2, 0.5, 0.85, 1.0])
def test_share_is_drawn_from_each_class_alike(share: float) -> None:
    samples = [sample(number, 0.0, int(number % 4 == 0)) for number in range(40)]
    part = stratified_part(samples, share, seed=3)
    assert len(part) == len(set(part)) == round(40 * share)
    assert abs(sum(number % 4 == 0 for number in part) - 10 * share) < 1
    assert part == stratified_part(samples, share, seed=3)
    assert share == 1 or part != stratified_part(samples, share, seed=4)


def test_share_of_findings_and_label_maps() -> None:
    findings = [sample(number, 0.0, np.array([number % 2, 1], np.float32)) for number in range(10)]
    assert sum(number % 2 for number in stratified_part(findings, 0.4, 0)) == 2
    maps = [sample(number, 0.0, np.zeros((8, 8), np.uint8)) for number in range(10)]
    assert len(stratified_part(maps, 0.3, 0)) == 3


def test_mix_has_the_right_numbers_and_its_clean_part_none_that_is_protected(trainings: Trainings) -> None:
    run = runner()
    run.run([cell("clean part", share=0.4), cell("protected", share=0.4), cell("other", share=0.4), cell("protected")])
    assert trainings.origins(0) == [0.1] * 12
    for index, value in ((1, 0.2), (2, 0.3)):
        assert sorted(trainings.origins(index)) == [0.1] * 12 + [value] * 8
    assert trainings.origins(3) == [0.2] * 20
    part = set(trainings.train[0].ids)
    mixed = {one.sample_id for one in trainings.train[1].samples if one.image_model[0, 0] == np.float32(0.1)}
    assert mixed == part
    assert {one.sample_id for one in trainings.train[1].samples} == {
        one.sample_id for one in run.folders["clean"].samples
    }


def test_each_augmentation_has_trainings_of_its_own(trainings: Trainings, tmp_path: Path) -> None:
    strong = COUNTERMEASURES["strong-augmentation"]
    cells = plan_cells(
        ["small-cnn"], [NO_COUNTERMEASURE, strong], [1.0], 1, ["protected"], augmentations=["nnunet", "none"]
    )
    plan = [(one.trained_on, one.augmentation, one.countermeasure.name) for one in cells]
    assert plan == [
        ("clean", "nnunet", "none"), ("protected", "nnunet", "none"),
        ("clean", "none", "none"), ("protected", "none", "none"),
        ("clean", "flips", "strong-augmentation"), ("protected", "flips", "strong-augmentation"),
    ]  # fmt: skip
    results = runner(state=tmp_path / "state.jsonl").run(cells)
    assert [result.augmentation for result in results] == [augmentation for _, augmentation, _ in plan]
    assert [result.to_json()["augmentation"] for result in results] == [augmentation for _, augmentation, _ in plan]
    used = [AUGMENTATIONS["nnunet"]] * 2 + [AUGMENTATIONS["none"]] * 2 + [strong.augmentation] * 2
    assert trainings.augmentations == used
    assert runner(state=tmp_path / "state.jsonl").run(cells[2:4])[0].to_json() == results[2].to_json()
    runner(state=tmp_path / "state.jsonl").run([cell("clean")])
    assert len(trainings.train) == 7, "another augmentation is another training"


def test_reliance_is_that_on_some_of_the_protected_images(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of the class are drawn as they are in the whole: 2 of 8, of those 5 of 20."""
    brighter = Countermeasure(name="brighter", fit=lambda leak: lambda image: image + np.float32(0.5))
    cells = [cell("clean"), cell(), cell(share=0.4), cell("clean part", share=0.4), cell(countermeasure=brighter)]
    results = runner().run(cells)
    values = [sorted(round(float(one.image_model[0, 0]), 3) for one in each.samples) for each in trainings.relied_on]
    assert values == [[0.1] * 20, [0.2] * 20, [0.2] * 8, [0.1] * 12, [0.7] * 20]
    assert [result.scores.reliance for result in results] == pytest.approx([-0.49, -0.48, -0.47, -0.46, -0.45])
    monkeypatch.setattr(grid, "MOST_RELIED_ON", {2: 8})
    runner().run([cell(), cell(), cell(seed=1), cell(share=0.4)])
    few = trainings.relied_on[-4:]
    assert [len(each) for each in few] == [8] * 4
    assert sum(int(one.target) for one in few[0].samples) == 2
    assert few[0].ids == few[1].ids != few[2].ids
    assert set(few[0].ids) <= set(trainings.train[-4].ids)


def test_preprocessing_is_fitted_to_what_the_stranger_has_and_done_once(trainings: Trainings) -> None:
    leaks: list[Leak] = []
    changed: list[float] = []

    def fit(leak: Leak) -> Any:
        leaks.append(leak)

        def change(image: np.ndarray) -> np.ndarray:
            changed.append(float(image[0, 0]))
            return image + np.float32(0.5)

        return change

    fitted = Countermeasure(name="fitted", fit=fit, leaked_pairs=5)
    cells = [
        replace(cell(name, fitted), victim=victim)
        for victim in ("small-cnn", "small-resnet")
        for name in ("clean", "other")
    ]
    runner().run(cells)
    assert trainings.origins(0) == [0.6] * 20
    assert trainings.origins(1) == [0.8] * 20
    assert [round(float(one.image_model[0, 0]), 3) for one in trainings.test[1].samples] == [0.9] * 6
    assert len(changed) == 2 * 26, "the second victim sees the same images"
    assert [leak.train[0].image_model[0, 0] for leak in leaks] == [np.float32(0.1), np.float32(0.3)]
    pairs = [[(float(a[0, 0]), float(b[0, 0])) for a, b in leak.pairs] for leak in leaks]
    assert pairs == [[(np.float32(0.1), np.float32(0.2))] * 5, [(np.float32(0.1), np.float32(0.3))] * 5]


@pytest.mark.parametrize(("shared", "times"), [(True, 1), (False, 4)])
def test_images_are_kept_for_other_seeds_only_if_the_preprocessing_is_the_same(
    trainings: Trainings, shared: bool, times: int
) -> None:
    tests: list[float] = []

    def change(image: np.ndarray) -> np.ndarray:
        if image[0, 0] == np.float32(0.4):
            tests.append(0.4)
        return image

    own = Countermeasure(name="own", fit=lambda leak: change if shared else lambda image: change(image))
    run = runner()
    run.run([cell(name, own, seed=seed) for seed in (0, 1) for name in ("clean", "protected")])
    assert len(tests) == 6 * times
    held = len(run._changed)
    assert held == (20 + 20 + 6 if shared else 2 * (20 + 6)), "of the last seed alone where seeds differ"
    run.run([cell("protected", own, share=0.5)])
    assert len(run._changed) == (held if shared else 20 + 6)
    run.run([cell()])
    assert not run._changed


def test_seeds_leak_different_images(trainings: Trainings) -> None:
    images = folders()
    for number, one in enumerate(images["clean"].samples):
        one.image_model[0, 0] = number
    run = runner(images)
    wanted = Countermeasure(name="denoiser", fit=lambda leak: lambda image: image, leaked_pairs=6)
    drawn = [[int(pair[0][0, 0]) for pair in run._leaked(cell(countermeasure=wanted, seed=seed))] for seed in (0, 1, 0)]
    assert len(set(drawn[0])) == 6
    assert drawn[0] == drawn[2] != drawn[1]


def test_what_cannot_be_fitted_is_noted_once_and_left_out(trainings: Trainings) -> None:
    def fit(leak: Leak) -> Any:
        raise UsageError("it needs one label an image")

    run = runner()
    results = run.run(
        [cell("clean"), *(cell(name, Countermeasure(name="x", fit=fit)) for name in ("clean", "protected"))]
    )
    assert [result.countermeasure for result in results] == ["none"]
    assert run.notes == ["not measured: it needs one label an image"]


def test_finished_trainings_are_taken_from_the_state(trainings: Trainings, tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    cells = [cell("clean"), cell("protected"), cell("protected", seed=1)]
    seen: list[Any] = []
    first = runner(state=state).run(cells[:2])
    again = runner(state=state).run(cells, after_training=seen.append)
    assert len(trainings.train) == 3, "only the third one was new"
    assert [result.to_json() for result in again[:2]] == [result.to_json() for result in first]
    assert seen == again
    assert len(state.read_text().splitlines()) == 3


def test_state_of_other_images_or_options_is_not_used(trainings: Trainings, tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    runner(state=state).run([cell()])
    other = folders()
    other["protected"].samples[0].image_model[0, 0] = 0.25
    runner(other, state=state).run([cell()])
    runner(state=state, epochs=21).run([cell()])
    runner(state=state).run([cell(countermeasure=COUNTERMEASURES["cutout"])])
    assert len(trainings.train) == 4
    runner(other, state=state).run([cell("clean")])
    runner(state=state).run([cell("clean")])
    assert len(trainings.train) == 5, "what another folder holds does not matter to clean images"


def test_training_that_was_stopped_while_it_was_written_is_done_again(trainings: Trainings, tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    runner(state=state).run([cell("clean"), cell("protected")])
    text = state.read_text()
    state.write_text(text[:-30])
    runner(state=state).run([cell("clean"), cell("protected")])
    assert len(trainings.train) == 3
    runner(state=state).run([cell("clean"), cell("protected")])
    assert len(trainings.train) == 3


def test_file_that_is_no_state_is_kept(tmp_path: Path) -> None:
    for text in ("path,label\na.dcm,ill", '{"counts": {}}\n', "[1]\n"):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(UsageError, match="no record of an evaluation"):
            EvaluationState(tmp_path / "labels.csv")
        assert (tmp_path / "labels.csv").read_text() == text


def test_pretraining_is_done_once_for_a_network_and_seed_and_changes_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[str]] = []

    def pretrain(network: torch.nn.Module, images: WorkingSet, **more: Any) -> None:
        seen.append(images.ids)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 1

    monkeypatch.setattr(grid, "pretrain", pretrain)
    build = VictimBuilder(folders(), CPU)
    plain, frozen, tuned = (build(name, 0) for name in ("small-cnn", "small-cnn+frozen", "small-cnn+pretrained"))
    assert seen == [[f"t{number:03d}" for number in range(6)]], "once, on the test images"
    for before, after, same in zip(plain.parameters(), frozen.parameters(), tuned.parameters(), strict=True):
        assert torch.equal(after, before + 1)
        assert torch.equal(after, same)
    assert sum(parameter.requires_grad for parameter in frozen.parameters()) == 2
    build("small-cnn+frozen", 1)
    assert len(seen) == 2


def test_pretraining_sees_its_own_folder_where_there_is_one() -> None:
    images = folders()
    assert VictimBuilder(images, CPU).source == "test"
    images.by_name["pretrain"] = Folder(SimpleNamespace(), SimpleNamespace(), [sample(0, 0.5)])  # type: ignore[arg-type]
    assert VictimBuilder(images, CPU).source == "pretrain"


def test_countermeasures_of_the_options() -> None:
    named, notes = EvaluateOptions(countermeasures="median-3, none,median-3").chosen_countermeasures()
    assert ([found.name for found in named], notes) == (["none", "median-3"], [])
    everything, notes = EvaluateOptions(countermeasures="all").chosen_countermeasures(50)
    assert {"denoiser-10", "mixup"} <= {found.name for found in everything}
    assert not {"denoiser-100", "denoiser-500"} & {found.name for found in everything}
    assert any("denoiser-500" in note for note in notes)
    with pytest.raises(UsageError, match="'denoiser-100' needs 100 leaked pairs, of 50 images"):
        EvaluateOptions(countermeasures="denoiser-100").chosen_countermeasures(50)
    with pytest.raises(UsageError, match=r"'meidan-3' is unknown; .*median-3, median-5"):
        EvaluateOptions(countermeasures="none,meidan-3").chosen_countermeasures()


def test_augmentations_of_the_options() -> None:
    assert EvaluateOptions().augmentations() == ["flips"]
    assert EvaluateOptions(augmentation="nnunet, none,nnunet").augmentations() == ["nnunet", "none"]
    with pytest.raises(UsageError, match="augmentation 'mirror' is unknown; choose among none, flips, nnunet"):
        EvaluateOptions(augmentation="flips,mirror").augmentations()
    with pytest.raises(UsageError, match="no augmentation is named; give some of none, flips, nnunet"):
        EvaluateOptions(augmentation=",").augmentations()


def test_shares_of_the_options() -> None:
    assert EvaluateOptions(protected_shares="20, 100,60%,20").shares() == [1.0, 0.6, 0.2]
    for text in ("0.2", "0", "120", "half", "-5"):
        with pytest.raises(UsageError, match=f"protected share '{text}' is not a percentage"):
            EvaluateOptions(protected_shares=text).shares()
