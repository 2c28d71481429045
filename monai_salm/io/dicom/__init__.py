# SPDX-License-Identifier: Apache-2.0
"""DICOM files, read and written by their bytes."""

from __future__ import annotations

from monai_salm.io.dicom.casing import cased, casing
from monai_salm.io.dicom.comparing import compare_headers, compare_sources, kept_bytes, read_back
from monai_salm.io.dicom.cutting import sniff
from monai_salm.io.dicom.documents import remaining_references, write_document
from monai_salm.io.dicom.geometry import affine
from monai_salm.io.dicom.identifying import identify, identify_opened, object_uids
from monai_salm.io.dicom.stored_values import read_opened, read_source
from monai_salm.io.dicom.writing import write_like

__all__ = [
    "affine",
    "cased",
    "casing",
    "compare_headers",
    "compare_sources",
    "identify",
    "identify_opened",
    "kept_bytes",
    "object_uids",
    "read_back",
    "read_opened",
    "read_source",
    "remaining_references",
    "sniff",
    "write_document",
    "write_like",
]
