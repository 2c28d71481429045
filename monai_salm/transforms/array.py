# SPDX-License-Identifier: Apache-2.0
"""Array transforms: masks, and noise on images that a MONAI pipeline has just loaded.

They take what MONAI's readers give, channel first, in real units and on the native grid: put them right after loading,
before any change of intensity, spacing or orientation. They draw nothing at random, so every caching data set keeps
their results.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from numpy.typing import NDArray

from monai_salm.anatomy import anatomy_mask
from monai_salm.background import border_values, find_background
from monai_salm.errors import RefusedError, UsageError
from monai_salm.learning.checks import known_device
from monai_salm.learning.surrogate import frozen_set, load_surrogate
from monai_salm.methods.error_minimizing import frozen_optimizer
from monai_salm.methods.sparsity import sparsity_mask
from monai_salm.noise import NoiseStore, SparseNoise, fingerprint
from monai_salm.transforms.labels import target_of
from monai_salm.transforms.loaded import RIGHT_AFTER_LOADING, OriginFinder, file_values
from monai_salm.transforms.stored import StoredNoise, within_bounds
from monai_salm.working_grid import working_shape
from monai_salm.working_samples import WorkingMaps, WorkingSample, common_levels, planes_of

__all__ = ["AnatomyMask", "SALMProtect", "SparsityMask"]

_DTYPES = (
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.float32,
    torch.float64,
)


def _plain(image: NdarrayOrTensor) -> tuple[NdarrayOrTensor, NDArray[Any]]:
    """Give the image as MONAI tracks it, and its only channel as a plain array of the type that it came in.

    Raises:
        UsageError: it is no image that has been loaded and not changed since.
    """
    try:
        tracked = convert_to_tensor(image, track_meta=get_track_meta())
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"an array or a tensor is needed, this is {type(image).__name__} ({str(error).partition(chr(10))[0]})"
        ) from error
    if not isinstance(tracked, torch.Tensor):
        raise UsageError(f"an array or a tensor is needed, this is {type(image).__name__}; load it with LoadImage")
    if tracked.ndim in (3, 4) and tracked.shape[0] in (3, 4):
        raise UsageError(
            f"the image has shape {tuple(tracked.shape)}, which is that of a color image; transforms take gray "
            "ones, monai-salm protect takes both"
        )
    if tracked.ndim not in (3, 4) or tracked.shape[0] != 1:
        raise UsageError(
            f"the image has shape {tuple(tracked.shape)}; (1, H, W) or (1, H, W, D) is needed: one channel, first "
            "(EnsureChannelFirst)"
        )
    if not tracked.numel():
        raise UsageError(f"the image of shape {tuple(tracked.shape)} is empty; give one with at least one value")
    if tracked.requires_grad:
        raise UsageError("the image requires a gradient, which cannot flow through files' values; give image.detach()")
    if tracked.dtype not in _DTYPES:
        raise UsageError(
            f"the image is {str(tracked.dtype).removeprefix('torch.')}, which holds no file's values; load it as "
            "float32 or as integers"
        )
    if isinstance(tracked, MetaTensor) and tracked.pending_operations:
        raise UsageError(
            f"the image has {len(tracked.pending_operations)} pending operations (lazy); {RIGHT_AFTER_LOADING}"
        )
    return tracked, convert_to_tensor(tracked, track_meta=False).cpu().numpy()[0]


class AnatomyMask(Transform):
    """Mark the body: 1 inside, 0 in air, table and empty background; see :func:`monai_salm.anatomy.anatomy_mask`.

    Args:
        modality: DICOM Modality code; ``CT`` has a rule of its own.
        spacing: millimeters between samples, for the CT rule; 1 where not given.
    """

    backend = [TransformBackends.NUMPY]

    def __init__(self, modality: str = "", spacing: tuple[float, ...] = ()) -> None:
        self.modality = modality
        self.spacing = tuple(spacing)

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Give the mask of an image.

        Args:
            img: shape must be (1, H, W[, D]), real units.

        Returns:
            Mask of the shape and dtype of ``img``.

        Raises:
            UsageError: the image has another shape.
        """
        img, plain = _plain(img)
        values = plain.astype(np.float64)
        background = find_background(values, border_values(values), modality=self.modality)
        mask = anatomy_mask(
            values,
            modality=self.modality,
            background=background,
            spacing=self.spacing,
        )
        return convert_to_dst_type(mask[None], dst=img, dtype=img.dtype)[0]


class SparsityMask(Transform):
    """Mark the elements of highest score: exactly the top share, never one of score 0 or below.

    Args:
        perturbed_fraction: share of the elements (of the anatomy, where one is given) that may be marked, in (0, 1].

    Raises:
        UsageError: the fraction is not in (0, 1].
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, perturbed_fraction: float = 0.4) -> None:
        if not 0 < perturbed_fraction <= 1:
            raise UsageError(f"perturbed fraction {perturbed_fraction:g} is not in (0, 1]; 0.4 marks 40 %")
        self.perturbed_fraction = perturbed_fraction

    def __call__(self, score: NdarrayOrTensor, anatomy: NdarrayOrTensor | None = None) -> NdarrayOrTensor:
        """Give the mask of a score map.

        Args:
            score: shape must be (C, H, W[, D]); for SALM the accumulated absolute loss gradient.
            anatomy: same shape; elements that are not above 0 are never marked, nor counted.

        Returns:
            Mask of the shape and dtype of ``score``.
        """
        tracked = convert_to_tensor(score, track_meta=get_track_meta())
        values = convert_to_tensor(tracked, track_meta=False)
        inside = (
            torch.ones_like(values, dtype=torch.bool)
            if anatomy is None
            else convert_to_tensor(anatomy, track_meta=False).to(values.device) > 0
        )
        if inside.shape != values.shape:
            raise UsageError(
                f"the anatomy has shape {tuple(inside.shape)}, the score {tuple(values.shape)}; they must be the same"
            )
        limit = torch.tensor([int(float(inside.sum()) * self.perturbed_fraction)], device=values.device)
        mask = sparsity_mask(values.reshape(1, -1), inside.reshape(1, -1).long(), limit).reshape(values.shape)
        marked: NdarrayOrTensor = convert_to_dst_type(mask, dst=tracked, dtype=tracked.dtype)[0]
        return marked


class SALMProtect(Transform):
    """Add SALM's noise to an image, within its budget: noise that a run has stored, or noise optimized now with a run's
    surrogate, frozen.

    With ``noise``, the values are those that ``monai-salm protect`` wrote. With ``surrogate``, they are those that
    ``monai-salm protect --surrogate`` would write, on the same kind of device: an image's file, and the slices of its
    series in the file's folder, tell stored type, rescaling, padding, modality, window and background, and the
    surrogate's card tells all else. Values that no file on disk holds, or one of a format that ``protect`` does not
    read (``.npy``), are taken as they are, with the metadata that a DICOM reader kept, or the window of the series if
    it was in the run. What may be a label map is refused, as in a run. Either way the change is held against the budget
    before it is returned. Networks and open files are neither pickled nor copied: the transform works in worker
    processes and in caching data sets.

    Args:
        noise: folder ``noise`` of a run's work folder.
        surrogate: file ``surrogate.safetensors`` of a run's work folder.
        rounds: rounds of noise steps with a frozen surrogate; None takes as many as its run took, which is what
            ``protect`` takes.
        device: where a surrogate computes.

    Raises:
        UsageError: not exactly one of ``noise`` and ``surrogate`` is given.
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        noise: str | Path | None = None,
        surrogate: str | Path | None = None,
        *,
        rounds: int | None = None,
        device: str = "cpu",
    ) -> None:
        if (noise is None) == (surrogate is None):
            raise UsageError("SALMProtect needs either noise=FOLDER of a run, or surrogate=FILE of a run, and not both")
        if noise is not None and Path(noise, "noise").is_dir():
            raise UsageError(f"{noise}: a run's work folder; give {Path(noise, 'noise')}, the folder of its noise")
        self.stored = None if noise is None else StoredNoise(NoiseStore(noise))
        self.surrogate = None if surrogate is None else str(surrogate)
        if rounds is not None and rounds < 1:
            raise UsageError(f"rounds {rounds} must be at least 1; None takes as many as the surrogate's run took")
        self.rounds = rounds
        self.device = str(known_device(device))
        self._loaded: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def __call__(self, img: NdarrayOrTensor, label: Any = None, sample_id: str | None = None) -> NdarrayOrTensor:
        """Protect an image.

        Args:
            img: shape must be (1, H, W[, D]), real units, as loaded; a folder of slices that was loaded as one image is
                a volume.
            label: with a surrogate: its class (number or name), its findings, or its label map (1, H, W[, D]).
            sample_id: with stored noise: its id; None finds the image by its values.

        Returns:
            Image of the shape, type, dtype and metadata of ``img``.

        Raises:
            UsageError: the image is not one that the noise was made for, or has no label.
            RefusedError: the image cannot carry the noise.
            VerificationError: a bound would be broken.
        """
        img, plain = _plain(img)
        protected = (
            self._optimize(img, plain, label)
            if self.stored is None
            else self._apply(self.stored, img, plain.astype(np.float64), sample_id)
        )
        held = protected.astype(plain.dtype)
        if plain.dtype.kind in "iu" and not np.array_equal(held, protected):
            raise UsageError(f"the protected values are not whole, and the image is {plain.dtype}; load it as float32")
        return convert_to_dst_type(held[None], dst=img, dtype=img.dtype)[0]

    def _apply(
        self, stored: StoredNoise, image: NdarrayOrTensor, values: NDArray[np.float64], sample_id: str | None
    ) -> NDArray[np.float64]:
        """Apply stored noise; where the image's values are not exactly those of a file, to those that
        its own file has.
        """
        try:
            return stored.apply(values, sample_id)
        except UsageError:
            exact = file_values(image, values)
            if exact is None or np.array_equal(exact, values):
                raise
        return stored.apply(exact, sample_id)

    def _optimize(self, image: NdarrayOrTensor, plain: NDArray[Any], label: Any) -> NDArray[np.float64]:
        """Search noise for one image with the frozen surrogate."""
        if self._loaded is None:
            network, card = load_surrogate(self.surrogate)  # type: ignore[arg-type]
            self._loaded = network, card, OriginFinder(card)
        network, card, finder = self._loaded
        if plain.ndim != card.spatial_dims:
            kind = (
                "a run over volumes, or load each slice as an image of its own"
                if plain.ndim == 3
                else "a run over slices, or load whole volumes"
            )
            raise UsageError(
                f"{self.surrogate}: it was trained on {card.spatial_dims}D images, this one has {plain.ndim} "
                f"axes; give the surrogate of {kind}"
            )
        origin = finder.find(image, plain)
        canvases = [canvas for _, canvas in origin.parts]
        shape = working_shape(origin.native, card.working_size)
        if origin.places:
            maps = WorkingMaps.of_slices(
                ((source.stored, canvas) for source, canvas in origin.parts), origin.native, shape
            )
        else:
            maps = WorkingMaps.of_file(origin.parts[0][0].stored, canvases[0], shape)
        if not maps.carrier_voxels.any():
            raise RefusedError(
                f"none of the image's {maps.anatomy_voxels} anatomy voxels lies inside the intensity window, so "
                "nothing can carry noise"
            )
        levels, step_model = common_levels(canvases)
        target = target_of(label, card, plain.shape, origin, shape)
        known = all(source.header.spacing_known for source, _ in origin.parts)
        planes = planes_of(canvases[0], origin.native, shape, spacing_known=known)
        samples = [
            WorkingSample(
                sample_id="image", levels=levels, step_model=step_model, target=target, planes=planes, **vars(maps)
            )
        ]  # fmt: skip
        optimizer = frozen_optimizer(network, card, rounds=self.rounds, device=self.device)
        ((_, steps),) = optimizer.run(frozen_set(samples, card))
        values, noise = origin.turned(plain.astype(np.float64)), SparseNoise.from_dense(steps, levels)
        changed, parts = [], values if origin.places else [values]
        for number, ((source, canvas), part) in enumerate(zip(origin.parts, parts, strict=True)):
            place = (number, len(parts)) if origin.places else None
            changed.append((source, within_bounds(source.stored, canvas, noise, place), part))
        if all(np.array_equal(after, source.stored, equal_nan=after.dtype.kind == "f") for source, after, _ in changed):
            raise RefusedError(
                "the noise is empty (no voxel of it matters to the surrogate, or none can carry noise), so the "
                "image would stay unprotected"
            )
        protected = [
            np.where(after == source.stored, part, replace(source, stored=after).real)
            for source, after, part in changed
        ]
        restored: NDArray[np.float64] = origin.restored(np.stack(protected) if origin.places else protected[0])
        return restored


def image_fingerprint(img: NdarrayOrTensor) -> str:
    """Give the identity of an image's values, the sample id of a NIfTI file without rescaling.

    Args:
        img: shape must be (1, H, W[, D]).
    """
    return fingerprint(_plain(img)[1])
