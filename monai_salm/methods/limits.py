# SPDX-License-Identifier: Apache-2.0
"""What becomes of the steps that a search proposes: whole steps within the budget, in the cells that the sparsity mask
leaves them, and perhaps balanced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.methods.balance import balanced
from monai_salm.methods.base import within_budget
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.sparsity import box_blur, local_contrast, sparsity_mask

LEAST_CONTRAST = 0.02
"""Local contrast, in model values, that is added to that of an image: below it a texture is seen as
well as anywhere.
"""


@dataclass(frozen=True)
class NoiseLimits:
    """Hold proposed steps, ``(batch, channels, *spatial)``, within what a run allows.

    Args:
        settings: of the search.
    """

    settings: MinMinSettings

    def tried(self, steps: Tensor, mask: Tensor, batch: WorkingBatch, samples: WorkingSet) -> Tensor:
        """Give the whole steps that a surrogate is to see inside the mask while they are still changed."""
        noise = self._decided(steps, batch.levels).round()
        if not self.settings.balance:
            return noise
        return self._balanced(noise * mask * (batch.voxels > 0), batch, samples)

    def final(self, steps: Tensor, mask: Tensor, batch: WorkingBatch, samples: WorkingSet) -> Tensor:
        """Give the noise in the whole steps that files will hold."""
        noise = within_budget(self._decided(steps, batch.levels), batch) * mask
        return self._balanced(noise, batch, samples) if self.settings.balance else noise

    def mask(self, score: Tensor, batch: WorkingBatch) -> Tensor:
        """Give where the noise may be, ``(batch, 1, *spatial)`` bool."""
        settings = self.settings
        voxels = batch.voxels
        if settings.mask_rule == "dense":
            return voxels > 0
        if settings.mask_blur > 1:
            score = box_blur(score, settings.mask_blur)
        if settings.texture_period and settings.mask_rule == "gradient":
            gray = batch.images.mean(1, keepdim=True)
            score = score / (local_contrast(gray, max(settings.mask_blur, 3)) + LEAST_CONTRAST)
        limits = (batch.limits.double() * settings.perturbed_fraction).floor().long()
        return sparsity_mask(score.flatten(1), voxels.flatten(1), limits).reshape(voxels.shape)

    def _balanced(self, noise: Tensor, batch: WorkingBatch, samples: WorkingSet) -> Tensor:
        planes = [samples.samples[index].planes for index in batch.indices]
        return balanced(noise, batch, planes, self.settings.balance)

    def _decided(self, steps: Tensor, levels: Tensor) -> Tensor:
        """Give steps, those beyond a third of the budget as the whole of it where the settings say so."""
        if not self.settings.full_strength:
            return steps
        return torch.where(steps.abs() * 3 >= levels, levels * steps.sign(), steps)
