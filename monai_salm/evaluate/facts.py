# SPDX-License-Identifier: Apache-2.0
"""What somebody needs to repeat an evaluation, or to doubt it: date, versions, device, data, classes, the command, and
who is to be cited.
"""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from monai_salm.evaluate.citations import cited
from monai_salm.evaluate.folders import TEST, FolderPlaces
from monai_salm.evaluate.inspection import Inspection
from monai_salm.evaluate.options import EvaluateOptions
from monai_salm.evaluate.results import CLEAN, VictimResult

_MEASURES = ("icc", "first-order features", "texture features")
"""Of the utility."""


def run_facts(
    inspection: Inspection, places: FolderPlaces, options: EvaluateOptions, results: Sequence[VictimResult],
    *, device: torch.device, command: str, seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Give the facts of a finished evaluation as plain types.

    Args:
        inspection: of the protected files.
        places: of the folders; only the last part of each path is kept.
        options: see :class:`~monai_salm.evaluate.options.EvaluateOptions`.
        results: of all trainings.
        device: that was computed on.
        command: as it was typed; empty makes one from the options.
        seconds: that this took.
    """
    protection = inspection.protection(options.epsilon)
    names = [
        name for result in results
        for name in (result.victim, result.augmentation, result.countermeasure, *result.scores.final)
    ]  # fmt: skip
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command or command_of(options, places),
        "seconds": round(seconds, 1),
        "training_seconds": round(sum(result.scores.seconds for result in results), 1),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("monai_salm", "torch", "monai", "numpy")},
        "device": _device(device),
        "data": {name: place.resolve().name for name, place in places.by_name().items()},
        "classes": {name: inspection.folders.class_counts(name) for name in (CLEAN, TEST)},
        "seeds": list(range(options.seeds)),
        "protection": protection,
        "citations": cited(
            [
                str(protection.get("method", "")),
                *names,
                *(["icc", "first-order features", "texture features"] if options.utility else []),
            ]
        ),
    }


def command_of(options: EvaluateOptions, places: FolderPlaces) -> str:
    """Give the command with every option that is not its default; paths by their last part."""
    folders = [shlex.quote(place.name) for place in (places.clean, *places.protected.values())]
    words = ["monai-salm evaluate", *folders, f"--test {shlex.quote(places.test.name)}"]
    for field in fields(options):
        value = getattr(options, field.name)
        if value == field.default:
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, tuple):
            words += [f"--{name} {shlex.quote(one)}" for one in value]
        else:
            words.append(f"--{name} {shlex.quote(value.name if isinstance(value, Path) else str(value))}")
    return " ".join(words)


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()}, threads of torch: {torch.get_num_threads()})"
