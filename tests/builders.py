# SPDX-License-Identifier: Apache-2.0
"""Small samples and budgets that several tests use."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.budget import FileBudget
from monai_salm.learning.samples import WorkingSet
from monai_salm.working_samples import WorkingSample

NOWHERE = 1e9
"""Center of a background of which only the exact value counts."""


def file_budget(**changes: Any) -> FileBudget:
    """Give the budget of a CT slice of whole HU, at most 12 HU, with some entries of its record changed."""
    record: dict[str, Any] = {
        "modality": "CT",
        "window_low": -160.0,
        "window_high": 240.0,
        "epsilon_real": 12.0,
        "slope": 1.0,
        "intercept": -1024.0,
        "range_stored": (1.0, 4094.0),
        "padding_stored": None,
        "background_stored": None,
        "quantum_stored": 1.0,
        "steps": 12,
        "background_real": None if changes.get("background_stored") is None else NOWHERE,
        "background_spread_real": 0.0,
    }
    return FileBudget.from_json(record | changes)


def working_sample(sample_id: str, image: NDArray[Any], target: Any = None, **changes: Any) -> WorkingSample:
    """Give a sample of 8 levels of 1/255 each, whose voxels all carry noise."""
    fields: dict[str, Any] = {
        "carrier_voxels": np.ones(image.shape, dtype=np.int64),
        "carrier_share": np.ones(image.shape, dtype=np.float32),
        "anatomy_voxels": image.size,
        "levels": 8,
        "step_model": 1 / 255,
    }
    return WorkingSample(sample_id=sample_id, image_model=image.astype(np.float32), target=target, **(fields | changes))


def _carriers(image: NDArray[Any]) -> dict[str, Any]:
    """Leave the first row and column without carriers; the cells of the last row stand for two voxels each."""
    voxels = np.ones(image.shape, dtype=np.int64)
    voxels[-1] = 2
    voxels[0] = 0
    voxels[:, 0] = 0
    return {
        "carrier_voxels": voxels,
        "carrier_share": (voxels > 0).astype(np.float32),
        "anatomy_voxels": int(voxels.sum()) + 10,
    }


def disk_set(count: int = 24, size: int = 16, *, contrast: float = 0.25, multi_label: bool = False) -> WorkingSet:
    """Give pictures of noise, every second one with a bright disk: that is the label. Without contrast there is nothing
    to learn but noise.
    """
    generator = np.random.default_rng(0)
    rows, columns = np.ogrid[:size, :size]
    disk = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < (size / 5) ** 2
    samples = []
    for index in range(count):
        image = generator.uniform(0.3, 0.6, (size, size)) + contrast * disk * (index % 2)
        target: Any = np.array([index % 2, index // 2 % 2], dtype=np.float32) if multi_label else index % 2
        samples.append(working_sample(f"picture-{index:02d}", image, target, **_carriers(image)))
    return WorkingSet(samples)


def cube_set(count: int = 4, size: int = 8, *, contrast: float = 0.3) -> WorkingSet:
    """Give volumes of noise with a bright cube in one of several places, which is to be segmented. Without contrast
    nobody can.
    """
    generator = np.random.default_rng(1)
    samples = []
    for index in range(count):
        labels = np.zeros((size, size, size), dtype=np.uint8)
        start = 2 + index % 3
        labels[start : start + 3, 2:5, 3:6] = 1
        image = generator.uniform(0.3, 0.5, labels.shape) + contrast * labels
        samples.append(working_sample(f"volume-{index}", image, labels, **_carriers(image)))
    return WorkingSet(samples)
