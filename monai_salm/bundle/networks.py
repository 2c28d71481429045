# SPDX-License-Identifier: Apache-2.0
"""The surrogate as the network of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from monai_salm.bundle.commands import told_in_one_line
from monai_salm.disk import atomic_target
from monai_salm.learning.networks import DEFAULT_NETWORKS, seeded_network
from monai_salm.learning.surrogate import load_surrogate
from monai_salm.pipeline.options import SURROGATE_SUFFIX


def surrogate_network(
    surrogate: str = "", task: str = "classification", *, spatial_dims: int = 2, in_channels: int = 1,
    out_channels: int = 2, image_shape: Sequence[int] = (),
) -> nn.Module:  # fmt: skip
    """Give the network of a surrogate: with the weights of a run where its file is given, else untrained.

    Args:
        surrogate: file ``surrogate.safetensors`` of a run's work folder, or the name of a network; empty takes the
            task's default. A file says all else itself.
        task: ``classification`` or ``segmentation``.
        spatial_dims: 2 or 3.
        in_channels: 1, or 3 of colors.
        out_channels: classes.
        image_shape: for networks that are made for one size; empty takes 128 cells a side, or 64 of volumes.

    Returns:
        Takes model values (batch, in_channels, spatial shape) in [0, 1] and gives logits.

    Raises:
        UsageError: there is no such network, or the file is no surrogate.

    Example:
        >>> import torch
        >>> from monai_salm.bundle import surrogate_network
        >>> network = surrogate_network("small-cnn", in_channels=1, out_channels=3, image_shape=(32, 32))
        >>> network(torch.zeros(2, 1, 32, 32)).shape  # logits (batch, out_channels)
        torch.Size([2, 3])
    """
    with told_in_one_line():
        if surrogate.endswith(SURROGATE_SUFFIX):
            return load_surrogate(surrogate)[0]
        shape = tuple(image_shape) or (128 if spatial_dims == 2 else 64,) * spatial_dims
        return seeded_network(surrogate or DEFAULT_NETWORKS[task], shape, out_channels, 0, channels=in_channels)


def save_checkpoint(surrogate: Path, target: Path) -> None:
    """Write the weights of a surrogate as MONAI's ``ckpt_export`` reads them: a state dictionary of tensors alone.

    Raises:
        UsageError: the file is no surrogate.
    """
    network, _ = load_surrogate(surrogate)
    with atomic_target(target, private=True) as temporary:
        torch.save(network.state_dict(), temporary)
