# SPDX-License-Identifier: Apache-2.0
"""The label maps of samples: which values they hold, and what they say of each cell of a working grid."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import read_label_map, read_segmentation
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.plan import SamplePlan
from monai_salm.working_grid import labels_to_working

MOST_CLASSES = 256
"""Classes of label maps, which are 8-bit on the working grid."""


def native_shape(sample: SamplePlan, inventory: Inventory) -> tuple[int, ...]:
    """Give the shape of a sample's values; of a series, that of its slices stacked."""
    shape = inventory.pictures[sample.files[0].path].shape
    return (len(sample.files), *shape) if len(sample.files) > 1 else shape


def working_label_map(
    inventory: Inventory,
    sample: SamplePlan,
    target: str,
    shape: tuple[int, ...],
    label_values: Mapping[int, int] | None,
) -> NDArray[np.uint8]:
    """Read the label map of a sample onto its working grid.

    Args:
        inventory: of the input.
        sample: whose label map it is.
        target: path of the label map; relative to the input if it is a document of that.
        shape: of the working grid.
        label_values: value in the label map -> class; None leaves them as they are.

    Raises:
        RefusedError: it does not fit the image, or has a value without a class.
    """
    labels, native = _label_values(inventory, sample, target), native_shape(sample, inventory)
    if labels.shape != native:
        raise RefusedError(
            f"its label map {Path(target).name} has shape {labels.shape}, the image {native}; they must be the same"
        )
    if label_values is not None:
        unknown = sorted(set(np.unique(labels).tolist()) - set(label_values))
        if unknown:
            raise RefusedError(
                f"its label map {Path(target).name} has the values {unknown}, which no label map of the training "
                "set has"
            )
        labels = np.vectorize(label_values.__getitem__, otypes=[np.uint8])(labels)
    return labels_to_working(labels, shape)


def _label_values(inventory: Inventory, sample: SamplePlan, target: str) -> NDArray[Any]:
    """Read the label map of a sample: a file of its own, or the planes that a SEG object of the input has of the
    sample's files, in their order.
    """
    if target not in inventory.documents:
        return read_label_map(Path(target))
    planes = read_segmentation(inventory.absolute(target)).planes
    labels = np.zeros(native_shape(sample, inventory), np.uint16)
    for place, file in zip(labels if len(sample.files) > 1 else [labels], sample.files, strict=True):
        plane = planes.get(inventory.pictures[file.path].identifiers["SOPInstanceUID"])
        if plane is None:
            continue
        # A SEG object knows the frames of an image only up to the last one that has a segment.
        stack, frames = place.reshape(-1, *place.shape[-2:]), plane.reshape(-1, *plane.shape[-2:])
        if frames.shape[1:] != stack.shape[1:] or len(frames) > len(stack):
            raise RefusedError(
                f"its segmentation {target} has shape {plane.shape}, the image {place.shape}; they must be the same"
            )
        stack[: len(frames)] = frames
    return labels


def label_map_values(inventory: Inventory, samples: Sequence[SamplePlan]) -> list[int]:
    """Give the values that occur in the label maps of some samples, in order; their places are the classes."""
    values: set[int] = set()
    for sample in samples:
        if isinstance(sample.target, str):
            with contextlib.suppress(RefusedError, OSError):  # the sample is refused when it is read
                values |= set(np.unique(_label_values(inventory, sample, sample.target)).tolist())
    if len(values) > MOST_CLASSES:
        raise UsageError(
            f"the label maps hold {len(values)} values, more than {MOST_CLASSES} classes; are they label maps?"
        )
    return sorted(values)
