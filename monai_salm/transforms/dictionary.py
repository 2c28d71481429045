# SPDX-License-Identifier: Apache-2.0
"""Dictionary transforms: the array transforms of this package for ``Compose`` pipelines of dictionaries."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform

from monai_salm.errors import UsageError
from monai_salm.transforms.array import AnatomyMask, SALMProtect, SparsityMask
from monai_salm.transforms.loading import LoadFaithful
from monai_salm.transforms.saving import SaveFaithful

__all__ = [
    "AnatomyMaskD",
    "AnatomyMaskDict",
    "AnatomyMaskd",
    "LoadFaithfulD",
    "LoadFaithfulDict",
    "LoadFaithfuld",
    "SALMProtectD",
    "SALMProtectDict",
    "SALMProtectd",
    "SaveFaithfulD",
    "SaveFaithfulDict",
    "SaveFaithfuld",
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

    Example:
        >>> import numpy as np
        >>> from monai_salm.transforms import AnatomyMaskd
        >>> image = np.random.default_rng(0).uniform(300, 400, (1, 16, 16))
        >>> sorted(AnatomyMaskd("image", modality="MR", new_key_prefix="mask_of_")({"image": image}))
        ['image', 'mask_of_image']
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
        """Add or replace the masks; images must have shape (C, H, W[, D])."""
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

    Example:
        >>> import numpy as np
        >>> from monai_salm.transforms import SparsityMaskd
        >>> data = {"score": np.array([[[0.9, 0.1], [0.3, 0.4]]]), "anatomy": np.array([[[0, 1], [1, 1]]])}
        >>> SparsityMaskd("score", 0.67, anatomy_key="anatomy")(data)["score"].tolist()
        [[[0.0, 0.0], [1.0, 1.0]]]
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


class SALMProtectd(MapTransform, InvertibleTransform):
    """Dictionary version of :class:`~monai_salm.transforms.SALMProtect`.

    Put it right after ``LoadFaithfuld``, or ``LoadImaged`` and ``EnsureChannelFirstd``; what it gives is what
    ``monai-salm protect`` writes for the same image. A ``PersistentDataset`` should hash it by content
    (``hash_transform=pickle_hashing``).

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

    Example:
        >>> from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
        >>> from monai_salm.transforms import SALMProtectd
        >>> steps = [LoadImaged("image"), EnsureChannelFirstd("image"), SALMProtectd("image", noise="OUT.work/noise")]
        >>> Compose(steps)({"image": "EXPORT/case1/image.dcm"})["image"].shape
        torch.Size([1, 24, 24])
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
        """Replace the images by protected ones; they must have shape (C, H, W[, D]) and hold real units as loaded."""
        result = dict(data)
        sample_id = None if self.id_key is None else result[self.id_key]
        label = None if self.label_key is None else result[self.label_key]
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key], label, sample_id)
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take stored noise off the images again; see :meth:`SALMProtect.inverse`."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform.inverse(result[key])
        return result


class LoadFaithfuld(MapTransform):
    """Dictionary version of :class:`~monai_salm.transforms.LoadFaithful`.

    Args:
        keys: paths, which are replaced by the images.
        series_uid: see ``LoadFaithful``.
        allow_missing_keys: do not raise on a missing key.

    Example:
        >>> from monai_salm.transforms import LoadFaithfuld
        >>> tuple(LoadFaithfuld("image")({"image": "EXPORT/case1/image.dcm"})["image"].shape)
        (1, 24, 24)
    """

    backend = LoadFaithful.backend

    def __init__(self, keys: KeysCollection, series_uid: str = "", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = LoadFaithful(series_uid)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the paths by images of shape (C, W, H[, D]) or (C, i, j, k)."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


class SaveFaithfuld(MapTransform):
    """Dictionary version of :class:`~monai_salm.transforms.SaveFaithful`.

    Args:
        keys: images to write.
        output_dir, data_root_dir: see ``SaveFaithful``.
        allow_missing_keys: do not raise on a missing key.
        **options: all others of ``SaveFaithful``.

    Example:
        >>> from pathlib import Path
        >>> from monai.transforms import Compose
        >>> from monai_salm.transforms import LoadFaithfuld, SaveFaithfuld
        >>> copied = Compose([LoadFaithfuld("image"), SaveFaithfuld("image", "COPIED", "EXPORT")])
        >>> _ = copied({"image": "EXPORT/case1/image.dcm"})
        >>> [path.as_posix() for path in Path("COPIED").rglob("*.dcm")]
        ['COPIED/case1/image.dcm']
    """

    backend = SaveFaithful.backend

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        data_root_dir: str | Path = "",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = SaveFaithful(output_dir, data_root_dir, **options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the images, of shape (C, spatial shape of their files), and give them back."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[key] = self.transform(result[key])
        return result


AnatomyMaskD = AnatomyMaskDict = AnatomyMaskd
LoadFaithfulD = LoadFaithfulDict = LoadFaithfuld
SaveFaithfulD = SaveFaithfulDict = SaveFaithfuld
SparsityMaskD = SparsityMaskDict = SparsityMaskd
SALMProtectD = SALMProtectDict = SALMProtectd
