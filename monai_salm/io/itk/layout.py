# SPDX-License-Identifier: Apache-2.0
"""Where the voxels of an NRRD or MetaImage file are and what they mean, as its text header says."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from monai_salm.errors import RefusedError
from monai_salm.io.base import ImageHeader, StoredArray
from monai_salm.io.origins import FIRST_BYTES

MAX_HEADER = 16 << 20
_MAX_RATIO = 1032
"""No deflate stream expands more than this (zlib's technical notes): what a header claims beyond it is a lie."""
_MAX_CLAIM = 16 << 30
_MOST_AXES = 16


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One image of text header and voxels, in one file or in two.

    Args:
        kind: name of the format, for messages.
        header_path: file that the text header starts.
        data_path: file with the voxels; the same unless they are detached.
        text: the header, up to the first byte of the voxels if they follow it.
        fields: (name, line) of every line of the header that says something.
        sizes: lengths of the file's axes, the fastest first.
        order: axes of the stored values as indices into ``sizes``: first those that noise lies on.
        spatial: how many of those come first.
        dtype: of one value, in the file's byte order.
        offset: place of the voxels, or of the stream that packs them, in the file; -1 if they are its last bytes.
        packing: how they are compressed.
        packed_size: length of the stream where the header gives it, else None.
        packed_span: where in ``text`` its digits are.
        spacing: millimeters along each spatial axis; NaN where unknown.
        modality: as in :class:`~monai_salm.io.base.ImageHeader`.
        segments: whether the header describes segments, so that the values are labels.
        notes: as in :class:`~monai_salm.io.base.ImageHeader`.
    """

    kind: Literal["NRRD", "MetaImage"]
    header_path: Path
    data_path: Path
    text: bytes
    fields: tuple[tuple[str, str], ...]
    sizes: tuple[int, ...]
    order: tuple[int, ...]
    spatial: int
    dtype: np.dtype[Any]
    offset: int
    packing: Literal["", "gzip", "zlib"] = ""
    packed_size: int | None = None
    packed_span: tuple[int, int] = (0, 0)
    spacing: tuple[float, ...]
    modality: str = ""
    segments: bool = False
    notes: tuple[str, ...] = ()

    @property
    def detached(self) -> bool:
        """Whether the voxels are in a file of their own."""
        return self.header_path != self.data_path

    @property
    def voxel_bytes(self) -> int:
        """Number of bytes of the voxels, decompressed."""
        return math.prod(self.sizes) * self.dtype.itemsize

    @property
    def plane(self) -> int:
        """Number of bytes of one plane of an image: its first two axes of space."""
        return math.prod(self.sizes[axis] for axis in self.order[:2]) * self.dtype.itemsize

    def image_header(self) -> ImageHeader:
        """Give what planning needs."""
        lengths = tuple(self.sizes[axis] for axis in self.order)
        return ImageHeader(
            path=self.data_path,
            format="itk",
            shape=lengths[: self.spatial],
            trailing=lengths[self.spatial :],
            color=lengths[self.spatial :] == (3,) and self.dtype.itemsize == 1,
            dtype=self.dtype.newbyteorder("="),
            modality=self.modality,
            spacing=tuple(step if math.isfinite(step) and step > 0 else 1.0 for step in self.spacing),
            spacing_known=all(math.isfinite(step) and step > 0 for step in self.spacing),
            notes=self.notes,
        )

    def voxels(self, stored: StoredArray) -> bytes:
        """Give the bytes of values as the file has them, decompressed."""
        return stored.transpose(np.argsort(self.order)).astype(self.dtype, copy=False).tobytes(order="F")

    def check_size(self, size: int) -> None:
        """Hold the claim of the header against the bytes that are there, before any memory is taken.

        Raises:
            RefusedError: the header claims more than the file can hold, or than is supported.
        """
        needed = self.voxel_bytes
        room = size - max(self.offset, 0)
        if needed > _MAX_CLAIM:
            raise RefusedError(
                f"the header claims {needed} bytes of voxels, at most {_MAX_CLAIM >> 30} GiB are supported; split "
                "the image"
            )
        if needed > (room * _MAX_RATIO if self.packing else room) or room < (self.packed_size or 0):
            raise RefusedError(
                f"truncated: the header needs {needed} bytes of voxels, {max(room, 0)} bytes are there; get a "
                "complete copy of the file"
            )


def read_text(path: Path, size: int = MAX_HEADER, *, until: re.Pattern[bytes] | None = None) -> bytes:
    """Read the first bytes of a file.

    Args:
        path: the file.
        size: how many at most.
        until: what ends a header; not much more is read than up to the byte behind it.
    """
    with path.open("rb", buffering=0) as handle:
        text = handle.read(size if until is None else min(size, FIRST_BYTES))
        while until is not None and len(text) < size:
            found = until.search(text)
            if found is not None and found.end() < len(text):
                break
            more = handle.read(min(size, 4 * len(text)) - len(text))
            if not more:
                break
            text += more
    return text


def whole_numbers(name: str, value: str) -> tuple[int, ...]:
    """Read numbers of at least 1, separated by spaces.

    Raises:
        RefusedError: anything else.
    """
    words = value.split()
    if (
        not 1 <= len(words) <= _MOST_AXES
        or not all(re.fullmatch(r"[0-9]{1,18}", word) for word in words)
        or "0" in {word.strip("0") or "0" for word in words}
    ):
        raise RefusedError(
            f"{name} is {value[:64]!r}; whole numbers from 1 are supported, one for each of at most {_MOST_AXES} axes"
        )
    return tuple(map(int, words))


def real_numbers(name: str, value: str) -> tuple[float, ...]:
    """Read numbers, separated by spaces or commas.

    Raises:
        RefusedError: anything else.
    """
    try:
        return tuple(map(float, value.replace(",", " ").split()))
    except ValueError as error:
        raise RefusedError(f"{name} is {value[:64]!r}, which is no list of numbers; repair the header first") from error


def beside(header: Path, name: str) -> Path:
    """Give the data file that a header names, which must lie in the header's folder.

    Raises:
        RefusedError: a name that leads elsewhere, or no such file.
    """
    plain = name.removeprefix("./")
    if not plain or plain in (".", "..", header.name) or any(letter in plain for letter in "/\\:\0"):
        raise RefusedError(
            f"the header names the data file {name[:64]!r}; only a plain file name in the header's own folder is "
            "supported"
        )
    path = header.with_name(plain)
    if not path.is_file():
        raise RefusedError(
            f"the header names the data file {name[:64]!r}, which is not beside it; add the file, or convert to "
            "one .nrrd or .mha"
        )
    return path


def single(kind: str, fields: list[tuple[str, str]]) -> dict[str, str]:
    """Make a dictionary of fields.

    Raises:
        RefusedError: a field is there twice, so that readers differ in which they believe.
    """
    found: dict[str, str] = {}
    for name, value in fields:
        if name in found:
            raise RefusedError(f"the {kind} header has {name[:64]!r} twice; remove one")
        found[name] = value
    return found


def check_vectors(dtype: np.dtype[Any], spatial: int, trailing: tuple[int, ...]) -> None:
    """Refuse floats that come in vectors as long as space has axes.

    Raises:
        RefusedError: such vectors, which are displacements: noise in them would move anatomy.
    """
    if dtype.kind == "f" and trailing == (spatial,):
        raise RefusedError(
            f"not an image: float vectors of {spatial} components on {spatial} axes are taken for a displacement field"
        )


def arrange(spatial: list[int], shared: list[int]) -> tuple[tuple[int, ...], int]:
    """Put axes in the order of the stored values: at most three that noise lies on, then those that share it.

    Raises:
        RefusedError: fewer than two axes for noise to lie on.
    """
    if len(spatial) < 2:
        raise RefusedError(f"the image has {len(spatial)} spatial axes; 2 or more are supported")
    return tuple(chain(spatial[:3], sorted(shared + spatial[3:]))), min(3, len(spatial))
