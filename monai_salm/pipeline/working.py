# SPDX-License-Identifier: Apache-2.0
"""From planned files to samples on their working grids, and what the noise store keeps of the files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.anatomy import CT_BODY_HU
from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import SourceImage, read_label_map, read_segmentation, read_source
from monai_salm.learning.samples import WorkingMaps, WorkingSample, common_levels
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.plan import FilePlan, SamplePlan
from monai_salm.windows import IntensityWindow
from monai_salm.working_grid import labels_to_working, working_shape

MOST_CLASSES = 256
"""Classes of label maps, which are 8-bit on the working grid."""


def working_sample(
    inventory: Inventory,
    sample: SamplePlan,
    size: int,
    label_values: Mapping[int, int] | None = None,
    bare: dict[str, str] | None = None,
) -> WorkingSample:
    """Read the files of a sample onto its working grid; slices of a series one by one.

    Args:
        inventory: of the input.
        sample: what to read.
        size: longest axis of the working grid.
        label_values: value in a label map -> class; None leaves them as they are.
        bare: takes the files of a series in which nothing can carry noise, with the reason; None if nobody asks.

    Raises:
        RefusedError: nothing in the sample can carry noise, or its label map does not fit.
    """
    native = _native_shape(sample, inventory)
    shape = working_shape(native, size)
    views = [file.view for file in sample.files]
    sources = (read_source(inventory.absolute(file.path)).stored for file in sample.files)
    if len(sample.files) > 1:
        maps = WorkingMaps.of_slices(zip(sources, views, strict=True), native, shape)
    else:
        maps = WorkingMaps.of_file(next(sources), views[0], shape)
    if not maps.carrier_voxels.any():
        raise RefusedError(_why_nothing_carries(inventory, sample, maps.anatomy_voxels))
    if bare is not None and len(sample.files) > 1:
        bare |= _bare_slices(inventory, sample)
    levels, step_model = common_levels(views)
    target: int | NDArray[np.float32] | NDArray[np.uint8] | None
    if isinstance(sample.target, str):
        target = _label_map(inventory, sample, sample.target, shape, label_values)
    elif isinstance(sample.target, list):
        target = np.array(sample.target, dtype=np.float32)
    else:
        target = sample.target
    return WorkingSample(
        sample_id=sample.sample_id, levels=levels, step_model=step_model, target=target,
        spacing=_cell_spacing(views[0].spacing, native, shape), **vars(maps),
    )  # fmt: skip


def _bare_slices(inventory: Inventory, sample: SamplePlan) -> dict[str, str]:
    """Name the slices of a volume in which nothing can carry noise, though others of it can."""
    found = {}
    for file, (source, inside) in zip(sample.files, _anatomies(inventory, sample), strict=True):
        if not file.view.carriers(source.stored, inside).any():
            found[file.path] = (
                f"none of its {np.count_nonzero(inside)} anatomy voxels can carry noise, though other slices of "
                "its series can"
            )
    return found


def _why_nothing_carries(inventory: Inventory, sample: SamplePlan, anatomy_voxels: int) -> str:
    """Say why no voxel of a sample can carry noise, with what helps: another window where that would
    see the anatomy.
    """
    leave = "leave it out, or give --copy-unprotected, which copies it as it is"
    view = sample.files[0].view
    if not anatomy_voxels:
        said = inventory.pictures[sample.files[0].path].modality
        lack = (
            f"no region of it is denser than {CT_BODY_HU:g} HU, as a body is"
            if view.modality == "CT"
            else "nothing in it differs from its background"
        )
        other = "" if said or view.modality != "CT" else "give another --modality if it is no CT, "
        return f"no anatomy was found: {lack}, and no --window changes that; {other}{leave}"
    inside = [(source, inside) for source, inside in _anatomies(inventory, sample) if inside.any()]
    values = [source.real[mask] for source, mask in inside]
    low, high = (
        float(extreme([extreme(part[np.isfinite(part)], initial=start) for part in values]))
        for extreme, start in ((np.min, np.inf), (np.max, -np.inf))
    )
    window = view.views[0].window
    if low < high and any(
        view.through(IntensityWindow(low, high)).carriers(source.stored, mask).any() for source, mask in inside
    ):
        return (
            f"none of its {anatomy_voxels} anatomy voxels, which are {low:.6g} to {high:.6g}, lies inside the "
            "intensity window "
            f"{window.low:g} to {window.high:g}, so nothing can carry noise; give a --window that holds them, "
            f"such as --window={low:.6g},{high:.6g}"
        )
    return (
        f"its {anatomy_voxels} anatomy voxels are all saturated or padding, at {low:.6g} to {high:.6g}, so nothing "
        f"can carry noise; {leave}"
    )


def _anatomies(inventory: Inventory, sample: SamplePlan) -> Iterator[tuple[SourceImage, NDArray[np.bool_]]]:
    for file in sample.files:
        source = read_source(inventory.absolute(file.path))
        yield source, file.view.anatomy(source.stored)


def _cell_spacing(spacing: tuple[float, ...], native: tuple[int, ...], shape: tuple[int, ...]) -> tuple[float, ...]:
    """Give the millimeters between working cells; empty where the file does not say them for every axis."""
    if len(spacing) != len(native):
        return ()
    return tuple(millimeters * n / m for millimeters, n, m in zip(spacing, native, shape, strict=True))


def _native_shape(sample: SamplePlan, inventory: Inventory) -> tuple[int, ...]:
    shape = inventory.pictures[sample.files[0].path].shape
    return (len(sample.files), *shape) if len(sample.files) > 1 else shape


def _label_map(
    inventory: Inventory,
    sample: SamplePlan,
    target: str,
    shape: tuple[int, ...],
    label_values: Mapping[int, int] | None,
) -> NDArray[np.uint8]:
    labels, native = _label_values(inventory, sample, target), _native_shape(sample, inventory)
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
    labels = np.zeros(_native_shape(sample, inventory), np.uint16)
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


def noise_record(inventory: Inventory, sample: SamplePlan) -> dict[str, Any]:
    """Give what the noise store keeps beside a sample's noise, so that a pipeline can apply it without the plan."""

    def entry(file: FilePlan) -> dict[str, Any]:
        header = inventory.pictures[file.path]
        return {
            "fingerprint": file.fingerprint,
            "shape": list(header.shape),
            "dtype": header.dtype.name,
            "canvas": file.canvas.to_json(),
        }

    return {"files": [entry(file) for file in sample.files]}
