# SPDX-License-Identifier: Apache-2.0
"""What a NIfTI header says of where the voxels are and what they mean (nifti1.h, nifti2.h)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.io.base import StoredArray
from monai_salm.io.nifti.files import Buffer
from monai_salm.io.origins import same_bytes

HEAD_BYTES = 540
"""Bytes of the longer of the two headers."""
_MAX_OFFSET = 1 << 24
_SLAB = 1 << 22
_MAGIC = {b"n+1\0": 348, b"ni1\0": 348, b"n+2\0": 540, b"ni2\0": 540}
_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    128: "u1",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_RGB24 = 128
_LABEL_INTENTS = (1002, 1003)
_NO_PICTURES = {1008: "points", 1009: "triangles", **dict.fromkeys(range(3000, 3100), "a CIFTI matrix")}
_STATISTICS = range(2, 25)
_SAYS_LITTLE = (1001, 1007)
"""An estimate may be a quantitative image or a coefficient of a model, a vector a color, channels of an image, or a
displacement.
"""
_COMPUTED = {
    1004: "matrices", 1005: "symmetric matrices, such as diffusion tensors", 1006: "a displacement field",
    1010: "quaternions",
    2006: "a displacement field of FNIRT", 2007: "spline coefficients", 2008: "DCT coefficients",
    2009: "spline coefficients",
    2016: "spline coefficients of TOPUP", 2017: "spline coefficients of TOPUP", 2018: "a field of TOPUP",
}  # fmt: skip
"""Intents of nifti1.h, and of FSL, that say that the values were computed and are no image of anything."""
_MILLIMETERS = {1: 1000.0, 2: 1.0, 3: 0.001}


@cache
def _header_dtypes() -> dict[int, np.dtype[Any]]:
    """Give the fields of the headers by their bytes."""
    from nibabel import nifti1, nifti2  # slow to load, and not needed of other formats

    return {348: nifti1.header_dtype, 540: nifti2.header_dtype}


@dataclass(frozen=True, kw_only=True)
class Magic:
    """What the first bytes of a header say.

    Args:
        size: 348 for NIfTI-1, 540 for NIfTI-2.
        order: byte order of header and voxels.
        of_pair: whether the voxels are in a file of their own.
    """

    size: int
    order: Literal["little", "big"]
    of_pair: bool


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the voxels are and what they mean.

    Args:
        fields: the header, one record.
        size: bytes in front of the voxels that are the header: 0 for the ``.img`` of a pair.
        shape: of the grid, 2 or 3 axes.
        trailing: further axes of more than one sample, color last.
        dtype: of the voxels, in the file's byte order.
        is_color: whether the last axis of ``trailing`` is red, green and blue.
        offset: of the first voxel in its file.
        slope: real units per stored unit.
        intercept: real value of stored 0.
    """

    fields: NDArray[Any]
    size: int
    shape: tuple[int, ...]
    trailing: tuple[int, ...]
    dtype: np.dtype[Any]
    is_color: bool
    offset: int
    slope: float
    intercept: float

    @cached_property
    def end(self) -> int:
        """Offset behind the last voxel."""
        return self.offset + prod(self.shape + self.trailing) * self.dtype.itemsize

    @property
    def plane(self) -> int:
        """Bytes of one plane, with its colors."""
        return prod(self.shape[:2]) * self.dtype.itemsize * (3 if self.is_color else 1)

    @property
    def is_labels(self) -> bool:
        """Whether the intent says that the values are labels or names of structures."""
        return int(self.fields["intent_code"]) in _LABEL_INTENTS

    @property
    def says_little(self) -> bool:
        """Whether the intent says that the values may be something else than an image, but not what."""
        return int(self.fields["intent_code"]) in _SAYS_LITTLE and self.dtype.kind == "f"

    @property
    def computed(self) -> str:
        """What the intent says that the values were computed as, with its code; empty for images, and for statistics
        that are no floats.
        """
        code = int(self.fields["intent_code"])
        name = "a statistical map" if code in _STATISTICS and self.dtype.kind == "f" else _COMPUTED.get(code, "")
        return name and f"{name}, intent code {code}"

    @property
    def spacing(self) -> tuple[float, ...]:
        """Millimeters between voxels along the axes of ``shape``; 1.0 where the header has no usable number."""
        scale = _MILLIMETERS.get(int(self.fields["xyzt_units"]) & 7, 1.0)
        steps = [abs(float(step)) * scale for step in self.fields["pixdim"][1 : len(self.shape) + 1]]
        return tuple(step if np.isfinite(step) and step > 0 else 1.0 for step in steps)

    @property
    def spacing_known(self) -> bool:
        """Whether ``spacing`` is what the header says: each number of it is usable, and has a unit. Numbers without a
        unit count as millimeters, as every reader takes them, unless all are the 1 of a header that was not filled in.
        """
        steps = [abs(float(step)) for step in self.fields["pixdim"][1 : len(self.shape) + 1]]
        named = (int(self.fields["xyzt_units"]) & 7) in _MILLIMETERS
        return all(np.isfinite(step) and step > 0 for step in steps) and (named or any(step != 1 for step in steps))

    def values(self, data: Buffer) -> StoredArray:
        """View the voxels of a file's bytes, read-only, of ``shape + trailing`` in native byte order; a copy only where
        the bytes do not allow a view.
        """
        lengths = self.shape + self.trailing
        flat = np.frombuffer(data, dtype=self.dtype, count=prod(lengths), offset=self.offset)
        # Color comes first in the file.
        grid = (
            np.moveaxis(flat.reshape((3, *lengths[:-1]), order="F"), 0, -1)
            if self.is_color
            else flat.reshape(lengths, order="F")
        )
        stored = np.require(grid, dtype=self.dtype.newbyteorder("="), requirements="A")
        stored.setflags(write=False)
        return stored

    def voxels(self, stored: StoredArray) -> Iterator[bytes]:
        """Give the bytes of values as the file has them, slab by slab along the file's last axis."""
        in_order = np.moveaxis(stored, -1, 0) if self.is_color else stored
        step = max(1, in_order.shape[-1] * _SLAB // max(1, in_order.nbytes))
        for start in range(0, in_order.shape[-1], step):
            yield in_order[..., start : start + step].astype(self.dtype, copy=False).tobytes(order="F")

    def holds(self, stored: StoredArray, in_file: memoryview) -> bool:
        """Say whether a file's bytes of the voxels are those of values."""
        place = 0
        for slab in self.voxels(stored):
            if not same_bytes(slab, in_file[place : place + len(slab)]):
                return False
            place += len(slab)
        return place == len(in_file)


def read_magic(head: bytes) -> Magic | None:
    """Say which header the bytes start with, in either byte order; None if they start no whole one."""
    for size in sorted(set(_MAGIC.values())):
        start = 344 if size == 348 else 4
        magic = head[start : start + 4]
        if (
            len(head) >= size
            and _MAGIC.get(magic) == size
            and size in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
        ):
            order: Literal["little", "big"] = "little" if int.from_bytes(head[:4], "little") == size else "big"
            return Magic(size=size, order=order, of_pair=magic[:2] == b"ni")
    return None


def end_of_extensions(data: Buffer, magic: Magic) -> int:
    """Give where the extensions behind a header end: four bytes announce them, each starts with its own length, a
    multiple of 16.
    """
    end = min(magic.size + 4, len(data))
    if end == magic.size or not data[magic.size]:
        return end
    while end + 8 <= len(data):
        length = int.from_bytes(data[end : end + 4], magic.order)
        if length < 16 or length % 16 or end + length > len(data):
            break
        end += length
    return end


def read_layout(head: bytes, magic: Magic) -> Layout:
    """Read a header, or refuse what is no image that can be protected.

    Raises:
        RefusedError: with the value found and what is supported.
    """
    fields = np.frombuffer(head[: magic.size], dtype=_header_dtypes()[magic.size].newbyteorder(magic.order))[0]
    code, intent = int(fields["datatype"]), int(fields["intent_code"])
    if intent in _NO_PICTURES:
        raise RefusedError(f"intent_code is {intent}: {_NO_PICTURES[intent]}, not a grid of voxels; leave the file out")
    if code not in _DTYPES:
        from nibabel import nifti1

        name = nifti1.data_type_codes.label.get(code, "unknown")
        raise RefusedError(
            f"datatype is {code} ({name}); integers of 8 to 64 bits, floats of 32 or 64 and RGB24 are supported: "
            "convert the file first"
        )
    dtype, is_color = np.dtype(_DTYPES[code]).newbyteorder(magic.order), code == _RGB24
    bits = 8 * dtype.itemsize * (3 if is_color else 1)
    if int(fields["bitpix"]) != bits:
        raise RefusedError(f"bitpix is {fields['bitpix']}, datatype {code} has {bits}; repair the header first")
    lengths = _lengths(fields)
    size = 0 if magic.of_pair else magic.size
    slope, intercept = (1.0, 0.0) if is_color else _scaling(fields)
    return Layout(
        fields=fields,
        size=size,
        shape=lengths[:3],
        trailing=tuple(length for length in lengths[3:] if length > 1) + (3,) * is_color,
        dtype=dtype,
        is_color=is_color,
        offset=_offset(fields, 0 if magic.of_pair else magic.size + 4),
        slope=slope,
        intercept=intercept,
    )


def _lengths(fields: NDArray[Any]) -> tuple[int, ...]:
    dim = [int(length) for length in fields["dim"]]
    lengths = tuple(dim[1 : dim[0] + 1]) if 2 <= dim[0] <= 7 else ()
    if not lengths or min(lengths) < 1:
        raise RefusedError(f"dim is {dim}; the number of axes must be 2 to 7 and their lengths at least 1")
    return lengths


def _offset(fields: NDArray[Any], least: int) -> int:
    offset = float(fields["vox_offset"])
    if not np.isfinite(offset) or offset != int(offset) or not least <= offset <= _MAX_OFFSET:
        raise RefusedError(
            f"vox_offset is {offset:g}; it must be a whole number from {least} to {_MAX_OFFSET}; repair the "
            "header first"
        )
    return int(offset)


def _scaling(fields: NDArray[Any]) -> tuple[float, float]:
    """Give scl_slope and scl_inter; a slope of 0 means no scaling (nifti1.h), and so does NaN in practice."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite([slope, intercept]).all():
        raise RefusedError(
            f"scl_slope is {slope:g} and scl_inter {intercept:g}; both must be finite: repair the header first"
        )
    return slope, intercept
