# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms: the array transforms of this package for ``Compose`` pipelines of dictionaries."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_salm.errors import UsageError
from monai_salm.transforms.array import AnatomyMask, SALMProtect, SparsityMask

__all__ = [
    "AnatomyMaskD",
    "AnatomyMaskDict",
    "AnatomyMaskd",
    "SALMProtectD",
    "SALMProtectDict",
    "SALMProtectd",
    "SparsityMaskD",
    "SparsityMaskDict",
    "SparsityMaskd",
]


class AnatomyMaskd(MapTransform):
    """Dictionary version of :class:`~monai_salm.transforms.AnatomyMask`.

    Args:
        keys: images.
        modality: see ``AnatomyMask``.
        spacing: see ``AnatomyMask``.
        new_key_prefix: put each mask under this prefix and the image's key; None replaces the image.
        allow_missing_keys: do not raise on a missing key.
    """

    backend = AnatomyMask.backend

    def __init__(
        self,
        keys: KeysCollection,
        modality: str = "",
        spacing: tuple[float, ...] = (),
        new_key_prefix: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = AnatomyMask(modality, spacing)
        self.new_key_prefix = new_key_prefix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add or replace the masks; images must have shape (1, H, W[, D])."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key if self.new_key_prefix is None else f"{self.new_key_prefix}{key}"] = self.transform(result[key])
        return result


class SparsityMaskd(MapTransform):
    """Dictionary version of :class:`~monai_salm.transforms.SparsityMask`.

    Args:
        keys: score maps.
        perturbed_fraction: see ``SparsityMask``.
        anatomy_key: mask of the anatomy; None for none.
        new_key_prefix: put each mask under this prefix and the score's key; None replaces the score.
        allow_missing_keys: do not raise on a missing key.
    """

    backend = SparsityMask.backend

    def __init__(
        self,
        keys: KeysCollection,
        perturbed_fraction: float = 0.4,
        anatomy_key: str | None = None,
        new_key_prefix: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = SparsityMask(perturbed_fraction)
        self.anatomy_key = anatomy_key
        self.new_key_prefix = new_key_prefix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add or replace the masks; scores must have shape (C, H, W[, D])."""
        result = dict(data)
        anatomy = None if self.anatomy_key is None else result[self.anatomy_key]
        for key in self.key_iterator(result):
            result[key if self.new_key_prefix is None else f"{self.new_key_prefix}{key}"] = self.transform(
                result[key], anatomy
            )
        return result


class SALMProtectd(MapTransform):
    """Dictionary version of :class:`~monai_salm.transforms.SALMProtect`.

    Put it right after ``LoadImaged`` and ``EnsureChannelFirstd``; what it gives is what ``monai-salm protect`` writes
    for the same image. A ``PersistentDataset`` should hash it by content (``hash_transform=pickle_hashing``).

    Args:
        keys: images.
        noise: folder ``noise`` of a run's work folder, for stored noise.
        id_key: key of the sample id, with stored noise; None finds each image by its values.
        surrogate: file ``surrogate.safetensors`` of a run's work folder, to optimize each image now.
        label_key: key of the label, with a surrogate.
        rounds: see ``SALMProtect``.
        device: see ``SALMProtect``.
        allow_missing_keys: do not raise on a missing key.

    Raises:
        UsageError: not exactly one of ``noise`` and ``surrogate`` is given, or ``surrogate`` without ``label_key``.
    """

    backend = SALMProtect.backend

    def __init__(
        self,
        keys: KeysCollection,
        noise: str | Path | None = None,
        id_key: str | None = None,
        surrogate: str | Path | None = None,
        label_key: str | None = None,
        rounds: int | None = None,
        device: str = "cpu",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = SALMProtect(noise, surrogate, rounds=rounds, device=device)
        if surrogate is not None and label_key is None:
            raise UsageError("SALMProtectd with a surrogate optimizes noise for a label; give label_key, too")
        self.id_key = id_key
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the images by protected ones; they must have shape (1, H, W[, D]) and hold real units as loaded."""
        result = dict(data)
        sample_id = None if self.id_key is None else result[self.id_key]
        label = None if self.label_key is None else result[self.label_key]
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key], label, sample_id)
        return result


AnatomyMaskD = AnatomyMaskDict = AnatomyMaskd
SparsityMaskD = SparsityMaskDict = SparsityMaskd
SALMProtectD = SALMProtectDict = SALMProtectd
