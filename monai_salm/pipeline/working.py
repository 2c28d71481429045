# SPDX-License-Identifier: Apache-2.0
"""From the noise of a sample back to each of its files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.canvas import Canvas
from monai_salm.io import SourceImage
from monai_salm.noise import SparseNoise
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.plan import FilePlan, SamplePlan
from monai_salm.working_grid import axis_cells


def protected_values(
    source: SourceImage, canvas: Canvas, noise: SparseNoise, place: tuple[int, int] | None = None
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Give the stored values of one file with its part of a sample's noise, and the file's anatomy.

    Args:
        source: the file.
        canvas: its plan.
        noise: of the sample.
        place: (number of the slice, number of slices) of a series; None if the file is the whole sample.
    """
    steps = noise.dense()
    if place is not None:
        steps = steps[axis_cells(place[1], noise.shape[0])[place[0]]]
    anatomy = canvas.anatomy(source.stored)
    return canvas.add(source.stored, steps, noise.levels, canvas.carriers(source.stored, anatomy)), anatomy


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
