# SPDX-License-Identifier: Apache-2.0
"""NIfTI-1 and NIfTI-2, one file or a pair: only the bytes of the voxels are replaced, no library writes anything.

Libraries that load and save rescale the values anew, move the affine between sform and qform or drop extensions. Here
header, extensions and what follows the voxels are the source's bytes; a compressed file keeps its gzip header too. Of a
pair, the ``.img`` is the image and the ``.hdr`` beside it a document.
"""

from monai_salm.io.nifti.casing import cased, casing
from monai_salm.io.nifti.comparing import compare_headers, compare_sources, kept_bytes
from monai_salm.io.nifti.geometry import affine
from monai_salm.io.nifti.volumes import (
    identify,
    read_back,
    read_label_map,
    read_source,
    sniff,
    write_document,
    write_like,
)

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
