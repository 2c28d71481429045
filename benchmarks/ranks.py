# SPDX-License-Identifier: Apache-2.0
"""What it costs that several processes share a search, on one machine: operations, bytes and seconds of a round. And
why no gradients are averaged: how much of the noise is another if weights begin with a rounding error.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from common import Rows, fresh, parser
from torch import nn

from monai_salm.learning.networks import seeded_network
from monai_salm.learning.ranks import Ranks, joined_ranks
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask
from monai_salm.methods.base import MethodRun
from monai_salm.methods.minmin import MinMinOptimizer
from monai_salm.methods.registry import find_method
from monai_salm.working_samples import WorkingSample

METHODS = ("salm:texture", "em")
"""One that trains much between its noise steps, and one that trains little."""

ROUNDED = ("salm:texture", "salm:exchange")
SIDE, ROUNDS = 32, 3
ROUNDING = 1e-7
"""Relative error of weights, about that of float32."""


def pictures(count: int, side: int) -> WorkingSet:
    """Give pictures of noise, every second one with a disk."""
    generator, middle = np.random.default_rng(0), np.arange(side) - side / 2
    disk = middle[:, None] ** 2 + middle**2 < (side / 5) ** 2
    everywhere = np.ones((side, side))
    return WorkingSet(
        [
            WorkingSample(
                sample_id=f"{number:05d}", target=number % 2, levels=8, step_model=1 / 255,
                image_model=(generator.uniform(0.3, 0.6, disk.shape) + 0.25 * disk * (number % 2)).astype(np.float32),
                carrier_voxels=everywhere.astype(np.int64), carrier_share=everywhere.astype(np.float32),
                anatomy_voxels=disk.size,
            )
            for number in range(count)
        ]
    )  # fmt: skip


class Kept:
    """A memory that keeps nothing, but asks for the whole state after each round, as that of a run does."""

    def load(self) -> None:
        """Give nothing."""

    def save(self, *_: Any) -> None:
        """Forget it."""


def search(method: str, samples: WorkingSet, ranks: Ranks, *, rounds: int, rounding: float = 0.0) -> np.ndarray:
    """Give the noise of all samples."""

    def build() -> nn.Module:
        network = seeded_network("small-resnet", samples.padded_shape, 2, 0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for weight in network.parameters():
                weight.mul_(1 + rounding * torch.randn(weight.shape, generator=generator))
        return network

    run = MethodRun(
        seed=0, device=torch.device("cpu"), build_surrogate=build, rounds=rounds, ranks=ranks, memory=Kept()
    )
    found = dict(find_method(method).noise(samples, ClassificationTask(2), run))
    return np.stack([found[name] for name in samples.ids])


def watched(name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    """Give a part of the search that adds the CPU seconds that it takes to a record."""
    inner = getattr(MinMinOptimizer, name)

    def part(*arguments: Any) -> Any:
        began = time.process_time()
        result = inner(*arguments)
        seconds[name] = seconds.get(name, 0.0) + time.process_time() - began
        return result

    return part


def exchange_alone(samples: WorkingSet, method: str, ranks: Ranks) -> float:
    """Give the seconds that the exchange of one round takes where nobody has to be waited for."""
    settings = find_method(method).settings  # type: ignore[attr-defined]
    optimizer = MinMinOptimizer(
        seeded_network("small-resnet", samples.padded_shape, 2, 0), ClassificationTask(2), replace(settings),
        ranks=ranks,
    )  # fmt: skip
    work = optimizer.begin(samples)
    dealt = work.dealt()
    ranks.in_order([0] * len(dealt[ranks.own]), len(dealt))  # all are there
    began = time.perf_counter()
    for _ in range(10):
        for maps in (work.steps, work.steps, work.scores):  # the noise is as large as its steps
            ranks.bring(maps, dealt)
        ranks.share_weights(optimizer.network)
        ranks.in_order([(True, 0.5, 0.5)] * len(dealt[ranks.own]), len(dealt))
    return (time.perf_counter() - began) / 10


def worker(given: argparse.Namespace) -> None:
    """Search in one of the processes, and keep what it took."""
    torch.set_num_threads(1)
    samples, seconds = pictures(given.images, SIDE), dict[str, float]()
    for name in ("train_surrogate", "move_noise"):
        setattr(MinMinOptimizer, name, watched(name, seconds))
    rounds, inner = list[dict[str, Any]](), MinMinOptimizer.round

    def noted(optimizer: MinMinOptimizer, work: Any) -> Any:
        rounds.append(asdict(optimizer.ranks.traffic) | {"wall": time.perf_counter()})
        return inner(optimizer, work)

    MinMinOptimizer.round = noted  # type: ignore[method-assign]
    with joined_ranks() as ranks:
        began = time.perf_counter()
        noise = search(given.method, samples, ranks, rounds=ROUNDS)
        wall, seconds = time.perf_counter() - began, dict(seconds)
        last = {name: rounds[2][name] - value for name, value in rounds[1].items()}  # of one like all but the first
        alone = exchange_alone(samples, given.method, ranks) if ranks.count > 1 else 0.0
    np.save(given.work / f"noise_{ranks.count}_{ranks.number}.npy", noise)
    found = {"wall": wall, "cpu": seconds, "round": last, "exchange_alone": alone}
    (given.work / f"{ranks.count}_{ranks.number}.json").write_text(json.dumps(found), encoding="utf-8")


def job(given: argparse.Namespace, method: str, count: int) -> list[dict[str, Any]]:
    """Give what each of some processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, __file__, "--worker", "--work", str(given.work), "--method", method]
    command += ["--images", str(given.images)]
    shared = os.environ | {name: str(value) for name, value in told.items()} | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, env=shared | {"RANK": str(number), "LOCAL_RANK": str(number)})
        for number in range(count)
    ]
    if any(process.wait() for process in started):
        raise SystemExit("a process failed")
    return [json.loads((given.work / f"{count}_{number}.json").read_text(encoding="utf-8")) for number in range(count)]


def cost(given: argparse.Namespace, rows: Rows) -> None:
    """Search with one process and with two."""
    for method in METHODS:
        (one,), two = job(given, method, 1), job(given, method, 2)
        same = [
            np.array_equal(np.load(given.work / "noise_1_0.npy"), np.load(given.work / f"noise_2_{number}.npy"))
            for number in range(2)
        ]
        rows.add(
            what="cost", method=method, images=given.images, side=SIDE, rounds=ROUNDS, same=all(same),
            cpu_seconds=one["cpu"], wall_seconds=one["wall"], of_two=two,
        )  # fmt: skip


def rounding(rows: Rows) -> None:
    """Search twice, the second time with other roundings."""
    samples = pictures(32, 16)
    for method in ROUNDED:
        for rounds in (2, 4, 8):
            first, second = (
                search(method, samples, Ranks(), rounds=rounds, rounding=error) for error in (0.0, ROUNDING)
            )
            changed = (first != 0) | (second != 0)
            rows.add(
                what="rounding", method=method, rounds=rounds, images=len(samples), side=16, error=ROUNDING,
                other=round(float((first != second)[changed].mean()), 4),
            )  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "", data=False)
    arguments.add_argument("--only", default="cost,rounding")
    arguments.add_argument("--images", type=int, default=96)
    arguments.add_argument("--worker", action="store_true", help="be one of the processes")
    arguments.add_argument("--method", default=METHODS[0])
    given = arguments.parse_args()
    if given.worker:
        worker(given)
        return
    torch.set_num_threads(1)
    fresh(given.work)
    rows = Rows(given.results / "ranks.jsonl")
    if "cost" in given.only:
        cost(given, rows)
    if "rounding" in given.only:
        rounding(rows)


if __name__ == "__main__":
    main()
