# SPDX-License-Identifier: Apache-2.0
"""Noise that is drawn sample by sample, for methods that need no labels: without a network, and without a look at the
images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_salm.chance import secret_seed
from monai_salm.errors import SalmError
from monai_salm.methods.signs import random_signs
from monai_salm.noise import NoiseStore, SparseNoise
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.keys import run_secret
from monai_salm.pipeline.label_values import native_shape
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan, SamplePlan
from monai_salm.pipeline.search_record import (
    NOISE_FOLDER,
    SEARCH_FILE,
    EarlierSearch,
    SearchRecord,
    keep_search,
    run_mark,
)
from monai_salm.pipeline.search_summary import SearchSummary
from monai_salm.pipeline.working import noise_record
from monai_salm.progress import track
from monai_salm.workers import Workers
from monai_salm.working_grid import working_shape


@dataclass(frozen=True)
class DrawJob:
    """The noise of a sample to draw.

    Args:
        sample_id: its identity.
        shape: of its working grid.
        levels: the full budget, in steps.
        seed: of the run; as secret as its key.
        store: folder of the noise.
        record: what is kept beside it.
    """

    sample_id: str
    shape: tuple[int, ...]
    levels: int
    seed: int
    store: Path
    record: dict[str, Any]


def draw(job: DrawJob) -> str:
    """Draw the noise of a sample and store it, in any process; gives its checksum. It is in all cells: where none can
    be carried, none is added.
    """
    steps = random_signs(job.sample_id, job.shape, job.seed) * np.int16(job.levels)
    noise = SparseNoise.from_dense(steps, job.levels)
    return NoiseStore(job.store).write(job.sample_id, noise, job.record)


def _not_drawn(job: DrawJob, why: str) -> str:
    raise SalmError(f"{job.store}: the noise of {job.sample_id} could not be drawn: {why}; run with --resume")


def draw_noise(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    work_dir: Path,
    earlier: EarlierSearch,
    workers: Workers,
    *,
    show_progress: bool = False,
) -> SearchSummary:
    """Draw the noise of all samples that have none; arguments as of
    :func:`~monai_salm.pipeline.searching.make_noise`.
    """
    (work_dir / SEARCH_FILE).unlink(missing_ok=True)  # it does not hold any more
    secret = run_secret(options, work_dir)
    seed = secret_seed(secret, options.seed)  # who has the output knows the user's
    store, seals = NoiseStore(work_dir / NOISE_FOLDER), earlier.kept()
    waiting = [sample for sample in plan.samples if sample.sample_id not in seals]
    jobs = _jobs(inventory, waiting, options, seed, store.folder)
    drawn = workers.map(draw, jobs, lost=_not_drawn, chunk=workers.fair_chunk(len(waiting)))
    for sample in track(waiting, "drawing", "samples", total=len(waiting), show_progress=show_progress):
        seals[sample.sample_id] = next(drawn)
    summary = SearchSummary()
    keep_search(SearchRecord(run_mark(plan, secret), summary.to_json(), seals), store, earlier, work_dir)
    return summary


def _jobs(
    inventory: Inventory, samples: list[SamplePlan], options: ProtectOptions, seed: int, store: Path
) -> Iterator[DrawJob]:
    for planned in samples:
        shape = working_shape(native_shape(planned, inventory), options.working_size)
        levels = max(file.canvas.levels for file in planned.files)
        yield DrawJob(planned.sample_id, shape, levels, seed, store.absolute(), noise_record(inventory, planned))
