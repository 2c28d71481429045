# SPDX-License-Identifier: Apache-2.0
"""Which way noise has to go for the members of a surrogate to say what it is to make them say."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.networks import CleanNetwork, behind_view, members_of
from monai_salm.learning.samples import WorkingBatch
from monai_salm.learning.targets import next_class
from monai_salm.learning.tasks import LearningTask
from monai_salm.learning.training import augmented, logits_in
from monai_salm.methods.sparsity import relative


@dataclass(frozen=True)
class NoiseGradient:
    """Gradient of the loss by protected images, through the augmentation, straight through the rounding.

    Of several members each has the same weight in each sample: gradients of one that has learned the noise are smaller
    by orders. Members that know clean images alone are to say the class after the sample's own.

    Args:
        network: the surrogate.
        task: gives loss and error.
        augmentation: what the noise has to survive.
        clean_weight: of a member that knows clean images alone, where the others have 1.
        bfloat16: let the network compute in bfloat16 where that is safe.
    """

    network: nn.Module
    task: LearningTask
    augmentation: ConsumerAugmentation
    clean_weight: float = 1.0
    bfloat16: bool = False

    def at(self, images: Tensor, own: Tensor, batch: WorkingBatch) -> tuple[Tensor, Tensor]:
        """Give the gradient, and for each sample the mean error of the members that learn the noise; of those that know
        clean images alone where there are no others.

        Args:
            images: with the noise, on contents as they are exchanged.
            own: each sample's own with its noise, which members that know clean images see.
            batch: of the samples, with draws for the augmentation.
        """
        members, gradients = members_of(self.network), []
        errors: dict[bool, list[Tensor]] = {False: [], True: []}
        with torch.enable_grad():
            shown = {False: images.requires_grad_(True), True: own.requires_grad_(True)}
            seen: dict[tuple[bool, torch.Size], tuple[Tensor, Tensor]] = {}  # networks of one view share it
            for member in members:
                clean = isinstance(member, CleanNetwork)
                network, view = behind_view(member)
                viewed = view(shown[clean])
                key = clean, viewed.shape
                if key not in seen:
                    seen[key] = augmented(replace(batch, images=viewed), self.task, self.augmentation)
                inputs, target = seen[key]
                if clean:
                    target = next_class(target, self.task.outputs)
                logits = logits_in(network, inputs, bfloat16=self.bfloat16)
                loss = self.task.loss(logits, target).sum()
                (gradient,) = torch.autograd.grad(loss, shown[clean], retain_graph=member is not members[-1])
                gradients.append(gradient.float())
                errors[clean].append(self.task.error(logits.detach(), target))
        error = torch.stack(errors[False] or errors[True]).mean(0)
        if len(members) == 1:
            return gradients[0], error
        weights = [self.clean_weight if isinstance(member, CleanNetwork) else 1.0 for member in members]
        parts = [relative(part) * weight for part, weight in zip(gradients, weights, strict=True)]
        return torch.stack(parts).sum(0), error
