# SPDX-License-Identifier: Apache-2.0
"""Saving and loading the state of a search, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from monai_salm.disk import openable, write_atomically
from monai_salm.errors import SalmError, UsageError
from monai_salm.learning.samples import WorkingSet
from monai_salm.methods.minmin import RoundLog, SearchState


def save_search(path: Path, state: SearchState, network: nn.Module, plan_digest: str) -> None:
    """Write a state and its surrogate, atomically."""
    tensors = {
        "steps": torch.cat([t.flatten() for t in state.steps]),
        "score": torch.cat([t.flatten() for t in state.score]),
    }
    tensors |= {f"network.{name}": tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    progress = {
        "round": state.round,
        "passes": state.passes,
        "quiet": state.quiet,
        "history": [asdict(log) for log in state.history],
    }
    write_atomically(path, save(tensors, {"plan": plan_digest, "progress": json.dumps(progress)}), private=True)


def load_search(path: Path, samples: WorkingSet, network: nn.Module, plan_digest: str) -> SearchState:
    """Load what :func:`save_search` wrote, and put the surrogate's weights back.

    Raises:
        UsageError: the state belongs to another plan.
        SalmError: the file is damaged.
    """
    try:
        with openable(path) as place, safe_open(place, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("plan") != plan_digest:
                raise UsageError(
                    f"{path}: belongs to a run with other files, labels or options; give those again, or start "
                    "anew with another OUTPUT"
                )
            names = [name for name in file.keys() if name.startswith("network.")]  # noqa: SIM118 (no mapping)
            network.load_state_dict({name.removeprefix("network."): file.get_tensor(name) for name in names})
            steps, score = file.get_tensor("steps"), file.get_tensor("score")
    except SafetensorError as error:
        raise SalmError(
            f"{path}: damaged ({error}); delete it, and run again with --resume to search the noise anew"
        ) from error
    progress = json.loads(metadata["progress"])
    shapes = [sample.image_model.shape for sample in samples.samples]
    sizes = [int(torch.tensor(shape).prod()) for shape in shapes]
    return SearchState(
        [part.reshape(shape).clone() for part, shape in zip(steps.split(sizes), shapes, strict=True)],
        [part.reshape(shape).clone() for part, shape in zip(score.split(sizes), shapes, strict=True)],
        progress["round"],
        progress["passes"],
        progress["quiet"],
        [RoundLog(**log) for log in progress["history"]],
    )
