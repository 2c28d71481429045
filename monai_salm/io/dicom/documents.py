# SPDX-License-Identifier: Apache-2.0
"""Objects that are no images: they go out as they are, but for the UIDs of objects that get new ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from pydicom.uid import (
    CornealTopographyMapStorage,
    DICOS2DAITStorage,
    DICOS3DAITStorage,
    DICOSQuadrupoleResonanceStorage,
    EnhancedUSVolumeStorage,
    MRSpectroscopyStorage,
    OphthalmicOpticalCoherenceTomographyBscanVolumeAnalysisStorage,
    OphthalmicThicknessMapStorage,
    ParametricMapStorage,
    RawDataStorage,
    RTDoseStorage,
    SegmentationStorage,
)
from pydicom.valuerep import STANDARD_VR

from monai_salm.errors import RefusedError
from monai_salm.io import pdf
from monai_salm.io.base import Derivation, Document
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.cutting import read_file
from monai_salm.io.dicom.dicomdir import is_directory, listed_files, remaining_elements, rewritten_directory
from monai_salm.io.dicom.elements import PIXEL_DATA, Element, tag_text
from monai_salm.io.dicom.files import DicomFile, ascii_values, identifiers, meta_text
from monai_salm.io.dicom.meta import has_tiff_preamble, is_renamed, media_storage_uid, meta_notes, whole_file
from monai_salm.io.dicom.remapping import ICONS, STALE, leaves, rewritten
from monai_salm.io.dicom.transfer_syntaxes import is_video
from monai_salm.io.dicom.uids import UidMap, is_valid_uid
from monai_salm.io.dicom.wording import class_name, shown
from monai_salm.io.kinds import KNOWN_BY, LABEL_MAP
from monai_salm.io.leftovers import binary_holds_picture, holds_picture
from monai_salm.io.pictures_in_text import picture_in
from monai_salm.io.signatures import begins_picture

_STANDARD_UIDS = "1.2.840.10008."
_IMAGE = "Image Storage"
"""In the names of all classes of images but those of ``_MORE_IMAGES``."""

_MORE_IMAGES = frozenset(
    {
        EnhancedUSVolumeStorage,
        OphthalmicOpticalCoherenceTomographyBscanVolumeAnalysisStorage,
        DICOS2DAITStorage,
        DICOS3DAITStorage,
    }
)
_STORED_PRINT = "1.2.840.10008.5.1.1.27"
_SIGNALS = frozenset({MRSpectroscopyStorage, RawDataStorage, DICOSQuadrupoleResonanceStorage, _STORED_PRINT})
"""They may hold an image, or what one is computed from, in elements that are not protected."""

_MAPS = frozenset({ParametricMapStorage, OphthalmicThicknessMapStorage, CornealTopographyMapStorage})
_NEW_LABELS = {
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
}
"""Classes that are newer than the dictionary of pydicom 3.0."""
_LABELS = frozenset({SegmentationStorage, RTDoseStorage, *_NEW_LABELS})
_ENCAPSULATED, _ENCAPSULATED_DOCUMENT = "1.2.840.10008.5.1.4.1.1.104.", 0x00420011
_PIXELS = frozenset({PIXEL_DATA, tags.FLOAT_PIXEL_DATA, tags.DOUBLE_FLOAT_PIXEL_DATA})
_VARIABLE_PIXEL_DATA, _VARIABLE_GROUP = 0x7F000010, 0xFF00FFFF
"""Retired: pixel data in any even group from 7F00 (PS3.6)."""

_SIEMENS_PIXELS = 0x7FE1
_TRAILING_PADDING = 0xFFFCFFFC
"""Of zeros where it is used as it is meant (PS3.10 7.2)."""
_FIRST_PRIVATE_DATA = 0x1000
"""Elements with lower numbers name whom a private group belongs to (PS3.5 7.8.1)."""

_CSA_HEADER = b"SV10"
_LONG_TEXTS = ("LT", "ST", "UC", "UR", "UT")
_FIRST_PIXELS = 0x7F000000
_MAY_HOLD = frozenset({*_LONG_TEXTS, "UN", *(vr for vr in map(str, STANDARD_VR) if vr.startswith("O"))})
"""Value representations of which an element can hold a picture, whatever its tag; of the others only where pixels are,
from ``_FIRST_PIXELS`` on.
"""
_MAX_OPAQUE_BYTES = 1 << 16


def document_of(path: Path, file: DicomFile) -> Document | None:
    """Say what an object is that is no image; None for an image, protected or not.

    Args:
        path: of the file.
        file: its elements.

    Raises:
        RefusedError: it may hold an image where none is looked for.

    DICOM: told by the SOP class (PS3.4 B.5), and by whether there is pixel data. Segmentations, doses and maps have
    pixel data that is no image. A private class is only a document if it has neither pixel data nor more than 64 KiB
    of private elements.
    """
    kind, notes = _kind_of(file)
    if not kind:
        return None
    names = identifiers(file)
    if is_directory(file) and media_storage_uid(file):
        names = {**names, "SOPInstanceUID": media_storage_uid(file)}
    return Document(
        path=path,
        format="dicom",
        kind=kind,
        identifiers=names,
        references=references_of(file),
        files=listed_files(file) if is_directory(file) else frozenset(),
        notes=notes + _notes(file, signatures="are removed where references change"),
        unprotected=unprotected_in(file),
    )


def label_map_of(path: Path, file: DicomFile, evidence: str) -> Document:
    """Describe an image object that holds labels, as its Modality or the user says: its pixels stay, its references
    follow.

    Args:
        path: of the file.
        file: its elements.
        evidence: what it is known by.
    """
    return Document(
        path=path, format="dicom", kind=LABEL_MAP, identifiers=identifiers(file), references=references_of(file),
        notes=(f"{KNOWN_BY}{evidence}", *_notes(file, signatures="are removed where references change")),
        unprotected=unprotected_in(file),
    )  # fmt: skip


def references_of(file: DicomFile) -> frozenset[str]:
    """Give the UIDs that a file refers to, at any depth; its own and those that the standard defines are not among
    them.

    DICOM: values of VR UI, and of unknown VR (UN, PS3.5 6.2.2) that have the form of UIDs. Also UIDs of things that are
    no object.
    """
    return _references(file, file.elements)


def remaining_references(path: Path, absent: frozenset[str]) -> frozenset[str]:
    """Give what a DICOMDIR refers to without the records of absent files, as :func:`references_of` does."""
    file = read_file(path)
    return _references(file, remaining_elements(file, absent))


def _references(file: DicomFile, elements: Iterable[Element]) -> frozenset[str]:
    own = {value for tag in _OWN for value in file.texts(tag)} | {media_storage_uid(file)}
    found = {
        uid
        for element, _ in leaves(elements, _NO_REFERENCES)
        if element.vr in ("UI", "UN") and element.tag not in _NO_REFERENCES
        for uid in _uids(element)
    }
    left = frozenset(uid for uid in found - own if uid and not uid.startswith(_STANDARD_UIDS))
    return left or _NOTHING


_NO_REFERENCES = tags.NOT_REMAPPED | STALE
_NOTHING: frozenset[str] = frozenset()
_OWN = (tags.SOP_INSTANCE_UID, tags.SERIES_INSTANCE_UID, tags.STUDY_INSTANCE_UID, tags.FRAME_OF_REFERENCE_UID)


def notes_of(file: DicomFile) -> tuple[str, ...]:
    """Say of an image what is removed besides, and which elements may show its pixels all the same;
    one sentence each.
    """
    return _notes(file, signatures="no longer hold and are removed")


def write_document(path: Path, target: Path, derivation: Derivation, *, as_labels: bool = False) -> None:
    """Write a document: byte for byte, or with the new UIDs of objects that have some, itself included.

    Args:
        path: the document.
        target: path to write.
        derivation: its ``uid_secret``, ``changed_uids`` and ``provenance``; of a DICOMDIR also ``absent_files`` and
            ``transfer_syntaxes``.
        as_labels: an image object that is known to hold labels counts as a document.

    Raises:
        RefusedError: it is an image, or a DICOMDIR with damaged links.

    DICOM: icons are removed, for they show unprotected pixels; and of what changes digital signatures (PS3.15 C), which
    no longer hold. File meta information names the new instance and this software (PS3.10 7.1). Pixel data, which is
    that of labels, doses or maps, stays.
    """
    file = read_file(path)
    if not as_labels and not _kind_of(file)[0]:
        raise RefusedError("the file is an image, which is no document to copy; protect it")
    uid_map = UidMap(derivation.uid_secret, others=derivation.changed_uids)
    content = (
        rewritten_directory(file, uid_map, derivation)
        if is_directory(file)
        else _rewritten(file, uid_map, signed=derivation.provenance != "none")
    )
    if content is None:
        shutil.copyfile(path, target)
    else:
        target.write_bytes(content)


def _rewritten(file: DicomFile, uid_map: UidMap, *, signed: bool) -> bytes | None:
    """Give the whole file with new UIDs and without icons; None where there is nothing to change."""
    chunks = rewritten(file.elements, file.encoding, uid_map, {}, ICONS)
    same = all(new is element.raw for new, element in zip(chunks, file.elements, strict=False))
    if same and not is_renamed(file, uid_map):
        return None
    return whole_file(
        file, rewritten(file.elements, file.encoding, uid_map, {}, STALE), file.transfer_syntax, uid_map, signed=signed
    )


def _kind_of(file: DicomFile) -> tuple[str, tuple[str, ...]]:
    """Name what a document is, with what to know of it; nothing for an image."""
    if is_video(file.transfer_syntax):
        return "", ()
    sop_class = _sop_class(file)
    pixels = next((element for element in file.elements if element.tag in _PIXELS), None)
    if class_name(sop_class) or sop_class in _LABELS:
        return _known_kind(sop_class, pixels)
    return _unknown_kind(sop_class, pixels, file)


def _sop_class(file: DicomFile) -> str:
    """Give the SOP class: of the dataset, else of the file meta information."""
    return file.text(tags.SOP_CLASS_UID) or meta_text(file.meta, tags.MEDIA_STORAGE_SOP_CLASS_UID)


def _known_kind(sop_class: str, pixels: Element | None) -> tuple[str, tuple[str, ...]]:
    """Name a class of the standard, with what to know of it; nothing for a class of images."""
    name = _NEW_LABELS.get(sop_class) or class_name(sop_class)
    if _IMAGE in name or sop_class in _MORE_IMAGES:
        if pixels is not None and pixels.tag != PIXEL_DATA:
            raise RefusedError(
                f"{pixels.name} in an object of class {name}: pixels that are floats are not protected; convert "
                "to integers with a RescaleSlope"
            )
        return "", ()
    if sop_class in _SIGNALS:
        raise RefusedError(
            f"{name}: it may hold an image, or the signal of one, which is not protected; take it out of what you share"
        )
    if pixels is not None and sop_class not in _MAPS and sop_class not in _LABELS:
        raise RefusedError(
            f"{pixels.name} in an object of class {name}, which has none: it may be an image; repair its "
            "SOPClassUID first"
        )
    if sop_class in _MAPS:
        return name, ("its values are computed from images and are not changed",)
    return name, ()


def _unknown_kind(sop_class: str, pixels: Element | None, file: DicomFile) -> tuple[str, tuple[str, ...]]:
    """Name an object of no class, or of one that the standard does not define."""
    name = f"private SOP class {shown(sop_class)}" if sop_class else "dataset without SOP class"
    if pixels is not None:
        raise RefusedError(
            f"{pixels.name} in a {name}: it may be an image, which is not protected; take it out of what you share"
        )
    opaque = sum(element.size for element in file.elements if element.tag >> 16 & 1)
    if opaque > _MAX_OPAQUE_BYTES:
        raise RefusedError(
            f"{opaque} bytes of private elements in a {name}, more than {_MAX_OPAQUE_BYTES}: they may hold a "
            "image, which is not protected; "
            "take it out of what you share"
        )
    return name, ("its private elements are not looked into",) if opaque else ()


def _uids(element: Element) -> Iterable[str]:
    if element.vr not in ("UI", "UN") or element.size > tags.MAX_UIDS_BYTES:
        return ()
    values = ascii_values(element)
    return values if element.vr == "UI" or all(map(is_valid_uid, values)) else ()


def _notes(file: DicomFile, *, signatures: str) -> tuple[str, ...]:
    """List what is removed."""
    notes: dict[str, None] = {}  # in the order of the file, each once
    if has_tiff_preamble(file):
        notes["the preamble makes the file a TIFF as well and is zeroed where the file changes"] = None
    notes |= dict.fromkeys(meta_notes(file))
    for element, _ in leaves(file.elements, STALE):
        if element.tag in ICONS:
            notes[f"{element.name}, a small copy of the pixels, is removed"] = None
        elif element.tag in STALE:
            notes[f"digital signatures {signatures}"] = None
    return tuple(notes)


def unprotected_in(file: DicomFile) -> str:
    """Say which elements may hold a copy of the pixels that is not protected; empty where there are none."""
    found: dict[str, None] = {}  # in the order of the file, each once
    frame = _frame_bytes(file)
    for element, depth in leaves([*file.meta, *file.elements], STALE):
        if element.tag < _FIRST_PIXELS and element.vr not in _MAY_HOLD:
            continue
        if element.tag not in STALE and (_may_be_copy(element, frame) or (depth and element.tag in _PIXELS)):
            name = (
                f"private element {tag_text(element.tag)}"
                if element.tag >> 16 & 1
                else f"{element.name} {tag_text(element.tag)}"
            )
            place = " in a sequence" if depth else ""
            found[
                f"{name}{place} holds {element.size} bytes that may be an unprotected copy of the pixels; remove "
                "it before you share the file"
            ] = None
    if holds_picture(file.after):
        found[
            f"{len(file.after)} bytes behind the deflated dataset hold an image, which is not protected; cut "
            "them off before you share the file"
        ] = None
    if _sop_class(file).startswith(_ENCAPSULATED):
        found |= dict.fromkeys(_within(file.find(_ENCAPSULATED_DOCUMENT)))
    return "; ".join(found)


def _within(document: Element | None) -> Iterable[str]:
    """Say what images an encapsulated document has; others than PDF are not looked into."""
    if document is None:
        return ()
    if b"%PDF-" not in bytes(document.value[:1024]):
        return ("the document that it holds is not looked into, so images in it are not protected",)
    found = pdf.unprotected_in(bytes(document.value))
    return (found,) if found else ()


def _frame_bytes(file: DicomFile) -> int:
    """Length of one native frame of the image; 0 where there is none."""
    rows, columns, bits = (_number(file.find(tag)) for tag in (tags.ROWS, tags.COLUMNS, tags.BITS_ALLOCATED))
    return rows * columns * max(1, bits // 8)


def _number(element: Element | None) -> int:
    return (
        int.from_bytes(element.value[:2], "little" if element.encoding.little else "big") if element is not None else 0
    )


def _may_be_copy(element: Element, frame_bytes: int) -> bool:
    """Say whether an element is where vendors put copies of the pixels, or private and as large as one, or holds an
    image.

    Headers of Siemens are known to be no copies.
    """
    group, number = element.tag >> 16, element.tag & 0xFFFF
    if element.tag in _PIXELS or element.tag == _ENCAPSULATED_DOCUMENT:
        return False
    as_large = 0 < frame_bytes <= element.size
    if element.tag == _TRAILING_PADDING and as_large and any(element.value):
        return True
    if group & 1 and number >= _FIRST_PRIVATE_DATA and element.vr in ("OB", "OW", "UN"):
        if (as_large and element.value[:4] != _CSA_HEADER) or (group == _SIEMENS_PIXELS and element.size > 0):
            return True
    elif element.tag & _VARIABLE_GROUP == _VARIABLE_PIXEL_DATA and not group & 1 and element.size > 0:
        return True
    return _holds_picture(element)


def _holds_picture(element: Element) -> bool:
    """Say whether an image is in an element of text, or of bytes, anywhere in it."""
    if element.vr in _LONG_TEXTS:
        return picture_in(bytes(element.value)) != ""
    return (element.vr == "UN" or element.vr.startswith("O")) and (
        begins_picture(element.value) or binary_holds_picture(element.value)
    )
