# SPDX-License-Identifier: Apache-2.0
"""Where the voxels of an image lie in space (nifti1.h)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.base import SourceImage
from monai_salm.io.nifti.volumes import Volume, read_volume


def affine(source: SourceImage) -> NDArray[np.float64] | None:
    """Give the 4 x 4 matrix from (i, j, k) to the patient's right, anterior and superior: of the sform, else of the
    qform, else of the spacing alone, as nibabel does.
    """
    from nibabel import nifti1, nifti2  # slow to load, and not needed of other formats

    fields = (source.kept(Volume) or read_volume(source.header.path)).layout.fields
    kind: Any = (
        nifti1.Nifti1Header if int(fields["sizeof_hdr"]) == nifti1.header_dtype.itemsize else nifti2.Nifti2Header
    )
    header = kind(fields.tobytes(), endianness=fields.dtype["sizeof_hdr"].byteorder, check=False)
    result = np.array(header.get_best_affine(), dtype=np.float64)
    if np.isfinite(result).all() and abs(np.linalg.det(result)) > 0:
        return result
    return (
        np.diag([*source.header.spacing, *[1.0] * (4 - len(source.header.spacing))])
        if source.header.spacing_known
        else None
    )
