# SPDX-License-Identifier: Apache-2.0
"""What a protection run can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from monai_salm.budget import Epsilon, IntensityWindow, parse_window
from monai_salm.errors import UsageError
from monai_salm.pipeline.choices import KindChoices
from monai_salm.pipeline.methods import NoiseMethod, check_method, find_method


@dataclass(frozen=True, kw_only=True)
class ProtectOptions:
    """What ``monai-salm protect`` can be told; the command's options have the same names.

    Args:
        labels: CSV table, or folder of label maps for segmentation.
        label_column: column of the table with the class.
        labels_from_folders: take the name of a file's folder as its class.
        task: ``classification`` or ``segmentation``.
        method: name in :data:`~monai_salm.pipeline.methods.METHODS`.
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
        if self.task not in ("classification", "segmentation"):
            raise UsageError(f"task {self.task!r} is unknown; give classification or segmentation")
        if self.working_size < 8:
            raise UsageError(f"working size {self.working_size} is too small for a network; give at least 8")
        if self.sample not in ("auto", "instance", "series"):
            raise UsageError(f"sample {self.sample!r} is unknown; give auto, instance or series")
        for name, known in (("uids", ("new", "keep")), ("image_type", ("derived", "keep")), ("provenance", ("full", "minimal", "none"))):
            if getattr(self, name) not in known:
                raise UsageError(f"{name.replace('_', ' ')} {getattr(self, name)!r} is unknown; give {', '.join(known)}")

    def parsed_epsilon(self) -> Epsilon:
        """Give the epsilon, or raise UsageError."""
        return Epsilon.parse(self.epsilon)

    def parsed_window(self) -> IntensityWindow | None:
        """Give the window, None for auto, or raise UsageError."""
        return parse_window(self.window)

    def kind_choices(self) -> KindChoices:
        """Give what the options say of pictures and label maps; a folder of label maps says it too."""
        folder = self.labels if self.labels is not None and self.labels.is_dir() else None
        return KindChoices(self.label_maps, self.pictures, folder)

    def noise_method(self) -> NoiseMethod:
        """Give the method with its settings, or raise UsageError; also where it is not made for the task."""
        method = find_method(self.method, self.task, perturbed_fraction=self.perturbed_fraction, rounds=self.rounds, seed=self.seed)
        check_method(self.method, self.task)
        return method
