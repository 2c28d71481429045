# SPDX-License-Identifier: Apache-2.0
"""Networks by name: small ones that a CPU trains in minutes, and every network of ``monai.networks.nets``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from monai.networks import nets
from torch import nn

from monai_salm.errors import UsageError

SMALL_NETWORKS = ("small-resnet", "small-cnn", "small-unet")
"""Networks of this module; the first two classify, the last one segments."""

_CHOSEN: dict[str, dict[str, Any]] = {
    "AttentionUnet": {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)},
    "EfficientNetBN": {"model_name": "efficientnet-b0"},
    "UNet": {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)},
}
"""Arguments without a default, of networks that have them."""


def build_network(name: str, *, spatial_dims: int, outputs: int, in_channels: int = 1) -> nn.Module:
    """Build an untrained network that gives logits.

    Args:
        name: one of :data:`SMALL_NETWORKS`, or a class or function of ``monai.networks.nets`` (``resnet18``, ``DenseNet121``, ``UNet``, ...).
        spatial_dims: 2 or 3.
        outputs: classes, or findings.
        in_channels: channels of the images.

    Raises:
        UsageError: there is no such network, or it needs arguments that only its user can choose.
    """
    if name == "small-resnet":
        return nets.ResNet(
            "basic", [1, 1, 1, 1], [8, 16, 32, 64], spatial_dims=spatial_dims, n_input_channels=in_channels,
            conv1_t_size=3, conv1_t_stride=1, no_max_pool=True, num_classes=outputs,
        )  # fmt: skip
    if name == "small-cnn":
        return _plain_cnn(spatial_dims, in_channels, outputs)
    if name == "small-unet":
        return nets.UNet(
            spatial_dims, in_channels, outputs, channels=(8, 16, 32), strides=(2, 2), num_res_units=1, norm="instance"
        )  # fmt: skip
    factory = getattr(nets, name, None)
    if factory is None or not callable(factory) or name.startswith("_"):
        raise UsageError(
            f"network {name!r} is unknown; give one of {', '.join(SMALL_NETWORKS)}, or a name from monai.networks.nets such as resnet18 or DenseNet121"
        )
    arguments = _arguments(factory, spatial_dims, in_channels, outputs)
    missing = _required(factory) - set(arguments)
    if missing:
        raise UsageError(f"network {name!r} needs {', '.join(sorted(missing))}, which only you can choose; build it in Python and pass the module instead")
    try:
        network = factory(**arguments)
    except (ImportError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"network {name!r} cannot be built with {arguments}: {reason}; build it in Python and pass the module instead") from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"monai.networks.nets.{name} is not a network; give one of {', '.join(SMALL_NETWORKS)} or a network's name")
    return network


def _arguments(factory: Callable[..., Any], spatial_dims: int, in_channels: int, outputs: int) -> dict[str, Any]:
    """Match MONAI's names for channels and outputs, which differ from network to network, and choose what has no default."""
    # Classes hand keywords on to their base; functions such as resnet18 hand them on to ResNet.
    takers = factory.__mro__ if isinstance(factory, type) else (factory, nets.ResNet)
    names = {name for taker in takers for name in inspect.signature(taker).parameters}
    offered = {
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "n_input_channels": in_channels,
        "out_channels": outputs,
        "num_classes": outputs,
        "pretrained": False,  # weights would be fetched from the network
    }
    return {name: value for name, value in offered.items() if name in names} | _CHOSEN.get(factory.__name__, {})


def _required(factory: Callable[..., Any]) -> set[str]:
    """Name the parameters that have no default."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(factory).parameters.values()
    return {parameter.name for parameter in parameters if parameter.default is parameter.empty and parameter.kind not in variadic}


def _plain_cnn(spatial_dims: int, in_channels: int, outputs: int) -> nn.Module:
    """Three convolution blocks and a linear layer: the simplest network that a stranger may train."""
    convolution, norm, pool = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d) if spatial_dims == 2 else (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d)
    average = nn.AdaptiveAvgPool2d(1) if spatial_dims == 2 else nn.AdaptiveAvgPool3d(1)
    layers: list[nn.Module] = []
    channels = in_channels
    for width in (16, 32, 64):
        layers += [convolution(channels, width, 3, padding=1), norm(width), nn.ReLU(), pool(2)]
        channels = width
    return nn.Sequential(*layers, average, nn.Flatten(), nn.Linear(channels, outputs))
