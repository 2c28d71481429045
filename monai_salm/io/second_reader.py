# SPDX-License-Identifier: Apache-2.0
"""SimpleITK as a second reader, so that a written file is not judged by its own writer alone; nothing else here depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SITK: Any = None
try:
    import SimpleITK
except ImportError:
    pass
else:
    _SITK = SimpleITK


def read_with_simpleitk(path: Path, *, rows_first: bool = False) -> NDArray[np.float64] | None:
    """Read real values with SimpleITK: of DICOM, NIfTI, NRRD, MetaImage, PNG and TIFF files.

    Values are rescaled as the file says. Integers beyond 2**53 are rounded. DICOM files of MONOCHROME1 come inverted, for GDCM does that. Which reader
    of ITK is taken depends on the suffix, DICOM aside.

    Args:
        path: the file.
        rows_first: give the axes as DICOM and raster pictures have them.

    Returns:
        Values of (x, y, z, ..., components), the axes of NIfTI, NRRD and MetaImage; with ``rows_first`` of (frames, rows, columns, components), the
        first left out where there is one frame. One component has no axis. None where SimpleITK is not installed or cannot read the file, or the
        values are complex.
    """
    if _SITK is None:
        return None
    reader = _SITK.ImageFileReader()
    reader.SetFileName(str(path))
    with _without_warnings():
        try:
            image = reader.Execute()
        except RuntimeError:
            return None
    values = _SITK.GetArrayViewFromImage(image)
    if values.dtype.kind not in "iuf":
        return None
    real: NDArray[np.float64] = values.astype(np.float64)
    axes: int = image.GetDimension()
    if rows_first:
        return real[0] if axes == 3 and real.shape[0] == 1 else real
    return real.transpose(*reversed(range(axes)), *range(axes, real.ndim))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep ITK from writing to standard error, and leave its switch as it was."""
    shown = _SITK.ProcessObject.GetGlobalWarningDisplay()
    _SITK.ProcessObject.GlobalWarningDisplayOff()
    try:
        yield
    finally:
        _SITK.ProcessObject.SetGlobalWarningDisplay(shown)
