# SPDX-License-Identifier: Apache-2.0
"""What a protection run can be told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from monai_salm.budget import Epsilon
from monai_salm.errors import UsageError
from monai_salm.methods.names import METHOD_KINDS, check_method
from monai_salm.pipeline.file_views import BudgetOptions
from monai_salm.pipeline.labeling import SampleOptions
from monai_salm.windows import IntensityWindow, parse_window

MOST_SEEDS = 2**32
"""Seeds are below this: numpy and torch take no others."""

MOST_WORKERS = max(64, 4 * (os.cpu_count() or 1))
"""More processes than this only wait for each other, each with the package in its memory."""


_OF_THE_CALL = frozenset({"workers", "scheduler", "work_dir", "resume", "add"})

SURROGATE_SUFFIX = ".safetensors"
"""Of the file of a frozen surrogate, which is told from a network's name by it."""


@dataclass(frozen=True, kw_only=True)
class ProtectOptions(SampleOptions):
    """What ``monai-salm protect`` can be told; the command's options have the same names.

    Args:
        method: name in :data:`~monai_salm.methods.names.METHOD_KINDS`.
        epsilon: fraction of the window (``8/255``) or real units (``12 HU``).
        perturbed_fraction: largest share of the anatomy's voxels that sparse methods may change.
        window: ``LOW,HIGH`` in real units, a preset's name, or ``auto``.
        modality: for files that do not say theirs.
        surrogate: name of a network, or the ``surrogate.safetensors`` of a finished run, which is then frozen.
        rounds: at most; None takes the method's.
        seed: of everything random, together with the run's secret; with the same key file and seed a run gives the
            same noise.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that read and write files; with 0 it is done in this one, where a library that crashes on a
            file ends the run.
        scheduler: address of a Dask scheduler, whose workers read and write the files instead; see docs/cluster.md.
        work_dir: private folder; None is the output's name with ``.work``.
        estimate: measure what a stranger would learn from the protected images.
        gentle: of the parts of ``salm`` take none whose noise moves the AUC of a network of clean images by more than
            0.01.
        resume: go on with a stopped run.
        add: add the files of the input to the release that is in the output, as that was protected.
        copy_unprotected: copy refused files to the output as they are.
        key_file: secret that new UIDs are made and the noise is drawn with; None takes a random one. Either is kept in
            the work folder.
        restore: with a key file, keep for each file an encrypted residual that leads back to its original.
        residuals: folder of the residuals; None takes one in the work folder.
        uids: ``new`` gives changed DICOM objects new SOP and Series Instance UIDs, ``keep`` keeps the old ones.
        image_type: ``derived`` marks changed DICOM images as derived, ``keep`` does not.
        provenance: ``full``, ``minimal`` or ``none``: how much a DICOM image says of the change.
        source_reference: name the original in a changed DICOM image.
        labels, label_column, labels_from_folders, task, sample, working_size, label_maps, pictures: of
            :class:`~monai_salm.pipeline.labeling.SampleOptions`.

    Raises:
        UsageError: a value is not possible, or two contradict each other.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm import ProtectOptions
        >>> options = ProtectOptions(labels=Path("labels.csv"), epsilon="4/255", key_file=Path("key.txt"))
        >>> options.method, options.perturbed_fraction, options.parsed_epsilon()
        ('salm', 0.4, Epsilon(value=0.01568627450980392, units='fraction'))
    """

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType(
        {
            **SampleOptions.CHOICES,
            "device": ("auto", "cpu", "cuda"),
            "uids": ("new", "keep"),
            "image_type": ("derived", "keep"),
            "provenance": ("full", "minimal", "none"),
        }
    )

    method: str = "salm"
    epsilon: str = "8/255"
    perturbed_fraction: float = 0.4
    window: str = "auto"
    modality: str = ""
    surrogate: str = ""
    rounds: int | None = None
    seed: int = 0
    device: str = "auto"
    workers: int = 0
    scheduler: str = ""
    work_dir: Path | None = None
    estimate: bool = True
    gentle: bool = False
    resume: bool = False
    add: bool = False
    copy_unprotected: bool = False
    key_file: Path | None = None
    restore: bool = True
    residuals: Path | None = None
    uids: Literal["new", "keep"] = "new"
    image_type: Literal["derived", "keep"] = "derived"
    provenance: Literal["full", "minimal", "none"] = "full"
    source_reference: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (("seed", 0, MOST_SEEDS - 1), ("workers", 0, MOST_WORKERS), ("rounds", 1, None)):
            self._check_number(name, low, high)
        super().__post_init__()
        if not 0 < self.perturbed_fraction <= 1:  # also where it is no number
            raise UsageError(
                f"perturbed fraction {self.perturbed_fraction:g} is not in (0, 1]; give the largest share of the "
                "anatomy that may change"
            )
        object.__setattr__(self, "modality", self.budget_options().modality)
        check_method(self.method, self.task)
        if self.gentle and (self.method != "salm" or self.task != "classification"):
            raise UsageError(
                "--gentle chooses among the parts that --method salm has for classification; give that method, or "
                "leave out --gentle"
            )

    def to_json(self) -> dict[str, Any]:
        """Give the options that are a run's own, as plain types with absolute places; :meth:`from_json` reads them."""
        return {
            name: str(value.absolute())
            if isinstance(value, Path)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in vars(self).items()
            if name not in _OF_THE_CALL
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], **of_the_call: Any) -> ProtectOptions:
        """Read what :meth:`to_json` gave, also after a trip through JSON text.

        Args:
            record: of it.
            of_the_call: the options that it lacks.

        Raises:
            UsageError: the record is of no use to this version.
        """
        known = {field.name for field in fields(cls)} - _OF_THE_CALL
        if set(record) != known:
            strange = ", ".join(sorted(known ^ set(record)))
            raise UsageError(f"the options of the plan are those of another version ({strange}); plan again")
        given: dict[str, Any] = {**record, **of_the_call}
        given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        given |= {name: Path(given[name]) for name in ("labels", "key_file", "residuals") if given[name] is not None}
        return cls(**given)

    def with_absolute_places(self) -> ProtectOptions:
        """Give the same options for processes with any current folder."""
        places: dict[str, Any] = {k: value.absolute() for k, value in vars(self).items() if isinstance(value, Path)}
        return replace(self, **places)

    def needs_labels(self) -> bool:
        """Say whether the method searches noise for labels."""
        return METHOD_KINDS[self.method].needs_labels

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
