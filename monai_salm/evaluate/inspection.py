# SPDX-License-Identifier: Apache-2.0
"""What the files themselves show: the figures of their verification by modality, and images of a few of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import SalmError
from monai_salm.evaluate.folders import FolderPlaces, Folders
from monai_salm.evaluate.options import EvaluateOptions
from monai_salm.evaluate.report import ExamplePair
from monai_salm.evaluate.results import CLEAN
from monai_salm.io import read_source
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.plan import FilePlan
from monai_salm.pipeline.record import RunRecord, find_record
from monai_salm.pipeline.region_means import worst_shifts
from monai_salm.pipeline.verdicts import FileVerdict, VerifyReport
from monai_salm.pipeline.verification import verify

BOUND_FROM = {"option": "--epsilon", "file": "the files", "run": "the manifest of their run", "none": "not stated"}
"""Where a bound is known from, for people."""

Bounds = dict[str, tuple[float | None, str]]
"""Path of a file -> its bound in stored units, None if it is not known, and a key of :data:`BOUND_FROM`."""

EXAMPLES = 3
"""Images of each modality."""


@dataclass(frozen=True)
class Inspection:
    """What the files of a protected folder show without any training.

    Args:
        folders: all images.
        name: of the protected folder.
        verified: what its verification found; None where none was wanted.
        record: of the run that made it.
    """

    folders: Folders
    name: str
    verified: VerifyReport | None
    record: RunRecord

    @cached_property
    def bounds(self) -> Bounds:
        """The bound of every file that was verified; one that states none, such as NIfTI, has that of the manifest,
        where that is of the very run.
        """
        bounds: Bounds = {}
        for file in self.verified.files if self.verified is not None else ():
            fate = self.record.fates.get(file.path)
            if file.epsilon_stored is not None:
                bounds[file.path] = (file.epsilon_stored, file.bound)
            elif fate is not None and isinstance(fate.epsilon_stored, int | float):
                bounds[file.path] = (float(fate.epsilon_stored), "run")
            else:
                bounds[file.path] = (None, "none")
        return bounds

    def protection(self, epsilon: str) -> dict[str, Any]:
        """Give what is known of the run that made the files: its own plan says it, or else the user.

        Args:
            epsilon: what the user gave; empty for nothing.
        """
        known_from = ""
        try:
            settings = self.record.settings()
        except SalmError as error:
            settings, known_from = {}, str(error)
        if settings:
            names = ("method", "epsilon", "perturbed_fraction", "seed", "rounds", "window", "version")
            return {name: settings.get(name) for name in names} | {
                "known_from": "the plan of the run, beside the protected files"
            }
        known_from = known_from or ("--epsilon" if epsilon else "")
        return {"epsilon": epsilon, "known_from": known_from} if known_from else {}

    def figures(self, modality: str) -> dict[str, Any] | None:
        """Give the figures of each modality; None without a verification.

        Args:
            modality: of files that do not say theirs.
        """
        if self.verified is None:
            return None
        clean = self.folders[CLEAN]
        groups: dict[str, list[FileVerdict]] = {}
        planned = {file.path: file.view.modality for sample in clean.plan.samples for file in sample.files}
        for file in self.verified.files:
            if file.max_change_stored is not None:
                groups.setdefault(
                    planned.get(file.path) or clean.inventory.headers[file.path].modality or modality or "unknown", []
                ).append(file)
        counts = self.verified.to_json()
        absent = sum(not entry["excused"] for entry in counts["absent"])
        modalities = [self._figures_of(group, files) for group, files in sorted(groups.items())]
        return {
            "folder": self.name, "counts": counts["counts"], "absent_without_reason": absent, "modalities": modalities
        }  # fmt: skip

    def _figures_of(self, modality: str, files: list[FileVerdict]) -> dict[str, Any]:
        known = [self.bounds[file.path] for file in files]
        limits = [limit for limit, _ in known if limit is not None]
        beyond = sum(
            (file.max_change_stored or 0) > limit + 1e-6
            for file, (limit, _) in zip(files, known, strict=True)
            if limit is not None
        )
        psnr = [file.psnr for file in files if file.psnr is not None]
        shares = [file.changed_fraction or 0.0 for file in files]
        return {
            "modality": modality, "files": len(files),
            "largest_change_stored": max(file.max_change_stored or 0.0 for file in files),
            "epsilon_stored": max(limits) if len(limits) == len(files) else None, "beyond_bound": beyond,
            "bound_from": " and ".join(sorted({BOUND_FROM[source] for _, source in known})),
            "lowest_psnr": round(min(psnr), 3) if psnr else None, "mean_psnr": round(mean(psnr), 3) if psnr else None,
            "mean_changed_fraction": round(mean(shares), 6), "largest_changed_fraction": round(max(shares), 6),
            "mean_shifts": [
                asdict(shift)
                for found in worst_shifts(file.mean_shifts for file in files).values()
                for shift in found
            ],
        }  # fmt: skip

    def examples(self) -> list[ExamplePair]:
        """Give the middle image of a few files of each modality, before and after, in model values of the original's
        window.
        """
        groups: dict[str, list[tuple[FilePlan, Path]]] = {}
        for _, _, file, other in self.folders.file_pairs(self.name):
            groups.setdefault(file.view.modality, []).append((file, other))
        pairs = []
        for files in groups.values():
            wanted = min(EXAMPLES, len(files))
            # Evenly: the first slices of a volume are those at its end.
            for file, other in (files[(2 * number + 1) * len(files) // (2 * wanted)] for number in range(wanted)):
                epsilon_stored = self.bounds.get(file.path, (None, "none"))[0]
                pairs.append(_example(self.folders[CLEAN].inventory, file, other, epsilon_stored))
        return pairs


def inspect(
    folders: Folders, places: FolderPlaces, options: EvaluateOptions, *, show_progress: bool = False
) -> Inspection:
    """Look at the files of the first protected folder; verify them unless the options say no.

    Args:
        folders: all images.
        places: of the folders.
        options: see :class:`~monai_salm.evaluate.options.EvaluateOptions`.
        show_progress: progress bars on standard error.
    """
    name = folders.protected[0]
    verified = None
    if options.verification:
        verified = verify(
            places.clean, places.protected[name], options=options.budget_options(),
            check_epsilon=options.check_epsilon(), choices=options.sample_options().kind_choices(),
            show_progress=show_progress,
        )  # fmt: skip
    record = find_record(places.protected[name], folders[CLEAN].inventory, folders[name].inventory)
    return Inspection(folders, name, verified, record)


def _example(clean: Inventory, file: FilePlan, other: Path, epsilon_stored: float | None) -> ExamplePair:
    stored, found = read_source(clean.absolute(file.path)).stored, read_source(other).stored
    planes: list[NDArray[Any]] = [file.view.model(stored), file.view.model(found), file.view.anatomy(stored)]
    if planes[0].ndim == 3:
        if clean.headers[file.path].format == "dicom":
            planes = [values[len(values) // 2] for values in planes]
        else:  # the axes of a volume lead to the right, to the front and up
            planes = [np.rot90(values[..., values.shape[2] // 2]) for values in planes]
    before, after, anatomy = planes
    view = file.view.views[len(file.view.views) // 2]
    epsilon = None if epsilon_stored is None else epsilon_stored * (abs(view.slope) / view.window.width)
    return ExamplePair(file.path, file.view.modality, before, after, anatomy, epsilon)
