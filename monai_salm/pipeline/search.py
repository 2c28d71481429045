# SPDX-License-Identifier: Apache-2.0
"""From a plan to the noise of its samples, in the private work folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_salm.chance import secret_seed
from monai_salm.disk import write_atomically
from monai_salm.errors import UsageError
from monai_salm.learning.checks import check_network
from monai_salm.learning.networks import DEFAULT_NETWORKS, seeded_network
from monai_salm.learning.ranks import ALONE, Ranks, own_device
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.surrogate import SurrogateCard, load_surrogate, series_key, surrogate_bytes
from monai_salm.learning.tasks import LearningTask, task_from_json
from monai_salm.methods.base import NoiseMethod, TrainedSurrogate
from monai_salm.methods.error_minimizing import FrozenSurrogate
from monai_salm.methods.registry import find_method
from monai_salm.methods.search_state import RoundLog
from monai_salm.noise import NoiseStore, SparseNoise
from monai_salm.pipeline.checkpoint import Checkpoint, computing_on
from monai_salm.pipeline.grouping import sample_groups
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.keys import run_secret
from monai_salm.pipeline.loading import task_of
from monai_salm.pipeline.options import SURROGATE_SUFFIX, ProtectOptions
from monai_salm.pipeline.outlook import guess_error, what_was_learned
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.search_record import (
    CHECKPOINT_FILE,
    NOISE_FOLDER,
    SEARCH_FILE,
    SURROGATE_FILE,
    EarlierSearch,
    SearchRecord,
    keep_search,
    run_mark,
)
from monai_salm.pipeline.search_summary import SearchSummary
from monai_salm.pipeline.together import SharedSearch
from monai_salm.pipeline.working import noise_record
from monai_salm.volumes import VolumeView, volume_of


def method_of(options: ProtectOptions, spatial_dims: int | None = None) -> NoiseMethod:
    """Give the method of a run, noise steps alone where a finished run's surrogate was given; or raise UsageError."""
    method = find_method(options.method, options.task, spatial_dims)
    if method.takes_surrogate and options.surrogate.endswith(SURROGATE_SUFFIX):
        return FrozenSurrogate(*load_surrogate(options.surrogate))
    return method


def make_noise(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    work_dir: Path,
    working: WorkingSet,
    earlier: EarlierSearch,
    *,
    show_progress: bool = False,
    after_round: Callable[[RoundLog], None] | None = None,
    ranks: Ranks | None = None,
) -> SearchSummary:
    """Search the noise of all samples and put it into ``work_dir/noise``.

    What was done is kept in ``work_dir/search.json``. Where noise has to be made again and is another one now, the
    files are all written again, too.

    Args:
        inventory: of the input.
        plan: of the samples that can be used; see :func:`~monai_salm.pipeline.preflight.preflight`.
        options: of the run.
        work_dir: its private folder.
        working: these samples.
        earlier: what is left of the search of a run that goes on.
        show_progress: progress bars on standard error.
        after_round: see :class:`~monai_salm.methods.base.MethodRun`.
        ranks: processes that search together, of which this is the first and the others
            :func:`~monai_salm.pipeline.together.follow`; None for one that is alone.
    """
    (work_dir / SEARCH_FILE).unlink(missing_ok=True)  # it does not hold any more
    secret = run_secret(options, work_dir)
    mark = run_mark(plan, secret)
    device = own_device(options.device)
    memory = Checkpoint(work_dir / CHECKPOINT_FILE, mark, options.resume, computing_on(device))
    store, plans = NoiseStore(work_dir / NOISE_FOLDER), {sample.sample_id: sample for sample in plan.samples}
    method = method_of(options, working.spatial_dims)
    task = _task(method, working, plan, options)
    seen = working if method.takes_color else working.in_gray()
    seed = secret_seed(secret, options.seed)  # who has the output knows the user's
    groups, shape = sample_groups(inventory, plan, working), seen.padded_shape if seen.fixed else None
    search = SharedSearch(method, task, options, seed, groups, shape)
    shared_by = ranks if ranks is not None and method.takes_ranks else ALONE
    search.tell(seen, device, shared_by)
    run = search.run(seen, memory, device, shared_by, show_progress=show_progress)
    run.after_round = after_round
    levels = {sample.sample_id: sample.levels for sample in seen.samples}
    seals = {}
    for sample_id, steps in method.noise(seen, task, run):
        noise = SparseNoise.from_dense(steps, levels[sample_id])
        seals[sample_id] = store.write(sample_id, noise, noise_record(inventory, plans[sample_id]))
    words, digest = "", ""
    if run.surrogate is not None:
        card = _card(method, run.surrogate, seen, task, plan, options)
        card = replace(card, series=card.series | series_views(inventory, plan))
        content = surrogate_bytes(run.surrogate.network, card)
        write_atomically(work_dir / SURROGATE_FILE, content, private=True)
        digest = hashlib.sha256(content).hexdigest()
        words = what_was_learned(run.surrogate, guess_error(seen, task))
    estimate = search.estimate(working, run, lambda name: store.read(name).dense())
    summary = SearchSummary(len(run.errors), run.passes, tuple(run.errors), words, run.choice, estimate)
    keep_search(SearchRecord(mark, summary.to_json(), seals, digest), store, earlier, work_dir)
    memory.clear()
    return summary


def _task(method: NoiseMethod, working: WorkingSet, plan: ProtectionPlan, options: ProtectOptions) -> LearningTask:
    """Give the task that the noise is made against: that of a given surrogate, or that of the samples."""
    if isinstance(method, FrozenSurrogate):
        return task_from_json(method.card.task)
    return task_of(working, plan, options.task)


def _card(
    method: NoiseMethod, surrogate: TrainedSurrogate, working: WorkingSet, task: LearningTask, plan: ProtectionPlan,
    options: ProtectOptions,
) -> SurrogateCard:  # fmt: skip
    """Describe a surrogate, so that further samples can be protected with it."""
    if isinstance(method, FrozenSurrogate):
        return replace(method.card, rounds=surrogate.rounds)
    window, epsilon = options.parsed_window(), options.parsed_epsilon()
    return SurrogateCard(
        network=",".join([_seeing(options.surrogate or DEFAULT_NETWORKS[options.task], surrogate), *surrogate.beside]),
        spatial_dims=working.spatial_dims,
        task=task.to_json(), classes=list(plan.classes), search=surrogate.search,
        augmentation=surrogate.augmentation.to_json(), padded_shape=list(working.padded_shape),
        working_size=options.working_size, epsilon=(epsilon.value, epsilon.units),
        window=(window.low, window.high) if window else None, modality=options.modality, method=options.method,
        rounds=surrogate.rounds, series={}, channels=working.channels,
    )  # fmt: skip


def _seeing(name: str, surrogate: TrainedSurrogate) -> str:
    """Name a surrogate with how it sees images."""
    return f"{name}/{surrogate.view}" if surrogate.view else name


def check_surrogate(options: ProtectOptions) -> None:
    """Hold the options of a run against those of the run that its frozen surrogate comes from; nothing where the
    surrogate is a network's name.

    Raises:
        UsageError: they differ; names all that have to be given for this surrogate. Or the file is none.
    """
    if (
        not options.surrogate.endswith(SURROGATE_SUFFIX)
        or not find_method(options.method, options.task).takes_surrogate
    ):
        return
    card = load_surrogate(options.surrogate)[1]
    epsilon, window = options.parsed_epsilon(), options.parsed_window()
    fraction, kept = options.perturbed_fraction, float(card.search["perturbed_fraction"])
    low, high = card.window or (0.0, 0.0)
    pairs = {
        f"--task {card.task['task']}": options.task == card.task["task"],
        f"--method {card.method}": options.method == card.method,
        f"--epsilon '{card.epsilon[0]!r}{' real' if card.epsilon[1] == 'real' else ''}'": (epsilon.value, epsilon.units)
        == tuple(card.epsilon),
        f"--window {f'{low!r},{high!r}' if card.window else 'auto'}": (
            None if window is None else [window.low, window.high]
        )
        == (None if card.window is None else list(card.window)),
        f"--modality '{card.modality}'": options.modality == card.modality,
        f"--perturbed-fraction {kept:g}": fraction == kept,
        f"--working-size {card.working_size}": options.working_size == card.working_size,
    }
    other = [option for option, same in pairs.items() if not same]
    if other:
        raise UsageError(
            f"{options.surrogate}: this surrogate goes with the options of its own run, from which this one's "
            f"differ; give {' '.join(other)}"
        )


def series_views(inventory: Inventory, plan: ProtectionPlan) -> dict[str, dict[str, Any]]:
    """Give what the files of each volume have in common, for the surrogate's card."""
    found = {}
    for sample in plan.samples:
        for file in sample.files:
            series = volume_of(inventory.pictures[file.path])
            if series:
                found[series_key(series)] = VolumeView.of_file(file.view).to_json()
    return found


def check_fit(working: WorkingSet, plan: ProtectionPlan, options: ProtectOptions) -> None:
    """Find out whether labels, samples and surrogate fit each other.

    Raises:
        UsageError: they do not.
    """
    name = options.surrogate or DEFAULT_NETWORKS[options.task]
    if name.endswith(SURROGATE_SUFFIX):
        network, card = load_surrogate(name)
        check_network(network, name, task_from_json(card.task), working)
        return
    task = task_of(working, plan, options.task)
    network = seeded_network(name, working.padded_shape, task.outputs, options.seed, channels=working.channels)
    check_network(network, name, task, working)
