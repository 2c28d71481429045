# SPDX-License-Identifier: Apache-2.0
"""Two DICOM files compared: every difference outside the pixel values, and whether a derived image may have it."""

from __future__ import annotations

from monai_salm.io.dicom.comparing.files import compare_headers, compare_sources, kept_bytes, read_back

__all__ = ["compare_headers", "compare_sources", "kept_bytes", "read_back"]
