# SPDX-License-Identifier: Apache-2.0
"""From a folder of images to a folder of protected ones: scan, plan, search, write, verify.

The names below are loaded when they are first used (PEP 562): who scans and who verifies needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_salm.pipeline.by_header import first_look
    from monai_salm.pipeline.choices import KindChoices
    from monai_salm.pipeline.deciding import build_plan
    from monai_salm.pipeline.foresight import forecast
    from monai_salm.pipeline.inventory import Inventory
    from monai_salm.pipeline.options import ProtectOptions
    from monai_salm.pipeline.plan import ProtectionPlan
    from monai_salm.pipeline.planned_run import plan_run
    from monai_salm.pipeline.planning import prepare
    from monai_salm.pipeline.protect_result import ProtectResult
    from monai_salm.pipeline.protection import ProtectionRun, protect
    from monai_salm.pipeline.rekeying import rekey
    from monai_salm.pipeline.restoring import RestoreResult, restore
    from monai_salm.pipeline.scanning import scan
    from monai_salm.pipeline.verdicts import VerifyReport
    from monai_salm.pipeline.verification import verify

_HOMES = {
    "Inventory": "inventory",
    "KindChoices": "choices",
    "ProtectOptions": "options",
    "ProtectResult": "protect_result",
    "ProtectionPlan": "plan",
    "ProtectionRun": "protection",
    "RestoreResult": "restoring",
    "VerifyReport": "verdicts",
    "build_plan": "deciding",
    "first_look": "by_header",
    "forecast": "foresight",
    "plan_run": "planned_run",
    "prepare": "planning",
    "protect": "protection",
    "rekey": "rekeying",
    "restore": "restoring",
    "scan": "scanning",
    "verify": "verification",
}

__all__ = [
    "Inventory",
    "KindChoices",
    "ProtectOptions",
    "ProtectResult",
    "ProtectionPlan",
    "ProtectionRun",
    "RestoreResult",
    "VerifyReport",
    "build_plan",
    "first_look",
    "forecast",
    "plan_run",
    "prepare",
    "protect",
    "rekey",
    "restore",
    "scan",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
