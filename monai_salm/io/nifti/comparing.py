# SPDX-License-Identifier: Apache-2.0
"""Every difference of two files outside their voxels; NIfTI has no identity to renew, so none is allowed."""

from __future__ import annotations

import filecmp
from pathlib import Path

from monai_salm.io.base import HeaderChange, SourceImage
from monai_salm.io.nifti.files import GzipHead
from monai_salm.io.nifti.layout import Layout
from monai_salm.io.nifti.volumes import Volume, header_document, read_volume
from monai_salm.io.origins import Buffer


def compare_headers(original: Path, other: Path) -> list[HeaderChange]:
    """List every difference outside the voxels, each ``.img`` with the header beside it; of documents, whether any byte
    differs.

    Raises:
        RefusedError: one of the files is no image that can be read.
    """
    if header_document(original) is not None:
        same = filecmp.cmp(original, other, shallow=False)
        return [] if same else [_change("(bytes)", *(f"{path.stat().st_size} bytes" for path in (original, other)))]
    return _compare(read_volume(original), read_volume(other))


def compare_sources(original: SourceImage, other: SourceImage) -> list[HeaderChange]:
    """List the same of two images as they were read."""
    first, second = original.kept(Volume), other.kept(Volume)
    if first is None or second is None:
        return compare_headers(original.header.path, other.header.path)
    return _compare(first, second)


def kept_bytes(source: SourceImage) -> Buffer | None:
    """Give the bytes of the file that an image was read from; None of one that is compressed, or half of a pair."""
    kept = source.kept(Volume)
    return None if kept is None or kept.content.head is not None or kept.beside else kept.content.data


def _compare(first: Volume, second: Volume) -> list[HeaderChange]:
    changes = _gzip_changes(first.content.head, second.content.head)
    layouts = first.layout, second.layout
    if layouts[0].fields.dtype != layouts[1].fields.dtype:
        sizes = [layout.fields.dtype.itemsize for layout in layouts]
        name = "(byte order)" if sizes[0] == sizes[1] else "sizeof_hdr"
        return [*changes, _change(name, *(layout.fields.dtype["dim"].str for layout in layouts))]
    changes += _field_changes(*layouts)
    volumes = [(volume.content.data, volume.layout) for volume in (first, second)]
    between = [data[layout.size : layout.offset] for data, layout in volumes]
    if between[0] != between[1]:
        changes.append(_change("(bytes before the voxels)", *(f"{len(part)} bytes" for part in between)))
    tails = [data[layout.end :] for data, layout in volumes]
    if tails[0] != tails[1]:
        changes.append(_change("(bytes after the voxels)", *(f"{len(tail)} bytes" for tail in tails)))
    return changes


def _gzip_changes(first: GzipHead | None, second: GzipHead | None) -> list[HeaderChange]:
    if first is None or second is None:
        names = ["not compressed" if head is None else "gzip" for head in (first, second)]
        return [] if first is second else [_change("(compression)", *names)]
    before, after = first.facts(), second.facts()
    return [_change(f"(gzip {name})", before[name], after[name]) for name in before if before[name] != after[name]]


def _field_changes(first: Layout, second: Layout) -> list[HeaderChange]:
    pairs = [(name, first.fields[name], second.fields[name]) for name in first.fields.dtype.names or ()]
    return [
        _change(name, str(before), str(after)) for name, before, after in pairs if before.tobytes() != after.tobytes()
    ]


def _change(name: str, original: str, other: str) -> HeaderChange:
    return HeaderChange(name=name, original=original[:64], other=other[:64], allowed=False)
