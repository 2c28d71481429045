# SPDX-License-Identifier: Apache-2.0
"""What a run would find out only while it searches, found out before anything is written; a dry run and a scan promise
no more than it keeps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monai_salm.errors import UsageError
from monai_salm.learning.checks import pick_device
from monai_salm.learning.networks import build_network
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.surrogate import SURROGATE_SUFFIX, load_surrogate
from monai_salm.methods.names import check_method
from monai_salm.methods.registry import find_method
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.loading import Unusable, bare_slices, load_set, read_samples
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan, build_plan
from monai_salm.pipeline.references import why_header_stays
from monai_salm.pipeline.search import check_fit
from monai_salm.progress import track


def check_choices(options: ProtectOptions) -> None:
    """Find out before anything is read whether the device is there, and whether the surrogate is known and of use to
    the method.

    Raises:
        UsageError: it is not; the message says what is.
    """
    method, name = find_method(options.method, options.task), options.surrogate
    method.check(perturbed_fraction=options.perturbed_fraction, rounds=options.rounds)
    if not options.needs_labels():
        return
    pick_device(options.device)
    if name.endswith(SURROGATE_SUFFIX):
        if not method.takes_surrogate:
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
    inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, *, show_progress: bool = False
) -> tuple[ProtectionPlan, WorkingSet | None]:
    """Read all samples of a plan, and find out whether a search of their noise can be done; writes nothing.

    Args:
        inventory, plan: of the input.
        options: of the run.
        show_progress: progress bars on standard error.

    Returns:
        The complete plan, without the samples that cannot be used; and the others on their working grids, None for a
        method that draws its noise sample by sample.

    Raises:
        UsageError: samples, labels, method and surrogate do not fit each other.
    """
    if not options.needs_labels():
        refused: dict[str, str] = {}
        for found in read_samples(inventory, plan.samples, options.working_size, show_progress=show_progress):
            if isinstance(found, Unusable):
                refused |= found.refused
        return plan.without(refused), None
    loaded = load_set(inventory, plan, options, show_progress=show_progress)
    check_method(options.method, options.task, loaded.working.spatial_dims)
    check_fit(loaded.working, loaded.plan, options)
    return loaded.plan, loaded.working


def foresee(
    inventory: Inventory, plan: ProtectionPlan, options: ProtectOptions, *, show_progress: bool = False
) -> tuple[ProtectionPlan, WorkingSet | None]:
    """Find out what a run would refuse, also while it writes, by reading every sample as the run does; nothing is
    written.

    Returns:
        As :func:`preflight`; the plan also lacks what would be refused while it is written.

    Raises:
        UsageError: as :func:`preflight`.
    """
    plan, working = preflight(inventory, plan, options, show_progress=show_progress)
    bare: dict[str, str] = {}
    volumes = [sample for sample in plan.samples if len(sample.files) > 1]
    for sample in track(volumes, "checking slices", "series", total=len(volumes), show_progress=show_progress):
        bare |= bare_slices(inventory, sample)
    plan = replace(plan, refused={**plan.refused, **bare})
    written = frozenset(plan.protected())
    alone = {path: why for path in plan.documents if (why := why_header_stays(inventory, path, written))}
    documents = {path: digest for path, digest in plan.documents.items() if path not in alone}
    return replace(plan, refused={**plan.refused, **alone}, documents=documents), working


def forecast(inventory: Inventory, options: ProtectOptions, *, show_progress: bool = False) -> dict[str, Any]:
    """Give what ``monai-salm scan --json`` prints: what would become of each file without any label; reads every
    picture.

    Args:
        inventory: the files.
        options: how budgets are found; the method is one that needs no labels.
        show_progress: progress bars on standard error.
    """
    plan = build_plan(inventory, options.budget_options(), sample=options.sample, show_progress=show_progress)
    plan, _ = foresee(inventory, plan, options, show_progress=show_progress)
    refused, result = plan.all_refused(), inventory.to_json()
    for file in result["files"]:
        if file["path"] in refused:
            file |= {"fate": "refuse", "reason": refused[file["path"]]}
    for fate in ("protect", "copy", "refuse"):
        result["counts"][fate] = sum(file["fate"] == fate for file in result["files"])
    return result
