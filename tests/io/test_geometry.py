# SPDX-License-Identifier: Apache-2.0
"""Where images lie in the patient, held against nibabel, SimpleITK and the standard's formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.affines import from_matvec

from monai_salm import io
from tests.io.builders import dicom_dataset, write_dicom

SimpleITK: Any = pytest.importorskip("SimpleITK")

TURN = np.linalg.qr(np.array([[1.0, 0.2, 0.1], [-0.1, 1.0, 0.3], [0.2, -0.3, 1.0]]))[0]
STEPS, ORIGIN = (0.7, 0.9, 2.5), (-12.5, 30.0, 7.25)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("form", ["sform", "qform", "neither"])
def test_nifti_is_where_nibabel_has_it(tmp_path: Path, kind: Any, form: str) -> None:
    turn = TURN * np.sign(np.linalg.det(TURN))  # a quaternion holds no reflection
    image = kind(np.arange(120, dtype=np.int16).reshape(4, 5, 6), from_matvec(turn * STEPS, ORIGIN))
    image.header.set_sform(image.affine, 1 if form == "sform" else 0)
    image.header.set_qform(image.affine, 1 if form == "qform" else 0)
    image.to_filename(tmp_path / "v.nii.gz")
    found = io.affine(io.read_source(tmp_path / "v.nii.gz"))
    assert np.allclose(found, nibabel.load(tmp_path / "v.nii.gz").affine, atol=1e-6)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("components", [1, 3])
def test_itk_formats_are_where_simpleitk_has_them(tmp_path: Path, suffix: str, components: int) -> None:
    shape = (6, 5, 4) if components == 1 else (6, 5, 4, 3)
    values = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    image = SimpleITK.GetImageFromArray(values, isVector=components == 3)
    image.SetDirection(TURN.ravel().tolist())
    image.SetSpacing(STEPS)
    image.SetOrigin(ORIGIN)
    SimpleITK.WriteImage(image, tmp_path / f"v{suffix}")
    data = next(path for path in tmp_path.iterdir() if path.suffix not in (".nhdr", ".mhd"))
    source = io.read_source(data)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    assert source.header.shape == (4, 5, 6)
    assert np.allclose(io.affine(source), from_matvec(to_ras @ TURN * STEPS, to_ras @ ORIGIN), atol=1e-4)


def test_dicom_is_where_the_standard_has_it(tmp_path: Path) -> None:
    dataset = dicom_dataset(shape=(6, 8))
    dataset.PixelSpacing, dataset.ImagePositionPatient = [0.5, 0.25], [10, -20, 30]
    dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]  # sagittal
    write_dicom(tmp_path / "i.dcm", dataset, np.arange(48).reshape(6, 8))
    place = io.affine(io.read_source(tmp_path / "i.dcm"))
    assert place is not None
    # PS3.3 equation C.7.6.2.1-1, for the pixel in row 4 and column 2, then from left and back to right and front
    assert np.allclose(place @ [4, 2, 0, 1], [-10, 20 - 2 * 0.25, 30 - 4 * 0.5, 1])
    assert np.allclose(place[:3, 2], np.diag([-1, -1, 1]) @ np.cross([0, 1, 0], [0, 0, -1]))


@pytest.mark.parametrize("lacking", ["PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"])
def test_what_a_file_does_not_say_is_not_made_up(tmp_path: Path, lacking: str) -> None:
    dataset = dicom_dataset(shape=(6, 8))
    dataset.PixelSpacing, dataset.ImagePositionPatient = [0.5, 0.25], [10, -20, 30]
    dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    delattr(dataset, lacking)
    write_dicom(tmp_path / "i.dcm", dataset, np.arange(48).reshape(6, 8))
    assert io.affine(io.read_source(tmp_path / "i.dcm")) is None
