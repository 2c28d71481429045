# SPDX-License-Identifier: Apache-2.0
"""What a protection run can be told."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from monai_salm.budget import Epsilon
from monai_salm.errors import UsageError
from monai_salm.methods.registry import NoiseMethod, check_method, find_method
from monai_salm.pipeline.choices import KindChoices
from monai_salm.pipeline.file_views import BudgetOptions
from monai_salm.windows import IntensityWindow, parse_window

MOST_SEEDS = 2**32
"""Seeds are below this: numpy and torch take no others."""

MOST_WORKERS = max(64, 4 * (os.cpu_count() or 1))
"""More processes than this only wait for each other, each with the package in its memory."""


_CHOICES = {
    "task": ("classification", "segmentation"),
    "sample": ("auto", "instance", "series"),
    "device": ("auto", "cpu", "cuda"),
    "uids": ("new", "keep"),
    "image_type": ("derived", "keep"),
    "provenance": ("full", "minimal", "none"),
}


@dataclass(frozen=True, kw_only=True)
class ProtectOptions:
    """What ``monai-salm protect`` can be told; the command's options have the same names.

    Args:
        labels: CSV table, or folder of label maps for segmentation.
        label_column: column of the table with the class.
        labels_from_folders: take the name of a file's folder as its class.
        task: ``classification`` or ``segmentation``.
        method: name in :data:`~monai_salm.methods.registry.METHODS`.
        epsilon: fraction of the window (``8/255``) or real units (``12 HU``).
        perturbed_fraction: largest share of the anatomy's voxels that sparse methods may change.
        window: ``LOW,HIGH`` in real units, a preset's name, or ``auto``.
        modality: for files that do not say theirs.
        surrogate: name of a network, or the ``surrogate.safetensors`` of a finished run, which is then frozen.
        rounds: at most; None takes the method's.
        seed: of everything random.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that write files.
        sample: ``auto``, ``instance`` or ``series``.
        working_size: longest axis of the grid that noise is searched on.
        work_dir: private folder; None is the output's name with ``.work``.
        resume: go on with a stopped run.
        copy_unprotected: copy refused files to the output as they are.
        key_file: secret that new UIDs are made with; None derives one from the seed and the input.
        uids: ``new`` gives changed DICOM objects new SOP and Series Instance UIDs, ``keep`` keeps the old ones.
        image_type: ``derived`` marks changed DICOM images as derived, ``keep`` does not.
        provenance: ``full``, ``minimal`` or ``none``: how much a DICOM image says of the change.
        source_reference: name the original in a changed DICOM image.
        label_maps, pictures: patterns of files that are label maps, or pictures, whatever they look like.

    Raises:
        UsageError: a value is not possible, or two contradict each other.
    """

    labels: Path | None = None
    label_column: str | None = None
    labels_from_folders: bool = False
    task: str = "classification"
    method: str = "salm"
    epsilon: str = "8/255"
    perturbed_fraction: float = 0.4
    window: str = "auto"
    modality: str = ""
    surrogate: str = ""
    rounds: int | None = None
    seed: int = 0
    device: str = "auto"
    workers: int = 1
    sample: str = "auto"
    working_size: int = 128
    work_dir: Path | None = None
    resume: bool = False
    copy_unprotected: bool = False
    key_file: Path | None = None
    uids: Literal["new", "keep"] = "new"
    image_type: Literal["derived", "keep"] = "derived"
    provenance: Literal["full", "minimal", "none"] = "full"
    source_reference: bool = True
    label_maps: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, low, high in (
            ("seed", 0, MOST_SEEDS - 1),
            ("workers", 1, MOST_WORKERS),
            ("rounds", 1, None),
            ("working_size", 0, None),
        ):
            self._check_number(name, low, high)
        if self.working_size < 8:
            raise UsageError(f"working size {self.working_size} is too small for a network; give at least 8")
        if not 0 < self.perturbed_fraction <= 1:  # also where it is no number
            raise UsageError(
                f"perturbed fraction {self.perturbed_fraction:g} is not in (0, 1]; give the largest share of the "
                "anatomy that may change"
            )
        for name, known in _CHOICES.items():
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
        object.__setattr__(self, "modality", self.budget_options().modality)
        self.noise_method()

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

    def needs_labels(self) -> bool:
        """Say whether the method searches noise for labels."""
        return self.noise_method().search is not None

    def unused(self) -> list[str]:
        """Name the options that were given although the method has no use for them."""
        if self.needs_labels():
            return []
        names = ("labels", "label_column", "labels_from_folders", "task", "surrogate", "rounds", "perturbed_fraction")
        defaults = {field.name: field.default for field in fields(self)}
        return ["--" + name.replace("_", "-") for name in names if getattr(self, name) != defaults[name]]

    def budget_options(self) -> BudgetOptions:
        """Give how budgets are found, or raise UsageError."""
        return BudgetOptions(epsilon=self.parsed_epsilon(), window=self.parsed_window(), modality=self.modality)

    def parsed_epsilon(self) -> Epsilon:
        """Give the epsilon, or raise UsageError."""
        return Epsilon.parse(self.epsilon)

    def parsed_window(self) -> IntensityWindow | None:
        """Give the window, None for auto, or raise UsageError."""
        return parse_window(self.window)

    def kind_choices(self) -> KindChoices:
        """Give what the options say of pictures and label maps; a folder of label maps says it too."""
        if self.labels is not None and self.labels.is_dir():
            return KindChoices.with_labels(self.labels, self.label_maps, self.pictures)
        return KindChoices(self.label_maps, self.pictures)

    def noise_method(self) -> NoiseMethod:
        """Give the method with its settings, or raise UsageError; also where it is not made for the task."""
        method = find_method(
            self.method, self.task, perturbed_fraction=self.perturbed_fraction, rounds=self.rounds, seed=self.seed
        )
        check_method(self.method, self.task)
        return method
