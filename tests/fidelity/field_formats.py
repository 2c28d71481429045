# SPDX-License-Identifier: Apache-2.0
"""Pictures in every format, and in every place of a file where a picture can be."""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.exports import block, body, dicom_object, mr_series, mr_slice, nifti_file, zip_file
from tests.fidelity.field_inputs import itk_file
from tests.io.builders import (
    J2K,
    J2K_LOSSY,
    RLE,
    dicom_dataset,
    functional_groups,
    nifti_bytes,
    write_compressed,
    write_dicom,
)

GRAY = (body(1, 48) // 3).clip(0, 255).astype(np.uint8)
OTHER = (body(3, 48) // 3).clip(0, 255).astype(np.uint8)
COLOR = np.stack([GRAY, OTHER, GRAY.T], -1)
SMALL = (GRAY[::3, ::3] // 2 + np.random.default_rng(4).integers(0, 99, (16, 16))).astype(np.uint8)
VOLUME = block(1)[0]
ENHANCED, SCREEN, FRAMES, PDF = (f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2.1", "7", "7.3", "104.1"))
MR = {"Modality": "MR", "RescaleSlope": 1, "RescaleIntercept": 0, "WindowCenter": None, "WindowWidth": None}


def encoded(values: NDArray[Any], kind: str = "JPEG", **how: Any) -> bytes:
    """Give the file of a picture."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **how)
    return buffer.getvalue()


def with_preview() -> bytes:
    """Give Exif metadata with a thumbnail, as cameras and viewers write them."""
    preview = encoded(SMALL)
    first = struct.pack("<H", 1) + struct.pack("<HHLL", 0x0112, 3, 1, 1) + struct.pack("<L", 26)
    place = 8 + len(first) + 2 + 24 + 4
    second = (
        struct.pack("<H", 2)
        + struct.pack("<HHLL", 0x0201, 4, 1, place)
        + struct.pack("<HHLL", 0x0202, 4, 1, len(preview))
        + struct.pack("<L", 0)
    )
    return b"Exif\0\0II*\0" + struct.pack("<L", 8) + first + second + preview


def pdf() -> bytes:
    """Give a PDF with a picture on its page."""
    picture = encoded(GRAY)
    head = (
        "<</Type/XObject/Subtype/Image/Width 48/Height 48/ColorSpace/DeviceGray/BitsPerComponent "
        f"8/Filter/DCTDecode/Length {len(picture)}>>"
    )
    return b"%PDF-1.4\n1 0 obj\n" + head.encode() + b"\nstream\n" + picture + b"\nendstream\nendobj\n%%EOF\n"


def _icon() -> Sequence:
    icon = Dataset()
    icon.Rows = icon.Columns = 16
    icon.SamplesPerPixel, icon.BitsAllocated, icon.BitsStored, icon.HighBit, icon.PixelRepresentation = 1, 8, 8, 7, 0
    icon.PhotometricInterpretation = "MONOCHROME2"
    icon.add_new(0x7FE00010, "OB", SMALL.tobytes())
    return Sequence([icon])


def _compressed(path: Path, syntax: str) -> None:
    write_compressed(path, dicom_dataset(shape=(64, 64), extra=MR), body(1, 64), syntax)


def _frames(path: Path, **extra: Any) -> None:
    write_dicom(
        path,
        dicom_dataset(shape=(24, 24), frames=3, extra=MR | {"SOPClassUID": FRAMES} | extra),
        np.stack([body(number) for number in range(3)]),
    )


def _color(path: Path) -> None:
    extra = {"SOPClassUID": SCREEN, "Modality": "OT", "RescaleSlope": None, "RescaleIntercept": None}
    dataset = dicom_dataset(
        bits_allocated=8, bits_stored=8, photometric="RGB", shape=(48, 48), samples=3, extra=MR | extra
    )
    write_dicom(path, dataset, COLOR)


def _enhanced(path: Path) -> None:
    extra = {
        "SOPClassUID": ENHANCED,
        "Modality": "CT",
        "RescaleSlope": None,
        "RescaleIntercept": None,
    } | functional_groups(slopes=(1.0, 1.0, 1.0))
    values = np.stack([np.where(body(number) > 0, body(number) // 4 + 20, 0) for number in range(3)])
    write_dicom(path, dicom_dataset(shape=(24, 24), frames=3, extra=MR | extra), values)


def _private(path: Path, *contents: bytes, deep: bool = False) -> None:
    mr_slice(path, 1)
    dataset = pydicom.dcmread(path)
    place = dataset
    if deep:
        dataset.ReferencedImageSequence = Sequence([Dataset()])
        place = dataset.ReferencedImageSequence[0]
    owned = place.private_block(0x0011, "A MAKER OF COPIES", create=True)
    for number, content in enumerate(contents):
        owned.add_new(0x10 + number, "OB", content or dataset.PixelData)
    dataset.save_as(path)


def _pair(folder: Path) -> None:
    content = nifti_bytes(VOLUME, magic=b"ni1\0", vox_offset=0)
    (folder / "a.hdr").write_bytes(content[:352])
    (folder / "a.img").write_bytes(content[352:])


def _colors_of_nifti(folder: Path) -> None:
    values = np.stack([VOLUME // 3, VOLUME // 4, VOLUME // 5], 0).clip(0, 255).astype(np.uint8)
    (folder / "a.nii").write_bytes(nifti_bytes(values, dim=VOLUME.shape, datatype=128, bitpix=24))


def _saved(name: str, *pictures: NDArray[Any], **how: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> None:
        first, *others = (Image.fromarray(values) for values in pictures)
        more = {"save_all": True, "append_images": others} if others else {}
        first.save(folder / name, **more, **how)

    return make


def _written(name: str, content: Callable[[], bytes]) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content())


def _zipped(folder: Path) -> None:
    (folder / "spare").mkdir()
    (folder / "spare" / "a.png").write_bytes(encoded(GRAY, "PNG"))
    zip_file(folder / "a.zip", folder / "spare")
    (folder / "spare" / "a.png").unlink()
    (folder / "spare").rmdir()


def _several(*makers: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: [make(folder) for make in makers]


FORMATS: dict[str, Callable[[Path], Any]] = {
    "DICOM": lambda folder: mr_slice(folder / "a.dcm", 1),
    "DICOM series": lambda folder: mr_series(folder, 0, slices=3),
    "DICOM RLE": lambda folder: _compressed(folder / "a.dcm", RLE),
    "DICOM JPEG 2000": lambda folder: _compressed(folder / "a.dcm", J2K),
    "DICOM JPEG 2000, lossy": lambda folder: _compressed(folder / "a.dcm", J2K_LOSSY),
    "DICOM frames": lambda folder: _frames(folder / "a.dcm"),
    "DICOM color": lambda folder: _color(folder / "a.dcm"),
    "DICOM enhanced": lambda folder: _enhanced(folder / "a.dcm"),
    "DICOM with icon": lambda folder: mr_slice(folder / "a.dcm", 1, IconImageSequence=_icon()),
    "DICOM with deep icon": lambda folder: _frames(folder / "a.dcm", ReferencedImageSequence=_deep_icon()),
    "DICOM with private copy": lambda folder: _private(folder / "a.dcm", b""),
    "DICOM with deep private copy": lambda folder: _private(folder / "a.dcm", b"", deep=True),
    "DICOM with private JPEG": lambda folder: _private(folder / "a.dcm", encoded(SMALL)),
    "DICOM with PDF": lambda folder: dicom_object(folder / "a.dcm", PDF, 1,
    MIMETypeOfEncapsulatedDocument="application/pdf", EncapsulatedDocument=pdf()),
    "key objects with icon": lambda folder: dicom_object(folder / "a.dcm", "1.2.840.10008.5.1.4.1.1.88.59", 1,
    IconImageSequence=_icon()),
    "PDF": _written("a.pdf", pdf),
    "NIfTI": lambda folder: nifti_file(folder / "a.nii", VOLUME),
    "NIfTI gz": lambda folder: nifti_file(folder / "a.nii.gz", VOLUME),
    "NIfTI pair": _pair,
    "NIfTI 4D": lambda folder: nifti_file(folder / "a.nii.gz", np.stack([VOLUME, VOLUME * 2 + (VOLUME > 0)], -1)),
    "NIfTI RGB": _colors_of_nifti,
    "NRRD": lambda folder: itk_file(folder / "a.nrrd", VOLUME),
    "NRRD, detached": lambda folder: itk_file(folder / "a.nhdr", VOLUME, packed=False),
    "MetaImage": lambda folder: itk_file(folder / "a.mha", VOLUME),
    "MetaImage, detached": lambda folder: itk_file(folder / "a.mhd", VOLUME, packed=False),
    "PNG": _saved("a.png", GRAY),
    "PNG, deep": _saved("a.png", GRAY.astype(np.uint16) * 200),
    "PNG with alpha": _saved("a.png", np.dstack([COLOR, np.full_like(GRAY, 200)])),
    "PNG with preview": _saved("a.png", COLOR, exif=with_preview()),
    "PNG, animated": _saved("a.png", GRAY, OTHER),
    "PNG with another behind it": _written("a.png", lambda: encoded(GRAY, "PNG") + encoded(OTHER, "PNG")),
    "JPEG": _saved("a.jpg", COLOR),
    "JPEG with preview": _saved("a.jpg", COLOR, exif=with_preview()),
    "JPEG with another behind it": _written("a.jpg", lambda: encoded(GRAY) + encoded(OTHER)),
    "MPO": lambda folder: _saved("a.mpo", GRAY, OTHER)(folder) or (folder / "a.mpo").rename(folder / "a.jpg"),
    "JPEG beside a PNG of its name": _several(_saved("a.jpg", GRAY), _saved("a.png", OTHER)),
    "TIFF": _saved("a.tif", GRAY),
    "TIFF, packed": _saved("a.tif", COLOR, compression="tiff_lzw"),
    "TIFF of pages": _saved("a.tif", GRAY, OTHER),
    "GIF": _saved("a.gif", GRAY),
    "BMP": _saved("a.bmp", GRAY),
    "WebP": _saved("a.webp", COLOR, lossless=True),
    "NumPy": lambda folder: np.save(folder / "a.npy", VOLUME),
    "zip in a folder": _zipped,
    "page with a picture": _written("a.html",
    lambda: b'<img src="data:image/png;base64,' + base64.b64encode(encoded(GRAY, "PNG")) + b'">'),
}  # fmt: skip


def _deep_icon() -> Sequence:
    item = Dataset()
    item.IconImageSequence = _icon()
    return Sequence([item])
