# SPDX-License-Identifier: Apache-2.0
"""What a start, a noise step, a mask and a sample of the noise store cost, on one thread; takes about seven minutes.

Times are CPU time of this process, since other work may run on the machine, and are compared in turns: a round of noise
steps, as many bare passes, and again. A ratio is the median over the turns, with its quartiles; a time is that of the
fastest turn. Images and noise are random: no cost depends on them.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import Rows, parser
from pydicom.data import get_testdata_file

from monai_salm.background import Background
from monai_salm.budget import FileBudget
from monai_salm.canvas import Canvas
from monai_salm.learning.networks import build_network
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, SegmentationTask
from monai_salm.methods.minmin import MinMinOptimizer
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.sparsity import sparsity_mask
from monai_salm.noise import NoiseStore, SparseNoise, fingerprint
from monai_salm.windows import IntensityWindow
from monai_salm.working_samples import WorkingSample

STEPS = (
    ("small-resnet", (32, 32), 32),
    ("small-resnet", (64, 64), 32),
    ("resnet18", (32, 32), 32),
    ("resnet18", (64, 64), 32),
    ("small-unet", (40, 56, 40), 4),
)
"""Networks, with the shape and the number of the samples of a batch."""

SURROGATE_STEPS = 10
"""Batches of a surrogate's round: with fewer, what a round does once would count for more than in a search."""

MASKS = ((32, (32, 32)), (32, (64, 64)), (32, (128, 128)), (4, (40, 56, 40)))
"""Samples of a batch, and their shape."""

STORES = (
    ((128, 128), 400, 12),
    ((512, 512), 40, 12),
    ((64, 64, 64), 40, 12),
    ((128, 128), 400, 200),
    ((64, 64, 64), 40, 200),
)
"""Shapes, how many samples, and the steps of the budget: more than 127 take two bytes each."""

STARTS = 11
"""Times that each command is started; the first one, which fills the caches, does not count."""

BARE_IMPORTS = ("-c", "import pydicom, nibabel, click, numpy")
"""What no reader of medical images can do without."""

MOST_TURNS, LEAST_TURNS, SECONDS = 31, 3, 20.0
"""Turns of each comparison: no more than these seconds take, but these at least."""


def main() -> None:
    """Run the benchmark."""
    given = parser(__doc__ or "", data=False).parse_args()
    torch.set_num_threads(1)
    rows = Rows(given.results / "cost.jsonl")
    given.work.mkdir(parents=True, exist_ok=True)
    for row in start_costs():
        rows.add(what="start", **row)
    for shape, samples, levels in STORES:
        rows.add(
            what="store", shape=shape, samples=samples, levels=levels, **store_cost(given.work, shape, samples, levels)
        )
    for samples, shape in MASKS:
        rows.add(what="mask", shape=shape, batch=samples, **mask_cost(samples, shape))
    for network, shape, samples in STEPS:
        rows.add(what="step", network=network, shape=shape, batch=samples, **step_cost(network, shape, samples))


def start_costs() -> list[dict[str, object]]:
    """Compare the CPU time of whole commands to that of bare imports, started in turns."""
    commands = {
        "bare imports": BARE_IMPORTS,
        "--help": ("-m", "monai_salm", "--help"),
        # The anatomy of the first is the whole image; that of the second is looked for, which loads scipy.ndimage.
        "scan of an MR image": ("-m", "monai_salm", "scan", str(get_testdata_file("MR_small.dcm"))),
        "scan of a CT image": ("-m", "monai_salm", "scan", str(get_testdata_file("CT_small.dcm"))),
    }
    environment, seconds = os.environ | {"OMP_NUM_THREADS": "1"}, {name: [] for name in commands}
    for _ in range(STARTS):
        for name, arguments in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    bare = np.array(seconds["bare imports"][1:])
    return [
        {
            "command": name, "seconds": round(float(np.median(taken[1:])), 3), "turns": STARTS - 1,
            "ratio": round(float(np.median(np.array(taken[1:]) / bare)), 2),
            "ratio_of_fastest": round(min(taken[1:]) / bare.min(), 2),
        }
        for name, taken in seconds.items()
    ]  # fmt: skip


def turns(actions: list[Callable[[], object]]) -> np.ndarray:
    """Time some actions in turns, forward and backward alternately: CPU seconds ``(turns, actions)``."""
    for action in actions:  # first calls allocate
        action()
    began, found = time.monotonic(), []
    while len(found) < LEAST_TURNS or (len(found) < MOST_TURNS and time.monotonic() - began < SECONDS):
        seconds = [0.0] * len(actions)
        for index in range(len(actions))[:: 1 if len(found) % 2 else -1]:
            start = time.process_time()
            actions[index]()
            seconds[index] = time.process_time() - start
        found.append(seconds)
    return np.array(found)


def step_cost(name: str, shape: tuple[int, ...], count: int) -> dict[str, object]:
    """Compare a round of noise steps and one of the surrogate's, each with all that it does besides, to as many bare
    passes of the network: forward, and backward to the images or to the weights.
    """
    samples = random_samples(shape, count)
    task = SegmentationTask(2) if len(shape) == 3 else ClassificationTask(2)
    network = build_network(name, spatial_dims=len(shape), outputs=2)
    settings = MinMinSettings(batch_size=count, max_rounds=2, stop_error=0.0, surrogate_batches=SURROGATE_STEPS)
    optimizer = MinMinOptimizer(network, task, settings)
    work = optimizer.begin(samples)
    optimizer.round(work)
    batch = samples.batch(range(count), torch.device("cpu"))
    weights = list(network.parameters())

    def noise_steps() -> None:
        optimizer.move_noise(work)

    def surrogate_steps() -> None:
        optimizer.train_surrogate(work)

    def bare_passes_to_images() -> None:
        network.eval().requires_grad_(False)
        for _ in range(settings.noise_steps):
            images = batch.images.clone().requires_grad_(True)
            torch.autograd.grad(task.loss(network(images), batch.target).sum(), images)

    def bare_passes_to_weights() -> None:
        network.train().requires_grad_(True)
        for _ in range(SURROGATE_STEPS):
            torch.autograd.grad(task.loss(network(batch.images), batch.target).mean(), weights)

    seconds = turns([noise_steps, bare_passes_to_images, surrogate_steps, bare_passes_to_weights])
    return _ratio(seconds[:, 0], seconds[:, 1], settings.noise_steps, "") | _ratio(
        seconds[:, 2], seconds[:, 3], SURROGATE_STEPS, "surrogate_"
    )


def _ratio(steps: np.ndarray, bare: np.ndarray, count: int, name: str) -> dict[str, object]:
    low, middle, high = np.percentile(steps / bare, [25, 50, 75])
    step, passes = steps.min() / count * 1000, bare.min() / count * 1000
    return {
        f"{name}ratio": round(middle, 3), f"{name}ratio_quartiles": [round(low, 3), round(high, 3)],
        f"{name}ratio_of_fastest": round(step / passes, 3), f"{name}step_ms": round(step, 2),
        f"{name}bare_ms": round(passes, 2), "turns": len(steps),
    }  # fmt: skip


def random_samples(shape: tuple[int, ...], count: int) -> WorkingSet:
    """Give samples of four fifths anatomy; volumes have a label map, pictures a class."""
    generator = np.random.default_rng(0)
    samples = []
    for index in range(count):
        voxels = (generator.random(shape) < 0.8).astype(np.int64)
        target = (generator.random(shape) < 0.2).astype(np.uint8) if len(shape) == 3 else index % 2
        samples.append(
            WorkingSample(
                sample_id=f"{index:03d}", image_model=generator.random(shape, dtype=np.float32), carrier_voxels=voxels,
                carrier_share=voxels.astype(np.float32), anatomy_voxels=int(voxels.sum()), levels=8, step_model=1 / 255,
                target=target,
            )
        )  # fmt: skip
    return WorkingSet(samples)


def mask_cost(count: int, shape: tuple[int, ...]) -> dict[str, object]:
    """Time the selection of two fifths of the anatomy."""
    generator = torch.Generator().manual_seed(0)
    score = torch.rand(count, int(np.prod(shape)), generator=generator)
    voxels = (torch.rand(score.shape, generator=generator) < 0.8).long()
    limit = (voxels.sum(dim=1) * 0.4).long()
    seconds = turns([lambda: sparsity_mask(score, voxels, limit)])
    return {
        "mask_ms": round(seconds.min() * 1000, 2),
        "mask_ms_median": round(float(np.median(seconds)) * 1000, 2),
        "turns": len(seconds),
    }


def store_cost(work: Path, shape: tuple[int, ...], count: int, levels: int) -> dict[str, object]:
    """Write noise at a tenth of the cells with the record that ``protect`` keeps beside it, and read it again (files in
    the page cache).
    """
    generator = np.random.default_rng(0)
    budget = FileBudget(
        modality="CT", window=IntensityWindow(-160.0, 240.0), epsilon_real=12.549019607843137, slope=1.0,
        intercept=-1024.0, range_stored=(1.0, 4094.0),
        padding_stored=(-2000.0, -2000.0), quantum_stored=1.0, levels=levels,
        background=Background(-1000.0, 157.08, -1024.0),
    )  # fmt: skip
    canvas = Canvas(views=(budget,), spacing=(0.75,) * len(shape)).to_json()
    with tempfile.TemporaryDirectory(dir=work) as folder:
        store, names = (
            NoiseStore(folder),
            [f"1.3.6.1.4.1.14519.5.2.1.6450.9002.2316839854887696069773{index:08d}" for index in range(count)],
        )
        for name in names:
            steps = (
                generator.integers(1, levels, shape, endpoint=True)
                * generator.choice([-1, 1], shape)
                * (generator.random(shape) < 0.1)
            )
            record = {
                "files": [{"fingerprint": fingerprint(steps), "shape": list(shape), "dtype": "int16", "canvas": canvas}]
            }
            store.write(name, SparseNoise.from_dense(steps, levels), record)
        dense = 4 * count * int(np.prod(shape))
        ratio = dense / sum(path.stat().st_size for path in Path(folder).iterdir())
        walls = []

        def read_all() -> None:
            began = time.perf_counter()
            for name in names:
                store.read(name).dense()
            walls.append(time.perf_counter() - began)

        seconds = turns([read_all])[:, 0]
    speed = {
        "mb_per_s": np.median(seconds),
        "mb_per_s_fastest": seconds.min(),
        "mb_per_s_wall": np.median(walls),
        "mb_per_s_wall_fastest": min(walls),
    }
    return (
        {"smaller_than_float32": round(ratio, 2)}
        | {key: round(dense / taken / 1e6) for key, taken in speed.items()}
        | {"turns": len(seconds)}
    )


if __name__ == "__main__":
    main()
