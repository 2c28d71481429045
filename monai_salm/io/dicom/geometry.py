# SPDX-License-Identifier: Apache-2.0
"""Where the pixels of an image lie in the patient (PS3.3 C.7.6.2.1.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monai_salm.io.base import SourceImage
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.files import floats
from monai_salm.io.dicom.stored_values import picture_behind

_TO_RAS = np.diag([-1.0, -1.0, 1.0])
"""DICOM's axes lead to the left, the back and the head."""


def affine(source: SourceImage) -> NDArray[np.float64] | None:
    """Give the 4 x 4 matrix from (row, column, millimeters along the normal) to the patient's right, anterior and
    superior; None of a stack, or where the file does not say it.
    """
    file = picture_behind(source).file
    position, orientation = floats(file.texts(tags.IMAGE_POSITION)), floats(file.texts(tags.IMAGE_ORIENTATION))
    if source.header.stacked or not source.header.spacing_known or len(position) != 3 or len(orientation) != 6:
        return None
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    rows_apart, columns_apart = source.header.spacing
    result = np.eye(4)
    result[:3, 0] = _TO_RAS @ along_column * rows_apart
    result[:3, 1] = _TO_RAS @ along_row * columns_apart
    result[:3, 2] = _TO_RAS @ np.cross(along_row, along_column)
    result[:3, 3] = _TO_RAS @ np.array(position)
    return result if np.isfinite(result).all() and abs(np.linalg.det(result)) > 0 else None
