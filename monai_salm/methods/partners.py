# SPDX-License-Identifier: Apache-2.0
"""Whose image lies under the noise of a sample while networks look at it: its own, or another's, which cannot help a
network to name the label, so that the noise has to carry it alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_salm.learning.chance import SampleDraws
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingBatch


@dataclass(frozen=True)
class Partners:
    """Whose image each sample has under its noise in each turn of a round.

    Args:
        resident: the samples.
        share: of those whose images are exchanged.
        draws: two numbers for each sample and turn: whose image, and whether; None where each keeps its own.
    """

    resident: ResidentSet
    share: float
    draws: SampleDraws | None

    def contents(self, batch: WorkingBatch, turn: int) -> Tensor:
        """Give what lies under the noise of a batch, ``(batch, 1, *spatial)``."""
        if self.draws is None:
            return batch.images
        count = len(self.resident.samples)
        other, exchanged = self.draws.at(batch.place, turn).unbind(dim=1)
        numbers = (other.double() * count).long().clamp(max=count - 1)
        chosen = torch.where(exchanged < self.share, numbers, batch.place.index)
        return self.resident.contents(batch.place, chosen)
