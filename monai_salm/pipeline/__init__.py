# SPDX-License-Identifier: Apache-2.0
"""From a folder of images to a folder of protected ones: scan, plan, search, write, verify."""

from __future__ import annotations

from monai_salm.pipeline.choices import KindChoices
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.options import ProtectOptions
from monai_salm.pipeline.plan import ProtectionPlan, build_plan
from monai_salm.pipeline.planning import prepare
from monai_salm.pipeline.preflight import forecast
from monai_salm.pipeline.protect import ProtectionRun, ProtectResult, protect
from monai_salm.pipeline.scanning import scan
from monai_salm.pipeline.verdicts import VerifyReport
from monai_salm.pipeline.verify import verify

__all__ = [
    "Inventory",
    "KindChoices",
    "ProtectOptions",
    "ProtectResult",
    "ProtectionPlan",
    "ProtectionRun",
    "VerifyReport",
    "build_plan",
    "forecast",
    "prepare",
    "protect",
    "scan",
    "verify",
]
