# SPDX-License-Identifier: Apache-2.0
"""Every picture that somebody can see in a file: what pydicom, nibabel, SimpleITK and Pillow decode, and what lies in
metadata, documents and archives.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

LEAST = 16
"""Values that a picture has at least, of which not all are the same."""
_SIGNATURES = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|II\*\0|MM\0\*|GIF8|RIFF....WEBP|BM....\0\0\0\0", re.DOTALL)
_IN_TEXT = re.compile(rb";base64,([A-Za-z0-9+/=\s]{40,})")
_MOST_PLACES = 100

Array = NDArray[Any]


def pictures_in(path: Path) -> set[str]:
    """Give the digests of the pictures that a file shows, of each frame, page and volume, and of its icons, previews
    and attachments.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {digest for values in _decoded(path) for digest in _digests(values)}


def pictures_below(folder: Path) -> dict[str, set[str]]:
    """Give the pictures of every file of a folder, or of the members of a zip, by relative path; files without one are
    left out.
    """
    if folder.is_file():
        with TemporaryDirectory() as spare, zipfile.ZipFile(folder) as opened:
            opened.extractall(spare)
            return pictures_below(Path(spare))
    found = {
        path.relative_to(folder).as_posix(): pictures_in(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    return {path: pictures for path, pictures in found.items() if pictures}


def _digests(values: Array) -> Iterator[str]:
    values = np.squeeze(values)
    if values.ndim >= 2 and values.size >= LEAST and not (values == values.flat[0]).all():
        content = np.ascontiguousarray(values, np.float64)
        yield hashlib.sha256(repr(content.shape).encode() + content.tobytes()).hexdigest()


def _decoded(path: Path) -> Iterator[Array]:
    content = path.read_bytes()
    if content[128:132] == b"DICM":
        yield from _dicom(path)
    if content.startswith(b"\x93NUMPY"):
        yield np.load(io.BytesIO(content))
    with suppress(Exception):
        yield from _nifti(path)
    if content.startswith((b"NRRD", b"ObjectType", b"NDims", b"Comment")):
        with suppress(Exception):
            yield from _itk(path)
    if content.startswith(b"PK\3\4"):
        with TemporaryDirectory() as spare, suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as opened:
            opened.extractall(spare)
            for member in Path(spare).rglob("*"):
                if member.is_file():
                    yield from _decoded(member)
    yield from _anywhere(content)
    for text in _IN_TEXT.findall(content):
        with suppress(binascii.Error):
            yield from _anywhere(base64.b64decode(text))


def _anywhere(content: bytes) -> Iterator[Array]:
    """Let Pillow read what looks like a picture, at the start of a file or within it: previews, second pictures,
    attachments.
    """
    from PIL import Image

    for place in [match.start() for match in _SIGNATURES.finditer(content)][:_MOST_PLACES]:
        with suppress(Exception), Image.open(io.BytesIO(content[place:])) as image:
            for frame in range(getattr(image, "n_frames", 1)):
                image.seek(frame)
                values = np.array(image)
                yield values[..., :3] if values.ndim == 3 else values


def _nifti(path: Path) -> Iterator[Array]:
    values = np.asanyarray(nibabel.load(path).dataobj)
    if values.dtype.fields:
        values = np.stack([values[name] for name in values.dtype.fields], -1)
        yield values
    else:
        yield from np.moveaxis(values.reshape(*values.shape[:3], -1), -1, 0)


def _itk(path: Path) -> Iterator[Array]:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    yield SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def _dicom(path: Path) -> Iterator[Array]:
    dataset = pydicom.dcmread(path)
    if "PixelData" in dataset:
        values = dataset.pixel_array
        yield from values if int(dataset.get("NumberOfFrames") or 1) > 1 else [values]
        yield from _copies(dataset, dataset)
    for item in _items(dataset):
        with suppress(Exception):
            yield np.frombuffer(item.PixelData, f"u{item.BitsAllocated // 8}")[: item.Rows * item.Columns].reshape(
                item.Rows, item.Columns
            )
        if "PixelData" in dataset:
            yield from _copies(item, dataset)
        if "EncapsulatedDocument" in item:
            yield from _anywhere(bytes(item.EncapsulatedDocument))
    if "EncapsulatedDocument" in dataset:
        yield from _anywhere(bytes(dataset.EncapsulatedDocument))


def _items(dataset: Dataset) -> Iterator[Dataset]:
    for element in dataset:
        for item in element.value if element.VR == "SQ" else ():
            yield item
            yield from _items(item)


def _copies(dataset: Dataset, picture: Dataset) -> Iterator[Array]:
    """Give what has as many bytes as the pixels and is not them."""
    size = picture.Rows * picture.Columns * picture.BitsAllocated // 8
    for element in dataset:
        if element.VR in ("OB", "OW", "UN") and element.tag != 0x7FE00010 and len(element.value or b"") >= size:
            yield np.frombuffer(element.value[:size], f"u{picture.BitsAllocated // 8}").reshape(
                picture.Rows, picture.Columns
            )
