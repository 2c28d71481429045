# SPDX-License-Identifier: Apache-2.0
"""A lattice inside the labeled structures: every cell in turn up and down, at full budget.

A flip or an odd shift turns its signs, so that its energy is left, which the content of medical images has next to
none of at this frequency. It is meant for networks with a path of full resolution (SegResNet, DynUNet, SwinUNETR);
those that see a volume through a strided first convolution, or after an interpolation, cannot see it. What it does to
the first is not measured in the benchmarks yet. It follows the label map, which whoever filters the files can see.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from monai_salm.errors import UsageError
from monai_salm.learning.chance import sample_generator
from monai_salm.learning.samples import WorkingSample, WorkingSet
from monai_salm.learning.targets import TargetKind
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod, task_needed
from monai_salm.methods.sparsity import sparsity_mask

THICK = 2.0
"""An axis whose cells are more than so many times as long as the shortest is left out: its neighbors are no lattice to
a network that works in planes.
"""


@dataclass(frozen=True)
class LabelLattice(NoiseMethod):
    """Plus and minus the budget in turn inside the labeled structures, on the working grid; where these are more than
    the share that may change, chance takes cells of them.
    """

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        task_needed(task, samples)
        if samples.target_kind is not TargetKind.LABEL_MAP:
            raise UsageError("the samples have no label maps, inside which a lattice is put; give --task segmentation")
        for sample in samples.samples:
            inside = np.where(np.asarray(sample.target) > 0, sample.carrier_voxels, 0)
            rank = sample_generator(run.seed, sample.sample_id, 0, "lattice").random(inside.shape, np.float32)
            limit = int(np.floor(sample.anatomy_voxels * run.perturbed_fraction))
            chosen = sparsity_mask(
                torch.from_numpy(rank + np.float32(1e-6)).reshape(1, -1),
                torch.from_numpy(inside.astype(np.int64)).reshape(1, -1), torch.tensor([limit]),
            )  # fmt: skip
            steps = lattice(sample) * sample.levels * chosen.reshape(inside.shape).numpy()
            yield sample.sample_id, steps.astype(np.int16)


@dataclass(frozen=True)
class LatticeAndSearch(NoiseMethod):
    """A lattice inside the labeled structures, for networks with a path of full resolution, and searched noise around
    and between it, for those that have none; together within the share that may change.

    A frozen surrogate would know of the search alone, so none is left behind.

    Args:
        search: makes the rest of the noise; it may change what the lattice leaves of the budget.
        share: of the budget that the lattice takes inside the structures.
    """

    search: NoiseMethod
    share: float = 0.5

    def noise(self, samples: WorkingSet, task: LearningTask | None, run: MethodRun) -> Noise:
        """Give the noise; see :meth:`~monai_salm.methods.base.NoiseMethod.noise`."""
        signs = {name: np.sign(steps) for name, steps in LabelLattice().noise(samples, task, run)}
        parts = [
            _left_over(sample, signs[sample.sample_id] != 0, self.share, run.perturbed_fraction)
            for sample in samples.samples
        ]
        levels = {sample.sample_id: sample.levels for sample in samples.samples}
        rest = WorkingSet(parts, samples.padded_shape if samples.fixed else None)
        for name, steps in self.search.noise(rest, task, run):
            inside = signs[name] * levels[name] * self.share + steps * (1 - self.share)
            total = np.where(signs[name] != 0, inside + signs[name] * 1e-6, steps)  # halves go with the lattice
            yield name, np.rint(total).astype(np.int16)
        run.surrogate = None


def _left_over(
    sample: WorkingSample, inside: NDArray[np.bool_], share: float, perturbed_fraction: float
) -> WorkingSample:
    """Give a sample with the carriers that a lattice leaves for other noise."""
    left = np.where(inside, 1 - share, 1).astype(np.float32)
    anatomy = sample.anatomy_voxels - int(np.ceil(sample.carrier_voxels[inside].sum() / perturbed_fraction))
    return replace(
        sample, carrier_share=sample.carrier_share * left, carrier_voxels=np.where(left > 0, sample.carrier_voxels, 0),
        anatomy_voxels=max(0, anatomy),
    )  # fmt: skip


def lattice(sample: WorkingSample) -> NDArray[np.int64]:
    """Give a sign for each cell that differs from those of its neighbors along all axes that are not thick."""
    shape, spacing = sample.shape, sample.spacing
    fine = [
        axis for axis in range(len(shape)) if not spacing or spacing[axis] <= THICK * min(spacing)
    ]  # the axes are those of the file's spacing
    places = np.indices(shape, sparse=True)
    total = sum((places[axis] for axis in fine), start=np.zeros(shape, np.int64))
    return np.asarray(1 - 2 * (total % 2))
