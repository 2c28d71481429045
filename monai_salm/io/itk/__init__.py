# SPDX-License-Identifier: Apache-2.0
"""NRRD and MetaImage files: only the bytes of the voxels are replaced, no library writes anything.

Text headers with geometry and metadata stay the source's bytes, but for ``CompressedDataSize`` of a compressed
MetaImage. A write of unchanged values gives the source's bytes, compressed or not. Of detached voxels (``.nhdr`` or
``.mhd`` with a data file) the data file is the image, and the header a document.
"""

from __future__ import annotations

from monai_salm.io.itk.casing import cased, casing
from monai_salm.io.itk.comparing import compare_headers, compare_sources, kept_bytes
from monai_salm.io.itk.files import sniff
from monai_salm.io.itk.geometry import affine
from monai_salm.io.itk.volumes import identify, read_back, read_label_map, read_source, write_document, write_like

__all__ = [
    "affine",
    "cased",
    "casing",
    "compare_headers",
    "compare_sources",
    "identify",
    "kept_bytes",
    "read_back",
    "read_label_map",
    "read_source",
    "sniff",
    "write_document",
    "write_like",
]
