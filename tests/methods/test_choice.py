# SPDX-License-Identifier: Apache-2.0
"""The choice of a method by what small networks learn from each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.learning import strangers
from monai_salm.learning.networks import seeded_network
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.strangers import SampleGroups
from monai_salm.learning.tasks import ClassificationTask, LearningTask
from monai_salm.methods import choice
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod
from monai_salm.methods.choice import MeasuredChoice, part_of
from monai_salm.methods.minmin import MinMinOptimizer, SearchWork
from monai_salm.methods.minmin_settings import LONGEST_LIFE, TRIAL_ROUNDS, MinMinSettings
from monai_salm.methods.names import METHOD_KINDS
from monai_salm.methods.registry import METHODS
from monai_salm.methods.search_state import RoundLog
from tests.builders import cube_set, disk_set, working_sample

STRIPES = np.where(np.arange(16) % 2, 80, -80) * np.ones((16, 1), np.int16)


@dataclass(frozen=True)
class _Signs(NoiseMethod):
    """Takes the disks of one class away and puts stripes there, or nothing at all; notes what it was given."""

    protects: bool
    seen: list[WorkingSet] = field(default_factory=list)

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        self.seen.append(samples)
        run.errors.append(0.5)
        run.passes += 3.0
        rows, columns = np.ogrid[:16, :16]
        disk = (rows - 8) ** 2 + (columns - 8) ** 2 < (16 / 5) ** 2
        for sample in samples.samples:
            steps = (STRIPES - disk * 64) * sample.target * self.protects
            yield sample.sample_id, steps[tuple(slice(0, n) for n in sample.image_model.shape)].astype(np.int16)


class _Swapped(_Signs):
    """Gives the disks of one class to the other, so that who knows them takes each for the other."""

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        for (name, _), sample in zip(super().noise(samples, task, run), samples.samples, strict=True):
            rows, columns = np.ogrid[:16, :16]
            disk = (rows - 8) ** 2 + (columns - 8) ** 2 < (16 / 5) ** 2
            yield name, (disk * 64 * (1 - 2 * int(sample.target))).astype(np.int16)  # type: ignore[arg-type]


class _Memory:
    def __init__(self) -> None:
        self.kept: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.kept

    def save(self, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
        self.kept = dict(tensors), dict(progress)


def _run(samples: WorkingSet, **changes: Any) -> MethodRun:
    def build() -> nn.Module:
        return seeded_network("small-cnn", samples.padded_shape, 2, 0)

    return MethodRun(seed=0, device=torch.device("cpu"), build_surrogate=build, **changes)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "STEPS", {2: 60})
    monkeypatch.setattr(strangers, "NETWORKS", {False: ("small-cnn",)})


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize("first", [True, False])
def test_the_method_that_teaches_least_is_chosen(first: bool) -> None:
    samples = disk_set(80)
    methods = {"a": _Signs(first), "b": _Signs(not first)}
    run = _run(samples)
    noise = dict(MeasuredChoice(methods).noise(samples, ClassificationTask(2), run))
    assert list(noise) == samples.ids
    assert any(steps.any() for steps in noise.values())
    assert f"noise of {'a' if first else 'b'}, chosen by what networks learned from 60 images" in run.choice
    assert (run.errors, run.passes) == ([0.5], 9.0)
    assert [len(method.seen) for method in methods.values()] == ([2, 1] if first else [1, 2])


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_many_large_samples_are_tried_on_few_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "MOST_SAMPLES", {2: 64})
    monkeypatch.setattr(choice, "LARGEST_SIDE", 8)
    samples = disk_set(80)
    methods = {"a": _Signs(False), "b": _Signs(True)}
    run = _run(samples, groups=SampleGroups(samples.ids, "PatientID"))
    noise = dict(MeasuredChoice(methods).noise(samples, ClassificationTask(2), run))
    chosen = "a" if "noise of a" in run.choice else "b"
    assert noise[samples.ids[0]].shape == (16, 16)
    for name, method in methods.items():
        part = method.seen[0]
        assert (len(part), part.padded_shape) == (64, (8, 8))
        assert [len(found) for found in method.seen[1:]] == ([80] if name == chosen else [])
    assert run.passes == pytest.approx(3.0 + 2 * 3.0 * 64 / 80)


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_gentle_leaves_out_what_moves_a_network_of_clean_images() -> None:
    samples = disk_set(80)
    methods = {"harsh": _Swapped(True), "mild": _Signs(False)}
    run = _run(samples)
    dict(MeasuredChoice(methods).noise(samples, ClassificationTask(2), run))
    assert "noise of harsh" in run.choice
    run = _run(samples, gentle=True)
    noise = dict(MeasuredChoice(methods).noise(samples, ClassificationTask(2), run))
    assert not any(steps.any() for steps in noise.values())
    assert "noise of mild, chosen by" in run.choice
    assert run.choice.endswith("; not gentle (moves a network of clean images): harsh 1.000")
    alone = MeasuredChoice({"harsh": _Swapped(True)})
    with pytest.raises(UsageError, match=r"no noise is gentle: each moves .* more than 0.01 \(harsh 1\.000\)"):
        dict(alone.noise(samples, ClassificationTask(2), _run(samples, gentle=True)))


def test_gentle_noise_of_few_samples_is_not_guessed() -> None:
    samples = disk_set(20)
    method = MeasuredChoice({"a": _Signs(True)})
    with pytest.raises(UsageError, match="not possible: 20 images are too few"):
        dict(method.noise(samples, ClassificationTask(2), _run(samples, gentle=True)))


def test_volumes_are_tried_on_pieces_of_fewer() -> None:
    volumes = cube_set(70, size=34)
    chosen = part_of(volumes, 0)
    part = choice._small_set(volumes, chosen)
    assert len(part) == len(set(chosen)) == 64
    assert {sample.image_model.shape for sample in part.samples} == {(32, 32, 32)}


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_what_does_not_suit_the_samples_is_not_tried() -> None:
    @dataclass(frozen=True)
    class Unsuited(_Signs):
        def suits(self, samples: WorkingSet) -> bool:
            return len(samples) < 80

    samples, other = disk_set(80), Unsuited(True)
    dict(MeasuredChoice({"a": _Signs(False), "b": other}).noise(samples, ClassificationTask(2), _run(samples)))
    assert not other.seen


def test_a_trial_lasts_until_the_surrogates_have_learned() -> None:
    renewed, kept = MinMinSettings(renew_every=2, one_life=True), MinMinSettings(one_life=True)
    lives = {"quick": [0.8, 0.3], "slow": [0.8, 0.7, 0.6, 0.4], "never": [0.8] * (2 * LONGEST_LIFE)}
    for errors in lives.values():
        assert [renewed.is_over(errors[:count]) for count in range(len(errors) + 1)] == [False] * len(errors) + [True]
    assert [kept.is_over([0.1] * count) for count in (0, TRIAL_ROUNDS - 1, TRIAL_ROUNDS)] == [False, False, True]
    assert not replace(renewed, one_life=False).is_over(lives["never"])


def test_a_choice_tries_less_than_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, run = disk_set(80), replace(_run(disk_set(80)), rounds=6)
    rounds: list[int] = []
    monkeypatch.setattr(MinMinOptimizer, "round", _counted(rounds))
    method = replace(METHODS["salm:texture"]["classification"], settings=MinMinSettings(surrogate_batches=1))
    dict(MeasuredChoice({"a": method}).noise(samples, ClassificationTask(2), run))
    assert rounds == [*range(1, TRIAL_ROUNDS + 1), *range(1, 7)]


def _counted(rounds: list[int]) -> Callable[[MinMinOptimizer, SearchWork], RoundLog]:
    """Give a round of a search that notes its number and does nothing."""

    def count(optimizer: MinMinOptimizer, work: SearchWork) -> RoundLog:
        del optimizer
        work.state.round += 1
        rounds.append(work.state.round)
        log = RoundLog(work.state.round, 0.5, 0.0, 0.0, 0.0)
        work.state.history.append(log)
        return log

    return count


@pytest.mark.parametrize(("classes", "suits"), [(2, True), (3, False)])
def test_features_of_the_next_class_are_for_two(classes: int, *, suits: bool) -> None:
    samples = WorkingSet([working_sample(str(k), np.ones((8, 8), np.float32), k % classes) for k in range(6)])
    assert METHODS["salm:mixed"]["classification"].suits(samples) == suits
    assert METHODS["salm:exchange"]["classification"].suits(samples)


def test_few_samples_get_the_first_method() -> None:
    samples = disk_set(20)
    methods = {"a": _Signs(True), "b": _Signs(False)}
    run = _run(samples)
    assert len(dict(MeasuredChoice(methods).noise(samples, ClassificationTask(2), run))) == 20
    assert run.choice.startswith("noise of a, unmeasured: 20 images are too few")
    assert not methods["b"].seen


@dataclass(frozen=True)
class _Saving(_Signs):
    """Saves once, and notes what it found."""

    found: list[Any] = field(default_factory=list)

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        if run.memory is not None:
            self.found.append(run.memory.load())
            run.memory.save({"x": torch.ones(1)}, {"round": 1})
        yield from super().noise(samples, task, run)


def test_a_run_that_goes_on_chooses_nothing_anew() -> None:
    samples, memory = disk_set(20), _Memory()
    first = _Saving(True)
    run = _run(samples, memory=memory)
    dict(MeasuredChoice({"a": first}).noise(samples, ClassificationTask(2), run))
    again = _run(samples, memory=memory)
    dict(MeasuredChoice({"z": _Saving(False), "a": first}).noise(samples, ClassificationTask(2), again))
    assert first.found[0] is None
    assert first.found[1] == ({"x": torch.ones(1)}, {"round": 1})
    assert again.choice == run.choice


@pytest.mark.parametrize("most", [30, 60])
def test_the_part_has_each_class_alike_and_does_not_follow_the_order(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MOST_SAMPLES", {2: most})
    samples = disk_set(80)
    few = WorkingSet([sample for n, sample in enumerate(samples.samples) if n % 2 == 0 or n < 20])  # 40 and 10
    chosen = [few.samples[number] for number in part_of(few, 0)]
    ill = sum(sample.target == 1 for sample in chosen)
    assert (len(chosen), ill) == ((30, 10) if most == 30 else (50, 10))
    other = WorkingSet(few.samples[::-1])
    assert {few.ids[number] for number in part_of(few, 0)} == {other.ids[number] for number in part_of(other, 0)}


def test_adversarial_noise_is_never_chosen() -> None:
    chosen = METHODS["salm"]["classification"]
    assert isinstance(chosen, MeasuredChoice)
    parts = {name for name, kind in METHOD_KINDS.items() if name.startswith("salm:") and kind.chosen}
    assert set(chosen.candidates) == {name for name in parts if "classification" in METHOD_KINDS[name].tasks}
    assert "salm:targeted" not in chosen.candidates
