# SPDX-License-Identifier: Apache-2.0
"""Finding the text header of a file, which may lie in another file beside it, and the bytes that hold the voxels."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from monai_salm.errors import RefusedError
from monai_salm.io.base import Document, SourceImage
from monai_salm.io.itk import metaimage, nrrd
from monai_salm.io.itk.layout import Layout, read_text
from monai_salm.io.itk.packing import unpack
from monai_salm.io.leftovers import check_leftovers, holds_picture
from monai_salm.io.origins import FIRST_BYTES, FileState, aligned_bytes, digest_of

_HEADER_SUFFIXES = (".nhdr", ".mhd")
_NO_VOXELS = (
    ".txt",
    ".json",
    ".csv",
    ".tsv",
    ".md",
    ".xml",
    ".html",
    ".log",
    ".yaml",
    ".yml",
    ".bval",
    ".bvec",
    ".pdf",
)
"""Suffixes of files beside images, of which a folder can have so many that each must not be looked for
in every header.
"""
_SHOWN = "bytes beside its voxels hold another image, which is not protected"


@dataclass(frozen=True, kw_only=True)
class Content:
    """A file's bytes and what they hold.

    Args:
        layout: what the header says.
        raw: all bytes of the file with the voxels.
        start, end: where in them the voxels are, compressed or not.
        voxels: decompressed.
        states: of the files, as they were read.
    """

    layout: Layout
    raw: memoryview
    start: int
    end: int
    voxels: memoryview
    states: tuple[FileState, ...] = ()

    @property
    def beside(self) -> tuple[bytes, bytes]:
        """Bytes before the voxels, the header aside, and behind them."""
        first = 0 if self.layout.detached else len(self.layout.text)
        return bytes(self.raw[first : self.start]), bytes(self.raw[self.end :])

    def source(self) -> SourceImage:
        """Give the image, its axes in the file's order, those that share noise last."""
        layout = self.layout
        flat = np.frombuffer(self.voxels, dtype=layout.dtype)
        stored = (
            flat.reshape(layout.sizes, order="F")
            .transpose(layout.order)
            .astype(layout.dtype.newbyteorder("="), order="K", copy=False)
        )
        stored.setflags(write=False)
        info = np.finfo(stored.dtype) if stored.dtype.kind == "f" else np.iinfo(stored.dtype)
        header = replace(
            layout.image_header(), unprotected=_SHOWN if any(map(holds_picture, (layout.text, *self.beside))) else ""
        )
        found = SourceImage(header=header, stored=stored, range_stored=(float(info.min), float(info.max)))
        return found.with_origin(self, partial(digest_of, self.raw), *self.states)


def sniff(path: Path, head: bytes | None = None) -> bool:
    """Say whether a file starts with an NRRD or MetaImage header, or holds the voxels that one beside it names."""
    return _is_header(path, head) or bool(_headers_of(path))


def find_layout(path: Path) -> Layout:
    """Read the header of a file, from itself or from the file beside it that names it.

    Raises:
        RefusedError: there is none, more than one, or one that cannot be read faithfully.
    """
    if _is_header(path):
        return _layout(path)
    headers = _headers_of(path)
    if len(headers) != 1:
        found = ", ".join(header.name for header in headers) or "none"
        raise RefusedError(f"voxels need one header beside them that names them; found {found}: keep the right one")
    return _layout(headers[0])


def written_layout(source: Path, written: Path) -> Layout:
    """Read the header of a file that was written for a source, which is the source's own where the
    voxels are detached.
    """
    layout = find_layout(source)
    return replace(layout, data_path=written) if layout.detached else find_layout(written)


def check_header_end(layout: Layout) -> None:
    """Refuse a header of detached voxels that bytes follow, and with it the voxels, which are of no use without it.

    Raises:
        RefusedError: bytes follow the header, which may be voxels all the same.
    """
    rest = layout.header_path.read_bytes()[len(layout.text) :].strip(b"\0 \t\r\n")
    if rest:
        raise RefusedError(
            f"the header says that the voxels are in another file, yet {len(rest)} bytes follow it; repair the "
            "header, or cut them off"
        )


def header_document(layout: Layout) -> Document:
    """Describe the header of detached voxels, which goes out as it is."""
    unprotected = "the header holds another image, which is not protected" if holds_picture(layout.text) else ""
    return Document(
        path=layout.header_path, format="itk", kind=f"header of a detached {layout.kind}", unprotected=unprotected
    )


def read_content(layout: Layout) -> Content:
    """Read the voxels of a layout.

    Raises:
        RefusedError: a truncated or damaged file.
    """
    states = [FileState.at(layout.header_path)] if layout.detached else []
    with layout.data_path.open("rb", buffering=0) as handle:
        states.append(FileState.of(layout.data_path, handle))
        size = states[-1].size
        layout.check_size(size)
        start = size - layout.voxel_bytes if layout.offset < 0 else layout.offset
        raw = aligned_bytes(handle, size, 0 if layout.packing else start)
    layout.check_size(len(raw))
    if not layout.detached and raw[: len(layout.text)] != layout.text:
        raise RefusedError("the file changed since it was read; read it again")
    whole = Content(
        layout=layout, raw=raw, start=start, end=start + layout.voxel_bytes, voxels=raw, states=tuple(states)
    )
    if not layout.packing:
        if start < (0 if layout.detached else len(layout.text)):
            raise RefusedError("truncated: the voxels overlap the header; get a complete copy of the file")
        return _whole(replace(whole, voxels=raw[start : whole.end]))
    stream = raw[layout.offset :]
    if layout.packed_size is not None:
        stream = stream[: layout.packed_size]
    voxels, length = unpack(stream, layout.voxel_bytes, layout.packing)
    end = layout.offset + (length if layout.packed_size is None else layout.packed_size)
    return _whole(replace(whole, end=end, voxels=memoryview(voxels)))


def _whole(content: Content) -> Content:
    """Refuse a file with more voxels than its header speaks of."""
    layout = content.layout
    check_leftovers(content.beside, layout.plane, layout.voxel_bytes, "before or behind the voxels")
    return content


def _is_header(path: Path, head: bytes | None = None) -> bool:
    head = read_text(path, FIRST_BYTES) if head is None else head
    return nrrd.is_nrrd(head) or (
        metaimage.may_be_metaimage(head) and metaimage.is_metaimage(read_text(path, until=metaimage.DATA_FILE))
    )


def _layout(header: Path) -> Layout:
    return nrrd.layout(header) if nrrd.is_nrrd(read_text(header, FIRST_BYTES)) else metaimage.layout(header)


def _headers_of(path: Path) -> list[Path]:
    """Find the headers that name a file: those of its own name if there are any, else those of other names in its
    folder.
    """
    stem = path.name.partition(".")[0]
    found = [header for suffix in _HEADER_SUFFIXES if _names(header := path.with_name(stem + suffix), path)]
    if found or path.suffix.lower() in _NO_VOXELS:
        return found
    with os.scandir(path.parent) as entries:
        names = sorted(entry.name for entry in entries if Path(entry.name).suffix.lower() in _HEADER_SUFFIXES)
    return [header for header in map(path.with_name, names) if _names(header, path)]


def _names(header: Path, path: Path) -> bool:
    """Say whether a file is a header that names another."""
    try:
        if header.name == path.name or not header.is_file():
            return False
    except OSError:  # a name that is longer than names can be
        return False
    text = read_text(header)
    name = (
        nrrd.data_name(text)
        if nrrd.is_nrrd(text)
        else metaimage.data_name(text)
        if metaimage.is_metaimage(text)
        else ""
    )
    return name.removeprefix("./") == path.name
