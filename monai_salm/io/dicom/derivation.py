# SPDX-License-Identifier: Apache-2.0
"""What PS3.3 asks a derived image to say of itself (C.7.6.1.1.2 to C.7.6.1.1.4, C.7.6.16.2.6, C.12.1), as edits of the
source's elements.

Nothing here reads a clock, so that the same run gives the same bytes. This is why ContributionDateTime is left out and
why InstanceCreationDate and InstanceCreationTime, which would be false, are removed.
"""

from __future__ import annotations

from collections.abc import Callable

from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import IMPLICIT_LITTLE, Element, Encoding, encode, encode_item
from monai_salm.io.dicom.files import DicomFile, ascii_values
from monai_salm.io.dicom.remapping import Edit, constant, rewritten
from monai_salm.io.dicom.uids import UidMap, is_valid_uid

_MAX_LO, _MAX_ST = 64, 1024

Content = Callable[[Encoding], bytes]
"""Gives the elements of an item, in the encoding of its place."""


def derivation_edits(file: DicomFile, derivation: Derivation) -> dict[int, Edit]:
    """List the top-level changes that say of an image that it is derived; ``comparing`` allows these and no others.

    Args:
        file: the source.
        derivation: what is to be said, and how much of it.
    """
    present = {element.tag for element in file.elements}
    edits: dict[int, Edit] = {tag: constant(b"") for tag in tags.REMOVED & present}
    if tags.CONTENT_QUALIFICATION in present:
        edits[tags.CONTENT_QUALIFICATION] = _replaced(tags.CONTENT_QUALIFICATION, "CS", b"RESEARCH")
    if derivation.image_type == "derived":
        edits[tags.IMAGE_TYPE] = _type_derived(tags.IMAGE_TYPE)
    if derivation.provenance != "none":
        edits[tags.DERIVATION_DESCRIPTION] = lambda element, encoding: _described(
            element, encoding, derivation.description
        )
    source = _source_of(file, derivation)
    if derivation.provenance == "full":
        edits[tags.DERIVATION_CODE_SEQUENCE] = _appended(tags.DERIVATION_CODE_SEQUENCE, _code(*tags.PIXEL_ADDITION))
        edits[tags.CONTRIBUTING_EQUIPMENT_SEQUENCE] = _appended(
            tags.CONTRIBUTING_EQUIPMENT_SEQUENCE, _equipment(derivation)
        )
        if source is not None:
            edits[tags.SOURCE_IMAGE_SEQUENCE] = _appended(tags.SOURCE_IMAGE_SEQUENCE, source)
    if {tags.SHARED_FUNCTIONAL_GROUPS, tags.PER_FRAME_FUNCTIONAL_GROUPS} & present:
        edits.update(_frame_edits(file, derivation, source))
    return edits


def _source_of(file: DicomFile, derivation: Derivation) -> Content | None:
    """Refer to the source, unless that is unwanted, would refer to itself (UIDs kept), or would spread
    an illegal UID.
    """
    sop_class, sop_uid = file.text(tags.SOP_CLASS_UID), file.text(tags.SOP_INSTANCE_UID)
    if (
        derivation.uid_secret is None
        or not derivation.source_reference
        or derivation.provenance != "full"
        or not is_valid_uid(sop_uid)
    ):
        return None
    return _source_image(sop_class, sop_uid)


def _frame_edits(file: DicomFile, derivation: Derivation, source: Content | None) -> dict[int, Edit]:
    """Say the same of the frames of an enhanced image: FrameType, DerivationImageSequence, and the common reference to
    the source.
    """
    derived = derivation.image_type == "derived"
    per_frame = file.find(tags.PER_FRAME_FUNCTIONAL_GROUPS)
    in_frames = per_frame is not None and any(
        element.tag == tags.DERIVATION_IMAGE_SEQUENCE for item in per_frame.items() or [] for element in item.elements()
    )
    # A functional group is shared or per frame, never both (PS3.3 C.7.6.16.1.1): where frames have their derivation, it
    # stays as it is.
    shared = None if in_frames or source is None else _derivation_image(derivation, source)
    edits: dict[int, Edit] = {}
    if file.find(tags.SHARED_FUNCTIONAL_GROUPS) is not None:
        edits[tags.SHARED_FUNCTIONAL_GROUPS] = _groups_derived(derived, shared)
    if file.find(tags.PER_FRAME_FUNCTIONAL_GROUPS) is not None:
        edits[tags.PER_FRAME_FUNCTIONAL_GROUPS] = _groups_derived(derived, None)
    series = file.text(tags.SERIES_INSTANCE_UID)
    if source is not None and is_valid_uid(series):
        instances = _referenced_series(file, series, tags.REFERENCED_INSTANCE_SEQUENCE)
        edits[tags.REFERENCED_SERIES_SEQUENCE] = _appended(tags.REFERENCED_SERIES_SEQUENCE, instances)
        study = file.text(tags.STUDY_INSTANCE_UID)
        if is_valid_uid(study) and file.text(tags.SOP_CLASS_UID) != VLWholeSlideMicroscopyImageStorage:
            evidence = _evidence(_referenced_series(file, series, tags.REFERENCED_SOP_SEQUENCE), study)
            edits[tags.SOURCE_IMAGE_EVIDENCE_SEQUENCE] = _appended(tags.SOURCE_IMAGE_EVIDENCE_SEQUENCE, evidence)
    return edits


def _groups_derived(derived: bool, derivation_image: Content | None) -> Edit:
    """Set the FrameType in the items of functional groups to DERIVED, and add a derivation image to each."""

    def edit(element: Element | None, encoding: Encoding) -> bytes:
        if element is None:
            return b""
        items = element.items()
        if items is None:
            raise RefusedError(f"{element.name} should be a sequence but is written as {element.vr}")
        inner = IMPLICIT_LITTLE if element.vr == "UN" else encoding
        parts = []
        for item in items:
            elements = item.elements()
            edits: dict[int, Edit] = (
                {e.tag: _frame_type for e in elements if e.tag in tags.FRAME_TYPE_SEQUENCES} if derived else {}
            )
            if derivation_image is not None:
                edits[tags.DERIVATION_IMAGE_SEQUENCE] = _appended(tags.DERIVATION_IMAGE_SEQUENCE, derivation_image)
            parts.append(item.with_content(b"".join(rewritten(elements, inner, UidMap(), edits))))
        return element.with_items(parts)

    return edit


def _frame_type(element: Element | None, encoding: Encoding) -> bytes:
    items = (element.items() or []) if element is not None else []
    if element is None or not items:
        return b"" if element is None else bytes(element.raw)
    inner = IMPLICIT_LITTLE if element.vr == "UN" else encoding
    edit = {tags.FRAME_TYPE: _type_derived(tags.FRAME_TYPE)}
    return element.with_items(
        [item.with_content(b"".join(rewritten(item.elements(), inner, UidMap(), edit))) for item in items]
    )


def _replaced(tag: int, vr: str, value: bytes) -> Edit:
    return lambda _element, encoding: encode(tag, vr, value, encoding)


def _type_derived(tag: int) -> Edit:
    """Set value 1 of ImageType or FrameType to DERIVED; value 2 is required (PS3.3 C.7.6.1.1.2)."""

    def edit(element: Element | None, encoding: Encoding) -> bytes:
        values = ascii_values(element)
        if element is not None and values[:1] == ["DERIVED"] and len(values) > 1:
            return bytes(element.raw)
        new = ["DERIVED", *(values[1:] or ["PRIMARY"])]
        return encode(tag, "CS", "\\".join(new).encode("latin-1"), encoding)

    return edit


def _described(element: Element | None, encoding: Encoding, description: str) -> bytes:
    """Append to DerivationDescription; where there is no room (ST, 1024 characters) it stays as it is."""
    old = b"" if element is None else bytes(element.value).rstrip(b"\0 ")
    new = old + (b"; " if old else b"") + _ascii(description)
    if len(new) > _MAX_ST:
        if element is not None and old:
            return bytes(element.raw)
        new = new[:_MAX_ST]
    return encode(tags.DERIVATION_DESCRIPTION, "ST", new, encoding)


def _appended(tag: int, content: Content) -> Edit:
    """Append an item to a sequence, or start one."""

    def edit(element: Element | None, encoding: Encoding) -> bytes:
        if element is None or (element.size == 0 and not element.undefined):
            return encode(tag, "SQ", encode_item(content(encoding), encoding), encoding)
        items = element.items()
        if items is None:
            raise RefusedError(f"{element.name} should be a sequence but is written as {element.vr}")
        inner = IMPLICIT_LITTLE if element.vr == "UN" else encoding
        return element.with_items([*(item.raw for item in items), encode_item(content(inner), inner)])

    return edit


def _code(value: str, meaning: str) -> Content:
    """Give a coded concept of the DICOM vocabulary (PS3.3 8.8, PS3.16 D)."""
    return lambda encoding: (
        encode(tags.CODE_VALUE, "SH", value.encode("ascii"), encoding)
        + encode(tags.CODING_SCHEME_DESIGNATOR, "SH", b"DCM", encoding)
        + encode(tags.CODE_MEANING, "LO", meaning.encode("ascii"), encoding)
    )


def _source_image(sop_class: str, sop_uid: str) -> Content:
    """Refer to the image that was changed (PS3.3 C.12.4.1)."""

    def content(encoding: Encoding) -> bytes:
        purpose = encode_item(_code(*tags.IMAGE_PROCESSING)(encoding), encoding)
        return (
            encode(tags.REFERENCED_SOP_CLASS_UID, "UI", sop_class.encode("ascii"), encoding)
            + encode(tags.REFERENCED_SOP_INSTANCE_UID, "UI", sop_uid.encode("ascii"), encoding)
            + encode(tags.PURPOSE_OF_REFERENCE_CODE_SEQUENCE, "SQ", purpose, encoding)
        )

    return content


def _derivation_image(derivation: Derivation, source: Content) -> Content:
    """Give the Derivation Image functional group (PS3.3 C.7.6.16.2.6)."""

    def content(encoding: Encoding) -> bytes:
        return (
            encode(tags.DERIVATION_DESCRIPTION, "ST", _ascii(derivation.description)[:_MAX_ST], encoding)
            + encode(tags.SOURCE_IMAGE_SEQUENCE, "SQ", encode_item(source(encoding), encoding), encoding)
            + encode(
                tags.DERIVATION_CODE_SEQUENCE,
                "SQ",
                encode_item(_code(*tags.PIXEL_ADDITION)(encoding), encoding),
                encoding,
            )
        )

    return content


def _evidence(series: Content, study_uid: str) -> Content:
    """Give the evidence that enhanced images need where they name their source (PS3.3 C.8.13.1, C.8.15.1: Source Image
    Evidence Sequence).
    """

    def content(encoding: Encoding) -> bytes:
        return encode(
            tags.REFERENCED_SERIES_SEQUENCE, "SQ", encode_item(series(encoding), encoding), encoding
        ) + encode(tags.STUDY_INSTANCE_UID, "UI", study_uid.encode("ascii"), encoding)

    return content


def _referenced_series(file: DicomFile, series_uid: str, instances: int) -> Content:
    """Give the common reference to the source that an enhanced image needs (PS3.3 C.12.2); the tag of its list of
    instances depends on the place.
    """

    def content(encoding: Encoding) -> bytes:
        instance = encode(tags.REFERENCED_SOP_CLASS_UID, "UI", file.text(tags.SOP_CLASS_UID).encode("ascii"), encoding)
        instance += encode(
            tags.REFERENCED_SOP_INSTANCE_UID, "UI", file.text(tags.SOP_INSTANCE_UID).encode("ascii"), encoding
        )
        return encode(instances, "SQ", encode_item(instance, encoding), encoding) + encode(
            tags.SERIES_INSTANCE_UID, "UI", series_uid.encode("ascii"), encoding
        )

    return content


def _equipment(derivation: Derivation) -> Content:
    """Name the software that modified the image (PS3.3 C.12.1, Contributing Equipment Sequence).

    ManufacturerModelName and SoftwareVersions, which are optional, are left out: dcm2niix takes them for those of the
    scanner at whatever depth.
    """

    def content(encoding: Encoding) -> bytes:
        software = _ascii(f"{derivation.software} {derivation.version}".replace("\\", "/"))[:_MAX_LO]
        purpose = encode_item(_code(*tags.MODIFYING_EQUIPMENT)(encoding), encoding)
        return (
            encode(tags.MANUFACTURER, "LO", software, encoding)
            + encode(tags.CONTRIBUTION_DESCRIPTION, "ST", _ascii(derivation.description)[:_MAX_ST], encoding)
            + encode(tags.PURPOSE_OF_REFERENCE_CODE_SEQUENCE, "SQ", purpose, encoding)
        )

    return content


def _ascii(text: str) -> bytes:
    """Encode text for any SpecificCharacterSet: ASCII is in all of them."""
    return " ".join(text.split()).encode("ascii", errors="replace")
