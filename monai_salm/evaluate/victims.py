# SPDX-License-Identifier: Apache-2.0
"""The networks that a stranger would train, by name; some of them saw other images before."""

from __future__ import annotations

import torch
from torch import nn

from monai_salm.errors import UsageError
from monai_salm.learning.chance import own_randomness
from monai_salm.learning.networks import CLEAN, build_network, freeze_backbone

PRETRAINED, FROZEN = "+pretrained", "+frozen"
"""Suffixes of victims that saw other images before: all their weights are trained then, or only the head."""


def build_victim(name: str, *, outputs: int, image_shape: tuple[int, ...], channels: int, seed: int) -> nn.Module:
    """Build a victim whose weights depend on the seed alone; one with ``+frozen`` has only its head trainable.

    Args:
        name: of a network, see :func:`~monai_salm.learning.networks.build_network`, and behind it ``+pretrained`` or
            ``+frozen`` for a victim that is to go through :func:`~monai_salm.evaluate.pretraining.pretrain` before it
            is trained.
        outputs: classes, or findings.
        image_shape: pixels or voxels of the images along each axis.
        channels: of the images.
        seed: of the weights.

    Raises:
        UsageError: there is no such network or suffix, or it is one that only a search trains.

    Example:
        >>> import torch
        >>> from monai_salm.evaluate import build_victim
        >>> victim = build_victim("small-cnn", outputs=2, image_shape=(28, 28), channels=1, seed=0)
        >>> victim(torch.zeros(1, 1, 28, 28)).shape  # logits (batch, outputs)
        torch.Size([1, 2])
    """
    base, plus, suffix = name.partition("+")
    if plus + suffix not in ("", PRETRAINED, FROZEN):
        raise UsageError(f"victim {name!r} has an unknown suffix; give {base}, {base}{PRETRAINED} or {base}{FROZEN}")
    if CLEAN in base.split("/")[1:]:
        raise UsageError(f"victim {name!r} learns from clean images alone; give {base.replace('/' + CLEAN, '')}")
    with own_randomness(seed, torch.device("cpu")):
        network = build_network(
            base, spatial_dims=len(image_shape), outputs=outputs, in_channels=channels, image_shape=image_shape
        )
    if plus + suffix == FROZEN:
        freeze_backbone(network)
    return network


def is_pretrained(name: str) -> bool:
    """Tell whether a victim of this name sees other images first."""
    return name.endswith((PRETRAINED, FROZEN))
