# SPDX-License-Identifier: Apache-2.0
"""Every difference of two DICOM files outside the pixel values, and whether a derived image may have it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom.datadict import keyword_for_tag

from monai_salm.errors import RefusedError, VerificationError
from monai_salm.io.base import HeaderChange, SourceImage
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.comparing.cells import compare_cells
from monai_salm.io.dicom.comparing.datasets import compare_datasets
from monai_salm.io.dicom.comparing.directories import compare_directories
from monai_salm.io.dicom.comparing.pair import Pair, change_of, is_mapped, is_same, paired, shown_bytes, shown_element
from monai_salm.io.dicom.cutting import cut, read_file
from monai_salm.io.dicom.dicomdir import is_directory
from monai_salm.io.dicom.documents import document_of
from monai_salm.io.dicom.files import DicomFile, ascii_values, find
from monai_salm.io.dicom.meta import has_tiff_preamble, media_storage_uid, meta_length_is_right
from monai_salm.io.dicom.stored_values import Picture, is_lossy, picture_behind, picture_of, read_source
from monai_salm.io.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from monai_salm.io.origins import Buffer


def compare_headers(original: Path, other: Path) -> list[HeaderChange]:
    """List every difference outside the pixel values: preamble, meta information, dataset at any depth, unused bits.

    Of documents the pixel data belongs to what may not differ; so does it of an original whose pixels are not
    supported, such as a label map of colors.

    Raises:
        RefusedError: one of the files cannot be read, or one is an image and the other is none.
    """
    files = read_file(original), read_file(other)
    documents = [document_of(path, file) for path, file in zip((original, other), files, strict=True)]
    first = None if any(documents) else _readable(original, files[0])
    if all(documents) or (first is None and not any(documents)):
        pair = Pair(*files).with_own_uids()
        dataset = (
            compare_directories(pair)
            if all(map(is_directory, files))
            else compare_datasets(pair, files[0].elements, files[1].elements, "")
        )
        return [*_compare_frame(pair), *_compare_meta(pair), *dataset]
    if first is None:
        kinds = [document.kind if document else "an image" for document in documents]
        raise RefusedError(f"{kinds[0]} and {kinds[1]} cannot be compared")
    return _compare_pictures(first, picture_of(other, files[1]))


def compare_sources(original: SourceImage, other: SourceImage) -> list[HeaderChange]:
    """List the same of two images as they were read, without reading their files again."""
    return _compare_pictures(picture_behind(original), picture_behind(other))


def kept_bytes(source: SourceImage) -> Buffer | None:
    """Give the bytes of the file that an image was read from; None where they were not kept."""
    kept = source.kept(Picture)
    whole = None if kept is None else kept.file.preamble.obj  # a part of what was read, as all elements are
    return whole if isinstance(whole, bytes) else None


def _compare_pictures(first: Picture, second: Picture) -> list[HeaderChange]:
    pictures = first, second
    pair = Pair(first.file, second.file, pictures).with_own_uids()
    return [
        *_compare_frame(pair),
        *_compare_meta(pair),
        *compare_datasets(pair, pair.original.elements, pair.other.elements, ""),
        *_compare_statements(pair),
        *compare_cells(*pictures),
    ]


def _readable(path: Path, file: DicomFile) -> Picture | None:
    """Read an image; None where its pixels are not supported, so that only their bytes can be compared."""
    try:
        return picture_of(path, file)
    except RefusedError:
        return None


def read_back(source: SourceImage, written: Path) -> SourceImage:
    """Read what ``write_like`` wrote, and hold its file meta information, without which no value is read right, against
    the source's.

    Raises:
        VerificationError: it differs where it may not.
    """
    found = read_source(written)
    file = picture_behind(found).file
    pair = Pair(_original_of(source), file).with_own_uids()
    allowed = {"TransferSyntaxUID"} if source.header.output_transfer_syntax == file.transfer_syntax else set()
    wrong = next((change for change in _compare_meta(pair) if not change.allowed and change.name not in allowed), None)
    if wrong is not None:
        raise VerificationError(
            f"{wrong.name} of the written file is {wrong.other or 'absent'}, of the source {wrong.original or 'absent'}"
        )
    return found


def _original_of(source: SourceImage) -> DicomFile:
    """Give the elements of a source, which need not be held against pydicom's reading once more."""
    kept = source.kept(Picture)
    return cut(memoryview(source.header.path.read_bytes())) if kept is None else kept.file


def _compare_frame(pair: Pair) -> Iterator[HeaderChange]:
    """Compare what is around the dataset."""
    before, after = bytes(pair.original.preamble), bytes(pair.other.preamble)
    if before != after:
        zeroed = has_tiff_preamble(pair.original) and len(before) == len(after) and not any(after)
        yield change_of("Preamble", shown_bytes(before), shown_bytes(after), allowed=zeroed)
    ends = (pair.original.after.strip(b"\0"), pair.other.after.strip(b"\0"))
    if ends[0] != ends[1]:
        yield change_of("(bytes after the deflated dataset)", *map(shown_bytes, ends), allowed=False)


def _compare_meta(pair: Pair) -> Iterator[HeaderChange]:
    """Compare the file meta information, in which only the instance, its encoding and its writer may change, and the
    length must be right.
    """
    allowed = {
        tags.IMPLEMENTATION_CLASS_UID: IMPLEMENTATION_CLASS_UID,
        tags.IMPLEMENTATION_VERSION_NAME: IMPLEMENTATION_VERSION_NAME,
    }
    own = [media_storage_uid(file) for file in (pair.original, pair.other)]
    if own[0] != own[1] and is_mapped(pair, own[:1], own[1:]):
        allowed[tags.MEDIA_STORAGE_SOP_INSTANCE_UID] = own[1]
    if pair.pictures is not None and pair.pictures[0].source.header.output_transfer_syntax:
        allowed[tags.TRANSFER_SYNTAX_UID] = pair.pictures[0].source.header.output_transfer_syntax
    for before, after in paired(pair.original.meta, pair.other.meta):
        element = after or before
        if element is None or is_same(before, after):
            continue
        right = after is not None and ascii_values(after) == [allowed.get(element.tag)]
        length = (
            before is not None
            and after is not None
            and element.tag == tags.META_LENGTH
            and meta_length_is_right(pair.other.meta)
        )
        yield change_of(element.name, shown_element(before), shown_element(after), allowed=right or length)
    stated = find(pair.other.meta, tags.MEDIA_STORAGE_SOP_INSTANCE_UID)
    if own[0] != own[1] and pair.other.meta and ascii_values(stated) != own[1:]:
        yield change_of(
            "MediaStorageSOPInstanceUID (not the new SOPInstanceUID)", "", shown_element(stated), allowed=False
        )


def _compare_statements(pair: Pair) -> Iterator[HeaderChange]:
    """Say what an image that was decoded once and written native does not say of itself, though it must (PS3.3
    C.7.6.1.1.5, C.7.6.3.1.2).
    """
    if pair.pictures is None or pair.original.transfer_syntax == pair.other.transfer_syntax:
        return
    required = {tags.LOSSY_IMAGE_COMPRESSION: "01"} if is_lossy(pair.pictures[0]) else {}
    if pair.pictures[0].format.layout == "rgb":
        required[tags.PHOTOMETRIC_INTERPRETATION] = "RGB"
    for tag, wanted in required.items():
        before, after = pair.original.find(tag), pair.other.find(tag)
        if ascii_values(after) != [wanted] and ((before is None and after is None) or is_same(before, after)):
            yield change_of(keyword_for_tag(tag), shown_element(before), shown_element(after), allowed=False)
