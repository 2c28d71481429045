# SPDX-License-Identifier: Apache-2.0
"""What the files themselves show: the figures of their verification by modality, and pictures of a few of them."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.evaluate.folders import Folders
from monai_salm.evaluate.report import ExamplePair
from monai_salm.evaluate.results import CLEAN
from monai_salm.io import read_source
from monai_salm.pipeline.inventory import Inventory
from monai_salm.pipeline.plan import FilePlan
from monai_salm.pipeline.verify import FileVerdict, VerifyReport

EXAMPLES = 3
"""Pictures of each modality."""


def verification_figures(verified: VerifyReport, folders: Folders, name: str, modality: str) -> dict[str, Any]:
    """Give the figures of each modality in a folder that was verified.

    Args:
        verified: of the clean and the protected folder.
        folders: what is in them.
        name: of the protected one.
        modality: of files that do not say theirs.
    """
    groups: dict[str, list[FileVerdict]] = {}
    headers = folders[CLEAN].inventory.headers
    for file in verified.files:
        if file.max_change_stored is not None:
            groups.setdefault(headers[file.path].modality or modality or "unknown", []).append(file)
    modalities = []
    for group, files in sorted(groups.items()):
        bounds = [file.epsilon_stored for file in files if file.epsilon_stored is not None]
        psnr = [file.psnr for file in files if file.psnr is not None]
        shares = [file.changed_fraction or 0.0 for file in files]
        modalities.append({
            "modality": group, "files": len(files), "largest_change_stored": max(file.max_change_stored or 0.0 for file in files),
            "epsilon_stored": max(bounds) if len(bounds) == len(files) else None,
            "lowest_psnr": round(min(psnr), 3) if psnr else None, "mean_psnr": round(mean(psnr), 3) if psnr else None,
            "mean_changed_fraction": round(mean(shares), 6), "largest_changed_fraction": round(max(shares), 6),
        })  # fmt: skip
    return {"folder": name, "counts": verified.to_json()["counts"], "modalities": modalities}


def example_pairs(verified: VerifyReport | None, folders: Folders, name: str) -> list[ExamplePair]:
    """Give the middle picture of a few files of each modality, before and after, in model values of the original's window; arguments as above."""
    bounds = {} if verified is None else {file.path: file.epsilon_stored for file in verified.files}
    groups: dict[str, list[tuple[FilePlan, Path]]] = {}
    for _, _, file, other in folders.file_pairs(name):
        groups.setdefault(file.canvas.modality, []).append((file, other))
    pairs = []
    for files in groups.values():
        wanted = min(EXAMPLES, len(files))
        # Evenly: the first slices of a volume are those at its end.
        for file, other in (files[(2 * number + 1) * len(files) // (2 * wanted)] for number in range(wanted)):
            pairs.append(_example(folders[CLEAN].inventory, file, other, bounds.get(file.path)))
    return pairs


def _example(clean: Inventory, file: FilePlan, other: Path, epsilon_stored: float | None) -> ExamplePair:
    stored, found = read_source(clean.absolute(file.path)).stored, read_source(other).stored
    planes: list[NDArray[Any]] = [file.canvas.model(stored), file.canvas.model(found), file.canvas.anatomy(stored)]
    if planes[0].ndim == 3:
        if clean.headers[file.path].format == "dicom":
            planes = [values[len(values) // 2] for values in planes]
        else:  # the axes of a volume lead to the right, to the front and up
            planes = [np.rot90(values[..., values.shape[2] // 2]) for values in planes]
    before, after, anatomy = planes
    budget = file.canvas.budgets[len(file.canvas.budgets) // 2]
    epsilon = None if epsilon_stored is None else epsilon_stored * budget.step_model / budget.quantum_stored
    return ExamplePair(file.path, file.canvas.modality, before, after, anatomy, epsilon)
