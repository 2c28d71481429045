# SPDX-License-Identifier: Apache-2.0
"""Originals of DICOMDIRs that lost records of files which are not handed out: these may be added later."""

from __future__ import annotations

import shutil
from pathlib import Path

from monai_salm.disk import atomic_target, within
from monai_salm.io import Document
from monai_salm.pipeline.inventory import has_digest

_FOLDER = "directories"
"""Its name in the work folder."""


def keep_directory(work_dir: Path, directory: Document, path: str) -> None:
    """Keep the original of a DICOMDIR in the private work folder of its run.

    Args:
        work_dir: made by the run.
        directory: the original.
        path: of it, below the input.
    """
    with atomic_target(within(work_dir / _FOLDER, path, itself=True), private=True) as temporary:
        shutil.copyfile(directory.path, temporary)


def kept_directory(work_dir: Path, path: str, sha256: str) -> Path | None:
    """Give where the original of a DICOMDIR is kept; None where it is not, or is another file now."""
    place = within(work_dir / _FOLDER, path)
    return place if has_digest(place, sha256) else None
