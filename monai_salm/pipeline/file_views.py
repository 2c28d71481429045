# SPDX-License-Identifier: Apache-2.0
"""What the images of an input show, volume by volume, and what their values may become where they are to move; the same
for who plans and for who verifies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from monai_salm.budget import Epsilon
from monai_salm.errors import RefusedError, unreadable
from monai_salm.io import Judgement, SourceImage, UndecidedError, read_source
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.modalities import check_modality
from monai_salm.views import FileView
from monai_salm.volumes import VolumeValues, judgements, labels_among, picture_modality, slice_order, volume_of
from monai_salm.windows import IntensityWindow


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


def file_views(
    inventory: Inventory, options: BudgetOptions, refused: dict[str, str]
) -> Iterator[tuple[str, SourceImage, FileView]]:
    """Give the source and the view of every image, a canvas where there is an epsilon; reasons for those without one
    go to ``refused``.
    """
    for paths in volumes_in(inventory):
        yield from volume_views(inventory, paths, options, refused)


def volumes_in(inventory: Inventory) -> list[list[str]]:
    """Group the images that share one window and background: the slices of a volume, ordered along its normal; every
    other file alone.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path, header in inventory.pictures.items():
        series = volume_of(header)
        groups[("series", series) if series else ("file", path)].append(path)
    return [sorted(paths, key=lambda path: slice_order(inventory.pictures[path], path)) for paths in groups.values()]


def volume_views(
    inventory: Inventory, paths: list[str], options: BudgetOptions, refused: dict[str, str]
) -> Iterator[tuple[str, SourceImage, FileView]]:
    """Find the view of each file of a volume, and bind its budgets; files are read twice if there are several, so that
    memory stays flat.
    """
    readable: dict[str, SourceImage | None] = {}
    values = VolumeValues(len(paths))
    judged: list[Judgement] = []
    for path in paths:
        try:
            source = read_source(inventory.absolute(path))
        except RefusedError as refusal:
            refused[path] = str(refusal)
            continue
        except MemoryError:
            refused[path] = "it needs more memory than there is"
            continue
        except OSError as error:
            refused[path] = unreadable(error)
            continue
        if inventory.choices.of(inventory.root, path) != "picture":
            judged += judgements(source)
        values.add(source)
        readable[path] = source if len(paths) == 1 else None
    if not readable:
        return
    modality = picture_modality(inventory.pictures[paths[0]], options.modality)
    labels = labels_among(judged, modality)
    if labels is not None:
        doubt = replace(labels, kind="cannot tell", evidence=f"its SOP class says image, but {labels.evidence}")
        refused.update(dict.fromkeys(readable, str(UndecidedError(doubt))))
        return
    try:
        volume = values.view(modality, options.window)
    except RefusedError as refusal:
        refused.update({path: str(refusal) for path in readable})
        return
    for path, known in readable.items():
        try:
            source = known if known is not None else read_source(inventory.absolute(path))
            shown = volume.view(source) if options.epsilon is None else volume.canvas(source, options.epsilon)
        except RefusedError as refusal:
            refused[path] = str(refusal)
        except OSError as error:
            refused[path] = unreadable(error)
        else:
            yield path, source, shown
