# SPDX-License-Identifier: Apache-2.0
"""The lattice inside labeled structures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_salm.errors import UsageError
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, SegmentationTask
from monai_salm.methods.base import MethodRun
from monai_salm.methods.lattice import LabelLattice, lattice
from tests.builders import cube_set, disk_set, working_sample


def _noise(samples: WorkingSet, **changes: Any) -> dict[str, np.ndarray]:
    run = MethodRun(seed=0, device=torch.device("cpu"), build_surrogate=torch.nn.Module, **changes)
    return dict(LabelLattice().noise(samples, SegmentationTask(2), run))


def test_every_cell_of_the_structures_differs_from_its_neighbors() -> None:
    samples = cube_set(3)
    for sample in samples.samples:
        steps = _noise(samples)[sample.sample_id]
        inside = (np.asarray(sample.target) > 0) & (sample.carrier_voxels > 0)
        assert (np.abs(steps) == sample.levels * inside).all()
        for axis in range(3):
            before, after = np.delete(steps, -1, axis), np.delete(steps, 0, axis)
            both = (before != 0) & (after != 0)
            assert both.any()
            assert (before[both] == -after[both]).all()


def test_thick_axes_are_left_out() -> None:
    signs = lattice(working_sample("a", np.zeros((4, 6, 5)), spacing=(5.0, 1.0, 1.5)))
    assert (signs == signs[:1]).all()
    assert (signs[:, 1:] == -signs[:, :-1]).all()
    assert (signs[:, :, 1:] == -signs[:, :, :-1]).all()


@pytest.mark.parametrize("fraction", [0.01, 0.03, 1.0])
def test_no_more_changes_than_may(fraction: float) -> None:
    samples = cube_set(3)
    for sample in samples.samples:
        steps = _noise(samples, perturbed_fraction=fraction)[sample.sample_id]
        changed = int(sample.carrier_voxels[steps != 0].sum())
        structures = int(sample.carrier_voxels[np.asarray(sample.target) > 0].sum())
        limit = min(structures, int(fraction * sample.anatomy_voxels))
        assert limit - 2 < changed <= limit  # a cell of the last row is two voxels


def test_a_sample_does_not_depend_on_others() -> None:
    samples = cube_set(3)
    alone = _noise(WorkingSet(samples.samples[1:2]), perturbed_fraction=0.02)
    assert (alone["volume-1"] == _noise(samples, perturbed_fraction=0.02)["volume-1"]).all()


def test_classes_have_no_structures() -> None:
    run = MethodRun(seed=0, device=torch.device("cpu"), build_surrogate=torch.nn.Module)
    with pytest.raises(UsageError, match="no label maps, inside which a lattice is put; give --task segmentation"):
        dict(LabelLattice().noise(disk_set(4), ClassificationTask(2), run))
