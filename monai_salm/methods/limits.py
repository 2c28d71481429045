# SPDX-License-Identifier: Apache-2.0
"""What becomes of the steps that a search proposes: whole steps within the budget, in the cells that the sparsity mask
leaves them, and perhaps balanced.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.methods.balance import balanced, planes_of, without_means
from monai_salm.methods.base import within_budget
from monai_salm.methods.minmin_settings import MinMinSettings
from monai_salm.methods.sparsity import block_means, box_blur, local_contrast, sparsity_mask

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

    def tried(self, steps: Tensor, batch: WorkingBatch) -> Tensor:
        """Give the whole steps that a surrogate is to see while they are still changed: without the balance, which
        would take longer than the steps of a round do.
        """
        return self._decided(steps, batch.levels).round()

    def direction(self, gradient: Tensor, batch: WorkingBatch, samples: WorkingSet) -> Tensor:
        """Give a gradient whose signs a step follows: averaged over blocks, and without what the balance would take
        back, as the settings say.
        """
        gradient = block_means(gradient, self.settings.block)
        return without_means(gradient, planes_of(samples, batch)) if self.settings.balance else gradient

    def masked(self, steps: Tensor, mask: Tensor, batch: WorkingBatch) -> Tensor:
        """Give whole steps within the budget and the mask, not balanced."""
        return within_budget(self._decided(steps, batch.levels), batch) * mask

    def final(self, steps: Tensor, mask: Tensor, batch: WorkingBatch, samples: WorkingSet) -> Tensor:
        """Give the noise in the whole steps that files will hold."""
        noise = self.masked(steps, mask, batch)
        if not self.settings.balance:
            return noise
        return balanced(noise, batch, planes_of(samples, batch), self.settings.balance)

    def mask(self, score: Tensor, batch: WorkingBatch) -> Tensor:
        """Give where the noise may be, ``(batch, 1, *spatial)`` bool."""
        settings = self.settings
        voxels = batch.voxels
        if settings.mask_rule == "dense":
            return voxels > 0
        if settings.mask_blur > 1:
            score = box_blur(score, settings.mask_blur)
        score = block_means(score, settings.block)
        if settings.texture_period and settings.mask_rule == "gradient":
            gray = batch.images.mean(1, keepdim=True)
            score = score / (local_contrast(gray, max(settings.mask_blur, 3)) + LEAST_CONTRAST)
        limits = (batch.limits.double() * settings.perturbed_fraction).floor().long()
        return sparsity_mask(score.flatten(1), voxels.flatten(1), limits).reshape(voxels.shape)

    def _decided(self, steps: Tensor, levels: Tensor) -> Tensor:
        """Give steps, those beyond a third of the budget as the whole of it where the settings say so."""
        if not self.settings.full_strength:
            return steps
        return torch.where(steps.abs() * 3 >= levels, levels * steps.sign(), steps)
