# SPDX-License-Identifier: Apache-2.0
"""Reading and writing PNG, JPEG and TIFF images."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation, Document, HeaderChange, ImageHeader, SourceImage, StoredArray
from monai_salm.io.kinds import Kind, UndecidedError, judge
from monai_salm.io.leftovers import holds_picture
from monai_salm.io.new_values import check_stored
from monai_salm.io.origins import Buffer, digest_of, first_bytes, read_whole
from monai_salm.io.raster import jpeg, png, tiff
from monai_salm.io.raster.comparing import compare
from monai_salm.io.raster.decoding import Raster
from monai_salm.io.raster.jpeg import JpegFile
from monai_salm.io.raster.png import PngFile
from monai_salm.io.raster.tiff import TiffFile

_SIGNATURE_BYTES = 8


@dataclass(frozen=True)
class _Kept:
    """A file as it was read."""

    file: PngFile | JpegFile | TiffFile


def sniff(path: Path, head: bytes | None = None) -> bool:
    """Say from the first bytes whether a file is PNG, JPEG or TIFF, BigTIFF included."""
    return _signature(first_bytes(path, _SIGNATURE_BYTES) if head is None else head[:_SIGNATURE_BYTES]) != ""


def identify(path: Path, said: Kind | None = None) -> ImageHeader | Document:
    """Read what planning needs; the pixels are looked at to tell masks from pictures, and broken files from whole ones.

    Args:
        path: the file.
        said: what the user says that it is.

    Raises:
        RefusedError: the file is no image that can be protected faithfully.
        UndecidedError: it cannot be told whether it is a picture or a label map.
    """
    try:
        raster = _read(path).raster
    except RefusedError:
        if said != "label map":
            raise
        beside = holds_picture(
            path.read_bytes()[_SIGNATURE_BYTES:]
        )  # palettes and masks of 1 bit are copied without being decoded
        return Document.of_labels(
            path, "raster", unprotected="the file holds another image, which is not protected" if beside else ""
        )
    header = _source(path, raster).header
    unprotected = ", ".join(
        filter(None, (raster.unprotected, raster.left_out))
    )  # a label map is copied with all that is in it
    if said == "label map":
        return Document.of_labels(path, "raster", unprotected=unprotected)
    if said == "picture":
        return header
    found = judge(raster.stored, trailing=raster.stored.ndim - 2, color=raster.stored.ndim == 3)
    if found.kind == "cannot tell":
        raise UndecidedError(found)
    return Document.of_labels(path, "raster", found, unprotected) if found.kind == "label map" else header


def read_source(path: Path) -> SourceImage:
    """Read the pixels as they are stored: (rows, columns) of gray, (rows, columns, 3) of color; alpha is left out.

    Raises:
        RefusedError: the file holds no pixels that can be written faithfully.
    """
    raw, state = read_whole(path)
    file = _decoded(raw)
    return _source(path, file.raster).with_origin(_Kept(file), partial(digest_of, raw), state)


def read_label_map(path: Path) -> StoredArray:
    """Read labels: (rows, columns); of colors only where red, green and blue are alike.

    Raises:
        RefusedError: the file cannot be read, or its colors are no numbers of labels.
    """
    stored = _read(path).raster.stored
    if stored.ndim == 2:
        return stored
    if not (stored == stored[..., :1]).all():
        raise RefusedError(
            f"label map {path.name} is in color; gray values are read as labels: convert it, each color to a number"
        )
    return np.ascontiguousarray(stored[..., 0])


def read_back(source: SourceImage, written: Path) -> SourceImage:
    """Read what :func:`write_like` wrote, a PNG where the source is a JPEG."""
    del source
    return read_source(written)


def write_like(source: SourceImage, stored: StoredArray, target: Path, derivation: Derivation) -> None:
    """Write the source's bytes with ``stored`` in place of the pixels; of a JPEG a PNG with the same metadata.

    Args:
        source: what :func:`read_source` gave; its file is read again where it may have changed.
        stored: new values, of the source's shape and dtype.
        target: path to write, with ``source.header.output_suffix`` where there is one.
        derivation: ignored: the metadata stay as they are.

    Raises:
        RefusedError: the values do not fit the file, or the file is no longer what it was.
    """
    del derivation
    check_stored(source, stored, target)
    kept = source.kept(_Kept, unchanged=True)
    file = _read(source.header.path) if kept is None else kept.file
    if kept is None and (
        not np.array_equal(file.raster.stored, source.stored)
        or _source(source.header.path, file.raster).header != source.header
    ):
        raise RefusedError("the file changed since it was read; read it again")
    if isinstance(file, JpegFile):
        target.write_bytes(jpeg.write(file, stored))
    elif np.array_equal(stored, source.stored) and not file.raster.left_out:
        target.write_bytes(file.raster.raw)
    else:
        target.write_bytes(png.write(file, stored) if isinstance(file, PngFile) else tiff.write(file, stored))


def affine(source: SourceImage) -> None:
    """Give None: a picture lies nowhere in the patient."""
    del source


def write_document(path: Path, target: Path, derivation: Derivation) -> None:
    """Copy a document byte for byte."""
    del derivation
    shutil.copyfile(path, target)


def compare_headers(original: Path, other: Path) -> list[HeaderChange]:
    """List every difference outside the pixels, and whether a written image may have it.

    Raises:
        RefusedError: one of the files is no image that can be read.
    """
    return compare(_read(original), _read(other))


def compare_sources(original: SourceImage, other: SourceImage) -> list[HeaderChange]:
    """List the same of two images as they were read."""
    kept = original.kept(_Kept), other.kept(_Kept)
    if kept[0] is None or kept[1] is None:
        return compare_headers(original.header.path, other.header.path)
    return compare(kept[0].file, kept[1].file)


def kept_bytes(source: SourceImage) -> Buffer | None:
    """Give the bytes of the file that an image was read from; None where they were not kept."""
    kept = source.kept(_Kept)
    return None if kept is None else kept.file.raster.raw


def _signature(head: bytes) -> str:
    if head.startswith(png.SIGNATURE):
        return "PNG"
    if head.startswith(jpeg.SIGNATURE):
        return "JPEG"
    return "TIFF" if head[:4] in tiff.SIGNATURES else ""


def _read(path: Path) -> PngFile | JpegFile | TiffFile:
    return _decoded(path.read_bytes())


def _decoded(raw: bytes) -> PngFile | JpegFile | TiffFile:
    kind = _signature(raw[:8])
    if kind == "PNG":
        return png.read(raw)
    if kind == "JPEG":
        return jpeg.read(raw)
    if kind == "TIFF":
        return tiff.read(raw)
    raise RefusedError("not PNG, JPEG or TIFF: the first bytes are those of none, or the file is cut")


def _source(path: Path, raster: Raster) -> SourceImage:
    stored = raster.stored
    header = ImageHeader(
        path=path,
        format="raster",
        shape=stored.shape[:2],
        trailing=stored.shape[2:],
        color=stored.ndim == 3,
        dtype=stored.dtype,
        spacing=(1.0, 1.0),
        output_suffix=raster.suffix,
        notes=raster.notes,
        left_out=raster.left_out,
        unprotected=raster.unprotected,
    )
    padding = None if raster.key is None else (float(raster.key), float(raster.key))
    return SourceImage(
        header=header, stored=stored, range_stored=(0.0, float(np.iinfo(stored.dtype).max)), padding_stored=padding
    )
