# SPDX-License-Identifier: Apache-2.0
"""What of a file is not its voxels, and the file again of that and voxels."""

from __future__ import annotations

from collections.abc import Iterator

from monai_salm.errors import RefusedError
from monai_salm.io.base import Casing, SourceImage, StoredArray
from monai_salm.io.deflating import deflated, settings_of
from monai_salm.io.itk.files import Content, find_layout, read_content
from monai_salm.io.origins import Buffer


def casing(source: SourceImage) -> Casing | None:
    """Give what of the file with the voxels is not these; None where it is compressed in a way that cannot be repeated.

    Args:
        source: of ``read_source``.
    """
    content = _content(source)
    raw, coding = content.raw, {}
    if content.layout.packing:
        settings = settings_of(raw[content.start : content.end], content.voxels)
        if settings is None:
            return None
        coding = {"deflate": settings}
    return Casing(before=bytes(raw[: content.start]), after=bytes(raw[content.end :]), coding=coding)


def cased(casing: Casing, template: SourceImage, stored: StoredArray) -> Iterator[Buffer]:
    """Give the bytes of the file that :func:`casing` was of, with voxels.

    Args:
        casing: of it.
        template: the file that was written for it, as ``read_source`` gives it, whose header says how voxels lie.
        stored: its voxels.

    Raises:
        RefusedError: the voxels are not of the template's shape and type.
    """
    if (stored.shape, stored.dtype) != (template.stored.shape, template.stored.dtype):
        raise RefusedError(f"the voxels are {stored.dtype} {stored.shape}, the file holds {template.stored.shape}")
    voxels = _content(template).layout.voxels(stored)
    settings = casing.coding.get("deflate")
    yield casing.before
    yield from (voxels,) if settings is None else deflated((voxels,), settings)
    yield casing.after


def _content(source: SourceImage) -> Content:
    return source.kept(Content) or read_content(find_layout(source.header.path))
