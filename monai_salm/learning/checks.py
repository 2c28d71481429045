# SPDX-License-Identifier: Apache-2.0
"""What can be known before a search: whether device, network and targets fit the task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_salm.errors import UsageError
from monai_salm.learning.networks import logits_of
from monai_salm.learning.samples import WorkingSet
from monai_salm.learning.targets import TargetKind, target_kind
from monai_salm.learning.tasks import LearningTask


def known_device(device: torch.device | str) -> torch.device:
    """Give a device that torch knows and sees.

    Raises:
        UsageError: it does not.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device {str(device)!r} cannot be used ({_first_line(error)}); give cpu, or a device that this torch sees"
        ) from error
    return found


def pick_device(name: str) -> torch.device:
    """Give the device of a name; ``auto`` is CUDA where there is one.

    Raises:
        UsageError: the device is unknown or not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {name!r} is unknown; give auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "device cuda was asked for, but torch sees none; give --device cpu, or install a CUDA build of torch"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def check_network(
    network: nn.Module,
    name: str,
    task: LearningTask,
    samples: WorkingSet,
    device: torch.device | None = None,
    *,
    trained: bool = False,
) -> None:
    """Find out before any training whether a network gives what a task needs; leaves its modes as they are.

    Args:
        network: any module.
        name: for the message.
        task: gives the number of outputs.
        samples: that it is to work on.
        device: where the network is; None for the CPU.
        trained: whether it is going to be trained.

    Raises:
        UsageError: its result is no tensor, has another shape or is not finite, or images of this size are too small
            for it.
    """
    shape = samples.padded_shape
    wanted = (1, task.outputs, *shape) if task.spatial_target else (1, task.outputs)
    kind = "segmentation" if task.spatial_target else "classification"
    if trained and next(network.parameters(), None) is None:
        raise UsageError(f"network {name!r} has no parameters to train; give another, or freeze_surrogate=True")
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            logits: Any = logits_of(network, torch.zeros(1, samples.channels, *shape, device=device))
    except Exception as error:  # a network of the user's may raise anything
        raise UsageError(
            f"network {name!r} cannot work on images of {shape} ({_first_line(error)}); give another, or another "
            "--working-size"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(logits, Tensor):
        raise UsageError(
            f"network {name!r} gives a {type(logits).__name__} where logits are needed; wrap it in a module that "
            f"returns a tensor of {wanted}"
        )
    if tuple(logits.shape) != wanted:
        raise UsageError(
            f"network {name!r} gives {tuple(logits.shape)} where {kind} needs {wanted}; give a network for {kind}"
        )
    if not bool(logits.isfinite().all()):
        raise UsageError(
            f"network {name!r} gives values that are not finite for an empty image; give one with finite weights"
        )


def check_targets(samples: WorkingSet, task: LearningTask) -> None:
    """Hold the targets of some samples against a task.

    Raises:
        UsageError: a sample has no target, or one that the task does not know.
    """
    for sample in samples.samples:
        target = sample.target
        if target is None:
            raise UsageError(
                "the samples have no labels, which error-minimizing noise needs; give --labels, or --method random"
            )
        kind = target_kind(target)
        is_map = kind is TargetKind.LABEL_MAP and np.shape(target) == sample.shape
        if kind is not task.target_kind or (kind is TargetKind.LABEL_MAP and not is_map):
            wanted = {
                TargetKind.LABEL_MAP: f"a label map of {sample.shape}",
                TargetKind.FINDINGS: f"{task.outputs} findings",
                TargetKind.CLASS: "a class",
            }
            raise UsageError(
                f"sample {sample.sample_id!r} has a target of {_described(target)} where the task needs "
                f"{wanted[task.target_kind]}"
            )
        findings = kind is TargetKind.FINDINGS
        largest = len(np.asarray(target)) - 1 if findings else int(np.max(target, initial=0))
        lowest = 0 if findings else int(np.min(target, initial=0))
        if lowest < 0 or largest >= task.outputs or (findings and largest != task.outputs - 1):
            value = f"{largest + 1} findings" if findings else f"class {largest if lowest >= 0 else lowest}"
            raise UsageError(
                f"sample {sample.sample_id!r} has {value}, the task {task.outputs} outputs, numbered from 0"
            )


def _described(target: Any) -> str:
    return f"{target.dtype} {target.shape}" if isinstance(target, np.ndarray) else f"type {type(target).__name__}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
