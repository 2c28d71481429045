# SPDX-License-Identifier: Apache-2.0
"""The names of the noise methods and what each is for, known without loading what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from monai_salm.errors import UsageError

TASKS = ("classification", "segmentation")


@dataclass(frozen=True, kw_only=True)
class MethodKind:
    """What a method is for.

    Args:
        tasks: that it makes noise for.
        spatial_dims: of the samples that it makes noise for.
        needs_labels: whether its noise follows from labels, and so from all samples at once.
        chosen: whether ``salm`` may choose it; of its parts alone.
        alone: whether the noise of a sample depends on no other one, so that there can be more of them at any time.
    """

    tasks: tuple[str, ...] = TASKS
    spatial_dims: tuple[int, ...] = (2, 3)
    needs_labels: bool = True
    chosen: bool = True
    alone: bool = False


_CLASSES, _LABEL_MAPS = MethodKind(tasks=("classification",)), MethodKind(tasks=("segmentation",))

METHOD_KINDS: Mapping[str, MethodKind] = MappingProxyType(
    {
        "salm": MethodKind(),
        "salm:texture": _CLASSES,
        "salm:exchange": _CLASSES,
        "salm:mixed": _CLASSES,
        "salm:blocks": _CLASSES,
        "salm:targeted": MethodKind(tasks=("classification",), chosen=False),
        "salm:lattice": MethodKind(tasks=("segmentation",), alone=True),
        "salm:minmin": _LABEL_MAPS,
        "random-mask": MethodKind(),
        "textures": _CLASSES,
        "em": MethodKind(),
        "em-augmented": MethodKind(),
        "aue": MethodKind(),
        "tap": _CLASSES,
        "lsp": _CLASSES,
        "pil": _CLASSES,
        "umed": _LABEL_MAPS,
        "voxshield": MethodKind(tasks=("segmentation",), spatial_dims=(3,)),
        "random": MethodKind(needs_labels=False, alone=True),
    }
)
"""By name, in the order in which they are listed."""


def check_method(name: str, task: str, spatial_dims: int | None = None) -> None:
    """Find out whether a method is made for a task and, once they are known, for samples of these dimensions.

    Raises:
        UsageError: there is no such method, or it is not; names those that are.
    """
    if name not in METHOD_KINDS:
        raise UsageError(f"method {name!r} is unknown; give one of {', '.join(METHOD_KINDS)}")
    fitting = [
        other
        for other, kind in METHOD_KINDS.items()
        if task in kind.tasks and (spatial_dims is None or spatial_dims in kind.spatial_dims)
    ]
    if name not in fitting:
        wanted = f"{task} of {spatial_dims}D samples" if spatial_dims else task
        raise UsageError(f"method {name!r} is not for {wanted}; give one of {', '.join(fitting)}")
