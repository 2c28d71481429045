# SPDX-License-Identifier: Apache-2.0
"""The private record of a run: one JSON line a file, appended as each file is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from monai_salm.disk import told_when_full, write_atomically
from monai_salm.errors import SalmError

FATES = ("protected", "copied", "refused", "failed")


@dataclass(frozen=True, kw_only=True)
class FileFate:
    """What became of one file: a line of ``manifest.jsonl``.

    Args:
        path: relative to the input and to the output.
        status: one of :data:`FATES`.
        reason: why it was not protected; of others what whoever shares the file must know of it, mostly nothing.
        left_out: what of the source is not in the written file (records of absent files, a second picture); a run that
            left anything out is incomplete.
        unprotected: what in the written file may still show a picture without noise; a run with any is incomplete.
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


class Manifest:
    """The manifest of a run.

    Args:
        path: of ``manifest.jsonl``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> dict[str, FileFate]:
        """Give the last fate of each file; a line that a crash cut short is ignored, since its file
        will be done again.
        """
        fates: dict[str, FileFate] = {}
        if not self.path.is_file():
            return fates
        lines = self.path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                fate = FileFate(**json.loads(line))
            except (json.JSONDecodeError, TypeError) as error:
                if number == len(lines):
                    break
                raise SalmError(
                    f"{self.path}: line {number} is damaged ({error}); start again with an empty work folder"
                ) from error
            fates[fate.path] = fate
        return fates

    def append(self, fate: FileFate) -> None:
        """Add a line."""
        line = _line(fate)
        with told_when_full(self.path, len(line)), self.path.open("ab") as file:
            file.write(line)

    def rewrite(self, fates: Mapping[str, FileFate]) -> None:
        """Replace the file by one line for each path, in order of the paths."""
        write_atomically(self.path, b"".join(_line(fates[path]) for path in sorted(fates)), private=True)


def _line(fate: FileFate) -> bytes:
    """Give the line of a file; what is there to say of few files only is left out of the others' lines."""
    fields = {name: value for name, value in asdict(fate).items() if value or name not in ("left_out", "unprotected")}
    return f"{json.dumps(fields, sort_keys=True)}\n".encode("ascii")  # names that are no UTF-8, too


def count_fates(fates: Mapping[str, FileFate]) -> dict[str, int]:
    """Give how many files met each fate."""
    return {status: sum(fate.status == status for fate in fates.values()) for status in FATES}
