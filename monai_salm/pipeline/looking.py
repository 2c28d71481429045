# SPDX-License-Identifier: Apache-2.0
"""Looking at the values of a volume's files, once for all that is asked of them: what they show and may become, where
noise can lie, and what a network sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_salm.anatomy import CT_BODY_HU
from monai_salm.budget import Epsilon
from monai_salm.io import SourceImage, read_source
from monai_salm.noise import fingerprint
from monai_salm.pipeline.file_views import UNREADABLE, VolumeFiles, shared_view, why_unreadable
from monai_salm.views import FileView
from monai_salm.windows import IntensityWindow
from monai_salm.working_grid import working_shape
from monai_salm.working_samples import SliceStack, WorkingMaps


@dataclass(frozen=True)
class LookJob:
    """A volume, or a file that is none, to look at.

    Args:
        files: of the volume, labeled or not.
        labels: path of a file that is wanted -> number of its label among those of the volume.
        epsilon: that budgets are found for; None for views without.
        as_one: whether its slices are one sample; else each is one.
        carriers: whether to find out where noise can lie.
        grid: longest side of the working grid that the samples are brought to; None for no grid.
    """

    files: VolumeFiles
    labels: Mapping[str, int]
    epsilon: Epsilon | None
    as_one: bool = False
    carriers: bool = False
    grid: int | None = None


@dataclass(frozen=True)
class LookAtFile:
    """What was found of one file; the number of places of its anatomy, and whether any carries noise, are those of the
    sample where nobody asked.
    """

    path: str
    sha256: str
    fingerprint: str
    view: FileView
    anatomy_voxels: int = 0
    carries: bool = True


@dataclass(frozen=True)
class LookAtSample:
    """What was found of a sample.

    Args:
        files: in their order.
        unusable: why it cannot be used; empty if it can.
        maps: on its working grid, if that was asked for.
        as_one: whether it is a series.
    """

    files: tuple[LookAtFile, ...]
    unusable: str = ""
    maps: WorkingMaps | None = None
    as_one: bool = False

    @property
    def bare(self) -> dict[str, str]:
        """Slices that can carry no noise although others of their series can, by path, with the reason."""
        return {
            file.path: f"none of its {file.anatomy_voxels} anatomy voxels can carry noise, though other slices of its "
            "series can"
            for file in self.files
            if not file.carries and not self.unusable
        }


@dataclass(frozen=True)
class LookAtVolume:
    """What was found of a volume.

    Args:
        samples: of the files that have a label.
        refused: path -> reason, of files that cannot be protected.
    """

    samples: tuple[LookAtSample, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)


def look_at_volume(job: LookJob) -> LookAtVolume:
    """Read the files of a volume and say all that was asked of them; in any process."""
    refused: dict[str, str] = {}
    held, volume = shared_view(job.files, refused)
    if volume is None:
        return LookAtVolume(refused=refused)
    sources = _Sources(job.files.root, held)
    samples: list[LookAtSample] = []
    slices: list[LookAtFile] = []
    for path in [path for path in held if path in job.labels]:
        try:
            source = sources.read(path)
            view = volume.view(source) if job.epsilon is None else volume.canvas(source, job.epsilon)
            look = LookAtFile(path, source.sha256, fingerprint(source.stored), view)
            if job.as_one and not source.header.stacked:
                slices.append(look)
            else:
                samples.append(_looked_at(job, [look], sources))
                sources.forget(path)
        except UNREADABLE as error:
            refused[path] = why_unreadable(error)
    paths = [look.path for look in slices]
    shapes, labels = {sources.read(path).header.shape for path in paths}, {job.labels[path] for path in paths}
    if len(shapes) > 1 or len(labels) > 1:
        why = f"slices of {len(shapes)} shapes" if len(shapes) > 1 else "slices with different labels"
        reason = f"its series has {why}, so it is not one volume; protect its instances (--sample instance)"
        refused |= dict.fromkeys(paths, reason)
    elif slices:
        samples.append(replace(_looked_at(job, slices, sources), as_one=True))
    return LookAtVolume(tuple(samples), refused)


def not_looked_at(job: LookJob, why: str) -> LookAtVolume:
    """Give what is known of a volume where no process came to the end of looking at it."""
    return LookAtVolume(refused=dict.fromkeys(job.files.paths, why))


class _Sources:
    """The images of a volume, those that are held and those that are read again."""

    def __init__(self, root: Path, held: Mapping[str, SourceImage | None]) -> None:
        self._root, self._held = root, dict(held)

    def read(self, path: str) -> SourceImage:
        """Give an image; errors as of :func:`~monai_salm.io.read_source`."""
        source = self._held.get(path)
        return source if source is not None else read_source(self._root / path)

    def forget(self, path: str) -> None:
        """Do not hold an image any more."""
        self._held.pop(path, None)


def _looked_at(job: LookJob, files: Sequence[LookAtFile], sources: _Sources) -> LookAtSample:
    if not job.carriers and job.grid is None:
        return LookAtSample(tuple(files))
    return _look_at_sample(files, sources, job.grid)


# Samples -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SampleJob:
    """A sample that was planned, to look at again.

    Args:
        root: folder of the input.
        files: of the sample, in their order.
        grid: see :class:`LookJob`.
    """

    root: Path
    files: tuple[LookAtFile, ...]
    grid: int | None


def look_at_sample(job: SampleJob) -> LookAtSample:
    """Read the files of a planned sample, and find out where noise can lie; in any process."""
    return _look_at_sample(job.files, _Sources(job.root, {}), job.grid)


def sample_not_looked_at(job: SampleJob, why: str) -> LookAtSample:
    """Give what is known of a sample where no process came to the end of looking at it."""
    return LookAtSample(job.files, why)


def _look_at_sample(files: Sequence[LookAtFile], sources: _Sources, grid: int | None) -> LookAtSample:
    """Find out where noise can lie in a sample, and bring it to its grid, if there is one."""
    maps, found = None, list(files)
    try:
        if grid is None:
            found = [_with_carriers(file, sources.read(file.path)) for file in files]
        elif len(files) == 1:
            source = sources.read(files[0].path)
            maps = WorkingMaps.of_file(source.stored, files[0].view, working_shape(source.header.shape, grid))
            found = [_with_maps(files[0], maps)]
        else:
            native = (len(files), *sources.read(files[0].path).header.shape)
            stack = SliceStack(len(files), working_shape(native, grid))
            for number, file in enumerate(files):
                of_slice = WorkingMaps.of_slice(sources.read(file.path).stored, file.view, stack.shape[1:])
                found[number] = _with_maps(file, of_slice)
                stack.add(of_slice)
            maps = stack.maps()
        unusable = "" if any(file.carries for file in found) else _why_nothing_carries(found, sources)
    except UNREADABLE as error:
        unusable = why_unreadable(error)
    return LookAtSample(tuple(found), unusable, None if unusable else maps)


def _with_maps(file: LookAtFile, maps: WorkingMaps) -> LookAtFile:
    return replace(file, anatomy_voxels=maps.anatomy_voxels, carries=bool(maps.carrier_voxels.any()))


def _with_carriers(file: LookAtFile, source: SourceImage) -> LookAtFile:
    anatomy = file.view.anatomy(source.stored)
    carries = bool(file.view.carriers(source.stored, anatomy).any())
    return replace(file, anatomy_voxels=int(np.count_nonzero(anatomy)), carries=carries)


def _why_nothing_carries(files: Sequence[LookAtFile], sources: _Sources) -> str:
    """Say why no voxel of a sample can carry noise, with what helps: another window where that would see the
    anatomy.
    """
    leave = "leave it out, or give --copy-unprotected, which copies it as it is"
    view, anatomy_voxels = files[0].view, sum(file.anatomy_voxels for file in files)
    if not anatomy_voxels:
        said = sources.read(files[0].path).header.modality
        lack = (
            f"no region of it is denser than {CT_BODY_HU:g} HU, as a body is"
            if view.modality == "CT"
            else "nothing in it differs from its background"
        )
        other = "" if said or view.modality != "CT" else "give another --modality if it is no CT, "
        return f"no anatomy was found: {lack}, and no --window changes that; {other}{leave}"
    low, high = np.inf, -np.inf
    for source, inside in _anatomies(files, sources):
        values = source.real[inside]
        values = values[np.isfinite(values)]
        low, high = float(values.min(initial=low)), float(values.max(initial=high))
    window = view.views[0].window
    wider = view.through(IntensityWindow(low, high)) if low < high else view
    if low < high and any(wider.carriers(source.stored, mask).any() for source, mask in _anatomies(files, sources)):
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


def _anatomies(files: Sequence[LookAtFile], sources: _Sources) -> Iterator[tuple[SourceImage, NDArray[np.bool_]]]:
    for file in files:
        source = sources.read(file.path)
        inside = file.view.anatomy(source.stored)
        if inside.any():
            yield source, inside
