# SPDX-License-Identifier: Apache-2.0
"""Planned samples on their working grids, and what the noise store keeps of their files beside the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.label_values import native_shape, working_label_map
from monai_salm.pipeline.plan import FilePlan, SamplePlan
from monai_salm.working_samples import WorkingMaps, WorkingSample, common_levels, planes_of


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


def assembled_sample(
    inventory: Inventory, sample: SamplePlan, maps: WorkingMaps, label_values: Mapping[int, int] | None
) -> WorkingSample:
    """Give a sample with its budget, its target and its geometry; errors as of
    :func:`~monai_salm.pipeline.label_values.working_label_map`.
    """
    native, shape = native_shape(sample, inventory), maps.carrier_voxels.shape
    views = [file.view for file in sample.files]
    levels, step_model = common_levels(views)
    target: int | NDArray[np.float32] | NDArray[np.uint8] | None
    if isinstance(sample.target, str):
        target = working_label_map(inventory, sample, sample.target, shape, label_values)
    elif isinstance(sample.target, tuple):
        target = np.array(sample.target, dtype=np.float32)
    else:
        target = sample.target
    return WorkingSample(
        sample_id=sample.sample_id, levels=levels, step_model=step_model, target=target,
        spacing=_cell_spacing(views[0].spacing, native, shape),
        planes=planes_of(
            views[0], native, shape,
            spacing_known=all(inventory.pictures[file.path].spacing_known for file in sample.files),
        ), **vars(maps),
    )  # fmt: skip


def _cell_spacing(spacing: tuple[float, ...], native: tuple[int, ...], shape: tuple[int, ...]) -> tuple[float, ...]:
    """Give the millimeters between working cells; empty where the file does not say them for every axis."""
    if len(spacing) != len(native):
        return ()
    return tuple(millimeters * n / m for millimeters, n, m in zip(spacing, native, shape, strict=True))
