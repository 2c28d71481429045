# SPDX-License-Identifier: Apache-2.0
"""From a plan to the noise of its samples, in the private work folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from monai_salm.baselines import Baseline, BaselineRun
from monai_salm.disk import write_atomically
from monai_salm.errors import RefusedError, UsageError
from monai_salm.networks import build_network, logits_of, size_multiple
from monai_salm.noise import NoiseStore, SparseNoise
from monai_salm.optimize import MinMinOptimizer, MinMinSettings
from monai_salm.pipeline.checkpoint import load_search, save_search
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.methods import NoiseMethod, check_method, random_steps
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.working import label_map_values, noise_record, working_sample
from monai_salm.samples import PAD_MULTIPLE, WorkingSample, WorkingSet
from monai_salm.surrogate import SurrogateCard, load_surrogate, surrogate_bytes
from monai_salm.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.textures import class_directions

SLICE_BATCH, VOLUME_BATCH = 32, 8
"""Slices and volumes per step of a baseline; the min-min search has its own number of slices."""

SURROGATE_SUFFIX = ".safetensors"
"""Of a file that holds the surrogate of a finished run, where a network's name can be given, too."""

DEFAULT_SURROGATES = {"classification": "small-resnet", "segmentation": "small-unet"}
"""Networks by task, unless the user names another."""

VOLUME_ROUNDS = 12
"""Rounds at most for volumes, unless the user gives another number: a round of 160 small ones takes about a minute on a CPU."""


@dataclass(frozen=True)
class SearchSummary:
    """What a search did: its rounds, its passes per sample, and the error of the surrogate in each round."""

    rounds: int = 0
    passes: float = 0.0
    errors: tuple[float, ...] = ()


def make_noise(inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, work_dir: Path, *, show_progress: bool = False) -> SearchSummary:
    """Search the noise of all samples and put it into ``work_dir/noise``.

    A sample that cannot carry noise, or whose label map does not fit, moves from the plan's samples to its refused files. What was done is kept in
    ``work_dir/search.json``, and a run that goes on takes it from there.
    """
    done = work_dir / "search.json"
    if options.resume and done.is_file():
        record = json.loads(done.read_text(encoding="utf-8"))
        plan.refused.update(record["refused"])
        plan.samples = [sample for sample in plan.samples if all(file.path not in record["refused"] for file in sample.files)]
        return SearchSummary(record["rounds"], record["passes"], tuple(record["errors"]))
    before = set(plan.refused)
    method = options.noise_method()
    if isinstance(method.search, Baseline):
        summary = _baseline_noise(inventory, plan, options, method.search, NoiseStore(work_dir / "noise"), show_progress=show_progress)
    elif method.search is None:
        summary = _draw_noise(inventory, plan, options, NoiseStore(work_dir / "noise"), show_progress=show_progress)
    else:
        summary = _search_noise(inventory, plan, options, method, work_dir, show_progress=show_progress)
    refused = {path: reason for path, reason in plan.refused.items() if path not in before}
    write_atomically(done, (json.dumps(asdict(summary) | {"refused": refused}, indent=1) + "\n").encode(), private=True)
    return summary


def _draw_noise(inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, store: NoiseStore, *, show_progress: bool) -> SearchSummary:
    """Draw random noise, one sample at a time."""
    plans = {sample.sample_id: sample for sample in plan.samples}
    for sample in load_working_samples(inventory, plan, options.working_size, show_progress=show_progress):
        noise = SparseNoise.from_dense(random_steps(sample, options.seed), sample.levels)
        store.write(sample.sample_id, noise, noise_record(inventory, plans[sample.sample_id]))
    return SearchSummary()


def _baseline_noise(
    inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, baseline: Baseline, store: NoiseStore, *, show_progress: bool
) -> SearchSummary:
    """Let a baseline's maker make the noise; one that was stopped starts again."""
    if options.surrogate.endswith(SURROGATE_SUFFIX):
        raise UsageError(f"method {options.method!r} trains a surrogate of its own; give a network's name instead of {options.surrogate}")
    working = _load_set(inventory, plan, options, show_progress=show_progress)
    check_method(options.method, options.task, working.spatial_dims)
    task = task_of(working, plan, options.task)

    def build_surrogate() -> torch.nn.Module:
        name = options.surrogate or DEFAULT_SURROGATES[options.task]
        network = seeded_network(name, working.padded_shape, task.outputs, options.seed)
        check_network(network, name, task, working.padded_shape)
        return network

    run = BaselineRun(
        seed=options.seed, device=pick_device(options.device), rounds=baseline.rounds, build_surrogate=build_surrogate,
        batch_size=VOLUME_BATCH if working.spatial_dims == 3 else SLICE_BATCH, show_progress=show_progress,
    )  # fmt: skip
    plans = {sample.sample_id: sample for sample in plan.samples}
    levels = {sample.sample_id: sample.levels for sample in working.samples}
    for sample_id, steps in baseline.make(working, task, run):
        store.write(sample_id, SparseNoise.from_dense(steps, levels[sample_id]), noise_record(inventory, plans[sample_id]))
    return SearchSummary(len(run.errors), run.passes, tuple(run.errors))


def _load_set(inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, *, show_progress: bool) -> WorkingSet:
    """Read all samples of a plan that one network can see, in batches that it can see."""
    label_values = label_map_values(inventory, plan.samples)
    loaded = list(load_working_samples(inventory, plan, options.working_size, label_values, show_progress=show_progress))
    working = WorkingSet(_of_one_kind(loaded, plan))
    name = options.surrogate or DEFAULT_SURROGATES[options.task]
    step = size_multiple(load_surrogate(name)[1].network if name.endswith(SURROGATE_SUFFIX) else name)
    if step == PAD_MULTIPLE:
        return working
    # Who asks for more than pooling does has a place for each cell, so all batches are of one shape.
    return WorkingSet(working.samples, tuple(-(-length // step) * step for length in working.padded_shape))


def _search_noise(
    inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, method: NoiseMethod, work_dir: Path, *, show_progress: bool
) -> SearchSummary:
    """Run the optimizer, saving its state after each round and the surrogate at the end."""
    digest = plan.digest()
    working = _load_set(inventory, plan, options, show_progress=show_progress)
    optimizer, card = build_optimizer(working, plan, options, method, show_progress=show_progress)
    checkpoint, store = work_dir / "search.safetensors", NoiseStore(work_dir / "noise")
    state = load_search(checkpoint, working, optimizer.network, digest) if options.resume and checkpoint.is_file() else optimizer.start(working)
    plans = {sample.sample_id: sample for sample in plan.samples}
    levels = {sample.sample_id: sample.levels for sample in working.samples}
    for sample_id, steps in optimizer.run(working, state, lambda now: save_search(checkpoint, now, optimizer.network, digest)):
        store.write(sample_id, SparseNoise.from_dense(steps, levels[sample_id]), noise_record(inventory, plans[sample_id]))
    write_atomically(work_dir / "surrogate.safetensors", surrogate_bytes(optimizer.network, card), private=True)
    checkpoint.unlink(missing_ok=True)
    return SearchSummary(state.round, state.passes, tuple(log.error for log in state.history))


def _of_one_kind(samples: list[WorkingSample], plan: ProtectionPlan) -> list[WorkingSample]:
    """Keep slices or volumes, whichever are more: one network cannot see both. The others move to the plan's refused files."""
    volumes = {sample.sample_id for sample in samples if sample.image_model.ndim == 3}
    if not 0 < len(volumes) < len(samples):
        return samples
    keep_volumes = len(volumes) * 2 >= len(samples)
    kept = [sample for sample in samples if (sample.sample_id in volumes) == keep_volumes]
    names = {sample.sample_id for sample in kept}
    reason = "a single slice among volumes" if keep_volumes else "a volume among single slices"
    for sample in plan.samples:
        if sample.sample_id not in names:
            plan.refused.update({file.path: f"{reason}, which one search cannot see both; protect it in a run of its own" for file in sample.files})
    plan.samples = [sample for sample in plan.samples if sample.sample_id in names]
    return kept


def load_working_samples(
    inventory: Inventory, plan: ProtectionPlan, size: int, label_values: list[int] | None = None, *, show_progress: bool = False
) -> Iterator[WorkingSample]:
    """Read the samples of a plan onto the working grid, one by one; those that cannot be used move to the plan's refused files.

    Args:
        inventory, plan: of the input; the plan is changed.
        size: longest axis of the working grid.
        label_values: values of the label maps in the order of their classes; None for other targets.
        show_progress: a progress bar on standard error.
    """
    classes = {value: number for number, value in enumerate(label_values or [])}
    if label_values:
        plan.classes = [str(value) for value in label_values]
    for sample in tqdm(list(plan.samples), desc="loading", unit="sample", disable=not show_progress):
        try:
            loaded = working_sample(inventory, sample, size, classes)
        except RefusedError as refusal:
            plan.refused.update({file.path: str(refusal) for file in sample.files})
            plan.samples.remove(sample)
        else:
            yield loaded


def task_of(working: WorkingSet, plan: ProtectionPlan, task: str) -> LearningTask:
    """Make the learning task of some samples."""
    if task == "segmentation":
        if len(plan.classes) < 2:
            raise UsageError(f"the label maps hold {len(plan.classes)} value(s); segmentation needs background and one structure at least")
        return SegmentationTask(len(plan.classes))
    return ClassificationTask.balanced(working.targets())


def build_optimizer(
    working: WorkingSet, plan: ProtectionPlan, options: ProtectOptions, method: NoiseMethod, *, show_progress: bool = False
) -> tuple[MinMinOptimizer, SurrogateCard]:
    """Build the surrogate and its optimizer, and the card that describes them."""
    if not isinstance(method.search, MinMinSettings):
        raise UsageError(f"method {options.method!r} has no optimizer")
    task = task_of(working, plan, options.task)
    search = method.search
    if working.spatial_dims == 3:  # a volume is as much work and memory as many slices
        search = replace(search, batch_size=VOLUME_BATCH, max_rounds=options.rounds or min(VOLUME_ROUNDS, search.max_rounds))
    if search.texture_period:  # found here, since further samples of the run need it, too
        search = replace(search, class_directions=class_directions(working, task.outputs, period=search.texture_period))
    name = options.surrogate or DEFAULT_SURROGATES[options.task]
    frozen = name.endswith(SURROGATE_SUFFIX)
    window, epsilon = options.parsed_window(), options.parsed_epsilon()
    card = SurrogateCard(
        network=name, spatial_dims=working.spatial_dims, task=task.to_json(), classes=plan.classes, search=search.to_json(),
        augmentation=method.augmentation.to_json(), padded_shape=list(working.padded_shape), working_size=options.working_size,
        epsilon=(epsilon.value, epsilon.units), window=(window.low, window.high) if window else None, modality=options.modality.upper(),
    )  # fmt: skip
    if frozen:
        network, trained = load_surrogate(name)
        if (trained.spatial_dims, trained.task["outputs"], trained.classes) != (card.spatial_dims, task.outputs, card.classes):
            raise UsageError(
                f"{name}: it was trained on {trained.spatial_dims}D samples of the classes {trained.classes}, these are {card.spatial_dims}D of {card.classes}"
            )
        # Or a class would have another texture than in the first run
        search = replace(search, class_directions=MinMinSettings(**trained.search).class_directions)
        card = replace(card, network=trained.network, search=search.to_json())
    else:
        network = seeded_network(name, working.padded_shape, task.outputs, options.seed)
    check_network(network, name, task, working.padded_shape)
    optimizer = MinMinOptimizer(
        network, task, search, augmentation=method.augmentation, device=pick_device(options.device), freeze_surrogate=frozen, show_progress=show_progress
    )
    return optimizer, card


def seeded_network(name: str, image_shape: tuple[int, ...], outputs: int, seed: int) -> torch.nn.Module:
    """Build a network for images of a shape whose weights depend on the seed alone, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(name, spatial_dims=len(image_shape), outputs=outputs, image_shape=image_shape)


def check_network(network: torch.nn.Module, name: str, task: LearningTask, shape: tuple[int, ...]) -> None:
    """Find out before any training whether a network gives what a task needs.

    Raises:
        UsageError: its result has another shape, or images of this size are too small for it.
    """
    wanted = (1, task.outputs, *shape) if task.spatial_target else (1, task.outputs)
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            logits = logits_of(network, torch.zeros(1, 1, *shape))
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"network {name!r} cannot work on images of {shape} ({str(error).partition(chr(10))[0]}); give another, or another --working-size"
        ) from error
    for module, mode in modes.items():
        module.training = mode
    if tuple(logits.shape) != wanted:
        kind = "segmentation" if task.spatial_target else "classification"
        raise UsageError(f"network {name!r} gives {tuple(logits.shape)} where {kind} needs {wanted}; give a network for {kind}")


def pick_device(name: str) -> torch.device:
    """Give the device of a name; ``auto`` is CUDA where there is one.

    Raises:
        UsageError: the device is unknown or not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {name!r} is unknown; give auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda was asked for, but torch sees none; give --device cpu, or install a CUDA build of torch")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
