# SPDX-License-Identifier: Apache-2.0
"""A lattice inside the labeled structures: every cell in turn up and down, at full budget.

A flip or an odd shift turns its signs, so that its energy is left, which the content of medical images has next to none
of at this frequency. A network with a path of full resolution (a small SegResNet) learned it in a hundred steps at 8 of
255 and looked for nothing else, and did not use it at 4; networks that see a volume through a strided first convolution
(MONAI's ``UNet``) do not use it at all. Whatever interpolates removes it. It follows the label map, which whoever
filters the files can see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from monai_salm.chance import sample_generator
from monai_salm.errors import UsageError
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.targets import TargetKind
from monai_salm.learning.tasks import LearningTask
from monai_salm.methods.base import MethodRun, Noise, NoiseMethod, task_needed
from monai_salm.methods.sparsity import sparsity_mask
from monai_salm.working_samples import WorkingSample

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


def lattice(sample: WorkingSample) -> NDArray[np.int64]:
    """Give a sign for each cell that differs from those of its neighbors along all axes that are not thick."""
    shape, spacing = sample.shape, sample.spacing
    fine = [
        axis for axis in range(len(shape)) if not spacing or spacing[axis] <= THICK * min(spacing)
    ]  # the axes are those of the file's spacing
    places = np.indices(shape, sparse=True)
    total = sum((places[axis] for axis in fine), start=np.zeros(shape, np.int64))
    return np.asarray(1 - 2 * (total % 2))
