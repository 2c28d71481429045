# SPDX-License-Identifier: Apache-2.0
"""What of a file is not its voxels, and the file again of that and voxels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from monai_salm.errors import RefusedError
from monai_salm.io.base import Casing, SourceImage, StoredArray
from monai_salm.io.deflating import PROBE, deflated, settings_of
from monai_salm.io.nifti.volumes import Volume, read_volume
from monai_salm.io.origins import Buffer, first_bytes

_MOST_HEAD = 1 << 17


def casing(source: SourceImage) -> Casing | None:
    """Give what of an image's file is not its voxels; None where it is compressed in a way that cannot be repeated.

    Args:
        source: of ``read_source``.
    """
    volume = _volume(source)
    layout, data = volume.layout, memoryview(volume.content.data)
    coding = {}
    if volume.content.head is not None:
        settings = settings_of(first_bytes(source.header.path, PROBE + _MOST_HEAD), data[:PROBE])
        if settings is None:
            return None
        coding = {"deflate": settings}
    return Casing(before=bytes(data[: layout.offset]), after=bytes(data[layout.end :]), coding=coding)


def cased(casing: Casing, template: SourceImage, stored: StoredArray) -> Iterator[Buffer]:
    """Give the bytes of the file that :func:`casing` was of, with voxels.

    Args:
        casing: of it.
        template: the file that was written for it, as ``read_source`` gives it, whose header says how voxels lie.
        stored: its voxels.

    Raises:
        RefusedError: the voxels are not of the template's shape and type.
    """
    layout = _volume(template).layout
    if (stored.shape, stored.dtype) != (template.stored.shape, template.stored.dtype):
        raise RefusedError(f"the voxels are {stored.dtype} {stored.shape}, the file holds {template.stored.shape}")
    parts: Iterator[Buffer] = chain((casing.before,), layout.voxels(stored), (casing.after,))
    settings = casing.coding.get("deflate")
    return parts if settings is None else deflated(parts, settings)


def _volume(source: SourceImage) -> Volume:
    return source.kept(Volume) or read_volume(source.header.path)
