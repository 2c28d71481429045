# SPDX-License-Identifier: Apache-2.0
"""Networks that saw other images before: self-supervised pretraining on clean images without labels, as a stranger may
have done.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, count

import torch
from torch import Tensor, nn
from torch.nn import functional

from monai_salm.learning.chance import SampleChance, own_randomness
from monai_salm.learning.consumers import ConsumerAugmentation
from monai_salm.learning.networks import head_layers, logits_of
from monai_salm.learning.resident import ResidentSet
from monai_salm.learning.samples import WorkingBatch, WorkingSet
from monai_salm.learning.training import Descent, drawn_batches, train

PRETRAINING_STEPS = 400
"""Steps after which a victim counts as pretrained."""

TEMPERATURE = 0.2
"""Of the likeness of two views."""

VIEWS = ConsumerAugmentation(flip=0.5, shift=0.15, zoom=0.2, blur=0.3, window=0.4, identity=0.0)
"""How different two views of one image may be."""


def pretrain(
    network: nn.Module, images: WorkingSet, *, seed: int, device: torch.device, steps: int = PRETRAINING_STEPS
) -> None:
    """Train all of a network but its head without labels; what is frozen is free meanwhile, and the head is as before
    in the end.

    A classifier learns to tell two views of one image from views of others (SimCLR, Chen et al. 2020, equation 1,
    temperature 0.2), a segmenter to restore an image from a noisy one with holes.

    Args:
        network: trained in place.
        images: clean ones; labels are not looked at.
        seed: of the order, the views and the layers that only pretraining needs.
        device: where to compute.
        steps: optimizer steps.

    Example:
        >>> import torch
        >>> from monai_salm.evaluate import build_victim, pretrain
        >>> victim = build_victim("small-cnn+frozen", outputs=2, image_shape=(16, 16), channels=1, seed=0)
        >>> pretrain(victim, samples, seed=0, device=torch.device("cpu"), steps=2)  # samples: see WorkingSet
    """
    network.to(device)
    resident, chance = ResidentSet(images, device, keep_single=False), SampleChance(images, seed, device)
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    network.requires_grad_(True)
    size = 32 if images.spatial_dims == 2 else 4
    batches = drawn_batches(resident, chance, size, round_number=0, most=steps, views=2)
    with own_randomness(seed, device):
        pretext = _contrast if isinstance(next(iter(head_layers(network).values())), nn.Linear) else _restore
        pretext(network, batches, chance, steps)
    for parameter in frozen:
        parameter.requires_grad_(False)


def _views(batch: WorkingBatch) -> list[Tensor]:
    """Give two views of each image, as the batch's draws have them."""
    if batch.draws is None:
        return [batch.images, batch.images]
    return [VIEWS.apply(batch.images, draws)[0] for draws in batch.draws.chunk(2, dim=1)]


def _contrast(network: nn.Module, batches: Iterator[WorkingBatch], chance: SampleChance, steps: int) -> None:
    """Pull the features of two views of one image together and push those of different images apart."""
    heads = head_layers(network)
    *others, first = heads  # in the order from the last to the first
    width = int(heads[first].weight.shape[1])  # type: ignore[index]
    for name in others:
        network.set_submodule(name, nn.Identity())
    projection = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 64))
    network.set_submodule(first, projection.to(chance.device))
    network.train()

    def loss(batch: WorkingBatch) -> Tensor:
        views = torch.cat(_views(batch))
        projected = functional.normalize(logits_of(network, views), dim=1)
        likeness = (projected @ projected.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(views), device=views.device).roll(len(batch.images))
        return functional.cross_entropy(likeness, partner)

    train(batches, loss, Descent(network, steps))
    for name, layer in heads.items():
        network.set_submodule(name, layer)


def _restore(network: nn.Module, batches: Iterator[WorkingBatch], chance: SampleChance, steps: int) -> None:
    """Restore images from what noise and holes leave of them, by one more layer behind the head."""
    heads = head_layers(network)
    before = {name: {key: value.clone() for key, value in layer.state_dict().items()} for name, layer in heads.items()}
    batch = next(batches)
    outputs, (_, channels, *spatial) = logits_of(network.eval(), batch.images[:1]).shape[1], batch.images.shape
    last = (nn.Conv2d if len(spatial) == 2 else nn.Conv3d)(outputs, channels, 1).to(chance.device)
    whole = nn.Sequential(network, last).train()
    numbers = count()

    def loss(batch: WorkingBatch) -> Tensor:
        clean, number = _views(batch)[0], next(numbers)
        coarse = chance.fresh(batch.place, number, "holes", (1, *(-(-length // 4) for length in clean.shape[2:])))
        kept = functional.interpolate((coarse > 0.3).float(), clean.shape[2:])
        noise = chance.fresh(batch.place, number, "noise", clean.shape[1:], normal=True) * 0.1
        return functional.mse_loss(last(logits_of(network, clean * kept + noise)), clean)

    train(chain([batch], batches), loss, Descent(whole, steps))
    for name, layer in heads.items():
        layer.load_state_dict(before[name])
