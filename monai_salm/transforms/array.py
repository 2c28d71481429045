# SPDX-License-Identifier: Apache-2.0
"""Array transforms: masks, and noise on images that a MONAI pipeline has just loaded.

They take what MONAI's readers give, channel first, in real units and on the native grid: put them right after loading, before any change of intensity,
spacing or orientation. They draw nothing at random, so every caching data set keeps their results.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import get_track_meta
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_dst_type, convert_to_tensor
from numpy.typing import NDArray

from monai_salm.budget import Epsilon, FileBudget, IntensityWindow, PerturbationBudget
from monai_salm.canvas import Canvas
from monai_salm.consumers import ConsumerAugmentation
from monai_salm.errors import UsageError
from monai_salm.grid import labels_to_working, working_shape
from monai_salm.masks import anatomy_mask, border_values, find_background, find_window, sparsity_mask
from monai_salm.noise import NoiseStore, SparseNoise, fingerprint
from monai_salm.optimize import MinMinOptimizer, MinMinSettings
from monai_salm.samples import WorkingMaps, WorkingSample, WorkingSet
from monai_salm.surrogate import load_surrogate
from monai_salm.tasks import task_from_json
from monai_salm.transforms.stored import StoredNoise

__all__ = ["AnatomyMask", "SALMProtect", "SparsityMask"]


def _plain(image: NdarrayOrTensor) -> tuple[NdarrayOrTensor, NDArray[np.float64]]:
    """Give the image as MONAI tracks it, and its only channel as a plain array."""
    tracked = convert_to_tensor(image, track_meta=get_track_meta())
    if tracked.ndim not in (3, 4) or tracked.shape[0] != 1:
        raise UsageError(f"the image has shape {tuple(tracked.shape)}; (1, H, W) or (1, H, W, D) is needed: one channel, first (EnsureChannelFirst)")
    return tracked, np.asarray(convert_to_tensor(tracked, track_meta=False).cpu(), dtype=np.float64)[0]


class AnatomyMask(Transform):
    """Mark the body: 1 inside, 0 in air, table and empty background; see :func:`monai_salm.masks.anatomy_mask`.

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
        img, values = _plain(img)
        background = find_background(values, border_values(values), modality=self.modality)
        mask = anatomy_mask(
            values,
            modality=self.modality,
            background_real=background.center_real if background else None,
            background_spread_real=background.spread_real if background else 0.0,
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
        inside = torch.ones_like(values, dtype=torch.bool) if anatomy is None else convert_to_tensor(anatomy, track_meta=False).to(values.device) > 0
        if inside.shape != values.shape:
            raise UsageError(f"the anatomy has shape {tuple(inside.shape)}, the score {tuple(values.shape)}; they must be the same")
        limit = torch.tensor([int(float(inside.sum()) * self.perturbed_fraction)], device=values.device)
        mask = sparsity_mask(values.reshape(1, -1), inside.reshape(1, -1).long(), limit).reshape(values.shape)
        marked: NdarrayOrTensor = convert_to_dst_type(mask, dst=tracked, dtype=tracked.dtype)[0]
        return marked


class SALMProtect(Transform):
    """Add SALM's noise to an image, within its budget: noise that a run has stored, or noise optimized now with a run's surrogate, frozen.

    With ``noise``, the values are those that ``monai-salm protect`` wrote. With ``surrogate``, the result depends on the image and its label alone.
    Networks and open files are neither pickled nor copied: the transform works in worker processes and in caching data sets.

    Args:
        noise: folder ``noise`` of a run's work folder.
        surrogate: file ``surrogate.safetensors`` of a run's work folder.
        rounds: rounds of noise steps with a frozen surrogate.
        device: where a surrogate computes.

    Raises:
        UsageError: not exactly one of ``noise`` and ``surrogate`` is given.
    """

    backend = [TransformBackends.TORCH]

    def __init__(self, noise: str | Path | None = None, surrogate: str | Path | None = None, *, rounds: int = 4, device: str = "cpu") -> None:
        if (noise is None) == (surrogate is None):
            raise UsageError("SALMProtect needs either noise=FOLDER of a run, or surrogate=FILE of a run, and not both")
        self.stored = None if noise is None else StoredNoise(NoiseStore(noise))
        self.surrogate = None if surrogate is None else str(surrogate)
        self.rounds = rounds
        self.device = device
        self._loaded: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def __call__(self, img: NdarrayOrTensor, label: Any = None, sample_id: str | None = None) -> NdarrayOrTensor:
        """Protect an image.

        Args:
            img: shape must be (1, H, W[, D]), real units, as loaded.
            label: with a surrogate: its class (number or name), its findings, or its label map (1, H, W[, D]).
            sample_id: with stored noise: its id; None finds the image by its values.

        Returns:
            Image of the shape, type, dtype and metadata of ``img``.

        Raises:
            UsageError: the image is not one that the noise was made for, or has no label.
            RefusedError: the image cannot carry the noise.
        """
        img, values = _plain(img)
        protected = self.stored.apply(values, sample_id) if self.stored is not None else self._optimize(values, label)
        return convert_to_dst_type(protected[None], dst=img, dtype=img.dtype)[0]

    def _optimize(self, values: NDArray[np.float64], label: Any) -> NDArray[np.float64]:
        """Search noise for one image with the frozen surrogate."""
        if self._loaded is None:
            self._loaded = load_surrogate(self.surrogate)  # type: ignore[arg-type]
        network, card = self._loaded
        if values.ndim != card.spatial_dims:
            raise UsageError(f"{self.surrogate}: it was trained on {card.spatial_dims}D images, this one has {values.ndim} axes")
        budget = image_budget(values, card.modality, Epsilon(*card.epsilon), IntensityWindow(*card.window) if card.window else None)
        shape = working_shape(values.shape, card.working_size)
        canvas = Canvas(budgets=(budget,))
        maps = WorkingMaps.of_file(values, canvas, shape)
        target = _target(label, card.classes, card.task, values.shape, shape)
        sample = WorkingSample(sample_id="image", levels=budget.steps, step_model=budget.step_model, target=target, **vars(maps))
        search = replace(MinMinSettings(**card.search), max_rounds=self.rounds, stop_error=0.0)
        optimizer = MinMinOptimizer(
            network, task_from_json(card.task), search,
            augmentation=ConsumerAugmentation(**card.augmentation), device=self.device, freeze_surrogate=True,
        )  # fmt: skip
        fitting = all(n <= m for n, m in zip(shape, card.padded_shape, strict=True))
        ((_, steps),) = optimizer.run(WorkingSet([sample], tuple(card.padded_shape) if fitting else None))
        noise = SparseNoise.from_dense(steps, budget.steps)
        return canvas.add(values, noise.dense(), noise.levels, canvas.carriers(values, canvas.anatomy(values)))


def image_budget(values_real: NDArray[np.float64], modality: str, epsilon: Epsilon, window: IntensityWindow | None) -> FileBudget:
    """Bind a budget to an image that has no file: its real values are its stored ones."""
    chosen, background = find_window(modality, values_real.ravel(), border_values(values_real), window=window)
    return PerturbationBudget(epsilon, chosen).bind(
        values_real,
        modality=modality,
        background_real=background.center_real if background else None,
        background_spread_real=background.spread_real if background else 0.0,
        background_stored=background.exact_stored if background else None,
    )


def _target(label: Any, classes: list[str], task: dict[str, Any], native: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """Bring a label of a pipeline into the form of a working sample."""
    if label is None:
        raise UsageError("noise is optimized for a label, and there is none; give label_key, or apply stored noise")
    if isinstance(label, str):
        if label not in classes:
            raise UsageError(f"label {label!r} is not one of the surrogate's classes {classes}")
        return classes.index(label)
    plain = np.asarray(convert_to_tensor(label, track_meta=False).cpu())
    if task["task"] == "segmentation":
        numbers = {int(name): number for number, name in enumerate(classes)}
        values = np.unique(plain).astype(int).tolist()
        if plain.shape != (1, *native) or not set(values) <= set(numbers):
            raise UsageError(f"the label map has shape {plain.shape} and values {values}; {(1, *native)} and values of {sorted(numbers)} are needed")
        return labels_to_working(np.vectorize(numbers.__getitem__, otypes=[np.uint8])(plain[0].astype(int)), shape)
    if task["multi_label"]:
        if plain.size != task["outputs"]:
            raise UsageError(f"label {label} has {plain.size} findings, the surrogate {task['outputs']}: {', '.join(classes)}")
        return plain.reshape(-1).astype(np.float32)
    number = int(plain.reshape(-1)[0])
    if plain.size != 1 or not 0 <= number < task["outputs"]:
        raise UsageError(f"label {label} is no class from 0 to {task['outputs'] - 1}")
    return number


def image_fingerprint(img: NdarrayOrTensor) -> str:
    """Give the identity of an image's values, the sample id of a NIfTI file without rescaling.

    Args:
        img: shape must be (1, H, W[, D]).
    """
    return fingerprint(_plain(img)[1])
