# SPDX-License-Identifier: Apache-2.0
"""Array transforms: masks, and noise on images that a MONAI pipeline has just loaded.

They take what MONAI's readers give, channel first, in real units and on the native grid: put them right after loading,
before any change of intensity, spacing or orientation. They draw nothing at random, so every caching data set keeps
their results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.transforms import InvertibleTransform, Transform
from monai.utils import TraceKeys, TransformBackends, convert_to_dst_type, convert_to_tensor

from monai_salm.anatomy import anatomy_mask
from monai_salm.background import border_values, find_background
from monai_salm.errors import UsageError
from monai_salm.learning.checks import known_device
from monai_salm.methods.sparsity import sparsity_mask
from monai_salm.noise import NoiseStore, fingerprint
from monai_salm.transforms.frozen import FrozenNoise
from monai_salm.transforms.images import OWN, PipelineImage, traced_steps
from monai_salm.transforms.loaded import file_fingerprints, file_values, real_of_file
from monai_salm.transforms.stored import Applied, StoredNoise
from monai_salm.transforms.tracing import Trace

__all__ = ["AnatomyMask", "SALMProtect", "SparsityMask"]


class AnatomyMask(Transform):
    """Mark the body: 1 inside, 0 in air, table and empty background; see :func:`monai_salm.anatomy.anatomy_mask`.

    Args:
        modality: DICOM Modality code; ``CT`` has a rule of its own.
        spacing: millimeters between samples, for the CT rule; 1 where not given.

    Example:
        >>> import numpy as np
        >>> from monai_salm.transforms import AnatomyMask
        >>> image = np.zeros((1, 32, 32), dtype=np.float32)  # channel first, real units
        >>> image[0, 8:24, 8:24] = np.random.default_rng(0).uniform(300, 400, (16, 16))
        >>> mask = AnatomyMask("MR")(image)
        >>> mask.shape, int(mask.sum())
        (torch.Size([1, 32, 32]), 256)
    """

    backend = [TransformBackends.NUMPY]

    def __init__(self, modality: str = "", spacing: tuple[float, ...] = ()) -> None:
        self.modality = modality
        self.spacing = tuple(spacing)

    def __call__(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Give the mask of an image.

        Args:
            img: shape must be (C, H, W[, D]), real units; the mean of several channels decides for all.

        Returns:
            Mask of the shape and dtype of ``img``.

        Raises:
            UsageError: the image has another shape.
        """
        image = PipelineImage.of(img)
        values = image.values.astype(np.float64)
        if len(image.tracked) > 1:
            values = values.mean(axis=-1)
        if values.ndim > 3:
            raise UsageError(f"the image has shape {tuple(image.tracked.shape)}; (C, H, W) or (C, H, W, D) is needed")
        background = find_background(values, border_values(values), modality=self.modality)
        mask = anatomy_mask(
            values,
            modality=self.modality,
            background=background,
            spacing=self.spacing,
        )
        everywhere = np.repeat(mask[None], len(image.tracked), axis=0)
        return convert_to_dst_type(everywhere, dst=image.tracked, dtype=image.tracked.dtype)[0]


class SparsityMask(Transform):
    """Mark the elements of highest score: exactly the top share, never one of score 0 or below.

    Args:
        perturbed_fraction: share of the elements (of the anatomy, where one is given) that may be marked, in (0, 1].

    Raises:
        UsageError: the fraction is not in (0, 1].

    Example:
        >>> import numpy as np
        >>> from monai_salm.transforms import SparsityMask
        >>> SparsityMask(0.5)(np.array([[[0.9, 0.1], [0.0, 0.4]]], dtype=np.float32)).tolist()
        [[[1.0, 0.0], [0.0, 1.0]]]
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


class SALMProtect(InvertibleTransform):
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

    Images may be in color, or have the points of a time series as channels. A series that was loaded as one image gets
    the noise of a run over series (``--sample series``), or of one over slices (``--sample instance``), slice by slice.

    What was done is added to the image's ``applied_operations``, and :meth:`inverse` takes stored noise off again.

    Args:
        noise: folder ``noise`` of a run's work folder.
        surrogate: file ``surrogate.safetensors`` of a run's work folder.
        rounds: rounds of noise steps with a frozen surrogate; None takes as many as its run took, which is what
            ``protect`` takes.
        device: where a surrogate computes.

    Raises:
        UsageError: not exactly one of ``noise`` and ``surrogate`` is given.

    Example:
        >>> from monai.transforms import Compose, EnsureChannelFirst, LoadImage
        >>> from monai_salm.transforms import SALMProtect
        >>> load = Compose([LoadImage(), EnsureChannelFirst()])
        >>> image = load("EXPORT/case0/image.dcm")
        >>> protected = SALMProtect(noise="OUT.work/noise")(image)
        >>> bool((protected == load("OUT/case0/image.dcm")).all()), bool((protected == image).all())
        (True, False)
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
        self.frozen = None if surrogate is None else FrozenNoise(str(surrogate), rounds, str(known_device(device)))

    def __call__(self, img: NdarrayOrTensor, label: Any = None, sample_id: str | None = None) -> NdarrayOrTensor:
        """Protect an image.

        Args:
            img: shape must be (C, H, W[, D]), real units, as loaded: one channel, three of colors, or the points of a
                time series; a folder of slices that was loaded as one image is a volume.
            label: with a surrogate: its class (number, name or one-hot), its findings, or its label map (1, H, W[, D])
                or (classes, H, W[, D]).
            sample_id: with stored noise: its id; None finds the image by its values.

        Returns:
            Image of the shape, type, dtype and metadata of ``img``.

        Raises:
            UsageError: the image is not one that the noise was made for, or has no label.
            RefusedError: the image cannot carry the noise.
            VerificationError: a bound would be broken.
        """
        image = PipelineImage.of(img)
        if self.frozen is not None:
            found = Applied(self.frozen.protect(image, label), (), [])
        else:
            found = self._apply(image, sample_id)
        protected = image.back(found.values_real)
        if isinstance(protected, MetaTensor):
            moved = found.values_real != image.values
            change = np.abs(found.values_real[moved] - image.values[moved])
            trace = Trace(
                "stored noise" if self.frozen is None else "frozen surrogate", found.parts, found.axes,
                fingerprint(PipelineImage.of(protected).values), float(np.nanmax(change, initial=0)),
                len(change) / moved.size,
            )  # fmt: skip
            self.push_transform(protected, extra_info=trace.to_plain())  # type: ignore[no-untyped-call]
        return cast("NdarrayOrTensor", protected)

    def inverse(self, img: NdarrayOrTensor) -> NdarrayOrTensor:
        """Take stored noise off an image that this transform protected, exactly.

        Args:
            img: as it was returned. What is not (the prediction of a network, in an ``Invertd``; an image that was
                resampled since) is given back as it is.

        Raises:
            UsageError: no trace says that it was protected; or the noise was optimized here and is not stored.
            RefusedError: the file that it was loaded from is not there any more: it is what proves the original.
        """
        if not set(traced_steps(img)) & set(OWN):
            raise UsageError("nothing says that this image was protected; give it as SALMProtect returned it")
        found = self.get_most_recent_transform(img)
        trace, image = Trace.of_plain(found[TraceKeys.EXTRA_INFO]), PipelineImage.of(img)
        if fingerprint(image.values) != trace.fingerprint:
            self.pop_transform(img)
            return img
        if self.stored is None:
            raise UsageError(
                "the noise was optimized here and is stored nowhere, so it cannot be taken off; load the original from "
                "its file, or apply the stored noise of a run (noise=FOLDER)"
            )
        values = image.values.astype(np.float64)
        original = self.stored.remove(values, trace.axes, trace.parts, file_fingerprints(img))
        self.pop_transform(img)
        return cast("NdarrayOrTensor", image.back(original))

    def _apply(self, image: PipelineImage, sample_id: str | None) -> Applied:
        """Apply stored noise; where the image's values are not exactly those of a file, to those that its own file
        has.
        """
        stored = cast("StoredNoise", self.stored)
        values = image.values.astype(np.float64)
        exact = file_values(image.tracked, values)
        found = stored.apply(values, sample_id)
        if found is None and exact is not None and not np.array_equal(exact, values):
            found = stored.apply(exact, sample_id)
        if found is None:
            known = "its file is not in that run; give the noise of a run over it" if exact is not None else ""
            why = known or image.too_late(real_of_file(image.tracked))
            raise UsageError(f"{stored.missing(values.shape, sample_id)}; {why}")
        return found


def image_fingerprint(img: NdarrayOrTensor) -> str:
    """Give the identity of an image's values, the sample id of a NIfTI file without rescaling.

    Args:
        img: shape must be (1, H, W[, D]).
    """
    return fingerprint(PipelineImage.of(img).values)
