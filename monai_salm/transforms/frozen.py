# SPDX-License-Identifier: Apache-2.0
"""Noise that is optimized in the pipeline, with the frozen surrogate of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from monai_salm.canvas import Canvas
from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import SourceImage
from monai_salm.learning.surrogate import SurrogateCard, frozen_set, load_surrogate
from monai_salm.methods.error_minimizing import frozen_optimizer
from monai_salm.noise import SparseNoise
from monai_salm.transforms.images import PipelineImage
from monai_salm.transforms.labels import target_of
from monai_salm.transforms.loaded import Origin, OriginFinder
from monai_salm.transforms.stored import within_bounds
from monai_salm.working_grid import labels_to_working, working_shape
from monai_salm.working_samples import WorkingMaps, WorkingSample, common_levels, planes_of

_Part = tuple[SourceImage, Canvas]


class FrozenNoise:
    """Optimize noise for images with a run's surrogate, frozen.

    Args:
        path: of the surrogate.
        rounds: of noise steps; None takes as many as its run took.
        device: where it computes.

    Raises:
        UsageError: less than one round.
    """

    def __init__(self, path: str, rounds: int | None, device: str) -> None:
        if rounds is not None and rounds < 1:
            raise UsageError(f"rounds {rounds} must be at least 1; None takes as many as the surrogate's run took")
        self.path, self.rounds, self.device = path, rounds, device
        self._loaded: tuple[nn.Module, SurrogateCard, OriginFinder] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def protect(self, image: PipelineImage, label: Any) -> NDArray[np.float64]:
        """Give the real values of an image with noise, in the axes of ``image.values``; arguments and errors as of
        :class:`~monai_salm.transforms.SALMProtect`.
        """
        if self._loaded is None:
            network, card = load_surrogate(self.path)
            self._loaded = network, card, OriginFinder(card)
        network, card, finder = self._loaded
        origin = finder.find(image)
        groups = self._samples_in(origin, card)
        target = target_of(label, card, origin)
        targets = target if _is_map(card) and len(groups) > 1 else [target] * len(groups)
        samples = [
            replace(_sample(group, card, one), sample_id=f"image {number}")
            for number, (group, one) in enumerate(zip(groups, targets, strict=True))
        ]
        optimizer = frozen_optimizer(network, card, rounds=self.rounds, device=self.device)
        noises = [
            SparseNoise.from_dense(steps, sample.levels)
            for (_, steps), sample in zip(optimizer.run(frozen_set(samples, card)), samples, strict=True)
        ]
        values = origin.turned(image.values.astype(np.float64))
        parts, changed = iter(values if origin.places else [values]), []
        for group, noise in zip(groups, noises, strict=True):
            for number, (source, canvas) in enumerate(group):
                place = (number, len(group)) if len(group) > 1 else None
                after, part = within_bounds(source.stored, canvas, noise, place), next(parts)
                changed.append((source, after, np.where(after == source.stored, part, _real(source, after))))
        if all(np.array_equal(after, source.stored, equal_nan=after.dtype.kind == "f") for source, after, _ in changed):
            raise RefusedError(
                "the noise is empty (no voxel of it matters to the surrogate, or none can carry noise), so the "
                "image would stay unprotected"
            )
        protected = [real for _, _, real in changed]
        return origin.restored(np.stack(protected) if origin.places else protected[0])

    def _samples_in(self, origin: Origin, card: SurrogateCard) -> list[list[_Part]]:
        """Give the parts of each sample: all of one, or each slice of a series of its own."""
        axes, parts = len(origin.native), list(origin.parts)
        if axes == card.spatial_dims:
            return [parts]
        if origin.places and card.spatial_dims == 2:
            return [[part] for part in parts]
        help_ = (
            "the surrogate of a run over volumes (--sample series), or load each slice as an image of its own"
            if axes == 3
            else "the surrogate of a run over slices (--sample instance), or load the folder of a series as one image"
        )
        raise UsageError(
            f"{self.path}: it was trained on {card.spatial_dims}D images, this one has {axes} axes; give {help_}"
        )


def _is_map(card: SurrogateCard) -> bool:
    return bool(card.task["task"] == "segmentation")


def _real(source: SourceImage, stored: NDArray[Any]) -> NDArray[np.float64]:
    return replace(source, stored=stored).real


def _sample(parts: Sequence[_Part], card: SurrogateCard, target: Any) -> WorkingSample:
    """Bring one sample onto its working grid.

    Args:
        parts: its files.
        card: of the surrogate.
        target: its class, its findings, or the number of the class at each place of its native grid.
    """
    (first, canvas), canvases = parts[0], [canvas for _, canvas in parts]
    native = (len(parts), *first.header.shape) if len(parts) > 1 else first.header.shape
    shape = working_shape(native, card.working_size)
    if len(parts) > 1:
        maps = WorkingMaps.of_slices(((source.stored, canvas) for source, canvas in parts), native, shape)
    else:
        maps = WorkingMaps.of_file(first.stored, canvas, shape)
    if not maps.carrier_voxels.any():
        raise RefusedError(
            f"none of the image's {maps.anatomy_voxels} anatomy voxels lies inside the intensity window, so "
            "nothing can carry noise"
        )
    levels, step_model = common_levels(canvases)
    known = all(source.header.spacing_known for source, _ in parts)
    return WorkingSample(
        sample_id="image", levels=levels, step_model=step_model,
        target=labels_to_working(target, shape) if _is_map(card) else target,
        planes=planes_of(canvas, native, shape, spacing_known=known), **vars(maps),
    )  # fmt: skip
