# SPDX-License-Identifier: Apache-2.0
"""What the noise store keeps of the files of a sample, beside its noise."""

from __future__ import annotations

from typing import Any

from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.plan import FilePlan, SamplePlan


def noise_record(inventory: Inventory, sample: SamplePlan) -> dict[str, Any]:
    """Give what the noise store keeps beside a sample's noise, so that a pipeline can apply it without the plan."""

    def entry(file: FilePlan) -> dict[str, Any]:
        header = inventory.pictures[file.path]
        return {
            "fingerprint": file.fingerprint,
            "shape": list(header.shape),
            "dtype": header.dtype.name,
            "canvas": file.canvas.to_json(),
        }

    return {"files": [entry(file) for file in sample.files]}
