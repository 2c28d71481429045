# SPDX-License-Identifier: Apache-2.0
"""A DICOM file with one value changed, as the tests of derived images want it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array

from monai_salm.io import dicom
from monai_salm.io.base import Derivation, HeaderChange

SECRET = b"secret"
DERIVATION = Derivation(software="monai_salm", version="1.2", description="at most 3 HU", uid_secret=SECRET)


def protect(path: Path, derivation: Derivation = DERIVATION) -> Dataset:
    """Add one to a value, write ``out.dcm`` beside the file, hold it against the original and read it with pydicom."""
    source = dicom.read_source(path)
    stored = source.stored.copy()
    stored.flat[stored.size // 2 - 5] += 1
    target = path.with_name("out.dcm")
    dicom.write_like(source, stored, target, derivation)
    assert disallowed(path) == []
    np.testing.assert_array_equal(dicom.read_source(target).stored, stored)
    dataset = pydicom.dcmread(target)
    if "MOSAIC" not in dataset.get("ImageType", ""):
        np.testing.assert_array_equal(values_by_pydicom(target), stored)
    return dataset


def values_by_pydicom(path: Path) -> NDArray[Any]:
    """Give the values of a file as pydicom reads them; of luminance and chroma the luminance."""
    dataset = pydicom.dcmread(path)
    values = pixel_array(dataset, raw=True)
    return values[..., 0] if dataset.PhotometricInterpretation.startswith("YBR_FULL") else values


def disallowed(path: Path) -> list[HeaderChange]:
    """List the differences of ``out.dcm`` beside a file that a derived image may not have."""
    return [change for change in dicom.compare_headers(path, path.with_name("out.dcm")) if not change.allowed]
