# SPDX-License-Identifier: Apache-2.0
"""Planning as a stage of its own: a plan that can be read, kept and carried out later, with what it will take."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_salm.dicomweb import ArchivePlace, place_of
from monai_salm.dicomweb.fetching import is_begun
from monai_salm.disk import holds_files
from monai_salm.errors import UsageError
from monai_salm.pipeline.archive_ends import OF_ARCHIVES
from monai_salm.pipeline.effort import Effort
from monai_salm.pipeline.frozen_plan import PLAN_FILE, plan_head
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.protection import ProtectionRun
from monai_salm.pipeline.volume_decisions import decided_of_volumes


@dataclass(frozen=True)
class PlannedRun:
    """A plan in a work folder.

    Args:
        path: of its file.
        plan: the decisions.
        inventory: what they are about.
        labels: what is known of these, as plain types; None for a method without labels.
        effort: what it will take.
    """

    path: Path
    plan: ProtectionPlan
    inventory: Inventory
    labels: Mapping[str, Any] | None
    effort: Effort

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm plan --json`` prints."""
        preview = self.plan.preview() | {"ignored": self.inventory.ignored}
        return {
            **preview, "input": str(self.inventory.root), "plan": str(self.path), "labels": self.labels,
            "volumes": list(decided_of_volumes(self.inventory, self.plan)), "effort": vars(self.effort),
        }  # fmt: skip


def plan_run(
    source: Path | ArchivePlace, work_dir: Path, options: ProtectOptions, *, show_progress: bool = False
) -> PlannedRun:
    """Plan what will be done with every file of an input, and freeze that in a private work folder.

    Args:
        source: as of :class:`~monai_salm.pipeline.protection.ProtectionRun`.
        work_dir: made here; it must be empty, but for what was begun to be fetched from an archive.
        options: of the run, which are frozen too.
        show_progress: progress bars on standard error.

    Raises:
        UsageError: the options do not fit each other, the input or the folder.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import ProtectOptions
        >>> from monai_salm.pipeline import plan_run
        >>> planned = plan_run(Path("EXPORT"), Path("PLAN"), ProtectOptions(method="random"))
        >>> planned.path.name, len(planned.plan.samples)
        ('plan.jsonl', 4)
    """
    begun = is_begun(work_dir / OF_ARCHIVES) and not (work_dir / PLAN_FILE).exists()
    if holds_files(work_dir) and not begun:
        raise UsageError(f"the work folder {work_dir} is not empty; give another one for a new plan")
    run = ProtectionRun(
        source, work_dir / "output", replace(options, work_dir=work_dir, resume=begun), show_progress=show_progress
    )
    with run:
        inventory, plan = run.prepare()
        shutil.rmtree(work_dir / "input", ignore_errors=True)  # of a zip, which is unpacked again
    return PlannedRun(work_dir / PLAN_FILE, plan, inventory, run.labels, run.effort)


def planned_options(plan: Path, *, workers: int = 0, scheduler: str = "") -> tuple[Path | ArchivePlace, ProtectOptions]:
    """Give the input of a plan and the options that carry it out.

    Args:
        plan: its file, or the work folder that it lies in.
        workers: processes that read and write files.
        scheduler: address of a Dask scheduler, whose workers do it instead.

    Raises:
        UsageError: it is that of another version.
        SalmError: it cannot be read, or is damaged.
    """
    path = plan / PLAN_FILE if plan.is_dir() else plan
    head = plan_head(path)
    options = ProtectOptions.from_json(
        head["options"], workers=workers, scheduler=scheduler, work_dir=path.parent, resume=True
    )
    return place_of(head["input"]), options
