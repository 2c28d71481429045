# SPDX-License-Identifier: Apache-2.0
"""DICOM files: single-frame grayscale pictures in native transfer syntaxes, read and written by their bytes."""

from __future__ import annotations

from monai_salm.io.dicom.comparing import compare_headers
from monai_salm.io.dicom.files import sniff
from monai_salm.io.dicom.reading import read_header, read_source
from monai_salm.io.dicom.writing import write_like

__all__ = ["compare_headers", "read_header", "read_source", "sniff", "write_like"]
