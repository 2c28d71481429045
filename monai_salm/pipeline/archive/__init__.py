# SPDX-License-Identifier: Apache-2.0
"""Zip files as input and output: unpacked without trusting them, packed again with the same members."""

from __future__ import annotations

from monai_salm.pipeline.archive.members import is_archive, unpacked_size
from monai_salm.pipeline.archive.packing import pack
from monai_salm.pipeline.archive.unpacking import UnpackedArchive, unpack

__all__ = ["UnpackedArchive", "is_archive", "pack", "unpack", "unpacked_size"]
