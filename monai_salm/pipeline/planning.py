# SPDX-License-Identifier: Apache-2.0
"""From an input and options to a plan; or, where a run goes on, to the plan that it was begun with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from monai_salm.errors import UsageError
from monai_salm.pipeline.deciding import Beside, Decision, Wanted, decide
from monai_salm.pipeline.frozen_plan import FrozenPlan
from monai_salm.pipeline.inventory import Inventory, file_digest
from monai_salm.pipeline.keys import check_secret
from monai_salm.pipeline.known_files import NOTHING_KNOWN, KnownFiles
from monai_salm.pipeline.labeling import find_labels
from monai_salm.pipeline.labels import LabelAssignment
from monai_salm.pipeline.options import SURROGATE_SUFFIX, ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.plan_changes import plan_changes, refused_now
from monai_salm.pipeline.release import Release
from monai_salm.pipeline.scanning import scan
from monai_salm.pipeline.searching import check_choices
from monai_salm.workers import IN_THIS_PROCESS, Workers

logger = logging.getLogger(__name__)

_ELSEWHERE = {
    "labels", "work_dir", "resume", "add", "workers", "scheduler", "copy_unprotected", "key_file", "device", "restore",
    "residuals",
}  # fmt: skip
"""Options that say where things lie, and how fast they are done, which does not change what is done."""


def prepare(
    source: Path,
    options: ProtectOptions,
    unpack_into: Path | None = None,
    *,
    release: Release | None = None,
    workers: Workers = IN_THIS_PROCESS,
    show_progress: bool = False,
) -> tuple[Inventory, Decision, LabelAssignment | None]:
    """Scan an input, find its labels and plan what will be done with every file; changes nothing.

    Args:
        source: the input.
        options: see :class:`~monai_salm.pipeline.options.ProtectOptions`.
        unpack_into: folder that a zip is unpacked into; None where the source is none.
        release: that the files are added to; None for a release of their own.
        workers: that read the images.
        show_progress: progress bars on standard error.

    Raises:
        UsageError: the options do not fit each other or the input.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import ProtectOptions
        >>> from monai_salm.pipeline import prepare
        >>> inventory, decision, labels = prepare(Path("EXPORT"), ProtectOptions(labels=Path("labels.csv")))
        >>> decision.plan.classes, len(inventory.files)
        (('healthy', 'ill'), 5)
    """
    check_choices(options)
    inventory, labels = _look(
        source, options, unpack_into, NOTHING_KNOWN, release, workers, show_progress=show_progress
    )
    wanted = Wanted(carriers=True, grid=options.working_size if options.needs_labels() else None)
    decision = decide(
        inventory, options.budget_options(), labels=labels, sample=options.sample, wanted=wanted,
        beside=Beside() if release is None else release.beside(), workers=workers, show_progress=show_progress,
    )  # fmt: skip
    plan = decision.plan
    if (
        release is not None and release.surrogate is None and not plan.classes
    ):  # of label maps: the values that they may hold
        plan = replace(plan, classes=release.frozen.plan.classes)
    maps = {
        sample.files[0].path: Path(sample.target)
        for sample in plan.samples
        if isinstance(sample.target, str) and sample.target not in plan.documents
    }
    return inventory, replace(decision, plan=replace(plan, settings=_settings(options, maps))), labels


def take_up(
    source: Path,
    options: ProtectOptions,
    path: Path,
    unpack_into: Path | None = None,
    *,
    release: Release | None = None,
    workers: Workers = IN_THIS_PROCESS,
    show_progress: bool = False,
) -> tuple[Inventory, Decision, LabelAssignment | None]:
    """Take up the plan that a run was begun with; reads no file that is as it was, and plans nothing again.

    Args:
        source, options, unpack_into, release, workers, show_progress: as of :func:`prepare`.
        path: of the plan.

    Raises:
        UsageError: files, labels or options are not those that the plan was made for; names what is different.
        SalmError: the plan is damaged, or the run's secret is lost.
    """
    begun = FrozenPlan.read(path)
    check_secret(begun.key, options, path.parent)
    inventory, labels = _look(source, options, unpack_into, begun.known, release, workers, show_progress=show_progress)
    kept = begun.plan.settings.get("contents") or {}
    maps = {
        name: Path(target)
        for name, target in (labels.targets if labels is not None else {}).items()
        if isinstance(target, str) and _content_of(name) in kept
    }
    changes = plan_changes(begun, inventory, labels, _settings(options, maps))
    if changes:
        raise _not_the_same(path, changes)
    return inventory, Decision(begun.plan), labels


def check_complete(path: Path, begun: ProtectionPlan, loaded: ProtectionPlan) -> None:
    """Find out whether loading the samples of a plan that was taken up refuses more of them than it did.

    Raises:
        UsageError: it does.
    """
    if loaded != begun:
        raise _not_the_same(path, [refused_now(set(loaded.refused) - set(begun.refused))])


def _not_the_same(path: Path, changes: list[str]) -> UsageError:
    return UsageError(
        f"{path}: the files, labels or options are not those that the run was begun with: {'; '.join(changes)}; give "
        "those again, or start anew with another OUTPUT"
    )


def _look(
    source: Path,
    options: ProtectOptions,
    unpack_into: Path | None,
    known: KnownFiles,
    release: Release | None,
    workers: Workers,
    *,
    show_progress: bool,
) -> tuple[Inventory, LabelAssignment | None]:
    """Scan the input and find its labels."""
    if options.labels is not None and not options.labels.exists():
        raise UsageError(
            f"{options.labels}: the label table cannot be read (no such file or folder); give a CSV file in "
            "UTF-8, or a folder of label maps"
        )
    if options.unused():
        logger.warning(
            "method %r makes its noise without labels, network or rounds: %s not used",
            options.method,
            ", ".join(options.unused()),
        )
    inventory = scan(
        source,
        unpack_into=unpack_into,
        choices=options.kind_choices(),
        known=known if release is None else known.beside(release.known),
        workers=workers,
        show_progress=show_progress,
    )
    if release is not None:
        inventory = release.arrivals(inventory)
        if not inventory.pictures:  # documents may come alone
            return inventory, None
    if not options.needs_labels():
        return inventory, None
    labels = find_labels(inventory, options, method=options.method)
    if not inventory.pictures:
        raise UsageError(
            f"{source}: none of its {len(inventory.files)} files can be protected; 'monai-salm scan' lists the reasons"
        )
    return inventory, labels


def _settings(options: ProtectOptions, maps: Mapping[str, Path]) -> dict[str, Any]:
    """Give all that the result depends on beside the input, as plain types; with the digests of what a run reads beside
    it, so that it does not go on with another surrogate or other label maps.

    Args:
        options: of the run.
        maps: path of a file -> its label map outside the input.
    """
    chosen = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(options).items()
        if name not in _ELSEWHERE
    }
    contents = {}
    for path, place in sorted(maps.items()):
        with suppress(OSError):  # the map is gone; its image is refused when the samples are read
            contents[_content_of(path)] = file_digest(place)
    if options.surrogate.endswith(SURROGATE_SUFFIX):
        contents["surrogate"] = file_digest(Path(options.surrogate))
    return chosen | {"version": version("monai_salm"), "contents": contents}


def _content_of(path: str) -> str:
    return f"label map of {path}"
