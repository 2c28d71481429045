# SPDX-License-Identifier: Apache-2.0
"""Reading and writing the voxels of NRRD and MetaImage files, of which only their bytes change."""

from __future__ import annotations

import shutil
from pathlib import Path

from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation, Document, ImageHeader, SourceImage, StoredArray
from monai_salm.io.itk.files import (
    Content,
    check_header_end,
    find_layout,
    header_document,
    read_content,
    written_layout,
)
from monai_salm.io.itk.packing import pack
from monai_salm.io.kinds import NOT_LOOKED_AT, Kind, UndecidedError, judge
from monai_salm.io.new_values import check_stored
from monai_salm.io.origins import same_bytes


def identify(path: Path, said: Kind | None = None) -> ImageHeader | Document:
    """Read what planning needs; the voxels are looked at only to tell label maps from pictures.

    Args:
        path: the file.
        said: what the user says that it is.

    Raises:
        RefusedError: the file is no image that can be protected faithfully.
        UndecidedError: it cannot be told whether it is a picture or a label map.
    """
    layout = find_layout(path)
    if layout.detached:
        check_header_end(layout)
    if layout.detached and layout.header_path == path:
        read_content(layout)  # or it would go out beside a file that is no image of its own, but another's
        return header_document(layout)
    try:
        source = read_content(layout).source()
    except RefusedError:
        if said != "label map":
            raise
        return Document.of_labels(path, "itk", unprotected=NOT_LOOKED_AT)
    if said == "label map":
        return Document.of_labels(path, "itk", unprotected=source.header.unprotected)
    if said == "picture":
        return source.header
    found = judge(
        source.stored, trailing=len(source.header.trailing),
        color=source.header.color,
        declared="label map" if layout.segments else None, by="its header describes segments",
    )  # fmt: skip
    if found.kind == "cannot tell":
        raise UndecidedError(found)
    if found.kind == "label map":
        return Document.of_labels(path, "itk", found, source.header.unprotected)
    return source.header


def read_source(path: Path) -> SourceImage:
    """Read the voxels as they are stored; the axes are the file's own, the fastest first, those that share noise last.

    Raises:
        RefusedError: the file holds no voxels that can be written faithfully.
    """
    layout = find_layout(path)
    if layout.detached and layout.header_path == path:
        raise RefusedError(f"not an image (header of a detached {layout.kind}); read {layout.data_path.name}")
    return read_content(layout).source()


def read_label_map(path: Path) -> StoredArray:
    """Read labels in the file's axis order.

    Raises:
        RefusedError: the file cannot be read.
    """
    return read_content(find_layout(path)).source().stored


def read_back(source: SourceImage, written: Path) -> SourceImage:
    """Read what :func:`write_like` wrote; the header of detached voxels is the one beside the source.

    Raises:
        RefusedError: the written file cannot be read.
    """
    return read_content(written_layout(source.header.path, written)).source()


def write_like(source: SourceImage, stored: StoredArray, target: Path, derivation: Derivation) -> None:
    """Write the source's bytes with ``stored`` in place of the voxels, packed anew where they are compressed.

    Args:
        source: what :func:`read_source` gave; its file is read again where it may have changed.
        stored: new values, of the source's shape and dtype.
        target: path to write; for detached voxels that of the data file, whose header is a document of its own.
        derivation: ignored: the headers stay as they are, but for the size of a compressed MetaImage.

    Raises:
        RefusedError: the values do not fit the file, or the file is no longer what it was.
    """
    del derivation
    check_stored(source, stored, target)
    kept = source.kept(Content, unchanged=True)
    content = read_content(find_layout(source.header.path)) if kept is None else kept
    again = source if kept is not None else content.source()
    if again.header != source.header or (kept is None and again.stored.tobytes() != source.stored.tobytes()):
        raise RefusedError("the file changed since it was read; read it again")
    layout = content.layout
    voxels = layout.voxels(stored)
    head, tail = bytes(content.raw[: content.start]), content.raw[content.end :]
    if same_bytes(voxels, content.voxels):
        parts = [content.raw]
    else:
        if layout.packing:
            voxels = pack(voxels, bytes(content.raw[content.start : content.end]))
        if layout.packed_size is not None:
            first, last = layout.packed_span
            head = head[:first] + str(len(voxels)).encode() + head[last:]
        parts = [memoryview(head), memoryview(voxels), tail]
    with target.open("wb") as handle:
        handle.writelines(parts)


def write_document(path: Path, target: Path, derivation: Derivation) -> None:
    """Copy a document byte for byte: these formats refer to nothing but a data file, whose name stays."""
    del derivation
    shutil.copyfile(path, target)
