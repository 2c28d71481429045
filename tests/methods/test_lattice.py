# SPDX-License-Identifier: Apache-2.0
"""The lattice inside labeled structures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from monai_salm.errors import UsageError
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.tasks import ClassificationTask, LearningTask, SegmentationTask
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod
from monai_salm.methods.lattice import LabelLattice, LatticeAndSearch, lattice
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


@dataclass(frozen=True)
class _Everywhere(NoiseMethod):
    """The whole budget up in as many cells as may change, and notes what it was given."""

    seen: list[WorkingSet] = field(default_factory=list)

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        self.seen.append(samples)
        for sample in samples.samples:
            order = sample.carrier_voxels.ravel().cumsum() <= int(sample.anatomy_voxels * run.perturbed_fraction)
            chosen = order.reshape(sample.image_model.shape) & (sample.carrier_voxels > 0)
            yield sample.sample_id, (sample.levels * chosen).astype(np.int16)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("fraction", [0.03, 0.4, 1.0])
def test_a_search_gets_what_the_lattice_leaves(share: float, fraction: float) -> None:
    samples, search = cube_set(3), _Everywhere()
    run = MethodRun(seed=0, device=torch.device("cpu"), build_surrogate=torch.nn.Module, perturbed_fraction=fraction)
    found = dict(LatticeAndSearch(search, share).noise(samples, SegmentationTask(2), run))
    alone = _noise(samples, perturbed_fraction=fraction)
    for sample, rest in zip(samples.samples, search.seen[0].samples, strict=True):
        steps, inside = found[sample.sample_id], alone[sample.sample_id] != 0
        assert np.abs(steps).max() <= sample.levels
        assert int(sample.carrier_voxels[steps != 0].sum()) <= fraction * sample.anatomy_voxels
        searched = dict(search.noise(WorkingSet([rest]), None, run))[sample.sample_id]
        assert (steps[~inside] == searched[~inside]).all()
        assert (steps[inside] == (alone[sample.sample_id] * share + searched * (1 - share))[inside]).all()
        seen = sample.protected(np.where(inside, alone[sample.sample_id] * share, 0)).image_model
        both = replace(rest, image_model=seen).protected(searched).image_model
        assert np.allclose(both, sample.protected(steps).image_model), "the search saw what it does"
    assert (fraction < 0.4) or any((steps != alone[name]).any() for name, steps in found.items())


def test_classes_have_no_structures() -> None:
    run = MethodRun(seed=0, device=torch.device("cpu"), build_surrogate=torch.nn.Module)
    with pytest.raises(UsageError, match="no label maps, inside which a lattice is put; give --task segmentation"):
        dict(LabelLattice().noise(disk_set(4), ClassificationTask(2), run))
