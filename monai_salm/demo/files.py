# SPDX-License-Identifier: Apache-2.0
"""Writing plain DICOM and NIfTI files from arrays, for the demo and the benchmarks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian, MRImageStorage

_CLASSES = {"CR": ComputedRadiographyImageStorage, "MR": MRImageStorage}


def made_up_uid(*parts: object) -> str:
    """Give a UID that is the same for the same parts (PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256('/'.join(map(str, parts)).encode()).digest()[:15], 'big')}"


def write_dicom(
    path: Path,
    pixels: NDArray[Any],
    *,
    modality: str,
    bits_stored: int,
    patient: str,
    number: int,
    position: float = 0.0,
) -> None:
    """Write a single-frame grayscale DICOM file, explicit VR little endian.

    Args:
        path: file to write; its folder is made.
        pixels: (rows, columns), unsigned, at most ``bits_stored`` bits.
        modality: ``CR`` or ``MR``.
        bits_stored: 8, or up to 16.
        patient: patient id; study and series follow from it.
        number: of the instance in the series.
        position: of the slice along z, mm.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID = meta.MediaStorageSOPClassUID = _CLASSES[modality]
    meta.MediaStorageSOPInstanceUID = UID(made_up_uid(patient, "instance", number))
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID = made_up_uid(patient, "study")
    data.SeriesInstanceUID = made_up_uid(patient, "series")
    data.FrameOfReferenceUID = made_up_uid(patient, "frame")
    data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = patient, patient, "", ""
    data.StudyDate = data.StudyTime = data.AccessionNumber = data.ReferringPhysicianName = data.StudyID = ""
    data.Modality, data.Manufacturer, data.ImageType = modality, "monai_salm demo", ["ORIGINAL", "PRIMARY"]
    data.SeriesNumber, data.InstanceNumber, data.PatientOrientation = 1, number, ["L", "P"]
    data.Laterality, data.PositionReferenceIndicator = "", ""
    if modality == "MR":
        data.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
        data.ScanningSequence, data.SequenceVariant, data.ScanOptions, data.MRAcquisitionType = "GR", "NONE", "", "3D"
        data.EchoTime, data.EchoTrainLength, data.RepetitionTime = "", "", ""
        data.SliceThickness, data.PixelSpacing = 1, [1, 1]
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, position], [1, 0, 0, 0, 1, 0]
    else:
        data.BodyPartExamined, data.ViewPosition = "CHEST", "PA"
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = 8 if bits_stored == 8 else 16
    data.BitsStored, data.HighBit = bits_stored, bits_stored - 1
    raw = np.ascontiguousarray(pixels, dtype="<u1" if bits_stored == 8 else "<u2").tobytes()
    data.PixelData = raw + b"\0" * (len(raw) % 2)
    data["PixelData"].VR = "OB" if bits_stored == 8 else "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def write_nifti(path: Path, values: NDArray[Any], affine: NDArray[Any]) -> None:
    """Write a NIfTI-1 file.

    Args:
        path: file to write; its folder is made.
        values: of a type that NIfTI stores, (i, j) or (i, j, k).
        affine: 4 x 4, voxel to RAS millimeters.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)  # type: ignore[no-untyped-call]
