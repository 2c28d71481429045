# SPDX-License-Identifier: Apache-2.0
"""Reading files and DICOM series into a pipeline by the package's own readers, which drop and guess nothing."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import MetaKeys, SpaceKeys, TransformBackends
from numpy.typing import NDArray

from monai_salm.errors import RefusedError, UsageError, unreadable
from monai_salm.io import (
    ImageHeader,
    SourceImage,
    UndecidedError,
    affine,
    dicom,
    format_of,
    identify,
    read_source,
)
from monai_salm.transforms.values import fits_32_bits, real_into
from monai_salm.volumes import slice_order

SOURCE = "faithful_source"
"""Key of the metadata that :class:`Provenance` lies under."""

_UNEVEN, _LEAST_MM = 0.02, 0.01
"""Positions are rounded in files; slices lie evenly if none is off by more than this share of a step and this much."""


@dataclass(frozen=True)
class Provenance:
    """Where the values of an image come from, as one text: metadata are collated, and lists of other lengths are not.

    Args:
        files: paths, in the order of the slices.
        sha256: digest of each, as it was read.
        axes: transposed by these, files' axes are those of the image.
        affine: of the image as it was loaded.
    """

    files: tuple[str, ...]
    sha256: tuple[str, ...]
    axes: tuple[int, ...]
    affine: tuple[tuple[float, ...], ...]

    def to_text(self) -> str:
        """Give JSON that :meth:`of_text` reads back."""
        return json.dumps(vars(self))

    @classmethod
    def of_text(cls, text: str) -> Provenance:
        """Read what :meth:`to_text` gave."""
        plain = json.loads(text)
        rows = tuple(tuple(map(float, row)) for row in plain["affine"])
        return cls(tuple(plain["files"]), tuple(plain["sha256"]), tuple(plain["axes"]), rows)


class LoadFaithful(Transform):
    """Read a file, or a DICOM series as one volume, in real units, channel first; what cannot be read right is refused.

    Unlike MONAI's readers it gives the same whatever else is installed. Rescaling, padding and signedness are those of
    the file; slices are ordered by their position, and none is dropped; the affine is that of the positions. Axes,
    their order and metadata keys are those of ``LoadImage``, and ``EnsureChannelFirst`` changes nothing. Values are
    float32 where every stored value comes back from that, else float64. :class:`SaveFaithful` writes such an image
    into a copy of its files.

    DICOM, NIfTI, NRRD, MetaImage, PNG, TIFF and JPEG are read, see ``docs/fidelity.md``. Colors and the points of a
    time series are channels.

    Args:
        series_uid: Series Instance UID of the one to read from a folder that holds several; empty takes the only one.

    Example:
        >>> from monai_salm.transforms import LoadFaithful
        >>> image = LoadFaithful()("EXPORT/case0/image.dcm")
        >>> tuple(image.shape), image.dtype  # channel first, real units
        ((1, 24, 24), torch.float32)
    """

    backend = [TransformBackends.NUMPY]

    def __init__(self, series_uid: str = "") -> None:
        self.series_uid = series_uid

    def __call__(self, path: str | PathLike[str] | Sequence[str | PathLike[str]]) -> MetaTensor:
        """Read an image.

        Args:
            path: of a file, of a folder with the slices of a series (those in folders within it are others), or those
                of the slices.

        Returns:
            Image (C, W, H) of DICOM instances and pictures, (C, W, H, slices or frames) of series and stacks, and
            (C, i, j, k) of other volumes. Its metadata say by ``affine_known`` whether a file told the affine.

        Raises:
            RefusedError: the file cannot be read faithfully, or slices are no volume: of other sizes, at one place, or
                unevenly apart.
            UsageError: nothing is there, or more than one series.
        """
        paths = [Path(path)] if isinstance(path, (str, PathLike)) else [Path(one) for one in path]
        named = str(paths[0])
        if len(paths) == 1 and paths[0].is_dir():
            paths = self._series_in(paths[0])
        sources = [_read(one) for one in paths]
        if len(sources) > 1:
            sources.sort(key=lambda source: slice_order(source.header, source.header.path.name))
        return _image(named, sources)

    def _series_in(self, folder: Path) -> list[Path]:
        """Find the slices of the series to read."""
        found: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            header = _identified(path)
            if isinstance(header, ImageHeader) and header.format == "dicom":
                found[header.identifiers.get("SeriesInstanceUID", "")].append(path)
        if self.series_uid and self.series_uid not in found:
            raise UsageError(f"{folder}: it holds no series {self.series_uid}; {_those(found)}")
        if not found:
            raise UsageError(f"{folder}: it holds no DICOM image; give a file, or the folder of a series")
        if len(found) > 1 and not self.series_uid:
            raise UsageError(f"{folder}: it holds {len(found)} series; choose by series_uid: {_those(found)}")
        return found[self.series_uid or next(iter(found))]


def _those(found: dict[str, list[Path]]) -> str:
    some = ", ".join(f"{uid or 'without a UID'} ({len(paths)} images)" for uid, paths in list(found.items())[:5])
    return f"there are {some}" + (", ..." if len(found) > 5 else "") if found else "there is none"


def _identified(path: Path) -> object:
    """Say what a DICOM file in a folder is; one that is broken is none that may be left out in silence."""
    try:
        return identify(path) if format_of(path) is dicom else None
    except UndecidedError:
        return identify(path, "picture")
    except RefusedError as refusal:
        raise RefusedError(f"{path}: {refusal}; repair it, or take it out of the folder") from refusal
    except OSError as error:
        raise RefusedError(f"{path}: {unreadable(error)}") from error


def _read(path: Path) -> SourceImage:
    try:
        return read_source(path)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: nothing is there; give a file, or the folder of a series") from error
    except OSError as error:
        raise RefusedError(f"{path}: {unreadable(error)}") from error
    except RefusedError as refusal:
        raise RefusedError(f"{path}: {refusal}") from refusal


def _image(named: str, sources: list[SourceImage]) -> MetaTensor:
    """Put the values of one file, or of the slices of a series in their order, into a tensor with its metadata."""
    first = sources[0].header
    place = _place_of(named, sources)
    exact = all(fits_32_bits(source) for source in sources)
    real = np.empty((len(sources), *sources[0].stored.shape), np.float32 if exact else np.float64)
    for source, part in zip(sources, real, strict=True):
        real_into(source, part)
    if len(sources) == 1:
        real = real[0]
    grid = len(first.shape) + (len(sources) > 1)
    # MONAI's readers count columns first, where files of DICOM and pictures count rows.
    axes = tuple(reversed(range(grid))) if first.format in ("dicom", "raster") else tuple(range(grid))
    channels = real.reshape(*real.shape[:grid], -1)
    values = np.ascontiguousarray(channels.transpose(grid, *axes))
    known = place is not None
    place = np.eye(grid + 1) if place is None else place[:, [*axes, grid]] if grid == 3 else place
    provenance = Provenance(
        tuple(str(source.header.path) for source in sources), tuple(source.sha256 for source in sources), axes,
        tuple(tuple(row) for row in place.tolist()),
    )  # fmt: skip
    meta: dict[Any, Any] = {
        MetaKeys.ORIGINAL_AFFINE: torch.from_numpy(place.copy()),
        MetaKeys.SPATIAL_SHAPE: np.array(values.shape[1:]),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
        "filename_or_obj": named,
        "affine_known": known,
        "modality": first.modality,
        SOURCE: provenance.to_text(),
    }
    return MetaTensor(torch.from_numpy(values), affine=torch.from_numpy(place), meta=meta)


def _place_of(named: str, sources: list[SourceImage]) -> NDArray[np.float64] | None:
    """Give the affine of an image in the axes of its file, or of its slices; of a plane its spacing alone; None where
    no file says it.
    """
    header = sources[0].header
    if len(sources) > 1:
        return _place_of_slices(named, sources)
    if len(header.shape) == 3:
        return affine(sources[0])
    if not header.spacing_known:
        return None
    steps = reversed(header.spacing) if header.format in ("dicom", "raster") else header.spacing
    return np.diag([*steps, 1.0])


def _place_of_slices(named: str, sources: list[SourceImage]) -> NDArray[np.float64] | None:
    """Give the affine of slices in their order, along the slices first; None where no file says where it lies.

    Raises:
        RefusedError: they are no volume.
    """
    headers = [source.header for source in sources]
    kinds = {(header.shape, header.trailing, header.stacked) for header in headers}
    if len(kinds) > 1 or headers[0].stacked or len(headers[0].shape) != 2:
        shapes = sorted({header.shape + header.trailing for header in headers})
        raise RefusedError(f"{named}: its {len(sources)} images have shapes {shapes[:4]}, so they are no volume")
    places = [affine(source) for source in sources]
    found = [place for place in places if place is not None]
    if len(found) < len(places):
        if found:
            raise RefusedError(
                f"{named}: {len(places) - len(found)} of {len(places)} slices do not say where they lie; leave them "
                "out, or load slice by slice"
            )
        return None
    turns = max(float(np.abs(place[:3, :3] - found[0][:3, :3]).max()) for place in found)
    if turns > 1e-3:
        raise RefusedError(f"{named}: its {len(found)} slices are turned against each other; load slice by slice")
    positions = np.array([place[:3, 3] for place in found])
    step = (positions[-1] - positions[0]) / (len(found) - 1)
    apart = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    if apart.min() < _LEAST_MM:
        raise RefusedError(
            f"{named}: {int((apart < _LEAST_MM).sum()) + 1} of {len(found)} slices lie at the place of another (times, "
            "echoes or b-values of one series); give the slices of one of them as a list"
        )
    off = np.linalg.norm(positions - (positions[0] + np.arange(len(found))[:, None] * step), axis=1).max()
    if off > _LEAST_MM + _UNEVEN * float(np.linalg.norm(step)):
        raise RefusedError(
            f"{named}: its slices lie {apart.min():.4g} to {apart.max():.4g} mm apart, so no affine says where they "
            "are; give those of an even part as a list, or load slice by slice"
        )
    result = np.eye(4)
    result[:3, 0], result[:3, 1:3], result[:3, 3] = step, found[0][:3, :2], positions[0]
    return result
