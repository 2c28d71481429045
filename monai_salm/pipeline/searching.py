# SPDX-License-Identifier: Apache-2.0
"""The way to the rooms that know networks. They take seconds to load, so a run that needs none, or whose search is
finished, does not load them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from monai_salm.pipeline.deciding import Decision
from monai_salm.pipeline.drawing import draw_noise
from monai_salm.pipeline.foresight import as_written
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.search_record import EarlierSearch
from monai_salm.pipeline.search_summary import SearchSummary
from monai_salm.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from monai_salm.learning.ranks import Ranks
    from monai_salm.learning.samples import WorkingSet
    from monai_salm.methods.search_state import RoundLog


def check_choices(options: ProtectOptions) -> None:
    """Find out before anything is read whether device, method and surrogate are there and go together.

    Raises:
        UsageError: they do not; the message says what would.
    """
    if options.needs_labels():
        import_module("monai_salm.pipeline.preflight").check_choices(options)


def preflight(
    inventory: Inventory, decision: Decision, options: ProtectOptions, workers: Workers, *, show_progress: bool = False
) -> tuple[ProtectionPlan, WorkingSet | None]:
    """Find out whether a search of the samples' noise can be done; writes nothing.

    Args:
        inventory, decision, options: of the run.
        workers: that read the images.
        show_progress: progress bars on standard error.

    Returns:
        The complete plan, without the samples that cannot be used; and the others on their working grids, None for a
        method that draws its noise sample by sample.

    Raises:
        UsageError: samples, labels, method and surrogate do not fit each other.
    """
    if not options.needs_labels() or (options.add and not decision.plan.samples):
        return decision.plan.without(decision.unusable), None
    room = import_module("monai_salm.pipeline.preflight")
    found: tuple[ProtectionPlan, WorkingSet | None] = room.preflight(
        inventory, decision, options, workers, show_progress=show_progress
    )
    return found


def foresee(
    inventory: Inventory, decision: Decision, options: ProtectOptions, workers: Workers, *, show_progress: bool = False
) -> tuple[ProtectionPlan, WorkingSet | None]:
    """Find out what a run would refuse, also while it writes; nothing is written. Arguments and errors as of
    :func:`preflight`.

    Returns:
        As :func:`preflight`; the plan also lacks what would be refused while it is written.
    """
    plan, working = preflight(inventory, decision, options, workers, show_progress=show_progress)
    return as_written(inventory, plan, decision.bare), working


def make_noise(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    work_dir: Path,
    working: WorkingSet | None,
    earlier: EarlierSearch,
    workers: Workers,
    *,
    show_progress: bool = False,
    after_round: Callable[[RoundLog], None] | None = None,
    ranks: Ranks | None = None,
) -> SearchSummary:
    """Make the noise of all samples and put it into ``work_dir/noise``; a run that goes on takes what is there.

    Args:
        inventory: of the input.
        plan: of the samples that can be used.
        options: of the run.
        work_dir: its private folder.
        working: these samples; None for a method that makes its noise sample by sample.
        earlier: what is left of the search of a run that goes on.
        workers: that draw noise; a search uses none.
        show_progress: progress bars on standard error.
        after_round: told of each round of a search that goes on now.
        ranks: processes that share the search; None for one that is alone.
    """
    if earlier.record is not None and earlier.is_whole:
        return SearchSummary.from_json(earlier.record.summary)
    if working is None:
        return draw_noise(inventory, plan, options, work_dir, earlier, workers, show_progress=show_progress)
    found: SearchSummary = import_module("monai_salm.pipeline.search").make_noise(
        inventory,
        plan,
        options,
        work_dir,
        working,
        earlier,
        show_progress=show_progress,
        after_round=after_round,
        ranks=ranks,
    )
    return found
