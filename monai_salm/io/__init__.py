# SPDX-License-Identifier: Apache-2.0
"""Faithful reading and writing of real image files; the format is found from the content, never from the suffix."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_salm.disk import atomic_target
from monai_salm.errors import RefusedError
from monai_salm.io import dicom, itk, nifti, other, raster
from monai_salm.io.base import (
    CasedFormat,
    Casing,
    Derivation,
    Document,
    FormatModule,
    HeaderChange,
    ImageHeader,
    SourceImage,
    StoredArray,
)
from monai_salm.io.kinds import LABEL_MAP, Judgement, Kind, UndecidedError, judge, whole_labels
from monai_salm.io.modalities import MODALITIES
from monai_salm.io.origins import Buffer, first_bytes, opened
from monai_salm.io.other import ZIP_SIGNATURES, ZipBytes, is_litter
from monai_salm.io.second_reader import dcmtk_finds_within, read_with_simpleitk
from monai_salm.io.segmentations import Segmentation, read_segmentation

__all__ = [
    "MODALITIES",
    "ZIP_SIGNATURES",
    "Casing",
    "Derivation",
    "Document",
    "HeaderChange",
    "ImageHeader",
    "Judgement",
    "Kind",
    "Segmentation",
    "SourceImage",
    "StoredArray",
    "UndecidedError",
    "ZipBytes",
    "affine",
    "atomic_target",
    "cased",
    "casing",
    "compare_headers",
    "compare_sources",
    "dcmtk_finds_within",
    "format_of",
    "identify",
    "is_litter",
    "judge",
    "kept_bytes",
    "read_back",
    "read_header",
    "read_label_map",
    "read_segmentation",
    "read_source",
    "read_with_simpleitk",
    "remaining_references",
    "renew_references",
    "write_document",
    "write_like",
]

_FORMATS: dict[str, FormatModule] = {"dicom": dicom, "nifti": nifti, "raster": raster, "itk": itk}

_CASED: dict[str, CasedFormat] = {"dicom": dicom, "nifti": nifti, "itk": itk}


def identify(path: Path, said: Kind | None = None) -> ImageHeader | Document:
    """Say what a file is: an image with its header, or a document that may go out as it is.

    Args:
        path: the file.
        said: what the user says: ``picture`` or ``label map``; None leaves it to the file.

    Raises:
        RefusedError: the file is an image that cannot be protected faithfully, or nothing that is known; the message
            says why.
        UndecidedError: it cannot be told whether it is a picture or a label map.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import identify
        >>> header = identify(Path("EXPORT/case0/image.dcm"))
        >>> header.format, header.shape, header.modality, header.spacing  # spacing in mm
        ('dicom', (24, 24), 'MR', (0.5, 0.25))
        >>> identify(Path("EXPORT/notes.txt")).kind  # a Document
        'text'
    """
    with opened(path) as file:
        module = _format_of(path, file.head)
        if module is dicom:
            return dicom.identify_opened(file, said)
    return other.identify(path) if module is None else module.identify(path, said)


def read_header(path: Path) -> ImageHeader:
    """Read what planning needs of a file that is known to be an image, whatever its values look like.

    Args:
        path: the file.

    Raises:
        RefusedError: the file is no image that can be protected faithfully; the message says why.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import read_header
        >>> read_header(Path("EXPORT/case0/image.dcm")).dtype
        dtype('uint16')
    """
    found = identify(path, "picture")
    if isinstance(found, Document):
        raise RefusedError(f"not an image ({found.kind})")
    return found


def read_source(path: Path, *, seen: str = "") -> SourceImage:
    """Read an image's stored values exactly as the file holds them; the file is read once, and ``sha256`` of what is
    given is the digest of the very bytes that were decoded.

    Args:
        path: the file.
        seen: digest of bytes that this function gave an image of before: what other libraries make of them is known.

    Raises:
        RefusedError: the file is no image that can be protected faithfully; the message says why.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import read_source
        >>> source = read_source(Path("EXPORT/case0/image.dcm"))
        >>> source.stored.shape, source.stored.dtype, source.range_stored, len(source.sha256)
        ((24, 24), dtype('uint16'), (0.0, 4095.0), 64)
    """
    with opened(path) as file:
        module = _format_of(path, file.head)
        if module is dicom:
            return dicom.read_opened(file, seen)
    if module is None:
        raise RefusedError(f"not an image ({other.identify(path).kind})")
    return module.read_source(path)


def read_label_map(path: Path) -> StoredArray:
    """Read a label map of NIfTI, NRRD, MetaImage, PNG or TIFF as int64, in the axis order of an image of its format.

    Args:
        path: the file.

    Raises:
        RefusedError: the file is no label map that can be read.

    Example:
        >>> from pathlib import Path
        >>> import nibabel
        >>> import numpy as np
        >>> from monai_salm.io import read_label_map
        >>> labels = np.zeros((8, 8, 4), dtype=np.uint8)
        >>> labels[2:5, 2:5] = 1
        >>> nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), "mask.nii.gz")
        >>> read_label_map(Path("mask.nii.gz")).shape, read_label_map(Path("mask.nii.gz")).dtype
        ((8, 8, 4), dtype('int64'))
    """
    for module in (nifti, itk, raster):
        if module.sniff(path):
            return whole_labels(module.read_label_map(path), path.name)
    raise RefusedError(f"label map {path.name} is not NIfTI, NRRD, MetaImage, PNG or TIFF; convert it to one of these")


def write_like(source: SourceImage, stored: StoredArray, target: Path, derivation: Derivation) -> None:
    """Write ``stored`` into a copy of the source's file at ``target``; all else stays as it was.

    Args:
        source: what :func:`read_source` gave; its file is opened again only where it may have changed since.
        stored: new values, of the source's shape and dtype.
        target: path to write; an existing file is overwritten (use :func:`atomic_target`).
        derivation: what a DICOM file is to say of the change.

    Raises:
        RefusedError: the values do not fit the file.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import Derivation, compare_headers, read_back, read_source, write_like
        >>> source = read_source(Path("EXPORT/case0/image.dcm"))
        >>> changed = source.stored + (source.stored > 300)  # by one stored unit
        >>> said = Derivation(software="mine", version="1", description="one more", uid_secret=b"a long secret of mine")
        >>> write_like(source, changed.astype(source.stored.dtype), Path("changed.dcm"), said)
        >>> int((read_back(source, Path("changed.dcm")).stored - source.stored).max())
        1
        >>> all(change.allowed for change in compare_headers(source.header.path, Path("changed.dcm")))
        True
    """
    _FORMATS[source.header.format].write_like(source, stored, target, derivation)


def read_back(source: SourceImage, written: Path) -> SourceImage:
    """Read what :func:`write_like` wrote for a source; ``sha256`` of what is given is the digest of what was written.

    Args:
        source: as :func:`read_source` gave it.
        written: the file that was written for it.

    Raises:
        RefusedError: the written file is no image that can be read.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import read_back, read_source
        >>> original = read_source(Path("EXPORT/case0/image.dcm"))
        >>> read_back(original, Path("OUT/case0/image.dcm")).stored.shape
        (24, 24)
    """
    return _FORMATS[source.header.format].read_back(source, written)


def write_document(document: Document, target: Path, derivation: Derivation) -> None:
    """Write a document at ``target``: byte for byte, but for references to images that changed.

    Args:
        document: as :func:`identify` gave it.
        target: path to write; an existing file is overwritten.
        derivation: which UIDs changed, and the secret that new ones are made with.

    Raises:
        RefusedError: its references cannot be renewed.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import Derivation, identify, write_document
        >>> said = Derivation(software="mine", version="1", description="", uid_secret=None)
        >>> write_document(identify(Path("EXPORT/notes.txt")), Path("notes.txt"), said)
        >>> Path("notes.txt").read_text()
        'x'
    """
    if document.format == "other":
        shutil.copyfile(document.path, target)
    elif document.format == "dicom":
        dicom.write_document(document.path, target, derivation, as_labels=document.kind == LABEL_MAP)
    else:
        _FORMATS[document.format].write_document(document.path, target, derivation)


def renew_references(path: Path, target: Path, derivation: Derivation) -> None:
    """Write a DICOM file that was handed out at ``target``, with the new UIDs of the objects that it refers to; all
    else, an image's pixels among it, stays as it is.

    Args:
        path: the file.
        target: path to write.
        derivation: its ``uid_secret``, ``changed_uids`` and ``provenance`` are used.

    Raises:
        RefusedError: it cannot be read.
    """
    dicom.write_document(path, target, derivation, as_labels=True)


def remaining_references(directory: Document, absent: frozenset[str]) -> Document:
    """Give a DICOMDIR's files and references as they are without the records of absent files, which are named as in
    ``directory.files``.

    Args:
        directory: a DICOMDIR, as :func:`identify` gave it.
        absent: paths of ``directory.files``.
    """
    return replace(
        directory, files=directory.files - absent, references=dicom.remaining_references(directory.path, absent)
    )


def compare_headers(original: Path, protected: Path) -> list[HeaderChange]:
    """List every difference of two files outside their pixel values, and whether a derived image may have it.

    Args:
        original: file before.
        protected: file after, of the same format but for what is written in another (a JPEG as PNG).

    Raises:
        RefusedError: one of the files cannot be read, or no module reads the original.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import compare_headers
        >>> changes = compare_headers(Path("EXPORT/case0/image.dcm"), Path("OUT/case0/image.dcm"))
        >>> "SOPInstanceUID" in {change.name for change in changes}, all(change.allowed for change in changes)
        (True, True)
    """
    module = format_of(original)
    if module is None:
        raise RefusedError("it is of no format that is read")
    return module.compare_headers(original, protected)


def compare_sources(original: SourceImage, other: SourceImage) -> list[HeaderChange]:
    """List what :func:`compare_headers` does of two images as they were read; neither file is read again.

    Args:
        original: of :func:`read_source`.
        other: of :func:`read_source` or :func:`read_back`, of the same format but for what is written in another.

    Raises:
        RefusedError: one was not kept, as of a copy from another process, and its file cannot be read.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import compare_sources, read_source
        >>> original, other = (read_source(Path(folder, "case0/image.dcm")) for folder in ("EXPORT", "OUT"))
        >>> all(change.allowed for change in compare_sources(original, other))
        True
    """
    return _FORMATS[original.header.format].compare_sources(original, other)


def kept_bytes(source: SourceImage) -> Buffer | None:
    """Give the bytes of the file that an image was read from, which stand for themselves; None where they were not kept
    as they were, or another file was read with them.

    Args:
        source: of :func:`read_source`.
    """
    return _FORMATS[source.header.format].kept_bytes(source)


def affine(source: SourceImage) -> NDArray[np.float64] | None:
    """Give where an image lies in the patient, as MONAI and nibabel count: right, anterior and superior are positive.

    Args:
        source: of :func:`read_source`.

    Returns:
        4 x 4 matrix, millimeters, from the axes of ``header.shape`` (of a single plane: from those and the distance
        along its normal); None of stacks of frames and of pictures, or where the file does not say it.
    """
    return _FORMATS[source.header.format].affine(source)


def casing(source: SourceImage) -> Casing | None:
    """Give what of an image's file is not its values; None where the file does not come back from that and them, as one
    that is compressed otherwise than zlib does.

    Args:
        source: of :func:`read_source`.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import cased, casing, read_source
        >>> source = read_source(Path("EXPORT/case0/image.dcm"))
        >>> file = b"".join(cased(casing(source), source, source.stored))
        >>> file == Path("EXPORT/case0/image.dcm").read_bytes()
        True
    """
    module = _CASED.get(source.header.format)
    return None if module is None else module.casing(source)


def cased(casing: Casing, template: SourceImage, stored: StoredArray) -> Iterator[Buffer]:
    """Give the bytes of the file that a casing is of, part by part, with its values.

    Args:
        casing: of :func:`casing`.
        template: the file that :func:`write_like` wrote for it, as :func:`read_source` or :func:`read_back` gives it.
        stored: the values.

    Raises:
        RefusedError: the template is another image than was written.
    """
    return _CASED[template.header.format].cased(casing, template, stored)


def format_of(path: Path) -> FormatModule | None:
    """Find the module that reads a file, from its content.

    Args:
        path: the file.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.io import format_of
        >>> format_of(Path("EXPORT/case0/image.dcm")).__name__, format_of(Path("EXPORT/notes.txt"))
        ('monai_salm.io.dicom', None)
    """
    return _format_of(path, first_bytes(path))


def _format_of(path: Path, head: bytes) -> FormatModule | None:
    return next((module for module in _FORMATS.values() if module.sniff(path, head)), None)
