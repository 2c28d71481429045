# SPDX-License-Identifier: Apache-2.0
"""From an inventory to the decision about every file of it, and what was seen of the samples on the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic

from monai_salm.errors import unreadable
from monai_salm.pipeline.file_views import BudgetOptions, VolumeFiles, volumes_in
from monai_salm.pipeline.inventory import Inventory, file_digest
from monai_salm.pipeline.kept_once import view_kept_once
from monai_salm.pipeline.label_table import IDENTIFIER_COLUMNS
from monai_salm.pipeline.labels import LabelAssignment
from monai_salm.pipeline.looking import LookAtSample, LookJob, look_at_volume, not_looked_at
from monai_salm.pipeline.plan import FilePlan, ProtectionPlan, SamplePlan, target_to_json
from monai_salm.progress import Progress
from monai_salm.volumes import VolumeView
from monai_salm.workers import IN_THIS_PROCESS, Workers
from monai_salm.working_samples import WorkingMaps


@dataclass(frozen=True)
class Decision:
    """A plan, and what was seen of its samples while it was made.

    Args:
        plan: of all that can be read, labeled and held within a budget.
        unusable: path -> reason, of samples in which nothing can carry noise.
        bare: path -> reason, of slices of volumes other slices of which can carry noise.
        maps: by sample id, of the samples on their working grids.
        seconds: that looking took; 0 where nobody looked.
    """

    plan: ProtectionPlan
    unusable: Mapping[str, str] = field(default_factory=dict)
    bare: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[str, WorkingMaps] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Wanted:
    """What is to be found out of the samples beside their views.

    Args:
        carriers: where noise can lie.
        grid: longest side of the working grid that they are brought to; None for no grid.
    """

    carriers: bool = False
    grid: int | None = None


@dataclass(frozen=True)
class Beside:
    """What is decided already, which further decisions have to fit.

    Args:
        views: Series Instance UID of a volume -> what its files have in common.
        samples: sample id -> path of the first file that has it.
    """

    views: Mapping[str, VolumeView] = field(default_factory=dict)
    samples: Mapping[str, str] = field(default_factory=dict)


def is_by_series(sample: str, labels: LabelAssignment | None) -> bool:
    """Say whether a series is one sample, where it is a volume.

    Args:
        sample: ``instance``, ``series``, or ``auto``: series where the labels name series or more.
        labels: None for methods that need none.
    """
    named = labels is not None and labels.key in (*IDENTIFIER_COLUMNS[1:], "SEG")
    return sample == "series" or (sample == "auto" and named)


def build_plan(
    inventory: Inventory,
    options: BudgetOptions,
    *,
    labels: LabelAssignment | None = None,
    sample: str = "auto",
    show_progress: bool = False,
) -> ProtectionPlan:
    """Give the plan alone; arguments as of :func:`decide`.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import ProtectOptions, scan
        >>> from monai_salm.pipeline import build_plan
        >>> plan = build_plan(scan(Path("EXPORT")), ProtectOptions(method="random").budget_options())
        >>> len(plan.samples), list(plan.documents), plan.all_refused()
        (4, ['notes.txt'], {})
    """
    return decide(inventory, options, labels=labels, sample=sample, show_progress=show_progress).plan


def decide(
    inventory: Inventory,
    options: BudgetOptions,
    *,
    labels: LabelAssignment | None = None,
    sample: str = "auto",
    wanted: Wanted = Wanted(),
    beside: Beside = Beside(),
    workers: Workers = IN_THIS_PROCESS,
    show_progress: bool = False,
) -> Decision:
    """Decide for every file whether and how it will be protected; reads every image once.

    Args:
        inventory: the files.
        options: how budgets are found.
        labels: None for methods that need none.
        sample: see :func:`is_by_series`.
        wanted: what else to find out.
        beside: what is decided already.
        workers: that read the images.
        show_progress: a progress bar on standard error.
    """
    refused = inventory.refused
    documents = {}
    for path in inventory.documents:
        try:
            documents[path] = file_digest(inventory.absolute(path))
        except OSError as error:
            refused[path] = unreadable(error)
    by_series = is_by_series(sample, labels)
    samples: list[SamplePlan] = []
    unusable: dict[str, str] = {}
    bare: dict[str, str] = {}
    maps: dict[str, WorkingMaps] = {}
    unlabeled = _unlabeled(inventory, labels)
    names = {path: path for path in inventory.pictures}  # whose text is kept once
    volumes = [
        paths for paths in volumes_in(inventory) if labels is None or any(path in labels.targets for path in paths)
    ]
    jobs = (_job(inventory, paths, options, labels, wanted, beside, by_series=by_series) for paths in volumes)
    sizes = inventory.sizes()
    began = monotonic()
    with Progress(
        "planning", sum(map(len, volumes)), "files", show_progress=show_progress,
        total_bytes=sum(sizes[path] for paths in volumes for path in paths),
    ) as bar:  # fmt: skip
        for paths, volume in zip(volumes, workers.map(look_at_volume, jobs, lost=not_looked_at), strict=True):
            refused |= volume.refused
            for look in volume.samples:
                planned = _sample_plan(inventory, names, labels, look)
                samples.append(planned)
                unusable |= dict.fromkeys((file.path for file in look.files), look.unusable) if look.unusable else {}
                bare |= look.bare
                if look.maps is not None:
                    maps[planned.sample_id] = look.maps
            bar.update(len(paths), done_bytes=sum(sizes[path] for path in paths))
    refused |= unlabeled
    kept, copies = _distinct(_new(samples, inventory, beside, refused), refused), {}
    for path, first in inventory.copies.items():
        if labels is not None and labels.targets.get(path, labels.targets.get(first)) != labels.targets.get(first):
            refused[path] = f"it is a copy of {first}, but has another label; give both the same"
        else:
            copies[path] = first
    plan = ProtectionPlan(
        tuple(kept), refused, documents, copies,
        classes=tuple(labels.classes) if labels else (), multi_label=labels is not None and labels.multi_label,
    )  # fmt: skip
    planned_files = {file.path for sample_plan in kept for file in sample_plan.files}
    return Decision(
        plan,
        {path: reason for path, reason in unusable.items() if path in planned_files},
        {path: reason for path, reason in bare.items() if path in planned_files},
        maps,
        monotonic() - began,
    )


def _unlabeled(inventory: Inventory, labels: LabelAssignment | None) -> dict[str, str]:
    """Give the images that have no label, with the reason."""
    if labels is None:
        return {}
    reason = f"it has no label ({labels.key}); add it to the labels, or leave the file out"
    return {path: labels.refused.get(path, reason) for path in inventory.pictures if path not in labels.targets}


def _job(
    inventory: Inventory,
    paths: list[str],
    options: BudgetOptions,
    labels: LabelAssignment | None,
    wanted: Wanted,
    beside: Beside,
    *,
    by_series: bool,
) -> LookJob:
    """Give the job for a volume. Window and background are those of the whole, labeled or not, so that whoever holds
    the originals finds the same ones.
    """
    numbers: dict[str, int] = {}
    found: dict[str, int] = {}
    for path in paths:
        if labels is None:
            found[path] = 0
        elif path in labels.targets:
            label = repr(target_to_json(labels.targets[path]))
            found[path] = numbers.setdefault(label, len(numbers))
    return LookJob(
        VolumeFiles.of(inventory, paths, options, beside.views), found, options.epsilon,
        as_one=by_series and len(found) > 1, carriers=wanted.carriers, grid=wanted.grid,
    )  # fmt: skip


def _sample_plan(
    inventory: Inventory, names: Mapping[str, str], labels: LabelAssignment | None, look: LookAtSample
) -> SamplePlan:
    """Give the plan of a sample; its id is that of its image or series, or what its values say."""
    files = tuple(
        FilePlan(names[file.path], file.sha256, file.fingerprint, view_kept_once(file.view)) for file in look.files
    )
    known = inventory.pictures[files[0].path].identifiers
    sample_id = known["SeriesInstanceUID"] if look.as_one else known.get("SOPInstanceUID") or files[0].fingerprint
    return SamplePlan(sample_id, files, labels.targets[files[0].path] if labels else None)


def _new(
    samples: Iterable[SamplePlan], inventory: Inventory, beside: Beside, refused: dict[str, str]
) -> Iterator[SamplePlan]:
    """Give the samples that can stand beside those that are decided already; the others are refused."""
    for sample in samples:
        series = inventory.pictures[sample.files[0].path].identifiers.get("SeriesInstanceUID", "")
        if series in beside.samples:
            reason = "its series is in the release already as one sample, whose noise was made for its slices of then"
            advice = "protect the whole series in a release of its own"
        elif sample.sample_id in beside.samples:
            reason, advice = (
                f"it holds the same values as {beside.samples[sample.sample_id]} in the release",
                "remove it",
            )
        else:
            yield sample
            continue
        refused.update(dict.fromkeys((file.path for file in sample.files), f"{reason}; {advice}"))


def _distinct(samples: Iterable[SamplePlan], refused: dict[str, str]) -> list[SamplePlan]:
    """Keep one sample of each id; copies of the same volume are refused, since their noise and label would have to
    agree.
    """
    kept: dict[str, SamplePlan] = {}
    for sample in sorted(samples, key=lambda s: (s.sample_id, s.files[0].path)):
        first = kept.setdefault(sample.sample_id, sample)
        if first is not sample:
            refused.update(
                {
                    file.path: f"it holds the same values as {first.files[0].path}; remove one of the two"
                    for file in sample.files
                }
            )
    return list(kept.values())
