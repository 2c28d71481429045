# SPDX-License-Identifier: Apache-2.0
"""What became of each file of a run, as the lines of its manifest say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from monai_salm.disk import check_within
from monai_salm.errors import SalmError

FATES = ("protected", "copied", "refused", "failed")
IN_OUTPUT = ("protected", "copied")
"""Fates of files that are handed out."""


@dataclass(frozen=True, kw_only=True)
class FileFate:
    """What became of one file: a line of ``manifest.jsonl``.

    Args:
        path: relative to the input and to the output.
        status: one of :data:`FATES`.
        reason: why it was not protected; of others what whoever shares the file must know of it, mostly nothing.
        left_out: what of the source is not in the written file (records of absent files, a second image); a run that
            left anything out is incomplete.
        unprotected: what in the written file may still show an image without noise; a run with any is incomplete.
        sample_id: sample that it belongs to.
        modality: DICOM Modality code.
        epsilon_real, epsilon_stored: budget in real and in stored units.
        max_change_stored: largest change found on reading the written file.
        changed_fraction: share of the anatomy's voxels that changed.
        psnr: of the written file in model values, dB.
        sha256_in, sha256_out: digests of the source and the written file.
    """

    path: str
    status: str
    reason: str = ""
    left_out: str = ""
    unprotected: str = ""
    sample_id: str = ""
    modality: str = ""
    epsilon_real: float | None = None
    epsilon_stored: float | None = None
    max_change_stored: float | None = None
    changed_fraction: float | None = None
    psnr: float | None = None
    sha256_in: str = ""
    sha256_out: str = ""


def load_fates(manifest: Path) -> dict[str, FileFate]:
    """Read the last fate of each file from a manifest; a line that a crash cut short is ignored, since its file will be
    done again.

    Raises:
        SalmError: a line is damaged.
    """
    fates: dict[str, FileFate] = {}
    if not manifest.is_file():
        return fates
    lines = manifest.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            fate = FileFate(**json.loads(line))
        except (json.JSONDecodeError, TypeError) as error:
            if number == len(lines):
                break
            raise SalmError(
                f"{manifest}: line {number} is damaged ({error}); start again with an empty work folder"
            ) from error
        if fate.status in IN_OUTPUT:  # of others the path is a name alone; a zip may have had any
            try:
                check_within(fate.path)
            except ValueError as error:
                raise SalmError(
                    f"{manifest}: line {number} was changed ({error}); start again with an empty work folder"
                ) from error
        fates[fate.path] = fate
    return fates


def count_fates(fates: Mapping[str, FileFate]) -> dict[str, int]:
    """Give how many files met each fate."""
    return {status: sum(fate.status == status for fate in fates.values()) for status in FATES}
