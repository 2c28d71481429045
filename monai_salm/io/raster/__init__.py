# SPDX-License-Identifier: Apache-2.0
"""PNG, JPEG and TIFF images, decoded by Pillow and written by our own bytes, so that metadata stay as they are.

A write of unchanged values gives the source's bytes, but for a JPEG, which becomes a PNG.
"""

from __future__ import annotations

from monai_salm.io.raster.files import (
    affine,
    compare_headers,
    compare_sources,
    identify,
    kept_bytes,
    read_back,
    read_label_map,
    read_source,
    sniff,
    write_document,
    write_like,
)

__all__ = [
    "affine",
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
