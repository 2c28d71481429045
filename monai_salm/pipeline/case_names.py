# SPDX-License-Identifier: Apache-2.0
"""Names of files without what belongs to their format: the case that an image and its label map have in common."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

SUFFIXES = (
    ".seg.nrrd",
    ".nii.gz",
    ".nii",
    ".nrrd",
    ".nhdr",
    ".mha",
    ".mhd",
    ".img",
    ".hdr",
    ".raw",
    ".zraw",
    ".png",
    ".tif",
    ".tiff",
    ".jpg",
    ".jpeg",
    ".bmp",
)
"""Suffixes of images and label maps that are left off their names, the longest first; of any other file it is the
last one.
"""

_CHANNEL = re.compile(r"_\d{4}$")
"""Of a case of nnU-Net: its images are CASE_0000, CASE_0001, its label map is CASE."""


def stem_of(path: str) -> str:
    """Give a path without the suffix of its format."""
    lower = path.lower()
    suffix = next(
        (suffix for suffix in SUFFIXES if lower.endswith(suffix) and not lower.endswith("/" + suffix)),
        PurePosixPath(path).suffix,
    )
    return path[: len(path) - len(suffix)]


def case_of(path: str) -> tuple[str, bool]:
    """Give the name of the case that an image belongs to, with its folder, and whether that is another than its own
    name.
    """
    stem = stem_of(path)
    return _CHANNEL.sub("", stem), bool(_CHANNEL.search(stem))
