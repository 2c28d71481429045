# SPDX-License-Identifier: Apache-2.0
"""Reading and writing voxels as they are stored; what is an image and what a document."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation, Document, ImageHeader, SourceImage, StoredArray
from monai_salm.io.kinds import NOT_LOOKED_AT, Kind, UndecidedError, judge
from monai_salm.io.leftovers import check_leftovers, holds_picture, may_be_picture
from monai_salm.io.new_values import check_stored
from monai_salm.io.nifti.files import (
    Buffer,
    Content,
    header_beside,
    is_packed,
    read_around,
    read_content,
    read_head,
    write_content,
)
from monai_salm.io.nifti.layout import HEAD_BYTES, Layout, Magic, end_of_extensions, read_layout, read_magic
from monai_salm.io.origins import FileState


@dataclass(frozen=True)
class Volume:
    """A file that holds voxels, read whole, and where they are in it.

    Args:
        layout: where they are.
        content: the file.
        beside: the file of the header as it was read, if it is another.
    """

    layout: Layout
    content: Content
    beside: tuple[FileState, ...] = ()


def sniff(path: Path, head: bytes | None = None) -> bool:
    """Say from the first bytes, decompressed if need be, whether a file is NIfTI or a half of a pair that is."""
    try:
        return _find_header(path, head) is not None
    except RefusedError:
        return False


def identify(path: Path, said: Kind | None = None) -> ImageHeader | Document:
    """Tell images from documents; the voxels are read too, for most label maps are known by their values alone, unless
    the user says that it is a picture and the file is not compressed.

    Args:
        path: the file.
        said: what the user says that it is.

    Raises:
        RefusedError: the file is neither a document nor an image that can be protected faithfully.
        UndecidedError: it cannot be told whether it is a picture or a label map.
    """
    found = header_document(path)
    if found is not None:
        return found
    if said == "picture":
        return _picture_header(path)
    try:
        volume = read_volume(path)
        source = _source(path, volume)
    except RefusedError:
        if said != "label map":
            raise
        return Document.of_labels(path, "nifti", unprotected=NOT_LOOKED_AT)
    layout = volume.layout
    if said == "label map":
        return Document.of_labels(path, "nifti", unprotected=source.header.unprotected)
    if said is None and layout.computed:
        return Document(
            path=path,
            format="nifti",
            kind=layout.computed,
            notes=("its values are not changed",),
            unprotected=source.header.unprotected,
        )
    declared: Kind | None = (
        "label map" if layout.is_labels else "cannot tell" if layout.says_little and not layout.is_color else None
    )
    by = f"its intent code is {int(layout.fields['intent_code'])}"
    found_values = judge(
        source.stored,
        slope=source.slope,
        intercept=source.intercept,
        trailing=len(layout.trailing),
        color=layout.is_color,
        declared=declared,
        by=by,
    )
    if found_values.kind == "cannot tell":
        raise UndecidedError(found_values)
    if found_values.kind == "label map":
        return Document.of_labels(path, "nifti", found_values, source.header.unprotected)
    return source.header


def header_document(path: Path) -> Document | None:
    """Say whether a file is the header of a pair, which is no image by itself.

    Raises:
        RefusedError: such a header that voxels follow after all.
    """
    header = _find_header(path)
    if header is None or not header[2].of_pair:
        return None
    _check_no_voxels(header[0], header[2])
    if header[0] != path:
        return None
    beside = holds_picture(bytes(read_content(path, header[2].size).data))
    unprotected = "an extension of the header holds another image, which is not protected" if beside else ""
    return Document(path=path, format="nifti", kind="header of a NIfTI pair", unprotected=unprotected)


def read_source(path: Path) -> SourceImage:
    """Read the voxels as they are stored, in the file's axis order; axes of one sample behind the third are left out.

    Raises:
        RefusedError: the file holds no voxels that can be written faithfully.
    """
    found = header_document(path)
    if found is not None:
        raise RefusedError(f"not an image ({found.kind})")
    return _source(path, read_volume(path))


def read_label_map(path: Path) -> NDArray[np.float64]:
    """Read labels, rescaled, in the file's axis order.

    Raises:
        RefusedError: the file cannot be read, or is in color.
    """
    volume = read_volume(path)
    if volume.layout.is_color:
        raise RefusedError(f"label map {path.name} is in color; convert it, each color to a number")
    return _source(path, volume).real


def write_like(source: SourceImage, stored: StoredArray, target: Path, derivation: Derivation) -> None:
    """Write the source's bytes with ``stored`` in place of the voxels; of a pair, the ``.img`` alone.

    Args:
        source: what :func:`read_source` gave; its file is read again where it may have changed.
        stored: new values, of the source's shape and dtype.
        target: path to write; compressed if the source is, whatever its name.
        derivation: ignored: a NIfTI header has no room for it.

    Raises:
        RefusedError: the values do not fit the file, or the file is no longer what it was.
    """
    del derivation
    check_stored(source, stored, target)
    kept = source.kept(Volume, unchanged=True)
    volume = read_volume(source.header.path) if kept is None else kept
    layout, view = volume.layout, memoryview(volume.content.data)
    in_file = view[layout.offset : layout.end]  # compared without a copy
    if kept is None and (
        (layout.shape, layout.trailing) != (source.header.shape, source.header.trailing)
        or not layout.holds(source.stored, in_file)
    ):
        raise RefusedError("the file changed since it was read; read it again")
    if layout.holds(stored, in_file):
        shutil.copyfile(source.header.path, target)
        return
    parts: Iterator[Buffer] = chain((view[: layout.offset],), layout.voxels(stored), (view[layout.end :],))
    write_content(target, parts, volume.content.head)


def read_back(source: SourceImage, written: Path) -> SourceImage:
    """Read what :func:`write_like` wrote; for the ``.img`` of a pair, with the header that lies beside the source's.

    Raises:
        RefusedError: the written file does not hold what the header says, or the source's header is gone.
    """
    header = _find_header(source.header.path)
    beside = header is not None and header[0] != source.header.path
    return _source(written, _read(written, header) if beside else read_volume(written))


def write_document(path: Path, target: Path, derivation: Derivation) -> None:
    """Copy a document byte for byte: NIfTI refers to nothing."""
    del derivation
    shutil.copyfile(path, target)


def read_volume(path: Path) -> Volume:
    """Read a file that holds voxels, whatever they are.

    Raises:
        RefusedError: there is no header for it, or none that can be read.
    """
    return _read(path, _find_header(path))


def _read(path: Path, header: tuple[Path, bytes, Magic] | None) -> Volume:
    if header is None:
        raise RefusedError("not NIfTI: sizeof_hdr and magic are not those of NIfTI-1 or NIfTI-2, or the header is cut")
    place, head, magic = header
    layout = read_layout(head, magic)
    beside = () if place == path else (FileState.at(place),)
    volume = Volume(layout, read_content(path, layout.end), beside)
    data = volume.content.data
    _check_around(layout, magic, bytes(data[: layout.offset]), bytes(data[layout.end :]))
    return volume


def _check_around(layout: Layout, magic: Magic, before: bytes, behind: bytes) -> None:
    """Refuse a file with more voxels than its header speaks of."""
    front = end_of_extensions(before, magic) if layout.size else 0
    check_leftovers((before[front:], behind), layout.plane, layout.end - layout.offset, "before or behind the voxels")


def _picture_header(path: Path) -> ImageHeader:
    """Read what is not voxels of what is known to be an image."""
    found = _find_header(path)
    layout = None if found is None else read_layout(found[1], found[2])
    around = None if layout is None else read_around(path, layout.offset, layout.end)
    if found is None or layout is None or around is None:
        return _source(path, read_volume(path)).header
    _check_around(layout, found[2], *around)
    return _header(path, layout, *around)


def _find_header(path: Path, head: bytes | None = None) -> tuple[Path, bytes, Magic] | None:
    """Find the header of a file: its own first bytes, which may be known, or those of the ``.hdr`` beside it."""
    head = read_head(path, HEAD_BYTES) if head is None or is_packed(head) else head[:HEAD_BYTES]
    magic = read_magic(head)
    if magic is not None:
        return path, head, magic
    beside = header_beside(path)
    if beside is None:
        return None
    head = read_head(beside, HEAD_BYTES)
    magic = read_magic(head)
    return (beside, head, magic) if magic is not None and magic.of_pair else None


def _check_no_voxels(path: Path, magic: Magic) -> None:
    """Refuse a header of a pair that voxels follow after all: copied as a document, they would go out unprotected."""
    data = read_content(path, magic.size).data
    rest = data[end_of_extensions(data, magic) :]
    if any(rest):
        raise RefusedError(
            f"the magic says that the voxels are in another file (.img), yet {len(rest)} bytes follow the header; "
            "repair the magic first"
        )


def _source(path: Path, volume: Volume) -> SourceImage:
    layout = volume.layout
    stored = layout.values(volume.content.data)
    data = volume.content.data
    info = np.finfo(stored.dtype) if stored.dtype.kind == "f" else np.iinfo(stored.dtype)
    header = _header(
        path, layout, bytes(data[: layout.offset]), bytes(data[layout.end :]), bytes(volume.content.head or b"")
    )
    found = SourceImage(
        header=header,
        stored=stored,
        slope=layout.slope,
        intercept=layout.intercept,
        range_stored=(float(info.min), float(info.max)),
    )
    return found.with_origin(volume, volume.content.digest, volume.content.state, *volume.beside)


def _header(path: Path, layout: Layout, before: bytes, behind: bytes, packing: bytes = b"") -> ImageHeader:
    """Give the header of an image.

    Args:
        path: of it.
        layout: what its header says.
        before, behind: the bytes around the voxels.
        packing: the gzip header, of a compressed file.
    """
    beside = holds_picture(packing) or may_be_picture(before[layout.size :], layout.plane) or holds_picture(behind)
    return ImageHeader(
        path=path,
        format="nifti",
        shape=layout.shape,
        trailing=layout.trailing,
        color=layout.is_color,
        dtype=layout.dtype.newbyteorder("="),
        spacing=layout.spacing,
        spacing_known=layout.spacing_known,
        unprotected="bytes beside its voxels (an extension, or what follows) may hold another image, which is not "
        "protected"
        if beside
        else "",
    )
