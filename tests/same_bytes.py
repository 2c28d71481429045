# SPDX-License-Identifier: Apache-2.0
"""Prove that two checkouts of the package write the same bytes.

Run from the root of a checkout, as a module::

    python -m tests.same_bytes make INPUTS --seed 0
    python -m tests.same_bytes run INPUTS OLD_CHECKOUT old.json
    python -m tests.same_bytes run INPUTS NEW_CHECKOUT new.json
    python -m tests.same_bytes compare old.json new.json

``make`` writes small pictures in every format that ``protect`` handles, the same bytes for the same seed and the same
libraries. ``run`` protects them by the package of a checkout, every method and every format, and writes one JSON line
per case as soon as it is done: exit codes, digests of all that is handed out, the noise, digests of the surrogate's
tensors, and what became of each file. ``compare`` says of each case what differs.

Nothing here imports the package, so that any checkout can be measured; a case only uses its command line, its bundle
and its public transforms.

Each step of a case runs in a process of its own. Starting Python with torch takes longer than most cases, so these
processes are forked from one that has already imported third-party libraries, but nothing of the package; ``--cold``
starts a new interpreter for each step instead, which takes three times as long.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import fnmatch
import gzip
import hashlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import resource
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests import chance_before

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


# Families of formats -------------------------------------------------------------------------------------------------

Labels = dict[str, int]
"""What a table of labels names -> its class, 0 or 1."""


@dataclass(frozen=True)
class Family:
    """Inputs of one kind.

    Args:
        make: writes the samples of some numbers below a folder, ``images`` of the family.
        count: samples.
        key: first column of the table of labels.
        arguments: which the family needs in every run.
        segmentation: what gives the label maps: "" for classes, ``folder``, or ``SEG`` objects among the images.
        further: samples for a frozen surrogate.
        working_size: longest side of the working grid.
        network: surrogate; "" for the default one.
    """

    make: Callable[[Path, int, range], Labels]
    count: int
    key: str = "path"
    arguments: tuple[str, ...] = ()
    segmentation: str = ""
    further: int = 0
    working_size: int = 32
    network: str = ""


def _ct(folder: Path, seed: int, numbers: range) -> Labels:
    for number in numbers:
        ct_series(folder / f"series{number}", seed, number)
    return {f"{ROOT_UID}.2.{number}.1": number % 2 for number in numbers}


def _mr_cr(folder: Path, seed: int, numbers: range) -> Labels:
    labels = {}
    for number in numbers:
        name = f"case{number}/image.dcm"
        picture = anatomy(seed, number, PLANE)
        if number // 2 % 2:
            plain = {"Modality": "CR", "SOPClassUID": CR_CLASS} | FLAT_PLACE
            inverted = {"PhotometricInterpretation": "MONOCHROME1"} if number % 2 else {}
            dicom(folder / name, (number, 1, 1), gray(picture, 1000), bits=10, **plain, **inverted)
        else:
            dicom(folder / name, (number, 1, 1), gray(picture, 1500))
        labels[name] = number % 2
    return labels


def _syntaxes(*syntaxes: str) -> Callable[[Path, int, range], Labels]:
    """Write MR instances of some transfer syntaxes in turn."""

    def make(folder: Path, seed: int, numbers: range) -> Labels:
        labels = {}
        for number in numbers:
            syntax = syntaxes[number // 2 % len(syntaxes)]
            name = f"case{number}.dcm"
            dicom(folder / name, (number, 1, 1), gray(anatomy(seed, number, PLANE), 1500), syntax=syntax)
            labels[name] = number % 2
        return labels

    return make


def _frames(folder: Path, seed: int, numbers: range) -> Labels:
    labels = {}
    for number in numbers:
        volume = anatomy(seed, number, (10, *SLICE))
        frames = gray(volume, 1500)[2:-2]
        name = f"frames{number}.dcm"
        if number // 2 % 2:
            dicom(folder / name, (number, 1, 1), frames, Modality="OT", SOPClassUID=FRAMES_CLASS, **FLAT_PLACE)
        else:
            groups = (
                {
                    "FrameContentSequence": _items({"StackID": "1", "InStackPositionNumber": place + 1}),
                    "PlanePositionSequence": _items({"ImagePositionPatient": [-10, -20, 2.0 * place]}),
                }
                for place in range(len(frames))
            )
            shared = {
                "PlaneOrientationSequence": _items({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}),
                "PixelMeasuresSequence": _items({"PixelSpacing": [0.75, 0.75], "SliceThickness": 2.0}),
                "PixelValueTransformationSequence": _items(
                    {"RescaleIntercept": 0, "RescaleSlope": 1, "RescaleType": "US"}
                ),
                "MRImageFrameTypeSequence": _items({"FrameType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]}),
            }
            functional = {
                "SharedFunctionalGroupsSequence": _items(shared),
                "PerFrameFunctionalGroupsSequence": _items(*groups),
                "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
            }
            dicom(folder / name, (number, 1, 1), frames, SOPClassUID=ENHANCED_MR_CLASS, **functional, **NO_PLACE)
        labels[name] = number % 2
    return labels


def _ultrasound(folder: Path, seed: int, numbers: range) -> Labels:
    from PIL import Image, ImageDraw

    labels = {}
    for number in numbers:
        values = np.zeros((64, 80, 3), np.uint8)
        values[14:60, 6:70] = color(seed, number, (46, 64))
        picture = Image.fromarray(values)
        draw = ImageDraw.Draw(picture)
        draw.fontmode = "1"  # pure white, as machines write it
        draw.text((2, 0), f"DOE {number} MI 1.2", fill=(255, 255, 255))
        region = {
            "RegionSpatialFormat": 1, "RegionDataType": 1, "RegionFlags": 0,
            "RegionLocationMinX0": 6, "RegionLocationMinY0": 14, "RegionLocationMaxX1": 69, "RegionLocationMaxY1": 59,
            "PhysicalUnitsXDirection": 3, "PhysicalUnitsYDirection": 3, "PhysicalDeltaX": 0.05, "PhysicalDeltaY": 0.05,
        }  # fmt: skip
        attributes = {
            "Modality": "US", "SOPClassUID": US_CLASS, "BurnedInAnnotation": "YES",
            "ImageType": ["ORIGINAL", "PRIMARY"],
        }  # fmt: skip
        if number // 2 % 2:
            attributes["SequenceOfUltrasoundRegions"] = _items(region)
        name = f"case{number}.dcm"
        dicom(folder / name, (number, 1, 1), np.asarray(picture), bits=8, **attributes, **NO_PLACE)
        labels[name] = number % 2
    return labels


def _seg_objects(folder: Path, seed: int, numbers: range) -> Labels:
    for number in numbers:
        volume = anatomy(seed, number, (10, *SLICE))
        slices = series(folder / f"series{number}", number, gray(volume, 1500)[2:-2])
        segmentation(folder / f"segmentation{number}.dcm", slices, volume.lesion[2:-2].astype(np.uint8), number)
    return {}


def _disc(folder: Path, seed: int, numbers: range) -> Labels:
    """Write a DICOMDIR with its files, and a text beside them."""
    import gc

    from pydicom import dcmread
    from pydicom.fileset import FileSet

    files = FileSet()
    files.UID = f"{ROOT_UID}.6.1"
    with tempfile.TemporaryDirectory() as spare:
        for number in numbers:
            picture = gray(anatomy(seed, number, PLANE), 1500)
            files.add(dcmread(dicom(Path(spare) / f"{number}.dcm", (number, 1, 1), picture)))
        files.write(folder)
    del files
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # a file-set warns when it goes, for it leaves a temporary folder
    (folder / "README.txt").write_text("Images of the study.\n", encoding="utf-8")
    return {f"{ROOT_UID}.3.{number}.1.1": number % 2 for number in numbers}


def _nifti(shape: tuple[int, ...]) -> Callable[[Path, int, range], Labels]:
    def make(folder: Path, seed: int, numbers: range) -> Labels:
        labels = {}
        for number in numbers:
            values = anatomy(seed, number, shape).values * 1500
            suffix = (".nii", ".nii.gz", ".nii", ".img")[number // 2 % 4]
            values = values.astype(np.float32) if number // 2 % 4 == 2 else values.round().astype(np.int16)
            name = f"image{number}{suffix}"
            nifti(folder / name, values)
            labels[name] = number % 2
        return labels

    return make


def _label_maps(shape: tuple[int, ...]) -> Callable[[Path, int, range], Labels]:
    """Write images, and their label maps into a folder ``labels`` beside theirs."""

    def make(folder: Path, seed: int, numbers: range) -> Labels:
        for number in numbers:
            picture = anatomy(seed, number, shape)
            nifti(folder / f"image{number}.nii.gz", gray(picture, 1500, np.int16))
            nifti(folder.with_name(f"{folder.name}-labels") / f"image{number}.nii.gz", picture.lesion.astype(np.uint8))
        return {}

    return make


def _itk(suffixes: tuple[tuple[str, bool], ...]) -> Callable[[Path, int, range], Labels]:
    def make(folder: Path, seed: int, numbers: range) -> Labels:
        labels = {}
        for number in numbers:
            suffix, packed = suffixes[number // 2 % len(suffixes)]
            name = f"image{number}{suffix}"
            itk(folder / name, gray(anatomy(seed, number, VOLUME), 1500, np.int16), packed=packed)
            labels[name.replace(".nhdr", ".raw").replace(".mhd", ".raw")] = number % 2
        return labels

    return make


def _rasters(*kinds: tuple[str, str, Mapping[str, Any]]) -> Callable[[Path, int, range], Labels]:
    """Write pictures of some kinds in turn: suffix, content (``8``, ``16`` or ``color``) and options of pillow."""

    def make(folder: Path, seed: int, numbers: range) -> Labels:
        labels = {}
        for number in numbers:
            suffix, content, how = kinds[number // 2 % len(kinds)]
            name = f"image{number}{suffix}"
            picture = anatomy(seed, number, PLANE)
            values = {
                "8": lambda p=picture: gray(p, 250, np.uint8), "16": lambda p=picture: gray(p, 60000),
                "color": lambda n=number: color(seed, n, PLANE),
            }[content]()  # fmt: skip
            raster(folder / name, values, **how)
            labels[name] = number % 2
        return labels

    return make


def _zip(folder: Path, seed: int, numbers: range) -> Labels:
    with tempfile.TemporaryDirectory() as spare:
        labels = _rasters((".png", "8", {}))(Path(spare), seed, numbers)
        folder.mkdir(parents=True)
        with zipfile.ZipFile(folder / "export.zip", "w") as packed:
            for name in labels:
                about = zipfile.ZipInfo(f"pictures/{name}", (2020, 1, 1, 12, 0, 0))
                packed.writestr(about, (Path(spare) / name).read_bytes(), zipfile.ZIP_DEFLATED)
    return {f"pictures/{name}": label for name, label in labels.items()}


_MR = ("--modality", "MR")
_SMALL: dict[str, Any] = {"arguments": _MR, "working_size": 16, "network": "small-cnn"}
"""Volumes, in seconds."""

_LZW = {"compression": "tiff_lzw"}
FAMILIES: dict[str, Family] = {
    "dicom-ct": Family(_ct, 2, "SeriesInstanceUID", further=2),
    "dicom-mr-cr": Family(_mr_cr, 4),
    "dicom-native": Family(_syntaxes(IMPLICIT, BIG_ENDIAN, DEFLATED), 6),
    "dicom-compressed": Family(_syntaxes(JPEG_LOSSLESS, JPEG_LS, J2K, RLE), 8),
    "dicom-frames": Family(_frames, 4, network="small-cnn"),
    "dicom-us": Family(_ultrasound, 4),
    "dicom-seg": Family(_seg_objects, 2, segmentation="SEG"),
    "dicomdir": Family(_disc, 4, "SOPInstanceUID"),
    "nifti-2d": Family(_nifti(PLANE), 8, arguments=_MR, further=2),
    "nifti-3d": Family(_nifti(VOLUME), 8, further=2, **_SMALL),
    "nifti-4d": Family(_nifti((*VOLUME, 3)), 2, **_SMALL),
    "nifti-2d-labels": Family(_label_maps(PLANE), 4, arguments=_MR, segmentation="folder"),
    "nifti-3d-labels": Family(_label_maps(VOLUME), 4, arguments=_MR, segmentation="folder", further=1, working_size=16),
    "nrrd": Family(_itk(((".nrrd", True), (".nrrd", False), (".nhdr", False))), 6, **_SMALL),
    "metaimage": Family(_itk(((".mha", True), (".mha", False), (".mhd", False))), 6, **_SMALL),
    "png": Family(_rasters((".png", "8", {}), (".png", "16", {}), (".png", "color", {})), 6, further=2),
    "tiff": Family(_rasters((".tif", "8", {}), (".tif", "16", {}), (".tif", "8", _LZW), (".tif", "color", {})), 8),
    "jpeg": Family(_rasters((".jpg", "8", {"quality": 95}), (".jpg", "color", {"quality": 95})), 4),
    "zip": Family(_zip, 4),
}  # fmt: skip
"""Every family of formats that ``protect`` handles."""

CLASSES = ("healthy", "ill")


def _write_table(path: Path, head: Sequence[str], rows: Mapping[str, Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *([name, *cells] for name, cells in rows.items())])


def make_inputs(folder: Path, seed: int, names: Iterable[str] = FAMILIES) -> None:
    """Write a key, and the inputs of some families: ``NAME/images`` and for some ``NAME/further``, with tables."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key").write_bytes(hashlib.sha256(f"key {seed}".encode()).hexdigest().encode())
    (folder / "key").chmod(0o600)
    for name in names:
        family = FAMILIES[name]
        shutil.rmtree(folder / name, ignore_errors=True)
        parts = {"images": range(family.count), "further": range(family.count, family.count + family.further)}
        for part, numbers in parts.items():
            if not numbers:
                continue
            labels = family.make(folder / name / part, seed, numbers)
            if labels:
                classes = {name: (CLASSES[label],) for name, label in labels.items()}
                findings = {name: (label, place // 2 % 2) for place, (name, label) in enumerate(labels.items())}
                _write_table(folder / name / f"{part}.csv", (family.key, "label"), classes)
                _write_table(folder / name / f"{part}-findings.csv", (family.key, "lesion", "other"), findings)


def tree_digest(folder: Path, pattern: str = "*") -> str:
    """Give one digest of the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob(pattern)):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}\0{_sha256(path.read_bytes())}\n".encode())
    return digest.hexdigest()


# Cases ---------------------------------------------------------------------------------------------------------------

METHODS = ("salm", "random-mask", "em", "em-augmented", "aue", "tap", "lsp", "pil", "umed", "voxshield", "random")
CLASSIFIERS = tuple(name for name in METHODS if name not in ("umed", "voxshield"))
"""Methods that protect from classification."""
SEGMENTERS = ("salm", "random-mask", "em", "em-augmented", "aue", "umed", "voxshield")
"""Methods that protect from segmentation; the last one protects volumes alone."""
FLAT, VOLUMES, FLAT_LABELS, VOLUME_LABELS = "png", "nifti-3d", "nifti-2d-labels", "nifti-3d-labels"
"""Families that every method runs on."""
ROUNDS = 3
CHECKPOINT = "*.work/search.safetensors"
"""What a run has written after its first round."""


@dataclass(frozen=True)
class Step:
    """A command of a case.

    Args:
        module: what ``python -m`` runs; a name that ends in ``.py`` is a script of the case.
        arguments: in which ``{inputs}``, ``{case}`` and ``{checkout}`` stand for folders.
        stop: kill it as soon as there is a checkpoint.
    """

    module: str
    arguments: tuple[str, ...]
    stop: bool = False


@dataclass(frozen=True)
class Case:
    """What is run and then compared."""

    name: str
    steps: tuple[Step, ...]


def protect(
    family: str,
    method: str,
    *more: str,
    part: str = "images",
    output: str = "out",
    rounds: int | None = ROUNDS,
    stop: bool = False,
) -> Step:
    """Give the command that protects a family."""
    about = FAMILIES[family]
    source = f"{{inputs}}/{family}/{part}" + ("/export.zip" if family == "zip" else "")
    arguments = [
        "protect", source, f"{{case}}/{output}", "--method", method, "--key-file", "{inputs}/key", "--seed", "0",
        "--working-size", str(about.working_size), "--device", "cpu", "--quiet", *about.arguments,
    ]  # fmt: skip
    if about.segmentation and method != "random":
        arguments += ["--task", "segmentation"]
        arguments += ["--labels", f"{{inputs}}/{family}/{part}-labels"] if about.segmentation == "folder" else []
    elif method != "random":
        arguments += ["--labels", f"{{inputs}}/{family}/{part}.csv"]
    if method != "random":
        arguments += ["--rounds", str(rounds)] if rounds is not None else []
        arguments += ["--surrogate", about.network] if about.network else []
    return Step("monai_salm", (*arguments, *more), stop)


def _bundle(config: str) -> Step:
    bundle, family = "{checkout}/bundles/salm_protect", "{inputs}/nifti-2d"
    options = {
        "bundle_root": bundle, "config_file": f"{bundle}/configs/{config}.json", "dataset_dir": f"{family}/images",
        "labels": f"{family}/images.csv", "output_dir": "{case}/out", "modality": "MR", "rounds": str(ROUNDS),
        "seed": "0", "working_size": "32", "device": "cpu",
    }  # fmt: skip
    return Step("monai.bundle", ("run", *(part for name, value in options.items() for part in (f"--{name}", value))))


TRANSFORM_SCRIPT = '''"""Protect NIfTI images by the transform: FOLDER TABLE OUTPUT KIND PATH."""
import csv, sys
from pathlib import Path
import numpy as np
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from monai_salm.transforms import SALMProtectd

folder, table, output, kind, path = sys.argv[1:]
more = {"label_key": "label"} if kind == "surrogate" else {}
whole = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), SALMProtectd("image", **{kind: path}, **more)])
Path(output).mkdir()
failed = 0
for row in csv.DictReader(Path(table).read_text(encoding="utf-8").splitlines()):
    if row["path"].endswith(".img"):
        continue  # no reader of MONAI takes it by its name
    try:
        image = whole({"image": f"{folder}/{row['path']}", "label": ["healthy", "ill"].index(row["label"])})["image"]
        np.save(f"{output}/{row['path']}.npy", np.asarray(image))
    except Exception as error:
        print(f"{row['path']}: {error.__cause__ or error}", file=sys.stderr)
        failed = 3
sys.exit(failed)
'''


def _transform(family: str, kind: str, part: str) -> Step:
    place = {"noise": "{case}/out.work/noise", "surrogate": "{case}/out.work/surrogate.safetensors"}[kind]
    folder = f"{{inputs}}/{family}/{part}"
    return Step("transform.py", (folder, f"{folder}.csv", f"{{case}}/{kind}", kind, place))


def _frozen(family: str, method: str = "salm") -> Case:
    """Protect a family, and then further samples with its surrogate."""
    surrogate = ("--surrogate", "{case}/out.work/surrogate.safetensors")
    further = protect(family, method, *surrogate, part="further", output="out2", rounds=None)
    return Case(f"surrogate/{family}/{method}", (protect(family, method), further))


def _resumed(family: str, rounds: int) -> Case:
    begun = protect(family, "salm", rounds=rounds, stop=True)
    return Case(f"resume/{family}", (begun, protect(family, "salm", "--resume", rounds=rounds)))


def _transformed(family: str) -> Case:
    """Protect a family, and then by the transform itself from its noise, and further samples with its surrogate."""
    both = _transform(family, "noise", "images"), _transform(family, "surrogate", "further")
    return Case(f"transform/{family}", (protect(family, "salm"), *both))


def all_cases() -> list[Case]:
    """Give every case, by names of their own."""
    pairs = [(family, method) for family in FAMILIES for method in ("salm", "random")]
    pairs += [(family, method) for family in (FLAT, VOLUMES) for method in CLASSIFIERS]
    pairs += [(FLAT_LABELS, method) for method in SEGMENTERS[:-1]] + [(VOLUME_LABELS, method) for method in SEGMENTERS]
    cases = [Case(f"{family}/{method}", (protect(family, method),)) for family, method in dict.fromkeys(pairs)]
    findings = f"{{inputs}}/{FLAT}/images-findings.csv"
    bare = ("--uids", "keep", "--image-type", "keep", "--provenance", "none", "--no-source-reference")
    minimal = ("--provenance", "minimal", "--epsilon", "9 HU", "--window", "lung")
    fraction = ("--perturbed-fraction", "0.1", "--epsilon", "4/255", "--seed", "7")
    return [
        *cases,
        _frozen(FLAT), _frozen(FLAT, "random-mask"), _frozen(VOLUMES), _frozen(VOLUME_LABELS), _frozen("dicom-ct"),
        _resumed(FLAT, 6), _resumed(VOLUME_LABELS, 6),
        Case("options/bare", (protect("dicom-ct", "random", *bare),)),
        Case("options/instance", (protect("dicom-ct", "random", "--sample", "instance"),)),
        Case("options/minimal", (protect("dicom-ct", "random", *minimal),)),
        Case("options/fraction", (protect(FLAT, "salm", *fraction),)),
        Case("options/network", (protect(FLAT, "em", "--surrogate", "ViT", rounds=1),)),
        *(Case(f"findings/{method}", (protect(FLAT, method, "--labels", findings),)) for method in ("salm", "tap")),
        Case("bundle", (_bundle("train"),)),
        _transformed("nifti-2d"), _transformed("nifti-3d"),
    ]  # fmt: skip


def chosen_cases(pattern: str) -> list[Case]:
    """Give the cases whose names match one of the patterns, separated by commas."""
    patterns = pattern.split(",")
    return [case for case in all_cases() if any(fnmatch.fnmatchcase(case.name, wanted) for wanted in patterns)]


# Random numbers of an older checkout ---------------------------------------------------------------------------------

CHANCES = ("own", "before")
"""How a run draws its random numbers: by the checkout's own rule, or as before there was one rule for chance."""


def draw_as(chance: str) -> None:
    """Make the package draw its random numbers in a way of :data:`CHANCES`.

    Called in the process of each step, before anything of the package is imported. ``own`` changes nothing.
    """
    if chance == "before":
        chance_before.install()


# Processes -----------------------------------------------------------------------------------------------------------

LIBRARIES = (
    "torch", "torch._dynamo", "monai.networks.nets", "monai.transforms", "monai.losses", "monai.bundle",
    "scipy.ndimage", "scipy.signal", "pydicom", "nibabel", "PIL.Image", "imagecodecs", "jpeg_ls", "highdicom",
    "safetensors.torch", "safetensors.numpy", "click", "tqdm", "fire",
)  # fmt: skip
"""What a step would import first; none of it is of the package."""


@dataclass(frozen=True)
class Place:
    """Where the steps of a case run.

    Args:
        inputs, checkout: the two folders.
        folder: of the case, empty at first.
    """

    inputs: Path
    checkout: Path
    folder: Path

    def arguments(self, step: Step) -> list[str]:
        """Give the arguments of a step with the folders in them."""
        names = {"inputs": self.inputs, "case": self.folder, "checkout": self.checkout}
        return [part.format(**names) for part in step.arguments]

    def environment(self) -> dict[str, str]:
        """Give the environment of a step, in which the checkout's package comes first."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return kept | {"PYTHONPATH": str(self.checkout), "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder / "tmp")}


def _in_fork(step: Step, place: Place, chance: str, log: Path) -> None:
    """Be the process of a step, as after ``python -m`` but for third-party libraries that are imported already."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(place.environment())
    tempfile.tempdir = None
    os.chdir(place.folder / "tmp")
    others = [path for path in sys.path if not (Path(path or place.inputs) / "monai_salm").is_dir()]
    sys.path[:] = [str(place.checkout), *others]
    sys.path_importer_cache.clear()
    importlib.invalidate_caches()
    draw_as(chance)
    if step.module.endswith(".py"):
        sys.argv = [str(place.folder / step.module), *place.arguments(step)]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        sys.argv = [step.module, *place.arguments(step)]
        runpy.run_module(step.module, run_name="__main__", alter_sys=True)


class Forked:
    """A step in a process that is forked from this one."""

    def __init__(self, step: Step, place: Place, chance: str, log: Path) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=_in_fork, args=(step, place, chance, log))
        self._process.start()

    def poll(self) -> int | None:
        """Give the exit code, None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Stop it at once."""
        self._process.kill()
        self._process.join()


def _in_interpreter(step: Step, place: Place, log: Path) -> subprocess.Popen[bytes]:
    """Start a step in an interpreter of its own."""
    start = [str(place.folder / step.module)] if step.module.endswith(".py") else ["-m", step.module]
    command = [sys.executable, *start, *place.arguments(step)]
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=place.environment(), cwd=place.folder / "tmp"
        )


def _steps_done(case: Case, place: Place, chance: str, *, cold: bool) -> Iterator[dict[str, Any] | None]:
    """Run the steps of a case one after the other; gives None while one runs, and at last what is to be told."""
    codes: list[int] = []
    said: list[str] = []
    problems: list[str] = []
    (place.folder / "tmp").mkdir(parents=True)
    (place.folder / "transform.py").write_text(TRANSFORM_SCRIPT, encoding="utf-8")
    for number, step in enumerate(case.steps):
        log = place.folder / f"step{number}.log"
        process = _in_interpreter(step, place, log) if cold else Forked(step, place, chance, log)
        stopped = False
        while process.poll() is None:
            if step.stop and any(place.folder.glob(CHECKPOINT)):
                process.kill()
                stopped = True
            yield None
        if step.stop:
            problems += [] if stopped else ["it ended before it could be stopped"]
            continue
        codes.append(int(process.poll() or 0))
        if codes[-1]:
            said.append(f"step {number + 1}: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
    yield {"exit_codes": codes, "problems": problems, "said": said}


# Rows ----------------------------------------------------------------------------------------------------------------


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def pack(values: Array) -> dict[str, Any]:
    """Give an array in JSON."""
    content = np.ascontiguousarray(values)
    text = base64.b64encode(zlib.compress(content.tobytes(), 9)).decode("ascii")
    return {"dtype": content.dtype.str, "shape": list(content.shape), "values": text}


def unpack(packed: Mapping[str, Any]) -> Array:
    """Give the array of :func:`pack`."""
    content = zlib.decompress(base64.b64decode(packed["values"]))
    return np.frombuffer(content, packed["dtype"]).reshape(packed["shape"])


def _read_noise(content: bytes) -> dict[str, Any]:
    """Give the sample and the dense steps of a noise file; nothing where its format is unknown."""
    from safetensors.numpy import load

    with contextlib.suppress(KeyError, ValueError, IndexError):
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        tensors, shape = load(content), json.loads(metadata["shape"])
        steps = np.zeros(int(np.prod(shape)), np.int16)
        steps[np.unpackbits(tensors["mask"], count=steps.size).astype(bool)] = tensors["values"]
        return {"sample": metadata["sample_id"], "array": pack(steps.reshape(shape))}
    return {}


def _tensor_digests(path: Path) -> dict[str, str]:
    from safetensors.numpy import load_file

    return {
        name: _sha256(f"{value.dtype.str}{value.shape}".encode() + value.tobytes())
        for name, value in load_file(path).items()
    }


def _fates(manifest: Path) -> dict[str, dict[str, str]]:
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    return {line["path"]: {"status": line["status"], "reason": line.get("reason", "")} for line in lines}


def record_outputs(folder: Path) -> dict[str, Any]:
    """Record what the steps of a case have written: files that are handed out, noise, surrogates and manifests."""
    row: dict[str, Any] = {"files": {}, "arrays": {}, "tensors": {}, "fates": {}, "reasons": {}}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        place = name.split("/")
        if place[0] == "tmp" or len(place) == 1:
            continue
        if not place[0].endswith(".work"):
            content = path.read_bytes()
            row["files"][name] = _sha256(content)
            if path.suffix == ".npy":
                row["arrays"][name] = {"array": pack(np.load(path))}
            if path.suffix == ".zip":
                with zipfile.ZipFile(path) as packed:
                    row["files"] |= {f"{name}: {member}": _sha256(packed.read(member)) for member in packed.namelist()}
        elif place[1] == "noise":
            content = path.read_bytes()
            row["files"][name] = _sha256(content)
            row["arrays"][name] = _read_noise(content)
        elif place[1] == "surrogate.safetensors":
            row["tensors"][name] = _tensor_digests(path)
        elif place[1] == "manifest.jsonl":
            fates = _fates(path)
            row["fates"] |= {f"{place[0]}: {file}": fate["status"] for file, fate in fates.items()}
            row["reasons"] |= {f"{place[0]}: {file}": fate["reason"] for file, fate in fates.items() if fate["reason"]}
    return row


def _case_rows(case: Case, place: Place, chance: str, *, cold: bool) -> Iterator[dict[str, Any] | None]:
    """Run a case; gives None while it runs, and its row at the end."""
    begun = time.monotonic()
    told: dict[str, Any] | None = None
    for told in _steps_done(case, place, chance, cold=cold):
        if told is None:
            yield None
    row = {
        "case": case.name,
        "seconds": round(time.monotonic() - begun, 1),
        **(told or {}),
        **record_outputs(place.folder),
    }
    shutil.rmtree(place.folder)
    yield row


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = (
        "numpy",
        "scipy",
        "torch",
        "monai",
        "pydicom",
        "nibabel",
        "pillow",
        "imagecodecs",
        "SimpleITK",
        "highdicom",
        "safetensors",
    )
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}


def _check_package(checkout: Path) -> None:
    """Find out whether a step would import the package of the checkout."""
    with tempfile.TemporaryDirectory() as empty:
        place = Place(Path(empty), checkout, Path(empty))
        command = [sys.executable, "-c", "import monai_salm; print(monai_salm.__file__)"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=place.environment(), cwd=empty)
    found = Path(done.stdout.strip()).resolve()
    if found != checkout / "monai_salm" / "__init__.py":
        raise SystemExit(f"{checkout}: steps would import {found}, not the package of this checkout")


def run(
    inputs: Path,
    checkout: Path,
    out: Path,
    *,
    pattern: str = "*",
    jobs: int = 1,
    cold: bool = False,
    chance: str = "own",
) -> int:
    """Run the cases by the package of a checkout; writes a header, and a JSON line for each case once it is done."""
    inputs, checkout = inputs.resolve(), checkout.resolve()
    waiting = chosen_cases(pattern)
    if not waiting:
        raise SystemExit(f"no case matches {pattern!r}; some are {', '.join(case.name for case in all_cases()[:4])}")
    _check_package(checkout)
    header = {
        "inputs": tree_digest(inputs),
        "package": tree_digest(checkout / "monai_salm", "*.py"),
        "chance": chance,
        "versions": _versions(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in () if cold else LIBRARIES:
            importlib.import_module(name)
    if "monai_salm" in sys.modules:
        raise SystemExit("the package is imported already, so that no checkout's own could be")
    begun, total, done = time.monotonic(), len(waiting), 0
    with tempfile.TemporaryDirectory() as scratch, out.open("w", encoding="utf-8") as file:
        file.write(json.dumps(header) + "\n")
        active: list[Iterator[dict[str, Any] | None]] = []
        while waiting or active:
            while waiting and len(active) < jobs:
                case = waiting.pop(0)
                place = Place(inputs, checkout, Path(scratch).resolve() / case.name.replace("/", "-"))
                active.append(_case_rows(case, place, chance, cold=cold))
            for rows in list(active):
                row = next(rows)
                if row is None:
                    continue
                active.remove(rows)
                done += 1
                file.write(json.dumps(row) + "\n")
                file.flush()
                words = f"{row['seconds']:5.1f} s, exit {row['exit_codes']}, {len(row['files'])} files"
                print(
                    f"{done}/{total} {row['case']}: {words}{''.join(f'; {text}' for text in row['problems'])}",
                    flush=True,
                )
            time.sleep(0.005)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"{total} cases in {time.monotonic() - begun:.0f} s, {cpu:.0f} s of them on a core: {out}")
    return 0


# Comparison ----------------------------------------------------------------------------------------------------------


def load_rows(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Give the header and the rows of a run, by the names of their cases."""
    header, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return header, {row["case"]: row for row in rows}


def _changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {**first, **second} if first.get(name) != second.get(name))


def _array_words(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Say by how much two arrays differ."""
    if "array" not in first or "array" not in second:
        return "bytes"
    one, other = unpack(first["array"]).astype(float), unpack(second["array"]).astype(float)
    sample = f" of sample {first['sample']}" if "sample" in first else ""
    if one.shape != other.shape:
        return f"shapes {one.shape} and {other.shape}{sample}"
    apart = np.abs(one - other)
    if not apart.any():
        return f"equal values, other bytes{sample}"
    return f"by at most {apart.max():g}, {np.count_nonzero(apart)} of {apart.size} values{sample}"


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Say what differs between two rows of a case."""
    found = []
    if first["exit_codes"] != second["exit_codes"]:
        found.append(f"exit codes {first['exit_codes']} and {second['exit_codes']}")
    found += [f"run {side}: {text}" for side, row in (("A", first), ("B", second)) for text in row["problems"]]
    for name in _changed(first["fates"], second["fates"]):
        fates = [
            f"{row['fates'].get(name, 'absent')} {row['reasons'].get(name, '')[:200]}".strip()
            for row in (first, second)
        ]
        found.append(f"fate of {name}: {' | '.join(fates)}")
    for name in _changed(first["files"], second["files"]):
        if name not in first["files"] or name not in second["files"]:
            found.append(f"{name}: only in {'A' if name in first['files'] else 'B'}")
        else:
            found.append(f"{name}: {_array_words(first['arrays'].get(name, {}), second['arrays'].get(name, {}))}")
    for name in _changed(first["tensors"], second["tensors"]):
        one, other = (row["tensors"].get(name, {}) for row in (first, second))
        found.append(f"{name}: {len(_changed(one, other))} of {len({**one, **other})} tensors")
    return found


def compare(first: Path, second: Path) -> int:
    """Print of each case whether two runs gave the same; the exit code says whether all did."""
    (header, rows), (other_header, other_rows) = load_rows(first), load_rows(second)
    if header["inputs"] != other_header["inputs"]:
        print("the two runs had different inputs")
        return 2
    for name in _changed(header["versions"], other_header["versions"]):
        print(f"note: {name} {header['versions'].get(name)} and {other_header['versions'].get(name)}")
    differing = failing = 0
    for name in {**rows, **other_rows}:
        found = [f"only in {side}" for side, others in (("A", other_rows), ("B", rows)) if name not in others]
        found = found or differences(rows[name], other_rows[name])
        differing += bool(found)
        if found:
            print(f"{name}: {len(found)} difference{'s' * (len(found) > 1)}")
            print("".join(f"    {text}\n" for text in found), end="")
            continue
        row = rows[name]
        failing += any(row["exit_codes"])
        codes = f"exit codes {row['exit_codes']}, " if any(row["exit_codes"]) else ""
        tensors = sum(map(len, row["tensors"].values()))
        print(f"{name}: same ({codes}{len(row['files'])} files, {len(row['arrays'])} of them noise, {tensors} tensors)")
    print(f"{differing} of {len({**rows, **other_rows})} cases differ; {failing} are the same, but ended with an error")
    return int(differing > 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.same_bytes", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the inputs")
    making.add_argument("inputs", type=Path)
    making.add_argument("--seed", type=int, default=0)
    running = commands.add_parser("run", help="protect the inputs by the package of a checkout")
    running.add_argument("inputs", type=Path)
    running.add_argument("checkout", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--cases", default="*", metavar="PATTERN", help="names with * and ?, separated by commas")
    running.add_argument("--jobs", type=int, default=1, help="cases at a time")
    running.add_argument("--cold", action="store_true", help="a new interpreter for each step")
    running.add_argument("--chance", choices=CHANCES, default="own", help="how random numbers are drawn")
    comparing = commands.add_parser("compare", help="say what differs between two runs")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    choices = parser.parse_args(arguments)
    if choices.command == "make":
        make_inputs(choices.inputs, choices.seed)
        return 0
    if choices.command == "compare":
        return compare(choices.first, choices.second)
    if os.environ.get("OMP_NUM_THREADS") != "1":  # read once, when the libraries are loaded
        os.execve(sys.executable, sys.orig_argv, os.environ | {"OMP_NUM_THREADS": "1"})  # noqa: S606
    return run(
        choices.inputs, choices.checkout, choices.out,
        pattern=choices.cases, jobs=choices.jobs, cold=choices.cold, chance=choices.chance,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
