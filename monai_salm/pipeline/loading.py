# SPDX-License-Identifier: Apache-2.0
"""From planned files to samples on their working grids, and to the set of them that one network can see.

Loading changes no plan: it gives the samples, why others cannot be used, and the classes that label maps hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from monai_salm.errors import RefusedError, UsageError, unreadable
from monai_salm.learning.networks import DEFAULT_NETWORKS, size_multiple
from monai_salm.learning.samples import PAD_MULTIPLE, WorkingSet
from monai_salm.learning.surrogate import SurrogateCard, frozen_set, load_surrogate
from monai_salm.learning.targets import renumbered
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.pipeline.deciding import Decision
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.label_values import label_map_values
from monai_salm.pipeline.looking import LookAtFile, SampleJob, look_at_sample, sample_not_looked_at
from monai_salm.pipeline.options import SURROGATE_SUFFIX, ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan, SamplePlan
from monai_salm.pipeline.working import assembled_sample
from monai_salm.progress import track
from monai_salm.workers import IN_THIS_PROCESS, Workers
from monai_salm.working_samples import WorkingSample


@dataclass(frozen=True)
class Unusable:
    """A planned sample that cannot be used, and why."""

    plan: SamplePlan
    reason: str

    @property
    def refused(self) -> dict[str, str]:
        """The reason for each of its files, by path."""
        return dict.fromkeys((file.path for file in self.plan.files), self.reason)


@dataclass(frozen=True)
class LoadedSamples:
    """What loading the samples of a plan gave.

    Args:
        samples: on their working grids, in the order of the plan.
        refused: path of a file that cannot be used after all -> reason.
        classes: values of the label maps, in order; empty where the targets are none.
    """

    samples: list[WorkingSample]
    refused: Mapping[str, str]
    classes: tuple[str, ...] = ()

    def complete(self, plan: ProtectionPlan) -> ProtectionPlan:
        """Give the plan of what can be used: without what loading refused, with the classes that it found."""
        return plan.without(self.refused, self.classes)


@dataclass(frozen=True)
class LoadedSet:
    """The samples of a plan that one network can see, in batches that it can see, and the plan of them; None where all
    that was to be added to a release is refused.
    """

    working: WorkingSet | None
    plan: ProtectionPlan


def read_samples(
    inventory: Inventory,
    decision: Decision,
    size: int,
    label_values: Sequence[int] = (),
    *,
    workers: Workers = IN_THIS_PROCESS,
    show_progress: bool = False,
) -> Iterator[WorkingSample | Unusable]:
    """Give planned samples on the working grid, one by one; those that were not looked at are read.

    Args:
        inventory: of the input.
        decision: the plan of the samples, and their maps as far as they are known.
        size: longest axis of the working grid.
        label_values: values of the label maps in the order of their classes; empty for other targets.
        workers: that read the images.
        show_progress: a progress bar on standard error.
    """
    classes = {value: number for number, value in enumerate(label_values)}
    samples, maps = decision.plan.samples, decision.maps
    unusable = {s.sample_id: why for s in samples if (why := decision.unusable.get(s.files[0].path))}
    unseen = (s for s in samples if s.sample_id not in maps and s.sample_id not in unusable)
    looks = workers.map(look_at_sample, (_job(inventory, sample, size) for sample in unseen), lost=sample_not_looked_at)
    for sample in track(samples, "loading", "samples", total=len(samples), show_progress=show_progress):
        found, why = maps.get(sample.sample_id), unusable.get(sample.sample_id, "")
        if found is None and not why:
            look = next(looks)
            found, why = look.maps, look.unusable
        if found is None:
            yield Unusable(sample, why)
            continue
        try:
            yield assembled_sample(inventory, sample, found, classes)
        except RefusedError as refusal:
            yield Unusable(sample, str(refusal))
        except OSError as error:  # its label map is gone: that is no reason to stop for the others
            yield Unusable(sample, unreadable(error))


def load_samples(
    inventory: Inventory,
    decision: Decision,
    size: int,
    label_values: Sequence[int] = (),
    *,
    workers: Workers = IN_THIS_PROCESS,
    show_progress: bool = False,
) -> LoadedSamples:
    """Read all samples of a plan; arguments as :func:`read_samples`."""
    samples: list[WorkingSample] = []
    refused: dict[str, str] = {}
    for found in read_samples(inventory, decision, size, label_values, workers=workers, show_progress=show_progress):
        if isinstance(found, Unusable):
            refused |= found.refused
        else:
            samples.append(found)
    return LoadedSamples(samples, refused, tuple(str(value) for value in label_values))


def load_set(
    inventory: Inventory, decision: Decision, options: ProtectOptions, workers: Workers, *, show_progress: bool = False
) -> LoadedSet:
    """Read all samples of a plan that one network can see, in batches that it can see.

    Args:
        inventory, decision, options: of the run.
        workers: that read the images.
        show_progress: a progress bar on standard error.

    Raises:
        UsageError: nothing is left, or the samples do not fit the frozen surrogate.
    """
    plan = decision.plan
    maps = any(isinstance(sample.target, str) for sample in plan.samples)
    known = [int(value) for value in plan.classes] if maps else []  # of a plan that was complete before
    label_values = known or label_map_values(inventory, plan.samples)
    loaded = load_samples(
        inventory, decision, options.working_size, label_values, workers=workers, show_progress=show_progress
    )
    complete = loaded.complete(plan)
    kept, others = _of_one_kind(loaded.samples, complete)
    complete = complete.without(others)
    if options.add and not kept:
        return LoadedSet(None, complete)
    working = WorkingSet(kept)
    name = options.surrogate or DEFAULT_NETWORKS[options.task]
    if name.endswith(SURROGATE_SUFFIX):
        return LoadedSet(further_samples(working, complete, name, load_surrogate(name)[1]), complete)
    step = size_multiple(name)
    if step != PAD_MULTIPLE:  # who asks for more than pooling does has a place for each cell: batches of one shape
        working = WorkingSet(working.samples, tuple(-(-length // step) * step for length in working.padded_shape))
    return LoadedSet(working, complete)


def _of_one_kind(samples: list[WorkingSample], plan: ProtectionPlan) -> tuple[list[WorkingSample], dict[str, str]]:
    """Keep slices or volumes, whichever are more: one network cannot see both. Gives them, and the files of the others
    with the reason.
    """
    volumes = {sample.sample_id for sample in samples if len(sample.shape) == 3}
    if not 0 < len(volumes) < len(samples):
        return samples, {}
    keep_volumes = len(volumes) * 2 >= len(samples)
    kept = [sample for sample in samples if (sample.sample_id in volumes) == keep_volumes]
    names = {sample.sample_id for sample in kept}
    kind = "a single slice among volumes" if keep_volumes else "a volume among single slices"
    reason = f"{kind}, which one search cannot see both; protect it in a run of its own"
    return kept, {
        file.path: reason for sample in plan.samples if sample.sample_id not in names for file in sample.files
    }


def further_samples(working: WorkingSet, plan: ProtectionPlan, path: str, card: SurrogateCard) -> WorkingSet:
    """Give samples the classes of the frozen surrogate that protects them, which may know more than occur here.

    Raises:
        UsageError: it does not know them.
    """
    known = set(plan.classes) <= set(card.classes) and not plan.multi_label
    if working.spatial_dims != card.spatial_dims or not (known or list(plan.classes) == card.classes):
        raise UsageError(
            f"{path}: it was trained on {card.spatial_dims}D samples of the classes {card.classes}, these are "
            f"{working.spatial_dims}D of {list(plan.classes)}; "
            "give the surrogate of a run over samples of this kind, or a network's name"
        )
    samples = working.samples
    if list(plan.classes) != card.classes:
        places = np.array([card.classes.index(name) for name in plan.classes])
        samples = [
            replace(sample, target=renumbered(sample.target, places)) for sample in samples if sample.target is not None
        ]
    return frozen_set(samples, card)


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


def working_sample(
    inventory: Inventory,
    sample: SamplePlan,
    size: int,
    label_values: Mapping[int, int] | None = None,
) -> WorkingSample:
    """Read the files of a sample onto its working grid; slices of a series one by one.

    Args:
        inventory: of the input.
        sample: what to read.
        size: longest axis of the working grid.
        label_values: value in a label map -> class; None leaves them as they are.

    Raises:
        RefusedError: nothing in the sample can carry noise, or its label map does not fit.
    """
    look = look_at_sample(_job(inventory, sample, size))
    if look.maps is None:
        raise RefusedError(look.unusable)
    return assembled_sample(inventory, sample, look.maps, label_values)


def _job(inventory: Inventory, sample: SamplePlan, size: int | None) -> SampleJob:
    files = tuple(LookAtFile(file.path, file.sha256, file.fingerprint, file.view) for file in sample.files)
    return SampleJob(inventory.root.absolute(), files, size)
