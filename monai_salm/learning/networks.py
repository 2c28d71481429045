# SPDX-License-Identifier: Apache-2.0
"""Networks by name: small ones that a CPU trains in minutes, and the networks of ``monai.networks.nets``; and their
heads, to train alone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.networks import nets
from torch import Tensor, nn
from torch.nn import functional

from monai_salm.errors import UsageError, how_to_install
from monai_salm.learning.chance import own_randomness

SMALL_NETWORKS = ("small-resnet", "small-cnn", "small-unet", "small-segresnet")
"""Networks of this module; the first two classify, the others segment: one that sees an image through a strided
convolution, and one with a path of full resolution.
"""

DEFAULT_NETWORKS = {"classification": "small-resnet", "segmentation": "small-unet"}
"""Networks by task, unless the user names another."""

DIVISORS, GRAY, CLEAN = ("2", "4"), "gray", "clean"
"""How a network may see images, or that it knows clean ones alone, behind ``/`` in its name."""

_CHOSEN: dict[str, dict[str, Any]] = {
    "AttentionUnet": {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)},
    # nnU-Net's blocks of two convolutions, at the four sizes that small images have.
    "DynUNet": {
        "kernel_size": (3, 3, 3, 3),
        "strides": (1, 2, 2, 2),
        "upsample_kernel_size": (2, 2, 2),
        "filters": (16, 32, 64, 128),
    },
    # Running statistics of MONAI's momentum of 0.01 are far from the truth after the few hundred steps of a small data
    # set.
    "EfficientNetBN": {"model_name": "efficientnet-b0", "norm": ("batch", {"eps": 1e-3, "momentum": 0.1})},
    # Instances of one voxel, which a 32 wide image becomes, have no statistics; groups of channels do.
    "SwinUNETR": {"feature_size": 12, "norm_name": ("group", {"num_groups": 4})},
    "UNet": {"channels": (16, 32, 64, 128), "strides": (2, 2, 2)},
    "PlainViT": {
        "hidden_size": 192,
        "mlp_dim": 384,
        "num_layers": 6,
        "num_heads": 6,
        "classification": True,
        "post_activation": "",
    },
}
"""Arguments without a default, and those whose default is none for small images."""

_SMALL_STEM = {"conv1_t_size": 3, "conv1_t_stride": 1, "no_max_pool": True}

_MULTIPLES = {"SwinUNETR": 32, "ViT": 16}


class PlainViT(nets.ViT):
    """MONAI's vision transformer, giving its logits alone, for images of model values."""

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits without the hidden states."""
        # Around zero and of spread one: else all patches look like their mean, since no normalization comes before the
        # first layer.
        logits: Tensor = super().forward((x - 0.5) * 4)[0]  # type: ignore[no-untyped-call]
        return logits


class NetworkEnsemble(nn.Module):
    """Networks of one task side by side: gives the logits of each; who wants one network's takes the first's.

    Args:
        members: at least one.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Give the logits of each member."""
        return tuple(logits_of(member, x) for member in self.members)


class OtherView(nn.Module):
    """A network that sees images otherwise than they are: at a part of their size, by averages of boxes, or in gray.

    Args:
        network: of what it sees.
        divisor: of each side.
        gray: whether it sees the mean of the colors.
    """

    def __init__(self, network: nn.Module, *, divisor: int = 1, gray: bool = False) -> None:
        super().__init__()
        self.network, self.divisor, self.gray = network, divisor, gray

    def view(self, images: Tensor) -> Tensor:
        """Give images as the network sees them; gradients flow back."""
        if self.gray:
            images = images.mean(1, keepdim=True)
        pool = functional.avg_pool2d if images.ndim == 4 else functional.avg_pool3d
        return pool(images, self.divisor, ceil_mode=True, count_include_pad=False) if self.divisor > 1 else images

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits of what the network sees of images."""
        return logits_of(self.network, self.view(x))


class CleanNetwork(nn.Module):
    """A network that knows clean images alone, and that noise is to mislead.

    Args:
        network: to learn from them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits of the network."""
        return logits_of(self.network, x)


def behind_view(network: nn.Module) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Give the network behind a view, and what shows it images: augmentation comes between, since who stores images
    otherwise augments what was stored.
    """
    if isinstance(network, CleanNetwork):
        return behind_view(network.network)
    return (network.network, network.view) if isinstance(network, OtherView) else (network, _as_it_is)


def _as_it_is(images: Tensor) -> Tensor:
    return images


def members_of(network: nn.Module) -> list[nn.Module]:
    """Give the members of an ensemble; of any other network itself."""
    return list(network.members) if isinstance(network, NetworkEnsemble) else [network]


def build_network(
    name: str, *, spatial_dims: int, outputs: int, in_channels: int = 1, image_shape: tuple[int, ...] | None = None
) -> nn.Module:
    """Build an untrained network that gives logits.

    Args:
        name: one of :data:`SMALL_NETWORKS`, or a class or function of ``monai.networks.nets`` (``resnet18``,
            ``DenseNet121``, ``UNet``, ...). A residual network with the suffix ``-3x3`` has the stem for small images:
            3 wide, stride 1, no pooling. One that classifies and has ``/2`` or ``/4`` behind its name sees images at a
            half or a quarter of their size; with ``/gray`` it sees no colors; with ``/clean`` it is one that a search
            trains on clean images alone, to mislead it. Several, separated by commas, make a
            :class:`NetworkEnsemble`.
        spatial_dims: 2 or 3.
        outputs: classes, or findings.
        in_channels: channels of the images.
        image_shape: pixels or voxels of the images along each axis, multiples of :func:`size_multiple`; only
            transformers with a position for each patch (``ViT``) need it.

    Raises:
        UsageError: there is no such network, or it needs arguments that only its user can choose.

    Example:
        >>> import torch
        >>> from monai_salm import build_network
        >>> network = build_network("small-cnn", spatial_dims=2, outputs=3)
        >>> network(torch.zeros(4, 1, 28, 28)).shape  # logits (batch, outputs)
        torch.Size([4, 3])
    """
    if "," in name:
        return NetworkEnsemble(
            [
                build_network(
                    member, spatial_dims=spatial_dims, outputs=outputs, in_channels=in_channels, image_shape=image_shape
                )
                for member in name.split(",")
            ]
        )
    name, view = _view_of(name)
    if view:
        divisor = int(view) if view in DIVISORS else 1
        network = build_network(
            name, spatial_dims=spatial_dims, outputs=outputs, in_channels=1 if view == GRAY else in_channels,
            image_shape=None if image_shape is None else tuple(-(-length // divisor) for length in image_shape),
        )  # fmt: skip
        return seen_as(network, view)
    if name == "small-resnet":
        widths = [8, 16, 32, 64]
        stem: dict[str, Any] = _SMALL_STEM
        return nets.ResNet("basic", [1, 1, 1, 1], widths, spatial_dims, in_channels, num_classes=outputs, **stem)
    if name == "small-cnn":
        return _plain_cnn(spatial_dims, in_channels, outputs)
    if name == "small-unet":
        return nets.UNet(
            spatial_dims, in_channels, outputs, channels=(8, 16, 32), strides=(2, 2), num_res_units=1, norm="instance"
        )  # fmt: skip
    if name == "small-segresnet":
        return nets.SegResNet(spatial_dims, 8, in_channels, outputs, blocks_down=(1, 2, 2), blocks_up=(1, 1))
    small_stem = name.startswith("resnet") and name.endswith("-3x3")
    factory = PlainViT if name == "ViT" else getattr(nets, name.removesuffix("-3x3") if small_stem else name, None)
    if factory is None or not callable(factory) or name.startswith("_"):
        raise UsageError(
            f"network {name!r} is unknown; give one of {', '.join(SMALL_NETWORKS)}, or a name from "
            "monai.networks.nets such as resnet18 or DenseNet121"
        )
    arguments = _arguments(factory, spatial_dims, in_channels, outputs, image_shape) | (
        _SMALL_STEM if small_stem else {}
    )
    missing = _required(factory) - set(arguments)
    if missing:
        raise UsageError(
            f"network {name!r} needs {', '.join(sorted(missing))}, which only you can choose; build it in Python "
            "and pass the module instead"
        )
    try:
        network = factory(**arguments)
    except ImportError as error:
        raise UsageError(
            f"network {name!r} needs a package that is not installed: {_first_line(error)} For transformers: "
            f"{how_to_install('einops')}"
        ) from error
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"network {name!r} cannot be built with {arguments}: {_first_line(error)}; build it in Python and "
            "pass the module instead"
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"monai.networks.nets.{name} is not a network; give one of {', '.join(SMALL_NETWORKS)} or a network's name"
        )
    return network


def seen_as(network: nn.Module, view: str) -> nn.Module:
    """Give a network what stands behind ``/`` in a name; as it is where nothing does."""
    if not view:
        return network
    if view == CLEAN:
        return CleanNetwork(network)
    return OtherView(network, divisor=int(view) if view in DIVISORS else 1, gray=view == GRAY)


def _view_of(name: str) -> tuple[str, str]:
    """Take the last of how a network sees images off its name; empty where it sees them as they are."""
    name, mark, view = name.rpartition("/")
    if not mark:
        return view, ""
    if view not in (*DIVISORS, GRAY, CLEAN):
        raise UsageError(
            f"network {name}{mark}{view} is unknown; {name}/2 and {name}/4 see images at half their size and at a "
            f"quarter, {name}/{GRAY} sees no colors, {name}/{CLEAN} is to be misled"
        )
    return name, view


def seeded_network(name: str, image_shape: tuple[int, ...], outputs: int, seed: int, *, channels: int = 1) -> nn.Module:
    """Build a network for images of a shape and some channels whose weights depend on the seed alone, without touching
    the global random state.
    """
    with own_randomness(seed, torch.device("cpu")):
        return build_network(
            name, spatial_dims=len(image_shape), outputs=outputs, in_channels=channels, image_shape=image_shape
        )


def size_multiple(name: str) -> int:
    """Give the number that must divide each side of the images of a network, or of an ensemble's; a suffix such as
    ``+frozen`` changes nothing.
    """
    multiples = []
    for member in name.split(","):
        base, *views = member.partition("+")[0].split("/")
        divisors = (int(view) for view in views if view in DIVISORS)
        multiples.append(_MULTIPLES[base] * math.prod(divisors) if base in _MULTIPLES else 8)
    return math.lcm(*multiples)


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Give the logits of a network, the first of its results where it has several (deep supervision, hidden states)."""
    result = network(images)
    first: Tensor = result[0] if isinstance(result, (tuple, list)) else result
    return first


def head_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Find the layers that make the logits out of features: the last ones that have as many outputs as the network, by
    name.

    Args:
        network: whose modules stand in the order of their use, as those of MONAI do.

    Raises:
        UsageError: no layer of it is linear or a convolution.
    """
    kinds = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    layers = [
        (name, module, int(module.weight.shape[_OUTPUT_AXIS[type(module)]]))
        for name, module in network.named_modules()
        if isinstance(module, kinds)
    ]
    if not layers:
        raise UsageError(
            "the network has no linear layer and no convolution, so no head can be told from its backbone; give "
            "another network"
        )
    found: dict[str, nn.Module] = {}
    for name, module, outputs in reversed(layers):
        if outputs != layers[-1][2]:
            break
        found[name] = module
    return found


_OUTPUT_AXIS: dict[type[nn.Module], int] = {
    nn.Linear: 0,
    nn.Conv2d: 0,
    nn.Conv3d: 0,
    nn.ConvTranspose2d: 1,
    nn.ConvTranspose3d: 1,
}


def freeze_backbone(network: nn.Module) -> None:
    """Leave only the head of a network trainable; see :func:`set_training` for the statistics of its normalizations."""
    network.requires_grad_(False)
    for layer in head_layers(network).values():
        layer.requires_grad_(True)


def set_training(network: nn.Module) -> None:
    """Set a network to training mode, except for the frozen parts, whose statistics and dropout then
    stay as they are.
    """
    for module in network.modules():
        parameters = list(module.parameters())
        module.training = not parameters or any(parameter.requires_grad for parameter in parameters)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _arguments(
    factory: Callable[..., Any], spatial_dims: int, in_channels: int, outputs: int, image_shape: tuple[int, ...] | None
) -> dict[str, Any]:
    """Match MONAI's names for channels and outputs, which differ from network to network, and choose what has no
    default.
    """
    # Classes hand keywords on to their base; functions such as resnet18 hand them on to ResNet.
    takers = factory.__mro__ if isinstance(factory, type) else (factory, nets.ResNet)
    names = {name for taker in takers for name in inspect.signature(taker).parameters}
    offered: dict[str, Any] = {
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "n_input_channels": in_channels,
        "out_channels": outputs,
        "num_classes": outputs,
        "pretrained": False,  # weights would be fetched from the network
    }
    if image_shape is not None:
        offered["img_size"] = image_shape
        if factory is PlainViT:
            offered["patch_size"] = 4 if max(image_shape) <= 32 else 8 if max(image_shape) <= 96 else 16
    return {name: value for name, value in offered.items() if name in names} | _CHOSEN.get(factory.__name__, {})


def _required(factory: Callable[..., Any]) -> set[str]:
    """Name the parameters that have no default."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(factory).parameters.values()
    return {
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind not in variadic
    }


def _plain_cnn(spatial_dims: int, in_channels: int, outputs: int) -> nn.Module:
    """Three convolution blocks and a linear layer: the simplest network that a stranger may train."""
    convolution, norm, pool = (
        (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d) if spatial_dims == 2 else (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d)
    )
    average = nn.AdaptiveAvgPool2d(1) if spatial_dims == 2 else nn.AdaptiveAvgPool3d(1)
    layers: list[nn.Module] = []
    channels = in_channels
    for width in (16, 32, 64):
        layers += [convolution(channels, width, 3, padding=1), norm(width), nn.ReLU(), pool(2)]
        channels = width
    return nn.Sequential(*layers, average, nn.Flatten(), nn.Linear(channels, outputs))
