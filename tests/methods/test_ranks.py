# SPDX-License-Identifier: Apache-2.0
"""Several processes make, bit for bit, the noise that one makes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_salm.errors import UsageError
from monai_salm.learning import strangers
from monai_salm.learning.consumers import NO_AUGMENTATION
from monai_salm.learning.launch import launched, local_count, local_rank
from monai_salm.learning.networks import seeded_network
from monai_salm.learning.ranks import ALONE, Ranks, joined_ranks, own_device
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.tasks import SegmentationTask
from monai_salm.methods.minmin import MinMinOptimizer
from tests.builders import cube_set
from tests.methods.ranked import CASES, RESUMED, _of, _of_many_shapes, estimate, few_steps, search

Found = Mapping[str, Any]


def environments(count: int) -> list[dict[str, str]]:
    """Give the environments in which ``torchrun`` would start some processes of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared = os.environ | {name: str(value) for name, value in told.items()} | {"OMP_NUM_THREADS": "1"}
    return [shared | {"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Found]]:
    """Give the folder of a job of two processes, with its checkpoints, and what each process found."""
    folder = tmp_path_factory.mktemp("job")
    for name in RESUMED:
        search(name, rounds=2, checkpoint=folder / f"{name} of 1")
    command = [sys.executable, "-m", "tests.methods.ranked", str(folder)]
    started = [subprocess.Popen(command, env=environment) for environment in environments(2)]
    assert [process.wait(300) for process in started] == [0, 0]
    return folder, [np.load(folder / f"{number} of 2.npz") for number in range(2)]


@cache
def _alone(name: str) -> Found:
    return search(name)


def _differing(found: Found, name: str, alone: Found) -> list[str]:
    return [key for key, value in alone.items() if not np.array_equal(value, found[f"{name}/{key}"])]


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEAST_SAMPLES", "STEPS"):
        monkeypatch.setattr(strangers, name, getattr(strangers, name))
    few_steps()


@pytest.mark.slow
@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("name", CASES)
def test_noise_is_that_of_one(name: str, job: tuple[Path, list[Found]]) -> None:
    """There is no tolerance. Beside the noise, all processes have the surrogate, the errors and the choice of one."""
    alone = _alone(name)
    assert any(alone[sample_id].any() for sample_id in CASES[name][1]().ids)
    for found in job[1]:
        assert _differing(found, name, alone) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_search_goes_on_with_another_number_of_processes(
    name: str, job: tuple[Path, list[Found]], tmp_path: Path
) -> None:
    folder, (first, _) = job
    alone = _alone(name)
    assert _differing(first, f"{name} resumed", alone) == [], "begun by one process, finished by two"
    shutil.copy(folder / f"{name} of 2", tmp_path / "checkpoint")
    resumed = search(name, checkpoint=tmp_path / "checkpoint")
    assert all(np.array_equal(resumed[key], value) for key, value in alone.items()), "begun by two, finished by one"
    assert len(alone["errors"]) > 2, "something was left to do"


@pytest.mark.slow
@pytest.mark.usefixtures("_few")
def test_what_a_stranger_would_learn_is_that_of_one(job: tuple[Path, list[Found]]) -> None:
    told = estimate()
    assert "NetworkEstimate" in told
    assert [str(found["estimate"]) for found in job[1]] == [told, told]


@pytest.mark.slow
def test_no_step_exchanges_anything(job: tuple[Path, list[Found]]) -> None:
    """Four batches in three rounds: each sends the weights and what was found, the second and the third bring the noise
    of two batches, the weights go ahead of all, and at the end four batches come in two turns. Each but what is brought
    is told its size.
    """
    for found in job[1]:
        for name in ("exchange", "more steps"):
            assert found[f"operations of {name}"] == 2 + 3 * (2 + 2) + 2 * 2 + 2 * 2


class InThreads(Ranks):
    """Processes that are threads of the test.

    Args:
        number, count: of the thread.
        sent: what goes from one to another, by the numbers of both.
    """

    def __init__(self, number: int, count: int, sent: Mapping[tuple[int, int], Queue[Any]]) -> None:
        super().__init__(number, count)
        self._sent = sent

    def _gather_all(self, content: bytes) -> list[Tensor]:
        for other in range(self.count):
            self._sent[self.number, other].put(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        return [self._sent[other, self.number].get(timeout=60) for other in range(self.count)]

    def _broadcast(self, content: bytes | None) -> Tensor:
        return self._gather_all(content or b"\0")[0]

    def _send(self, values: Tensor) -> None:
        self._sent[self.number, 0].put(values)

    def _receive(self, values: Tensor, sender: int) -> Tensor:
        return values.copy_(self._sent[sender, 0].get(timeout=60))


def in_threads(count: int, work: Callable[[Ranks], Any]) -> list[Any]:
    """Give what each of some processes gives."""
    sent: dict[tuple[int, int], Queue[Any]] = {(one, other): Queue() for one in range(count) for other in range(count)}
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda number: work(InThreads(number, count, sent)), range(count)))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_what_is_exchanged_comes_whole_and_in_order(count: int) -> None:
    samples, dealt = _of_many_shapes(), [[0, 3], [1], [2, 4, 5], [6]]

    def work(ranks: Ranks) -> Any:
        orders = []
        for total in range(7):
            own = list(range(total))[ranks.own]
            orders += [ranks.in_order(own, total), list(ranks.in_turns(iter(own), total))]
        maps = ResidentSet(samples, torch.device("cpu")).new_maps()
        for indices in dealt[ranks.own]:
            for i in indices:
                maps[i].fill_(i + 1)
        ranks.bring(maps, dealt)
        brought = [float(part.mean()) for part in maps] if ranks.first else []
        return orders, brought, list(ranks.shared_one_by_one(lambda: ["a", "b"])), ranks.shared(lambda: ranks.number)

    orders = [list(range(total)) for total in range(7) for _ in range(2)]
    first, *others = in_threads(count, work)
    assert first == (orders, [1, 2, 3, 4, 5, 6, 7], ["a", "b"], 0)
    assert others == [(orders, [], ["a", "b"], 0)] * (count - 1)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_more_processes_than_batches(count: int) -> None:
    """Four batches of one shape or another, for up to as many processes; the weights are those of the first."""
    method, samples = _of("salm:minmin", "segmentation", max_rounds=2, surrogate_batches=1), cube_set(3)
    task = SegmentationTask(2)

    def work(ranks: Ranks) -> dict[str, np.ndarray]:
        network = seeded_networks[ranks.number]
        optimizer = MinMinOptimizer(network, task, method.settings, augmentation=NO_AUGMENTATION, ranks=ranks)
        return dict(optimizer.run(samples))

    seeded_networks = [seeded_network("small-unet", samples.padded_shape, 2, seed) for seed in range(count)]
    found = in_threads(count, work)
    seeded_networks = [seeded_network("small-unet", samples.padded_shape, 2, 0)]
    (alone,) = in_threads(1, work)
    for noise in found:
        assert all(np.array_equal(noise[name], steps) for name, steps in alone.items())


def test_one_process_exchanges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    before = ALONE.traffic.operations
    with joined_ranks() as ranks:
        assert (ranks.count, ranks.first, ranks.in_order([1, 2], 2)) == (1, True, [1, 2])
    assert ALONE.traffic.operations == before == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"MASTER_PORT": ""}, "MASTER_PORT is missing"), ({"LOCAL_RANK": "first"}, "LOCAL_RANK is no number")],
)
def test_half_an_environment_is_refused(changes: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environments(3)[1].items():
        monkeypatch.setenv(name, value)
    assert (launched(), local_rank(), local_count()) == (3, 1, 3)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{told}; start it with torchrun"):
        launched()


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    for name, value in environments(2)[1].items():
        monkeypatch.setenv(name, value)
    assert str(own_device("auto")) == str(chosen[0]) == "cuda:1"
    assert str(own_device("cpu")) == "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="3 processes on one machine need a GPU each, and it has 2; start 2"):
        own_device("auto")
