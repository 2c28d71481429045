# SPDX-License-Identifier: Apache-2.0
"""Families of inputs, one for each group of formats."""

from __future__ import annotations

import csv
import hashlib
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.same_bytes.images import (
    BIG_ENDIAN,
    CR_CLASS,
    DEFLATED,
    ENHANCED_MR_CLASS,
    FLAT_PLACE,
    FRAMES_CLASS,
    IMPLICIT,
    J2K,
    JPEG_LOSSLESS,
    JPEG_LS,
    NO_PLACE,
    PLANE,
    RLE,
    ROOT_UID,
    SLICE,
    US_CLASS,
    VOLUME,
    _items,
    anatomy,
    color,
    ct_series,
    dicom,
    gray,
    itk,
    nifti,
    raster,
    segmentation,
    series,
    sha256_of,
)

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
            digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path.read_bytes())}\n".encode())
    return digest.hexdigest()
