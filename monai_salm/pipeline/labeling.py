# SPDX-License-Identifier: Apache-2.0
"""Which labeled samples a user wants of a folder: what the commands that protect and that evaluate are told alike, and
the labels that follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from monai_salm.errors import UsageError
from monai_salm.pipeline.choices import KindChoices
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.labels import (
    LabelAssignment,
    label_maps,
    labels_from_folders,
    labels_from_table,
    segmentations_in,
)


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How the files of a folder become labeled samples on a working grid.

    Args:
        labels: CSV table, or folder of label maps for segmentation.
        label_column: column of the table with the class.
        labels_from_folders: take the name of a file's folder as its class.
        task: ``classification`` or ``segmentation``.
        sample: ``auto``, ``instance`` or ``series``.
        working_size: longest axis of the working grid.
        label_maps, pictures: patterns of files that are label maps, or images, whatever they look like.

    Raises:
        UsageError: a value is not possible, or two contradict each other.
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {"task": ("classification", "segmentation"), "sample": ("auto", "instance", "series")}
    )

    labels: Path | None = None
    label_column: str | None = None
    labels_from_folders: bool = False
    task: str = "classification"
    sample: str = "auto"
    working_size: int = 128
    label_maps: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_number("working_size", 0, None)
        if self.working_size < 8:
            raise UsageError(f"working size {self.working_size} is too small for a network; give at least 8")
        for name, known in self.CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name.replace('_', ' ')} {getattr(self, name)!r} is unknown; give {', '.join(known)}"
                )
        if self.labels is not None and self.labels_from_folders:
            raise UsageError("--labels and --labels-from-folders contradict each other; give one of them")
        if self.label_column is not None and (self.labels_from_folders or self.task == "segmentation"):
            other = "--labels-from-folders" if self.labels_from_folders else "--task segmentation"
            raise UsageError(
                f"--label-column {self.label_column!r} is of a table, which {other} does not read; leave one of "
                "them out"
            )
        if self.labels_from_folders and self.task == "segmentation":
            raise UsageError(
                "--labels-from-folders gives classes, --task segmentation needs label maps; leave one of them out"
            )

    def _check_number(self, name: str, low: int, high: int | None) -> None:
        value = getattr(self, name)
        if value is None and name == "rounds":
            return
        said = name.replace("_", " ")
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"{said} {value!r} is no whole number; give one from {low}")
        if value < low:
            raise UsageError(f"{said} {value} must be at least {low}")
        if high is not None and value > high:
            raise UsageError(f"{said} {value} must be at most {high}")

    def kind_choices(self) -> KindChoices:
        """Give what the options say of images and label maps; a folder of label maps says it too."""
        if self.labels is not None and self.labels.is_dir():
            return KindChoices.with_labels(self.labels, self.label_maps, self.pictures)
        return KindChoices(self.label_maps, self.pictures)


def find_labels(inventory: Inventory, options: SampleOptions, *, method: str = "") -> LabelAssignment:
    """Find the labels of an input, as the options say.

    Args:
        inventory: the files.
        options: say where labels are.
        method: name of the method that needs them, for the message.

    Raises:
        UsageError: there are none.
    """
    if options.task == "segmentation":
        return segmentations_in(inventory) if options.labels is None else label_maps(options.labels, inventory)
    if options.labels_from_folders:
        return labels_from_folders(inventory)
    if options.labels is None:
        raise UsageError(
            f"method {method!r} needs labels; give --labels FILE, --labels-from-folders, or --method random"
            if method
            else "classification needs labels; give --labels FILE, or --labels-from-folders"
        )
    if options.labels.is_dir():
        raise UsageError(
            f"{options.labels} is a folder; a table is needed for classification, or give --task segmentation"
        )
    return labels_from_table(options.labels, inventory, options.label_column)
