# SPDX-License-Identifier: Apache-2.0
"""Writing a derived image: the source's bytes with new pixels and the attributes that PS3.3 asks for, nothing else.

Nothing here reads a clock, so that the same run gives the same bytes. This is why ContributionDateTime is left out and
why InstanceCreationDate and InstanceCreationTime, which would be false, are removed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation, SourceImage, StoredArray, check_stored
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.elements import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    PIXEL_DATA,
    Element,
    Encoding,
    encode,
    encode_item,
    read_elements,
)
from monai_salm.io.dicom.files import DEFLATED, PREFIX, DicomFile, ascii_values
from monai_salm.io.dicom.pictures import PixelReplacement, read_picture, replaced_pixels
from monai_salm.io.dicom.uids import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    UidMap,
    is_valid_uid,
)

Bytes = bytes | memoryview
_Chunk = tuple[int, Bytes, Bytes]
"""A tag, and the bytes of its element before and after."""
_TIFF = (b"II*\0", b"MM\0*")
_MAX_LO, _MAX_ST = 64, 1024


def write_like(source: SourceImage, stored: StoredArray, target: Path, derivation: Derivation) -> None:
    """Write a derived image: ``stored`` in place of the values, all else as it was or as PS3.3 C.7.6.1.1.2 asks.

    Args:
        source: what ``read_source`` gave; its file is read again.
        stored: new values, of the source's shape and dtype.
        target: path to write.
        derivation: what the file is to say of the change.

    Raises:
        RefusedError: the values do not fit the file, or the file is no longer what it was.
    """
    check_stored(source, stored, target)
    picture = read_picture(source.header.path)
    if not np.array_equal(picture.source.stored, source.stored):
        raise RefusedError("the file changed since it was read; read it again")
    target.write_bytes(_derived(picture.file, replaced_pixels(picture, stored), derivation))


def write_document(path: Path, target: Path, derivation: Derivation) -> None:
    """Write an object that is no picture; its references are renewed.

    Raises:
        RefusedError: always, until it is built.
    """
    raise RefusedError("objects that are not pictures are not written yet")


def _derived(file: DicomFile, pixels: PixelReplacement, derivation: Derivation) -> bytes:
    """Build the whole file."""
    own = {file.text(tags.SOP_INSTANCE_UID), file.text(tags.SERIES_INSTANCE_UID)} - {""}
    uid_map = UidMap(derivation.uid_secret, frozenset(own), derivation.changed_uids)
    edits = _edits(file, pixels, derivation)
    dataset = b"".join(_rewritten(file.elements, file.encoding, uid_map, edits))
    if file.transfer_syntax == DEFLATED:
        deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        dataset = deflater.compress(dataset) + deflater.flush()
        # The pad byte of the old stream (PS3.5 A.5) says nothing of the new one's length.
        after = file.after if file.after.strip(b"\0") else b""
        dataset += after + bytes((len(dataset) + len(after)) % 2)
    preamble = bytes(len(file.preamble)) if bytes(file.preamble[:4]) in _TIFF else file.preamble
    return b"".join([preamble, PREFIX, _meta(file, pixels.transfer_syntax, uid_map), dataset])


def _meta(file: DicomFile, transfer_syntax: str, uid_map: UidMap) -> bytes:
    """Write the file meta information: the new instance, and who wrote it (PS3.10 7.1)."""
    sop_uid = file.text(tags.SOP_INSTANCE_UID)
    changes = {
        tags.MEDIA_STORAGE_SOP_INSTANCE_UID: uid_map.new(sop_uid).encode("latin-1"),
        tags.TRANSFER_SYNTAX_UID: transfer_syntax.encode("ascii"),
        tags.IMPLEMENTATION_CLASS_UID: IMPLEMENTATION_CLASS_UID.encode("ascii"),
        tags.IMPLEMENTATION_VERSION_NAME: IMPLEMENTATION_VERSION_NAME.encode("ascii"),
    }
    vrs = {tags.IMPLEMENTATION_VERSION_NAME: "SH"}
    edits: dict[int, _Edit] = {tag: _constant(encode(tag, vrs.get(tag, "UI"), value, EXPLICIT_LITTLE)) for tag, value in changes.items()}
    length = next((element for element in file.meta if element.tag == tags.META_LENGTH), None)
    body = b"".join(_rewritten([e for e in file.meta if e is not length], EXPLICIT_LITTLE, UidMap(), edits))
    if length is None:
        return body
    return encode(tags.META_LENGTH, "UL", struct.pack("<I", len(body)), EXPLICIT_LITTLE) + body


_Edit = Callable[[Element | None, Encoding], Bytes]
"""Gives the bytes in place of an element, which may be absent; nothing to remove it."""


def _constant(encoded: bytes) -> _Edit:
    return lambda _element, _encoding: encoded


def _rewritten(elements: Iterable[Element], encoding: Encoding, uid_map: UidMap, edits: Mapping[int, _Edit]) -> list[Bytes]:
    """Apply the UID map at any depth and the edits at this one; new elements go to their place in tag order."""
    chunks: list[_Chunk] = []
    left = dict(edits)
    for element in elements:
        after = _remapped(element, uid_map, depth=0)
        edit = left.pop(element.tag, None)
        if edit is not None:
            mapped = element if after is element.raw else _single(after, element.encoding)
            after = edit(mapped, encoding)
        chunks.append((element.tag, element.raw, after))
    for tag, edit in sorted(left.items()):
        after = edit(None, encoding)
        place = next((i for i, chunk in enumerate(chunks) if chunk[0] > tag), len(chunks))
        chunks.insert(place, (tag, b"", after))
    return _without_stale_lengths(chunks)


def _without_stale_lengths(chunks: list[_Chunk]) -> list[Bytes]:
    """Drop the retired lengths (PS3.5 7.2: group length; Length to End) of groups that changed, which are now wrong."""
    groups = {tag >> 16 for tag, before, after in chunks if len(before) != len(after)}
    stale = {group << 16 for group in groups} | ({tags.LENGTH_TO_END} if groups else set())
    return [after for tag, _, after in chunks if tag not in stale]


def _remapped(element: Element, uid_map: UidMap, depth: int) -> Bytes:
    """Give the element with every UID of the map replaced at any depth, and without icons of unprotected pixels."""
    if element.tag == tags.ICON_IMAGE_SEQUENCE:
        return b""
    if element.tag in tags.NOT_REMAPPED or element.tag == PIXEL_DATA:
        return element.raw
    items = element.items(depth)
    if items is None:
        return _remapped_value(element, uid_map)
    changed = False
    parts: list[Bytes] = []
    for item in items:
        chunks: list[_Chunk] = [(inner.tag, inner.raw, _remapped(inner, uid_map, depth + 2)) for inner in item.elements(depth + 1)]
        if any(after is not before for _, before, after in chunks):
            changed = True
            parts.append(item.with_content(b"".join(_without_stale_lengths(chunks))))
        else:
            parts.append(item.raw)
    return element.with_items(parts) if changed else element.raw


def _remapped_value(element: Element, uid_map: UidMap) -> Bytes:
    """Replace UIDs in a value: of VR UI, or of an unknown one whose whole value is a UID of the map."""
    if element.vr not in ("UI", "UN") or element.size > tags.MAX_UIDS_BYTES:
        return element.raw
    values = ascii_values(element)
    new = [uid_map.new(value) for value in values]
    if new == values:
        return element.raw
    value = "\\".join(new).encode("latin-1")
    return encode(element.tag, element.vr, value + bytes(len(value) % 2), element.encoding)


def _edits(file: DicomFile, pixels: PixelReplacement, derivation: Derivation) -> dict[int, _Edit]:
    """List the top-level changes of a derived image; ``comparing`` allows these and no others."""
    edits: dict[int, _Edit] = {
        tags.IMAGE_TYPE: _image_type,
        tags.DERIVATION_DESCRIPTION: lambda element, encoding: _described(element, encoding, derivation.description),
        tags.DERIVATION_CODE_SEQUENCE: _appended(tags.DERIVATION_CODE_SEQUENCE, _code(*tags.PIXEL_ADDITION)),
        tags.CONTRIBUTING_EQUIPMENT_SEQUENCE: _appended(tags.CONTRIBUTING_EQUIPMENT_SEQUENCE, _equipment(derivation)),
    }
    edits.update({tag: _constant(encoded) for tag, encoded in pixels.elements.items()})
    sop_class, sop_uid = file.text(tags.SOP_CLASS_UID), file.text(tags.SOP_INSTANCE_UID)
    # A source that kept its UID would refer to itself, and an illegal UID must not be spread.
    if derivation.uid_secret is not None and is_valid_uid(sop_uid):
        edits[tags.SOURCE_IMAGE_SEQUENCE] = _appended(tags.SOURCE_IMAGE_SEQUENCE, _source_image(sop_class, sop_uid))
    present = {element.tag for element in file.elements}
    if tags.CONTENT_QUALIFICATION in present:
        edits[tags.CONTENT_QUALIFICATION] = _replaced(tags.CONTENT_QUALIFICATION, "CS", b"RESEARCH")
    edits.update({tag: _constant(b"") for tag in tags.REMOVED & present})
    return edits


def _single(encoded: Bytes, encoding: Encoding) -> Element | None:
    return next(read_elements(memoryview(encoded), encoding), None)


def _replaced(tag: int, vr: str, value: bytes) -> _Edit:
    return lambda _element, encoding: encode(tag, vr, value, encoding)


def _image_type(element: Element | None, encoding: Encoding) -> bytes:
    """Set value 1 to DERIVED; value 2 is required (PS3.3 C.7.6.1.1.2)."""
    values = ascii_values(element)
    new = ["DERIVED", *(values[1:] or ["PRIMARY"])]
    if element is not None and values[:1] == ["DERIVED"] and len(values) > 1:
        return bytes(element.raw)
    return encode(tags.IMAGE_TYPE, "CS", "\\".join(new).encode("latin-1"), encoding)


def _described(element: Element | None, encoding: Encoding, description: str) -> bytes:
    """Append to DerivationDescription; where there is no room (ST, 1024 characters) it stays as it is."""
    old = b"" if element is None else bytes(element.value).rstrip(b"\0 ")
    new = old + (b"; " if old else b"") + _ascii(description)
    if len(new) > _MAX_ST:
        if element is not None and old:
            return bytes(element.raw)
        new = new[:_MAX_ST]
    return encode(tags.DERIVATION_DESCRIPTION, "ST", new, encoding)


def _appended(tag: int, content: Callable[[Encoding], bytes]) -> _Edit:
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


def _code(value: str, meaning: str) -> Callable[[Encoding], bytes]:
    """Give a coded concept of the DICOM vocabulary (PS3.3 8.8, PS3.16 D)."""
    return lambda encoding: (
        encode(tags.CODE_VALUE, "SH", value.encode("ascii"), encoding)
        + encode(tags.CODING_SCHEME_DESIGNATOR, "SH", b"DCM", encoding)
        + encode(tags.CODE_MEANING, "LO", meaning.encode("ascii"), encoding)
    )


def _source_image(sop_class: str, sop_uid: str) -> Callable[[Encoding], bytes]:
    """Refer to the image that was changed (PS3.3 C.12.4.1)."""

    def content(encoding: Encoding) -> bytes:
        purpose = encode_item(_code(*tags.IMAGE_PROCESSING)(encoding), encoding)
        return (
            encode(tags.REFERENCED_SOP_CLASS_UID, "UI", sop_class.encode("ascii"), encoding)
            + encode(tags.REFERENCED_SOP_INSTANCE_UID, "UI", sop_uid.encode("ascii"), encoding)
            + encode(tags.PURPOSE_OF_REFERENCE_CODE_SEQUENCE, "SQ", purpose, encoding)
        )

    return content


def _equipment(derivation: Derivation) -> Callable[[Encoding], bytes]:
    """Name the software that modified the image (PS3.3 C.12.1, Contributing Equipment Sequence)."""

    def content(encoding: Encoding) -> bytes:
        software, version = (_ascii(text.replace("\\", "/"))[:_MAX_LO] for text in (derivation.software, derivation.version))
        purpose = encode_item(_code(*tags.MODIFYING_EQUIPMENT)(encoding), encoding)
        return (
            encode(tags.MANUFACTURER, "LO", software, encoding)
            + encode(tags.MANUFACTURER_MODEL_NAME, "LO", software, encoding)
            + encode(tags.SOFTWARE_VERSIONS, "LO", version, encoding)
            + encode(tags.CONTRIBUTION_DESCRIPTION, "ST", _ascii(derivation.description)[:_MAX_ST], encoding)
            + encode(tags.PURPOSE_OF_REFERENCE_CODE_SEQUENCE, "SQ", purpose, encoding)
        )

    return content


def _ascii(text: str) -> bytes:
    """Encode text for any SpecificCharacterSet: ASCII is in all of them."""
    return " ".join(text.split()).encode("ascii", errors="replace")
