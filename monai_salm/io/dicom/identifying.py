# SPDX-License-Identifier: Apache-2.0
"""Telling what a file is: an image with its header, a document, or labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from monai_salm.errors import RefusedError
from monai_salm.io.base import Document, ImageHeader
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.cutting import read_file, read_meta
from monai_salm.io.dicom.documents import document_of, label_map_of
from monai_salm.io.dicom.files import PREAMBLE, PREFIX, DicomFile, meta_text
from monai_salm.io.dicom.headers import header_of
from monai_salm.io.dicom.image_headers import check_picture, picture_header
from monai_salm.io.dicom.stored_values import picture_of
from monai_salm.io.kinds import NOT_LOOKED_AT, Kind, UndecidedError, judge
from monai_salm.io.origins import OpenFile, opened

SEGMENTED = "its Modality is SEG"
_OBJECT_UIDS = {
    "StudyInstanceUID": tags.STUDY_INSTANCE_UID,
    "SeriesInstanceUID": tags.SERIES_INSTANCE_UID,
    "SOPInstanceUID": tags.SOP_INSTANCE_UID,
}


def identify(path: Path, said: Kind | None = None) -> ImageHeader | Document:
    """Read what planning needs of a file: the header of an image, or what it is instead.

    An image object is a picture by its class, unless its Modality is SEG or the user says otherwise; whether its values
    are those of labels all the same is seen where they are read.

    Args:
        path: the file.
        said: what the user says that it is.

    Raises:
        RefusedError: the file is an image that cannot be protected faithfully, or no DICOM object that is known.
        UndecidedError: its Modality is SEG, and its values are those of an image.
    """
    with opened(path) as file:
        return identify_opened(file, said)


def identify_opened(opened_file: OpenFile, said: Kind | None = None) -> ImageHeader | Document:
    """Read the same of a file that is open."""
    path, file = opened_file.path, header_of(opened_file)
    document = document_of(path, file)
    if document is None and said == "label map":
        document = label_map_of(path, file, "the user says so")
    elif document is None and said is None and file.text(tags.MODALITY).upper() == "SEG":
        file = read_file(path)
        unseen = _check_labels(path, file)
        document = label_map_of(path, file, SEGMENTED)
        document = replace(document, unprotected=", ".join(filter(None, (document.unprotected, unseen))))
    return document or picture_header(path, file, check_picture(file))


def object_uids(path: Path) -> dict[str, str]:
    """Give those of the Study, Series and SOP Instance UID that a file has, by their keywords; of one that is damaged
    behind its file meta information what that says.

    Raises:
        RefusedError: it is no DICOM object that can be read, or holds none, as a DICOMDIR does.
    """
    with opened(path) as file:
        try:
            dataset = header_of(file)
            found = {name: dataset.text(tag) for name, tag in _OBJECT_UIDS.items()}
        except RefusedError:
            first = PREAMBLE + len(PREFIX)
            if file.head[PREAMBLE:first] != PREFIX:
                raise
            meta, _ = read_meta(memoryview(file.head), first)
            found = {"SOPInstanceUID": meta_text(meta, tags.MEDIA_STORAGE_SOP_INSTANCE_UID)}
    if not found["SOPInstanceUID"]:
        raise RefusedError("it has no SOP Instance UID, as DICOM objects of archives have")
    return {name: uid for name, uid in found.items() if uid}


def _check_labels(path: Path, file: DicomFile) -> str:
    """Refuse the values of an image in what is said to be a segmentation; say so if they cannot be read (of one bit, a
    palette).
    """
    try:
        source = picture_of(path, file).source
    except RefusedError:
        return NOT_LOOKED_AT
    color = source.header.color
    for part in source.pictures():
        found = judge(
            part.stored,
            slope=part.slope,
            intercept=part.intercept,
            trailing=len(source.header.trailing),
            color=color,
            declared="label map",
            by=SEGMENTED,
        )
        if found.kind == "cannot tell" and found.foreground:
            raise UndecidedError(found)
    return ""
