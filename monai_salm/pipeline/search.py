# SPDX-License-Identifier: Apache-2.0
"""From a plan to the noise of its samples, in the private work folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_salm.disk import write_atomically
from monai_salm.errors import RefusedError, UsageError
from monai_salm.learning.checks import check_network
from monai_salm.learning.networks import build_network, size_multiple
from monai_salm.learning.samples import PAD_MULTIPLE, WorkingSample, WorkingSet
from monai_salm.learning.surrogate import SurrogateCard, frozen_set, load_surrogate, series_key, surrogate_bytes
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask, task_from_json
from monai_salm.methods.base import Baseline, BaselineRun
from monai_salm.methods.minmin import MinMinOptimizer, MinMinSettings, frozen_optimizer
from monai_salm.methods.random import random_steps
from monai_salm.methods.registry import NoiseMethod
from monai_salm.methods.textures import class_directions
from monai_salm.noise import NoiseStore, SparseNoise
from monai_salm.pipeline.checkpoint import load_search, save_search
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.outlook import guess_error, search_seconds, what_was_learned
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.working import label_map_values, noise_record, working_sample
from monai_salm.progress import in_words, track
from monai_salm.volumes import VolumeView, volume_of

logger = logging.getLogger(__name__)

SLICE_BATCH, VOLUME_BATCH = 32, 8
"""Slices and volumes per step of a baseline; the min-min search has its own number of slices."""

SURROGATE_SUFFIX = ".safetensors"
"""Of a file that holds the surrogate of a finished run, where a network's name can be given, too."""

DEFAULT_SURROGATES = {"classification": "small-resnet", "segmentation": "small-unet"}
"""Networks by task, unless the user names another."""

VOLUME_ROUNDS = 12
"""Rounds at most for volumes, unless the user gives another number: a round of 160 small ones takes about a minute on a
CPU.
"""


@dataclass(frozen=True)
class SearchSummary:
    """What a search did: its rounds, its passes per sample, the error of the surrogate in each round, and whether that
    is what it should be, in words.
    """

    rounds: int = 0
    passes: float = 0.0
    errors: tuple[float, ...] = ()
    surrogate: str = ""


def is_searched(options: ProtectOptions, work_dir: Path) -> bool:
    """Say whether a run that goes on has its noise already."""
    return options.resume and (work_dir / "search.json").is_file()


def make_noise(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    work_dir: Path,
    working: WorkingSet | None,
    *,
    show_progress: bool = False,
) -> SearchSummary:
    """Search the noise of all samples and put it into ``work_dir/noise``.

    A sample that cannot carry noise, or whose label map does not fit, moves from the plan's samples to its refused
    files. What was done is kept in ``work_dir/search.json``, and a run that goes on takes it from there.

    Args:
        inventory, plan: of the input; the plan is changed.
        options: of the run.
        work_dir: its private folder.
        working: the samples, of :func:`~monai_salm.pipeline.preflight.preflight`; None for a method that draws its
            noise sample by sample.
        show_progress: progress bars on standard error.
    """
    done = work_dir / "search.json"
    if is_searched(options, work_dir):
        record = json.loads(done.read_text(encoding="utf-8"))
        plan.refused.update(record["refused"])
        plan.samples = [
            sample for sample in plan.samples if all(file.path not in record["refused"] for file in sample.files)
        ]
        return SearchSummary(record["rounds"], record["passes"], tuple(record["errors"]), record.get("surrogate", ""))
    method = options.noise_method()
    if working is None:
        summary = _draw_noise(inventory, plan, options, NoiseStore(work_dir / "noise"), show_progress=show_progress)
    elif isinstance(method.search, Baseline):
        summary = _baseline_noise(
            inventory,
            plan,
            options,
            method.search,
            working,
            NoiseStore(work_dir / "noise"),
            show_progress=show_progress,
        )
    else:
        summary = _search_noise(inventory, plan, options, method, working, work_dir, show_progress=show_progress)
    write_atomically(
        done, (json.dumps(asdict(summary) | {"refused": plan.refused}, indent=1) + "\n").encode(), private=True
    )
    return summary


def _draw_noise(
    inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, store: NoiseStore, *, show_progress: bool
) -> SearchSummary:
    """Draw random noise, one sample at a time."""
    plans = {sample.sample_id: sample for sample in plan.samples}
    for sample in load_working_samples(inventory, plan, options.working_size, show_progress=show_progress):
        noise = SparseNoise.from_dense(random_steps(sample, options.seed), sample.levels)
        store.write(sample.sample_id, noise, noise_record(inventory, plans[sample.sample_id]))
    return SearchSummary()


def _baseline_noise(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    baseline: Baseline,
    working: WorkingSet,
    store: NoiseStore,
    *,
    show_progress: bool,
) -> SearchSummary:
    """Let a baseline's maker make the noise; one that was stopped starts again."""
    task = task_of(working, plan, options.task)

    def build_surrogate() -> torch.nn.Module:
        return seeded_network(
            options.surrogate or DEFAULT_SURROGATES[options.task], working.padded_shape, task.outputs, options.seed
        )

    run = BaselineRun(
        seed=options.seed, device=pick_device(options.device), rounds=baseline.rounds, build_surrogate=build_surrogate,
        batch_size=VOLUME_BATCH if working.spatial_dims == 3 else SLICE_BATCH, show_progress=show_progress,
    )  # fmt: skip
    plans = {sample.sample_id: sample for sample in plan.samples}
    levels = {sample.sample_id: sample.levels for sample in working.samples}
    for sample_id, steps in baseline.make(working, task, run):
        store.write(
            sample_id, SparseNoise.from_dense(steps, levels[sample_id]), noise_record(inventory, plans[sample_id])
        )
    return SearchSummary(len(run.errors), run.passes, tuple(run.errors))


def load_set(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    bare: dict[str, str] | None = None,
    *,
    show_progress: bool = False,
) -> WorkingSet:
    """Read all samples of a plan that one network can see, in batches that it can see; arguments as
    :func:`load_working_samples`.
    """
    label_values = label_map_values(inventory, plan.samples)
    loaded = list(
        load_working_samples(inventory, plan, options.working_size, label_values, bare, show_progress=show_progress)
    )
    working = WorkingSet(_of_one_kind(loaded, plan))
    name = options.surrogate or DEFAULT_SURROGATES[options.task]
    if name.endswith(SURROGATE_SUFFIX):
        return further_samples(working, plan, name, load_surrogate(name)[1])
    step = size_multiple(name)
    if step == PAD_MULTIPLE:
        return working
    # Who asks for more than pooling does has a place for each cell, so all batches are of one shape.
    return WorkingSet(working.samples, tuple(-(-length // step) * step for length in working.padded_shape))


def _search_noise(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    method: NoiseMethod,
    working: WorkingSet,
    work_dir: Path,
    *,
    show_progress: bool,
) -> SearchSummary:
    """Run the optimizer, saving its state after each round and the surrogate at the end."""
    digest = plan.digest()
    optimizer, card = build_optimizer(working, plan, options, method, show_progress=show_progress)
    checkpoint, store = work_dir / "search.safetensors", NoiseStore(work_dir / "noise")
    state = (
        load_search(checkpoint, working, optimizer.network, digest)
        if options.resume and checkpoint.is_file()
        else optimizer.start(working)
    )
    seconds = search_seconds(optimizer, working, state)
    if seconds:
        rounds = optimizer.settings.max_rounds - state.round
        logger.info(
            "searching the noise of %d images takes %s at most (%d rounds)", len(working), in_words(seconds), rounds
        )
    plans = {sample.sample_id: sample for sample in plan.samples}
    levels = {sample.sample_id: sample.levels for sample in working.samples}
    for sample_id, steps in optimizer.run(
        working, state, lambda now: save_search(checkpoint, now, optimizer.network, digest)
    ):
        store.write(
            sample_id, SparseNoise.from_dense(steps, levels[sample_id]), noise_record(inventory, plans[sample_id])
        )
    card = replace(card, rounds=state.round, series=card.series | series_views(inventory, plan))
    write_atomically(work_dir / "surrogate.safetensors", surrogate_bytes(optimizer.network, card), private=True)
    checkpoint.unlink(missing_ok=True)
    errors = tuple(log.error for log in state.history)
    looks = optimizer.settings.texture_period > 0 and not optimizer.freeze_surrogate
    guess, frozen = guess_error(working, optimizer.task), optimizer.freeze_surrogate
    words = what_was_learned(errors[1:] if looks else errors, optimizer.settings.stop_error, guess, frozen=frozen)
    return SearchSummary(state.round, state.passes, errors, words)


def check_surrogate(options: ProtectOptions) -> None:
    """Hold the options of a run against those of the run that its frozen surrogate comes from; nothing where the
    surrogate is a network's name.

    Raises:
        UsageError: they differ; names all that have to be given for this surrogate. Or the file is none.
    """
    if not options.surrogate.endswith(SURROGATE_SUFFIX) or not isinstance(
        options.noise_method().search, MinMinSettings
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


def further_samples(working: WorkingSet, plan: ProtectionPlan, path: str, card: SurrogateCard) -> WorkingSet:
    """Give samples the classes of the frozen surrogate that protects them, which may know more than occur here.

    Raises:
        UsageError: it does not know them.
    """
    known = set(plan.classes) <= set(card.classes) and not plan.multi_label
    if working.spatial_dims != card.spatial_dims or not (known or plan.classes == card.classes):
        raise UsageError(
            f"{path}: it was trained on {card.spatial_dims}D samples of the classes {card.classes}, these are "
            f"{working.spatial_dims}D of {plan.classes}; "
            "give the surrogate of a run over samples of this kind, or a network's name"
        )
    samples = working.samples
    if plan.classes != card.classes:
        places = np.array([card.classes.index(name) for name in plan.classes])
        changed = [places[sample.target] for sample in samples]
        samples = [
            replace(sample, target=int(target) if isinstance(sample.target, int) else target.astype(np.uint8))
            for sample, target in zip(samples, changed, strict=True)
        ]
    return frozen_set(samples, card)


def series_views(inventory: Inventory, plan: ProtectionPlan) -> dict[str, dict[str, Any]]:
    """Give what the files of each volume have in common, for the surrogate's card."""
    found = {}
    for sample in plan.samples:
        for file in sample.files:
            series = volume_of(inventory.pictures[file.path])
            if series:
                found[series_key(series)] = VolumeView.of_file(file.view).to_json()
    return found


def _of_one_kind(samples: list[WorkingSample], plan: ProtectionPlan) -> list[WorkingSample]:
    """Keep slices or volumes, whichever are more: one network cannot see both. The others move to the plan's refused
    files.
    """
    volumes = {sample.sample_id for sample in samples if sample.image_model.ndim == 3}
    if not 0 < len(volumes) < len(samples):
        return samples
    keep_volumes = len(volumes) * 2 >= len(samples)
    kept = [sample for sample in samples if (sample.sample_id in volumes) == keep_volumes]
    names = {sample.sample_id for sample in kept}
    reason = "a single slice among volumes" if keep_volumes else "a volume among single slices"
    for sample in plan.samples:
        if sample.sample_id not in names:
            plan.refused.update(
                {
                    file.path: f"{reason}, which one search cannot see both; protect it in a run of its own"
                    for file in sample.files
                }
            )
    plan.samples = [sample for sample in plan.samples if sample.sample_id in names]
    return kept


def load_working_samples(
    inventory: Inventory,
    plan: ProtectionPlan,
    size: int,
    label_values: list[int] | None = None,
    bare: dict[str, str] | None = None,
    *,
    show_progress: bool = False,
) -> Iterator[WorkingSample]:
    """Read the samples of a plan onto the working grid, one by one; those that cannot be used move to the plan's
    refused files.

    Args:
        inventory, plan: of the input; the plan is changed.
        size: longest axis of the working grid.
        label_values: values of the label maps in the order of their classes; None for other targets.
        bare: takes the files of a series in which nothing can carry noise, with the reason; None if nobody asks.
        show_progress: a progress bar on standard error.
    """
    classes = {value: number for number, value in enumerate(label_values or [])}
    if label_values:
        plan.classes = [str(value) for value in label_values]
    for sample in track(list(plan.samples), "loading", "samples", total=len(plan.samples), show_progress=show_progress):
        try:
            loaded = working_sample(inventory, sample, size, classes, bare)
        except RefusedError as refusal:
            plan.refused.update({file.path: str(refusal) for file in sample.files})
            plan.samples.remove(sample)
        else:
            yield loaded


def task_of(working: WorkingSet, plan: ProtectionPlan, task: str) -> LearningTask:
    """Make the learning task of some samples."""
    if task == "segmentation":
        if len(plan.classes) < 2:
            raise UsageError(
                f"the label maps hold {len(plan.classes)} value(s); segmentation needs background and one "
                "structure at least"
            )
        return SegmentationTask(len(plan.classes))
    return ClassificationTask.balanced(working.targets())


def build_optimizer(
    working: WorkingSet,
    plan: ProtectionPlan,
    options: ProtectOptions,
    method: NoiseMethod,
    *,
    show_progress: bool = False,
) -> tuple[MinMinOptimizer, SurrogateCard]:
    """Build the surrogate and its optimizer, and the card that describes them."""
    if not isinstance(method.search, MinMinSettings):
        raise UsageError(f"method {options.method!r} has no optimizer")
    name, device = options.surrogate or DEFAULT_SURROGATES[options.task], pick_device(options.device)
    if name.endswith(SURROGATE_SUFFIX):
        network, card = load_surrogate(name)
        check_network(network, name, task_from_json(card.task), working.padded_shape)
        return frozen_optimizer(network, card, rounds=options.rounds, device=device, show_progress=show_progress), card
    task = task_of(working, plan, options.task)
    search = method.search
    if working.spatial_dims == 3:  # a volume is as much work and memory as many slices
        search = replace(
            search, batch_size=VOLUME_BATCH, max_rounds=options.rounds or min(VOLUME_ROUNDS, search.max_rounds)
        )
    if search.texture_period:  # found here, since further samples of the run need it, too
        search = replace(search, class_directions=class_directions(working, task.outputs, period=search.texture_period))
    window, epsilon = options.parsed_window(), options.parsed_epsilon()
    card = SurrogateCard(
        network=name, spatial_dims=working.spatial_dims, task=task.to_json(), classes=plan.classes,
        search=search.to_json(),
        augmentation=method.augmentation.to_json(), padded_shape=list(working.padded_shape),
        working_size=options.working_size,
        epsilon=(epsilon.value, epsilon.units), window=(window.low, window.high) if window else None,
        modality=options.modality,
        method=options.method, rounds=search.max_rounds, series={},
    )  # fmt: skip
    network = seeded_network(name, working.padded_shape, task.outputs, options.seed)
    check_network(network, name, task, working.padded_shape)
    return MinMinOptimizer(
        network, task, search, augmentation=method.augmentation, device=device, show_progress=show_progress
    ), card


def check_fit(working: WorkingSet, plan: ProtectionPlan, options: ProtectOptions) -> None:
    """Find out whether labels, samples and surrogate fit each other.

    Raises:
        UsageError: they do not.
    """
    name = options.surrogate or DEFAULT_SURROGATES[options.task]
    if name.endswith(SURROGATE_SUFFIX):
        network, card = load_surrogate(name)
        check_network(network, name, task_from_json(card.task), working.padded_shape)
        return
    task = task_of(working, plan, options.task)
    check_network(
        seeded_network(name, working.padded_shape, task.outputs, options.seed), name, task, working.padded_shape
    )


def seeded_network(name: str, image_shape: tuple[int, ...], outputs: int, seed: int) -> torch.nn.Module:
    """Build a network for images of a shape whose weights depend on the seed alone, without touching the global random
    state.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(name, spatial_dims=len(image_shape), outputs=outputs, image_shape=image_shape)


def pick_device(name: str) -> torch.device:
    """Give the device of a name; ``auto`` is CUDA where there is one.

    Raises:
        UsageError: the device is unknown or not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {name!r} is unknown; give auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "device cuda was asked for, but torch sees none; give --device cpu, or install a CUDA build of torch"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
