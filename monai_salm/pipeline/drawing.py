# SPDX-License-Identifier: Apache-2.0
"""Noise that is drawn sample by sample, for methods that need no labels: without a network, and without a look at the
images.
"""

from __future__ import annotations

from pathlib import Path

from monai_salm.chance import secret_seed
from monai_salm.methods.signs import random_steps
from monai_salm.noise import NoiseStore, SparseNoise
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.keys import run_secret
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.search_record import (
    NOISE_FOLDER,
    SEARCH_FILE,
    EarlierSearch,
    SearchRecord,
    keep_search,
    run_mark,
)
from monai_salm.pipeline.search_summary import SearchSummary
from monai_salm.pipeline.working import noise_record, unseen_sample
from monai_salm.progress import track


def draw_noise(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    work_dir: Path,
    earlier: EarlierSearch,
    *,
    show_progress: bool = False,
) -> SearchSummary:
    """Draw the noise of all samples that have none; arguments as of :func:`~monai_salm.pipeline.search.make_noise`."""
    (work_dir / SEARCH_FILE).unlink(missing_ok=True)  # it does not hold any more
    secret = run_secret(options, work_dir)
    seed = secret_seed(secret, options.seed)  # who has the output knows the user's
    store, seals = NoiseStore(work_dir / NOISE_FOLDER), earlier.kept()
    waiting = [sample for sample in plan.samples if sample.sample_id not in seals]
    for planned in track(waiting, "drawing", "samples", total=len(waiting), show_progress=show_progress):
        sample = unseen_sample(inventory, planned, options.working_size)
        noise = SparseNoise.from_dense(random_steps(sample, seed), sample.levels)
        seals[planned.sample_id] = store.write(planned.sample_id, noise, noise_record(inventory, planned))
    summary = SearchSummary()
    keep_search(SearchRecord(run_mark(plan, secret), summary.to_json(), seals), store, earlier, work_dir)
    return summary
