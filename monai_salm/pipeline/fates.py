# SPDX-License-Identifier: Apache-2.0
"""What became of each file of a run, as the lines of its manifest say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from monai_salm.disk import check_within
from monai_salm.errors import SalmError
from monai_salm.seals import sealed_json, unsealed_json

FATES = ("protected", "copied", "refused", "failed")
IN_OUTPUT = ("protected", "copied")
"""Fates of files that are handed out."""


@dataclass(frozen=True, kw_only=True, slots=True)
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
        residual: name of what leads back to the source, below the folder of residuals; empty where there is nothing.
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
    residual: str = ""


_OF_FEW = ("left_out", "unprotected", "residual")


def fate_line(fate: FileFate) -> str:
    """Give the line of a file, with its checksum; what is there to say of few files only is left out of the others'
    lines.
    """
    fields = {name: value for name, value in asdict(fate).items() if value or name not in _OF_FEW}
    return sealed_json(fields)


def load_fates(manifest: Path) -> dict[str, FileFate]:
    """Read the last fate of each file from a manifest; a line that a crash cut short is ignored, since its file will be
    done again.

    Raises:
        SalmError: a line is damaged.
    """
    fates: dict[str, FileFate] = {}
    for number, fate in fates_told(manifest):
        if isinstance(fate, str):
            raise SalmError(f"{manifest}: line {number} is damaged ({fate}); the run's --resume writes its file again")
        fates[fate.path] = fate
    return fates


def fates_told(manifest: Path) -> Iterator[tuple[int, FileFate | str]]:
    """Give the fate that each whole line of a manifest tells, or what is wrong with the line, with its number; of a
    file that is told twice the last one counts.
    """
    if not manifest.is_file():
        return
    with manifest.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):  # a crash cut it short
                return
            try:
                fate = FileFate(**unsealed_json(line.decode("ascii")))
                if fate.status in IN_OUTPUT:  # of others the path is a name alone; a zip may have had any
                    check_within(fate.path)
            except (ValueError, TypeError) as error:
                yield number, str(error).partition("\n")[0]
            else:
                yield number, fate


def count_fates(fates: Mapping[str, FileFate]) -> dict[str, int]:
    """Give how many files met each fate."""
    return {status: sum(fate.status == status for fate in fates.values()) for status in FATES}
