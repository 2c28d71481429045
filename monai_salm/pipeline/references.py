# SPDX-License-Identifier: Apache-2.0
"""What refers to what in an export: which objects get new UIDs, and which files stand for files that are absent."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from monai_salm.io import Document, ImageHeader
from monai_salm.pipeline.inventory import Inventory, holds_values_alone

OWN_UIDS = ("SOPInstanceUID", "SeriesInstanceUID")
"""What names an object and its series; studies, frames of reference and patients keep their names."""
VALUE_SUFFIXES = {"nifti": ("img",), "itk": ("raw", "zraw", "img", "bin", "dat")}
"""How the suffix of a file begins that holds the values for a header of its own, where no image was read from it."""


def own_uids(found: ImageHeader | Document) -> frozenset[str]:
    """Give the SOP and Series Instance UID of an object, as far as it has them; "0" and the like are no names."""
    return frozenset(uid for key in OWN_UIDS if "." in (uid := found.identifiers.get(key, "")))


def renewed_uids(changed: Iterable[ImageHeader], documents: Iterable[Document]) -> frozenset[str]:
    """Give the SOP and Series Instance UIDs that get new ones: those of changed images, and of every document that
    refers to one of them.

    A document whose references change is another object, so it must have another UID (PS3.3 C.12.1.1.1): an archive
    that knows its UID would keep the old one and its references to the unprotected images. What refers to that
    document changes in turn, and so on.
    """
    renewed = {uid for header in changed for uid in own_uids(header)}
    waiting = [
        document for document in documents if document.format == "dicom" and document.identifiers.get("SOPInstanceUID")
    ]
    before = -1
    while before < len(renewed):
        before, left = len(renewed), []
        for document in waiting:
            if renewed.isdisjoint(document.references | {document.identifiers.get("SeriesInstanceUID", "")}):
                left.append(document)
            else:
                renewed |= own_uids(document)
        waiting = left
    return frozenset(renewed)


def records_left_out(inventory: Inventory, path: str, present: Collection[str]) -> tuple[str, frozenset[str]]:
    """Say which records of a DICOMDIR are of files that are not written, in words and by the names that it has for
    them.

    Args:
        inventory: of the input.
        path: of any document.
        present: paths of all files that are written.
    """
    meant = inventory.listed.get(path, {})
    absent = frozenset(
        name for name, found in meant.items() if set(present).isdisjoint(map(inventory.output_path, found))
    )
    return (
        f"{len(absent)} of its {len(meant)} records are of files that are not handed out (first {min(absent)})"
        if absent
        else "",
        absent,
    )


def why_header_stays(inventory: Inventory, path: str, written: frozenset[str]) -> str:
    """Say why a header of its own is refused: the file of its values was not written; empty for any other document."""
    document = inventory.documents[path]
    if not document.kind.startswith("header of"):
        return ""
    stem = path.removesuffix(PurePosixPath(path).name) + PurePosixPath(path).name.partition(".")[0] + "."
    for other in sorted({*inventory.headers, *inventory.refused} - written):
        if not other.startswith(stem) or "/" in other[len(stem) :]:
            continue
        header = inventory.headers.get(other)
        if header is None:
            alone = other[len(stem) :].lower().startswith(VALUE_SUFFIXES[document.format])
        else:
            alone = header.format == document.format and holds_values_alone(other, header)
        if alone:
            return f"the file of its values, {other}, is not handed out"
    return ""
