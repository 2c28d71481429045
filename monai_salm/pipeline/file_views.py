# SPDX-License-Identifier: Apache-2.0
"""What the images of an input show, volume by volume; the same for who plans and for who verifies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from monai_salm.budget import Epsilon
from monai_salm.errors import RefusedError, unreadable
from monai_salm.io import Judgement, SourceImage, UndecidedError, read_source
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.modalities import check_modality
from monai_salm.views import FileView
from monai_salm.volumes import (
    VolumeValues,
    VolumeView,
    judgements,
    labels_among,
    picture_modality,
    slice_order,
    volume_of,
)
from monai_salm.windows import IntensityWindow

HELD_BYTES = 1 << 28
"""Stored values of a volume that are kept until each of its files is looked at."""


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """How views and budgets are found.

    Args:
        epsilon: see :class:`~monai_salm.budget.Epsilon`; None where no value is to move, so that there are no budgets.
        window: for all files; None takes the modality's.
        modality: DICOM Modality code for files that do not say theirs; empty if unknown.

    Raises:
        UsageError: DICOM has no such modality.
    """

    epsilon: Epsilon | None = field(default_factory=lambda: Epsilon(8 / 255))
    window: IntensityWindow | None = None
    modality: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "modality", check_modality(self.modality))


def volumes_in(inventory: Inventory) -> list[list[str]]:
    """Group the images that share one window and background: the slices of a volume, ordered along its normal; every
    other file alone.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, header in inventory.pictures.items():
        series = volume_of(header)
        groups[("series", series) if series else ("file", path)].append(path)
    return [sorted(paths, key=lambda path: slice_order(inventory.pictures[path], path)) for paths in groups.values()]


@dataclass(frozen=True)
class VolumeFiles:
    """The files of a volume, or one that is none, and how they are looked at; small, so that any process can be told.

    Args:
        root: folder of the input.
        paths: relative to it, in the order of their positions.
        judged: those whose values may say that they are label maps.
        modality: of the volume.
        window: for all files; None takes the modality's.
        view: what they have in common, where that was found before; None where it is to be found.
    """

    root: Path
    paths: tuple[str, ...]
    judged: frozenset[str]
    modality: str
    window: IntensityWindow | None = None
    view: VolumeView | None = None

    @classmethod
    def of(
        cls,
        inventory: Inventory,
        paths: Sequence[str],
        options: BudgetOptions,
        views: Mapping[str, VolumeView] = MappingProxyType({}),
    ) -> VolumeFiles:
        """Take from an inventory what there is to know of a volume before its files are read.

        Args:
            inventory: of the input.
            paths: of the volume's files.
            options: window and modality.
            views: of the volumes that were seen before, by their Series Instance UIDs.
        """
        judged = frozenset(path for path in paths if inventory.choices.of(inventory.root, path) != "picture")
        modality = picture_modality(inventory.pictures[paths[0]], options.modality)
        view = views.get(volume_of(inventory.pictures[paths[0]]))
        return cls(inventory.root, tuple(paths), judged, modality, options.window, view)


def volume_views(files: VolumeFiles, refused: dict[str, str]) -> Iterator[tuple[str, SourceImage, FileView]]:
    """Give the source and the view of each file of a volume; reasons for those without one go to ``refused``.

    Files are read once while their values are at most :data:`HELD_BYTES` together; beyond that again, so that memory
    stays flat.
    """
    sources, volume = shared_view(files, refused)
    for path in list(sources):
        source = sources.pop(path)  # held here alone, and then by whoever asked
        try:
            source = source if source is not None else read_source(files.root / path)
            view = volume.view(source) if volume is not None else None
        except UNREADABLE as error:
            refused[path] = why_unreadable(error)
            continue
        if view is not None:
            yield path, source, view


def shared_view(files: VolumeFiles, refused: dict[str, str]) -> tuple[dict[str, SourceImage | None], VolumeView | None]:
    """Read the files of a volume; give those that could be, with their values where these are held, and what they have
    in common.
    """
    sources: dict[str, SourceImage | None] = {}
    values = VolumeValues(len(files.paths))
    judged: list[Judgement] = []
    held = 0
    for path in files.paths:
        try:
            source = read_source(files.root / path)
        except UNREADABLE as error:
            refused[path] = why_unreadable(error)
            continue
        if path in files.judged:
            judged += judgements(source)
        if files.view is None:
            values.add(source)
        held += source.stored.nbytes
        sources[path] = source if held <= HELD_BYTES or len(files.paths) == 1 else None
    if not sources:
        return {}, None
    labels = labels_among(judged, files.modality)
    try:
        if labels is not None:
            doubt = replace(labels, kind="cannot tell", evidence=f"its SOP class says image, but {labels.evidence}")
            raise UndecidedError(doubt)
        return sources, files.view or values.view(files.modality, files.window)
    except RefusedError as refusal:
        refused |= dict.fromkeys(sources, str(refusal))
        return {}, None


UNREADABLE = (RefusedError, OSError, MemoryError)
"""What reading a file raises that costs this file alone."""


def why_unreadable(error: Exception) -> str:
    """Give the reason that stands for a file for which one of :data:`UNREADABLE` was raised."""
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    return unreadable(error) if isinstance(error, OSError) else str(error)
