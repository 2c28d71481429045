# SPDX-License-Identifier: Apache-2.0
"""What of a plan cannot be done after all, found out by looking at every image: where nothing can carry noise, and
which files would be alone. No network is needed for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from monai_salm.pipeline.deciding import Wanted, decide
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan
from monai_salm.pipeline.references import why_header_stays
from monai_salm.workers import IN_THIS_PROCESS, Workers


def as_written(inventory: Inventory, plan: ProtectionPlan, bare: Mapping[str, str]) -> ProtectionPlan:
    """Give a plan with what would be refused only while it is written.

    Args:
        inventory, plan: of the input.
        bare: slices that can carry no noise, with the reason.
    """
    plan = replace(plan, refused={**plan.refused, **bare})
    written = frozenset(plan.protected())
    alone = {path: why for path in plan.documents if (why := why_header_stays(inventory, path, written))}
    documents = {path: digest for path, digest in plan.documents.items() if path not in alone}
    return replace(plan, refused={**plan.refused, **alone}, documents=documents)


def forecast(
    inventory: Inventory, options: ProtectOptions, *, workers: Workers = IN_THIS_PROCESS, show_progress: bool = False
) -> dict[str, Any]:
    """Give what ``monai-salm scan --json`` prints: what would become of each file without any label; reads every
    image.

    Args:
        inventory: the files.
        options: how budgets are found; the method is one that needs no labels.
        workers: that read the images.
        show_progress: progress bars on standard error.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import ProtectOptions, scan
        >>> from monai_salm.pipeline import forecast
        >>> forecast(scan(Path("EXPORT")), ProtectOptions(method="random"))["counts"]
        {'protect': 4, 'copy': 1, 'refuse': 0, 'ignored': 0}
    """
    decision = decide(
        inventory, options.budget_options(), sample=options.sample, wanted=Wanted(carriers=True), workers=workers,
        show_progress=show_progress,
    )  # fmt: skip
    plan = as_written(inventory, decision.plan.without(decision.unusable), decision.bare)
    refused, result = plan.all_refused(), inventory.to_json()
    for file in result["files"]:
        if file["path"] in refused:
            file |= {"fate": "refuse", "reason": refused[file["path"]]}
    for fate in ("protect", "copy", "refuse"):
        result["counts"][fate] = sum(file["fate"] == fate for file in result["files"])
    return result
