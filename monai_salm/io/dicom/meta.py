# SPDX-License-Identifier: Apache-2.0
"""What stands around a dataset that was changed: preamble, file meta information, and the deflated stream."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

from pydicom.uid import DeflatedExplicitVRLittleEndian

from monai_salm.io.dicom import tags
from monai_salm.io.dicom.cutting import meta_end
from monai_salm.io.dicom.elements import EXPLICIT_LITTLE, Element, encode
from monai_salm.io.dicom.files import PREFIX, DicomFile, find, meta_text
from monai_salm.io.dicom.remapping import Bytes, Edit, constant, rewritten
from monai_salm.io.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, UidMap

_TIFF = (b"II*\0", b"MM\0*")


def whole_file(
    file: DicomFile, dataset: Iterable[Bytes], transfer_syntax: str, uid_map: UidMap, *, signed: bool = True
) -> bytes:
    """Put a changed dataset into a file like the source's.

    Args:
        file: the source.
        dataset: bytes of the new elements, in order.
        transfer_syntax: UID of how they are encoded; empty in a file without one.
        uid_map: from old to new UIDs.
        signed: name this software as the writer; else the source's stays named.
    """
    return b"".join(file_parts(file, dataset, transfer_syntax, uid_map, signed=signed))


def file_parts(
    file: DicomFile, dataset: Iterable[Bytes], transfer_syntax: str, uid_map: UidMap, *, signed: bool = True
) -> list[Bytes]:
    """Give the same in parts, so that pixels need not be copied."""
    parts = list(dataset)
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        content = b"".join(parts)
        deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
        content = deflater.compress(content) + deflater.flush()
        # The pad byte of the old stream (PS3.5 A.5) says nothing of the new one's length.
        after = file.after if file.after.strip(b"\0") else b""
        parts = [content, after, bytes((len(content) + len(after)) % 2)]
    return [file_head(file, transfer_syntax, uid_map, signed=signed), *parts]


def file_head(file: DicomFile, transfer_syntax: str, uid_map: UidMap, *, signed: bool = True) -> bytes:
    """Write all that is before the dataset; the directory of a TIFF in the preamble would be stale, so it is zeroed
    (PS3.10 7.1).
    """
    preamble = bytes(len(file.preamble)) if has_tiff_preamble(file) else bytes(file.preamble)
    return preamble + (PREFIX if file.prefix else b"") + file_meta(file, transfer_syntax, uid_map, signed=signed)


def has_tiff_preamble(file: DicomFile) -> bool:
    """Say whether the preamble makes the file a TIFF as well."""
    return bytes(file.preamble[:4]) in _TIFF


def media_storage_uid(file: DicomFile) -> str:
    """Give the UID of the instance: that of the dataset, or where it has none, as a DICOMDIR, that of the file meta
    information.
    """
    return file.text(tags.SOP_INSTANCE_UID) or meta_text(file.meta, tags.MEDIA_STORAGE_SOP_INSTANCE_UID)


def is_renamed(file: DicomFile, uid_map: UidMap) -> bool:
    """Say whether the instance itself gets a new UID."""
    return uid_map.new(media_storage_uid(file)) != media_storage_uid(file)


def file_meta(file: DicomFile, transfer_syntax: str, uid_map: UidMap, *, signed: bool = True) -> bytes:
    """Write the file meta information: the new instance, and who wrote it unless that is not to be said (PS3.10 7.1);
    nothing for a file that has none.

    What does not change keeps its bytes, also where it is not what the dataset says. Only its length is made right.
    """
    if not file.meta:
        return b""
    changes = {}
    if is_renamed(file, uid_map):
        changes[tags.MEDIA_STORAGE_SOP_INSTANCE_UID] = uid_map.new(media_storage_uid(file)).encode("latin-1")
    if transfer_syntax != file.transfer_syntax:
        changes[tags.TRANSFER_SYNTAX_UID] = transfer_syntax.encode("ascii")
    if signed:
        changes[tags.IMPLEMENTATION_CLASS_UID] = IMPLEMENTATION_CLASS_UID.encode("ascii")
        changes[tags.IMPLEMENTATION_VERSION_NAME] = IMPLEMENTATION_VERSION_NAME.encode("ascii")
    vrs = {tags.IMPLEMENTATION_VERSION_NAME: "SH"}
    edits: dict[int, Edit] = {
        tag: constant(encode(tag, vrs.get(tag, "UI"), value, EXPLICIT_LITTLE)) for tag, value in changes.items()
    }
    body = b"".join(
        rewritten(
            [element for element in file.meta if element.tag != tags.META_LENGTH], EXPLICIT_LITTLE, UidMap(), edits
        )
    )
    if find(file.meta, tags.META_LENGTH) is None:
        return body
    return encode(tags.META_LENGTH, "UL", struct.pack("<I", len(body)), EXPLICIT_LITTLE) + body


def meta_notes(file: DicomFile) -> tuple[str, ...]:
    """Say what the file meta information gets wrong; one sentence each."""
    notes = []
    stated = meta_text(file.meta, tags.MEDIA_STORAGE_SOP_INSTANCE_UID)
    if stated and file.text(tags.SOP_INSTANCE_UID) not in ("", stated):
        notes.append(
            "the file meta information names another instance than the dataset, whose new UID it gets where that "
            "changes"
        )
    if not meta_length_is_right(file.meta):
        notes.append("FileMetaInformationGroupLength is wrong and is corrected where the file changes")
    return tuple(notes)


def meta_length_is_right(meta: list[Element]) -> bool:
    """Say whether FileMetaInformationGroupLength is that of the group; so is none at all."""
    return meta_end(meta) in (None, sum(len(element.raw) for element in meta))
