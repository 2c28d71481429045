# SPDX-License-Identifier: Apache-2.0
"""A trained surrogate on disk: its weights and everything needed to use it again for further samples.

One `safetensors` file: the tensors of the network's state, and under the metadata key ``surrogate`` the JSON of
:class:`SurrogateCard`; with a checksum, see :mod:`monai_salm.seals`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from monai_salm.errors import UsageError
from monai_salm.learning.networks import build_network, size_multiple
from monai_salm.learning.samples import PAD_MULTIPLE, WorkingSet
from monai_salm.seals import claimed_format, sealed_safetensors, unsealed_metadata
from monai_salm.working_samples import WorkingSample

_FORMATS = "monai_salm.surrogate/"
SURROGATE_FORMAT = f"{_FORMATS}5"


@dataclass(frozen=True, kw_only=True)
class SurrogateCard:
    """What a surrogate was trained for.

    Args:
        network: name for :func:`~monai_salm.learning.networks.build_network`.
        spatial_dims: 2 or 3.
        task: ``to_json`` of its task.
        classes: names of classes or findings.
        search: ``to_json`` of its :class:`~monai_salm.methods.minmin.MinMinSettings`.
        augmentation: ``to_json`` of its :class:`~monai_salm.learning.consumers.ConsumerAugmentation`.
        padded_shape: shape of the batches it was trained with.
        channels: of the images: 1, or 3 of colors.
        working_size: longest axis of the working grid.
        epsilon: value and units.
        window: (low, high) in real units, or None where each image has its own.
        modality: DICOM Modality code for images that do not say theirs.
        method: name of the method that it searched for.
        rounds: how many rounds that took; further samples get as many.
        series: :func:`series_key` of each volume of the run -> ``to_json`` of its
            :class:`~monai_salm.volumes.VolumeView`.
    """

    network: str
    spatial_dims: int
    task: dict[str, Any]
    classes: list[str]
    search: dict[str, Any]
    augmentation: dict[str, Any]
    padded_shape: list[int]
    working_size: int
    epsilon: tuple[float, str]
    window: tuple[float, float] | None
    modality: str
    method: str
    rounds: int
    series: dict[str, dict[str, Any]]
    channels: int = 1


def series_key(series_uid: str) -> str:
    """Give the name of a series on a card, which may be handed on where its UID may not."""
    return hashlib.sha256(series_uid.encode()).hexdigest()[:32]


def surrogate_bytes(network: nn.Module, card: SurrogateCard) -> bytes:
    """Give the content of a surrogate's file."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    return sealed_safetensors(
        save(state, {"format": SURROGATE_FORMAT, "surrogate": json.dumps(asdict(card), sort_keys=True)})
    )


def load_surrogate(path: str | Path) -> tuple[nn.Module, SurrogateCard]:
    """Build a surrogate from its file.

    Raises:
        UsageError: the file is no surrogate of this version.
    """
    try:
        content = Path(path).read_bytes()
        state = load(content)
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{path}: cannot be read as a surrogate ({error}); give the surrogate.safetensors of a run's work folder"
        ) from error
    found = claimed_format(content)
    if found != SURROGATE_FORMAT and str(found).startswith(_FORMATS):
        raise UsageError(
            f"{path}: format {found!r} is not {SURROGATE_FORMAT!r}; protect its files again with this "
            "version, or use the version that wrote it"
        )
    if found != SURROGATE_FORMAT:
        raise UsageError(
            f"{path}: format {found!r} is not {SURROGATE_FORMAT!r}; give the surrogate.safetensors of a "
            "run's work folder"
        )
    try:
        card = SurrogateCard(**json.loads(unsealed_metadata(content)["surrogate"]))
        with torch.random.fork_rng(devices=[]):
            network = build_network(
                card.network,
                spatial_dims=card.spatial_dims,
                outputs=card.task["outputs"],
                in_channels=card.channels,
                image_shape=tuple(card.padded_shape),
            )
        network.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"{path}: the surrogate is damaged ({reason}); take another copy of it, or make it again with 'protect'"
        ) from error
    return network, card


def frozen_set(samples: Sequence[WorkingSample], card: SurrogateCard) -> WorkingSet:
    """Put samples into batches for a frozen surrogate, of the shape that it was trained with where it has a place for
    each cell; in gray where it sees no colors.

    Raises:
        UsageError: it sees colors, and some of the samples are gray.
    """
    if card.channels == 1:
        samples = [sample.in_gray() for sample in samples]
    elif gray := next((sample.sample_id for sample in samples if sample.channels != card.channels), None):
        raise UsageError(
            f"sample {gray!r} is gray, and the surrogate was trained on color images; protect gray ones in a run of "
            "their own"
        )
    fixed = size_multiple(card.network) != PAD_MULTIPLE
    return WorkingSet(samples, tuple(card.padded_shape) if fixed else None)
