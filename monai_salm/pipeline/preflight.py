# SPDX-License-Identifier: Apache-2.0
"""What a run would find out only while it searches, found out before anything is written; a dry run and a scan promise
no more than it keeps.
"""

from __future__ import annotations

from typing import Any

from monai_salm.errors import UsageError
from monai_salm.learning.networks import build_network
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.surrogate import load_surrogate
from monai_salm.methods.base import Baseline
from monai_salm.methods.registry import check_method
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan, build_plan
from monai_salm.pipeline.references import why_header_stays
from monai_salm.pipeline.search import SURROGATE_SUFFIX, check_fit, load_set, load_working_samples, pick_device


def check_choices(options: ProtectOptions) -> None:
    """Find out before anything is read whether the device is there, and whether the surrogate is known and of use to
    the method.

    Raises:
        UsageError: it is not; the message says what is.
    """
    search, name = options.noise_method().search, options.surrogate
    if search is None:
        return
    pick_device(options.device)
    if name.endswith(SURROGATE_SUFFIX):
        if isinstance(search, Baseline):
            raise UsageError(
                f"method {options.method!r} trains a surrogate of its own; give a network's name instead of {name}"
            )
        load_surrogate(name)
    elif name:
        try:
            build_network(name, spatial_dims=2, outputs=2, image_shape=(32, 32))
        except UsageError:
            build_network(name, spatial_dims=3, outputs=2, image_shape=(32, 32, 32))  # the samples decide which


def preflight(
    inventory: Inventory,
    plan: ProtectionPlan,
    options: ProtectOptions,
    bare: dict[str, str] | None = None,
    *,
    show_progress: bool = False,
) -> WorkingSet | None:
    """Read all samples that a search needs, and find out whether it can be done; changes nothing but the plan.

    Args:
        inventory, plan: of the input; samples that cannot be used move to the plan's refused files.
        options: of the run.
        bare: takes the files of a series in which nothing can carry noise, with the reason; None if nobody asks.
        show_progress: progress bars on standard error.

    Returns:
        The samples; None for a method that draws its noise sample by sample.

    Raises:
        UsageError: samples, labels, method and surrogate do not fit each other.
    """
    if not options.needs_labels():
        return None
    working = load_set(inventory, plan, options, bare, show_progress=show_progress)
    check_method(options.method, options.task, working.spatial_dims)
    check_fit(working, plan, options)
    return working


def foresee(
    inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, *, show_progress: bool = False
) -> WorkingSet | None:
    """Move to the plan's refused files what a run would refuse, by reading every sample as the run does; nothing is
    written.

    Returns:
        As :func:`preflight`.

    Raises:
        UsageError: as :func:`preflight`.
    """
    bare: dict[str, str] = {}
    working = preflight(inventory, plan, options, bare, show_progress=show_progress)
    if working is None:
        for _ in load_working_samples(inventory, plan, options.working_size, bare=bare, show_progress=show_progress):
            pass
    plan.refused.update(bare)
    written = frozenset(plan.protected())
    for path in list(plan.documents):
        alone = why_header_stays(inventory, path, written)
        if alone:
            plan.refused[path] = alone
            del plan.documents[path]
    return working


def forecast(inventory: Inventory, options: ProtectOptions, *, show_progress: bool = False) -> dict[str, Any]:
    """Give what ``monai-salm scan --json`` prints: what would become of each file without any label; reads every
    picture.

    Args:
        inventory: the files.
        options: how budgets are found; the method is one that needs no labels.
        show_progress: progress bars on standard error.
    """
    plan = build_plan(inventory, options.budget_options(), sample=options.sample, show_progress=show_progress)
    foresee(inventory, plan, options, show_progress=show_progress)
    refused, result = plan.all_refused(), inventory.to_json()
    for file in result["files"]:
        if file["path"] in refused:
            file |= {"fate": "refuse", "reason": refused[file["path"]]}
    for fate in ("protect", "copy", "refuse"):
        result["counts"][fate] = sum(file["fate"] == fate for file in result["files"])
    return result
