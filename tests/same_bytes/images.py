# SPDX-License-Identifier: Apache-2.0
"""Small images of two classes, and files of every format that hold them, the same bytes for the same seed."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Pictures ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Anatomy:
    """A picture as of a scanner: smooth tissue with organs and noise, on a dark background.

    Args:
        values: 0 to 1, the background near 0.
        inside: where the body is.
        lesion: where something is that is a little brighter in one of the two classes.
    """

    values: Array
    inside: Array
    lesion: Array


def anatomy(seed: int, number: int, shape: tuple[int, ...]) -> Anatomy:
    """Make a picture; of odd numbers the lesion is brighter."""
    generator = np.random.default_rng([seed, number, *shape])
    grid = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij", sparse=True)

    def ellipsoid(center: Array, extent: Array) -> Array:
        return sum(((axis - c) / e) ** 2 for axis, c, e in zip(grid, center, extent, strict=True)) < 1

    dims = len(shape)
    inside = ellipsoid(np.zeros(dims), generator.uniform(0.78, 0.92, dims))
    values = np.full(shape, 0.42)
    for _ in range(4):  # slow changes, as of a coil
        frequency, phase = generator.uniform(0.8, 3.0, dims), generator.uniform(0, 6.3)
        values += 0.05 * np.cos(sum(f * axis for f, axis in zip(frequency, grid, strict=True)) + phase)
    for brightness in (0.14, -0.12, 0.08):
        values += brightness * ellipsoid(generator.uniform(-0.4, 0.4, dims), generator.uniform(0.18, 0.35, dims))
    lesion = ellipsoid(generator.uniform(-0.25, 0.25, dims), np.full(dims, 0.3)) & inside
    values += (0.04 + 0.16 * (number % 2)) * lesion
    values = np.clip(values + generator.normal(0, 0.03, shape), 0.06, 0.98)
    return Anatomy(np.where(inside, values, np.abs(generator.normal(0, 0.006, shape))), inside, lesion)


def gray(picture: Anatomy, largest: float, dtype: Any = np.uint16) -> Array:
    """Give stored values from 0 to the largest."""
    return (picture.values * largest).round().astype(dtype)


def color(seed: int, number: int, shape: tuple[int, int]) -> Array:
    """Give 8-bit RGB, whose channels are alike."""
    first, second = anatomy(seed, number, shape), anatomy(seed, number + 1000, shape)
    red = first.values
    channels = np.stack([red, 0.8 * red, 0.7 * red + 0.1 * second.values], -1)
    return (channels * 250).round().astype(np.uint8)


# Files ---------------------------------------------------------------------------------------------------------------

ROOT_UID = "1.2.826.0.1.3680043.8.498.77"
SLICE, PLANE, VOLUME = (36, 40), (44, 40), (24, 20, 10)
"""Shapes of a slice of a series, of a single picture and of a volume."""

CT_CLASS, MR_CLASS, CR_CLASS, US_CLASS, FRAMES_CLASS, ENHANCED_MR_CLASS = (
    f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("2", "4", "1", "6.1", "7.3", "4.1")
)
FLAT_PLACE = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient"))
NO_PLACE = FLAT_PLACE | dict.fromkeys(("PixelSpacing", "SliceThickness"))
"""Attributes that a picture without a place in the patient does without."""

IMPLICIT, NATIVE, DEFLATED, BIG_ENDIAN = (f"1.2.840.10008.1.2{tail}" for tail in ("", ".1", ".1.99", ".2"))
RLE, JPEG_LOSSLESS, JPEG_LS, J2K = (f"1.2.840.10008.1.2.{tail}" for tail in ("5", "4.70", "4.80", "4.90"))


def _items(*contents: Mapping[str, Any]) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence as Items

    made = []
    for content in contents:
        item = Dataset()
        for keyword, value in content.items():
            setattr(item, keyword, value)
        made.append(item)
    return Items(made)


def _encoded(values: Array, dataset: Any, syntax: str) -> bytes:
    if syntax == JPEG_LOSSLESS:
        import imagecodecs

        how = {"lossless": True, "predictor": 1, "bitspersample": dataset.BitsStored}
        return bytes(imagecodecs.jpeg8_encode(values.astype(np.uint16), **how))
    from pydicom.pixels import get_encoder

    options = {
        "rows": dataset.Rows, "columns": dataset.Columns, "number_of_frames": 1, "samples_per_pixel": 1,
        "bits_allocated": 16, "bits_stored": dataset.BitsStored, "pixel_representation": 0,
        "photometric_interpretation": "MONOCHROME2", "planar_configuration": 0,
    }  # fmt: skip
    plugin = "pydicom" if syntax == RLE else ""
    return bytes(get_encoder(syntax).encode(values.astype(np.uint16), encoding_plugin=plugin, **options))


def dicom(
    path: Path, number: Sequence[int], values: Array, *, bits: int = 12, syntax: str = NATIVE, **attributes: Any
) -> Path:
    """Write an image object.

    Args:
        path: where.
        number: of its study, its series and itself, which its UIDs are made of.
        values: (rows, columns), (frames, rows, columns) or, of 8 bits, (rows, columns, 3).
        bits: BitsStored.
        syntax: UID of the transfer syntax.
        attributes: further ones by keyword, over the default ones; None leaves one out.
    """
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate

    study, series, instance = number
    colored = bits == 8 and values.ndim == 3
    frames = len(values) if values.ndim == 3 and not colored else None
    rows, columns = values.shape[:2] if colored else values.shape[-2:]
    allocated = 8 if bits == 8 else 16
    known: dict[str, Any] = {
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SOPClassUID": MR_CLASS, "Modality": "MR",
        "SOPInstanceUID": f"{ROOT_UID}.3.{study}.{series}.{instance}", "StudyInstanceUID": f"{ROOT_UID}.1.{study}",
        "SeriesInstanceUID": f"{ROOT_UID}.2.{study}.{series}", "FrameOfReferenceUID": f"{ROOT_UID}.4.{study}",
        "StudyDate": "20200101", "StudyTime": "120000", "ContentDate": "20200101", "ContentTime": "120000",
        "AccessionNumber": f"A{study}", "ReferringPhysicianName": "", "StudyDescription": "Study", "StudyID": "1",
        "SeriesDescription": "Series", "SeriesNumber": series, "InstanceNumber": instance,
        "PatientName": f"Doe^{study}", "PatientID": f"P{study}", "PatientBirthDate": "", "PatientSex": "O",
        "ImagePositionPatient": [-10, -20, 2.0 * instance], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "SliceThickness": 2.0, "PixelSpacing": [0.75, 0.75], "PositionReferenceIndicator": "", "Manufacturer": "Maker",
        "SamplesPerPixel": 3 if colored else 1, "PhotometricInterpretation": "RGB" if colored else "MONOCHROME2",
        "PlanarConfiguration": 0 if colored else None, "NumberOfFrames": frames, "Rows": rows, "Columns": columns,
        "BitsAllocated": allocated, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": 0,
    }  # fmt: skip
    dataset = Dataset()
    for keyword, value in (known | attributes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.private_block(0x0009, "A MAKER", create=True).add_new(0x01, "OB", b"\x01\x02\x03\x04")
    if syntax in (IMPLICIT, NATIVE, DEFLATED, BIG_ENDIAN):
        content = values.astype(f"{'>' if syntax == BIG_ENDIAN else '<'}u{allocated // 8}").tobytes()
        dataset.add_new(0x7FE00010, "OB" if allocated == 8 else "OW", content + bytes(len(content) % 2))
    else:
        dataset.add_new(0x7FE00010, "OB", encapsulate([_encoded(values, dataset, syntax)]))
        dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


def ct_series(folder: Path, seed: int, number: int, slices: int = 6) -> list[Path]:
    """Write a CT volume as slices: air, and tissue of -60 to 140 HU; without the empty ends."""
    depth = slices + 4
    volume = anatomy(seed, number, (depth, *SLICE))
    generator = np.random.default_rng([seed, number, depth])
    hounsfield = np.where(volume.inside, -60 + 200 * volume.values, -1000 + generator.normal(0, 6, volume.values.shape))
    stored = (hounsfield + 1024).round().astype(np.uint16)
    attributes = {
        "Modality": "CT", "SOPClassUID": CT_CLASS, "RescaleIntercept": -1024, "RescaleSlope": 1, "RescaleType": "HU",
        "WindowCenter": 40, "WindowWidth": 400,
    }  # fmt: skip
    return series(folder, number, stored[2:-2], **attributes)


def series(folder: Path, number: int, stored: Array, **attributes: Any) -> list[Path]:
    """Write a volume as slices, of MR if nothing else is said."""
    return [
        dicom(folder / f"slice{place:02d}.dcm", (number, 1, place + 1), plane, **attributes)
        for place, plane in enumerate(stored)
    ]


def segmentation(path: Path, slices: Sequence[Path], labels: Array, number: int) -> Path:
    """Write a SEG object of a series by highdicom, with its own UIDs and times taken out."""
    import highdicom
    import pydicom
    from pydicom.sr.coding import Code

    described = highdicom.seg.SegmentDescription(
        1, "lesion", Code("85756007", "SCT", "Tissue"), Code("10200004", "SCT", "Liver"), "MANUAL"
    )
    made = highdicom.seg.Segmentation(
        [pydicom.dcmread(file) for file in slices], labels, "BINARY", [described], f"{ROOT_UID}.2.{number}.9", 9,
        f"{ROOT_UID}.3.{number}.9.1", 1, "Maker", "Model", "1", "0",
    )  # fmt: skip
    fixed = {"DA": "20200101", "TM": "120000", "DT": "20200101120000"}

    def calm(_: pydicom.Dataset, element: pydicom.DataElement) -> None:
        if element.VR in fixed and element.value:
            element.value = fixed[element.VR]
        if element.keyword == "DimensionOrganizationUID":
            element.value = f"{ROOT_UID}.5.{number}"

    made.walk(calm)
    pydicom.dcmwrite(path, made, enforce_file_format=True)
    return path


def nifti(path: Path, values: Array) -> Path:
    """Write NIfTI as its name says: ``.nii``, ``.nii.gz``, or a pair by its ``.img``."""
    import nibabel

    affine = np.diag([0.75, 0.75, 2.0, 1.0])
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".img":
        nibabel.save(nibabel.Nifti1Pair(values, affine), path)
        return path
    content = nibabel.Nifti1Image(values, affine).to_bytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def itk(path: Path, values: Array, *, packed: bool) -> Path:
    """Write NRRD or MetaImage by SimpleITK."""
    import SimpleITK

    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T)), str(path), useCompression=packed)
    return path


def raster(path: Path, values: Array, **how: Any) -> Path:
    """Write a 2D picture by pillow."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **how)
    return path


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
