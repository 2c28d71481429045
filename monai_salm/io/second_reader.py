# SPDX-License-Identifier: Apache-2.0
"""SimpleITK and dcmtk as second readers, so that a written file is not judged by its own writer alone; nothing else here depends on them."""

from __future__ import annotations

import shutil
import subprocess
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


def dcmtk_finds_within(original: Path, other: Path, limit_stored: int) -> bool | None:
    """Let dcmtk's ``dcmicmp`` say whether no stored value of two DICOM files differs by more than a limit.

    Returns:
        None where dcmtk is not installed or cannot decode a file: it reads native ones.
    """
    program = shutil.which("dcmicmp")
    if program is None:
        return None
    # Without the modality transformation, which would round through RescaleSlope.
    arguments = [program, "-q", "-M", "+ce", str(limit_stored), str(original.resolve()), str(other.resolve())]
    done = subprocess.run(arguments, capture_output=True, check=False)  # noqa: S603 (a fixed program, and paths that begin with a slash)
    return {0: True, _DCMICMP_BEYOND: False}.get(done.returncode)


_DCMICMP_BEYOND = 90
"""Exit status of ``dcmicmp`` where a check that was asked for fails."""


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep ITK from writing to standard error, and leave its switch as it was."""
    shown = _SITK.ProcessObject.GetGlobalWarningDisplay()
    _SITK.ProcessObject.GlobalWarningDisplayOff()
    try:
        yield
    finally:
        _SITK.ProcessObject.SetGlobalWarningDisplay(shown)
