# SPDX-License-Identifier: Apache-2.0
"""NIfTI-1 and NIfTI-2 files: only the bytes of the voxels are replaced, no library writes anything.

Libraries that load and save rescale the values anew, move the affine between sform and qform or drop extensions. Here
header, extensions and what follows the voxels are the source's bytes; a compressed file keeps its gzip header too.
"""

from __future__ import annotations

import gzip
import os
import shutil
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel import nifti1, nifti2
from numpy.typing import NDArray

from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation, Document, HeaderChange, ImageHeader, SourceImage, StoredArray, check_stored

_GZIP = b"\x1f\x8b\x08"
_GZIP_HEAD = 10
_HAS_CRC, _HAS_EXTRA, _HAS_NAME, _HAS_COMMENT = 2, 4, 8, 16
_MAX_RATIO = 1032
"""No deflate stream expands more than this (zlib's technical notes): what a header claims beyond it is a lie."""
_MAX_LABEL = 65535
_MAX_TAIL = 1 << 24
_MAX_HEAD = 1 << 24

_HEADERS: dict[int, np.dtype[Any]] = {348: nifti1.header_dtype, 540: nifti2.header_dtype}
_MAGIC = {b"n+1\0": 348, b"ni1\0": 348, b"n+2\0": 540, b"ni2\0": 540}
_PAIRS = (b"ni1\0", b"ni2\0")
_DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_LABEL_INTENTS = {1002: "labels", 1003: "names of structures"}
_MILLIMETERS = {1: 1000.0, 2: 1.0, 3: 0.001}


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """What a header says of where the voxels are and what they mean."""

    fields: NDArray[Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float

    @property
    def voxel_bytes(self) -> int:
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size


def sniff(path: Path) -> bool:
    """Say from the first bytes, decompressed if need be, whether a file is NIfTI or the header of a pair."""
    with path.open("rb") as handle:
        head = handle.read(4096)
    if head.startswith(_GZIP):
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 540)
        except zlib.error:
            return False
    return _header_size(head) is not None


def identify(path: Path) -> ImageHeader | Document:
    """Read what planning needs of a picture, without its voxels.

    Raises:
        RefusedError: the file is no picture that can be protected faithfully.
    """
    with path.open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        head = handle.read(len(_GZIP))
        handle.seek(0)
        compressed = head == _GZIP
        if compressed:
            with gzip.GzipFile(fileobj=handle) as stream:
                head = _read_stream(stream, 540)
        else:
            head = handle.read(540)
    layout = _layout(head)
    _check_size(layout, size, compressed)
    return _image_header(path, layout)


def read_source(path: Path) -> SourceImage:
    """Read the voxels as they are stored, in the file's axis order, trailing axes of one sample left out.

    Raises:
        RefusedError: the file is no picture that can be protected faithfully.
    """
    return _source(path, *_read(path)[1:])


def read_label_map(path: Path) -> StoredArray:
    """Read a label map: whole numbers of any storable type, given as int64 in the file's axis order.

    Raises:
        RefusedError: the file cannot be read, or holds values that are no labels.
    """
    source = _source(path, *_read(path, labels=True)[1:])
    labels = source.real
    whole = np.rint(labels)
    if not np.array_equal(labels, whole) or labels.min() < 0 or labels.max() > _MAX_LABEL:
        raise RefusedError(f"label map {path.name} has values that are no labels: whole numbers from 0 to {_MAX_LABEL} are supported")
    return whole.astype(np.int64)


def write_like(source: SourceImage, stored: StoredArray, target: Path, derivation: Derivation) -> None:
    """Write the source's bytes with ``stored`` in place of the voxels.

    Args:
        source: what :func:`read_source` gave; its file is read again.
        stored: new values, of the source's shape and dtype.
        target: path to write; compressed if the source is, whatever its name.
        derivation: ignored: a NIfTI header has no room for it.

    Raises:
        RefusedError: the values do not fit the file, or the file is no longer what it was.
    """
    del derivation
    check_stored(source, stored, target)
    raw, data, layout = _read(source.header.path)
    again = _source(source.header.path, data, layout)
    if again.stored.tobytes() != source.stored.tobytes():
        raise RefusedError("the file changed since it was read; read it again")
    voxels = stored.astype(layout.dtype).tobytes(order="F")
    end = layout.offset + layout.voxel_bytes
    if voxels == data[layout.offset : end]:
        target.write_bytes(raw)
        return
    written = b"".join([data[: layout.offset], voxels, data[end:]])
    target.write_bytes(_compressed(written, raw) if raw.startswith(_GZIP) else written)


def read_back(source: SourceImage, written: Path) -> SourceImage:
    """Read what :func:`write_like` wrote."""
    del source
    return read_source(written)


def write_document(path: Path, target: Path, derivation: Derivation) -> None:
    """Copy a document byte for byte: NIfTI refers to nothing."""
    del derivation
    shutil.copyfile(path, target)


def compare_headers(original: Path, other: Path) -> list[HeaderChange]:
    """List every difference outside the voxels; none is allowed, for NIfTI has no identity to change.

    Raises:
        RefusedError: one of the files is no picture that can be read.
    """
    first_raw, first, first_layout = _read(original)
    second_raw, second, second_layout = _read(other)
    changes = []
    if first_raw.startswith(_GZIP) != second_raw.startswith(_GZIP):
        names = ["gzip" if raw.startswith(_GZIP) else "not compressed" for raw in (first_raw, second_raw)]
        changes.append(_change("(compression)", *names))
    elif first_raw.startswith(_GZIP):
        for name, before, after in zip(("mtime", "name"), _gzip_facts(first_raw), _gzip_facts(second_raw), strict=True):
            if before != after:
                changes.append(_change(f"(gzip {name})", str(before), str(after)))
    if first_layout.fields.dtype != second_layout.fields.dtype:
        sizes = [layout.fields.dtype.itemsize for layout in (first_layout, second_layout)]
        name = "(byte order)" if sizes[0] == sizes[1] else "sizeof_hdr"
        changes.append(_change(name, *(layout.fields.dtype["dim"].str for layout in (first_layout, second_layout))))
        return changes
    for name in first_layout.fields.dtype.names or ():
        before, after = first_layout.fields[name], second_layout.fields[name]
        if before.tobytes() != after.tobytes():
            changes.append(_change(name, str(before), str(after)))
    size = first_layout.fields.dtype.itemsize
    between = [data[size : layout.offset] for data, layout in ((first, first_layout), (second, second_layout))]
    if between[0] != between[1]:
        changes.append(_change("(extensions)", *(f"{len(part)} bytes" for part in between)))
    tails = [data[layout.offset + layout.voxel_bytes :] for data, layout in ((first, first_layout), (second, second_layout))]
    if tails[0] != tails[1]:
        changes.append(_change("(bytes after the voxels)", *(f"{len(tail)} bytes" for tail in tails)))
    return changes


def _change(name: str, original: str, other: str) -> HeaderChange:
    return HeaderChange(name=name, original=original[:64], other=other[:64], allowed=False)


def _read(path: Path, *, labels: bool = False) -> tuple[bytes, bytes, _Layout]:
    """Read the file's bytes, the same decompressed, and where the voxels are in those."""
    raw = path.read_bytes()
    if not raw.startswith(_GZIP):
        layout = _layout(raw[:540], labels=labels)
        _check_size(layout, len(raw), compressed=False)
        return raw, raw, layout
    with gzip.GzipFile(fileobj=BytesIO(raw)) as stream:
        head = _read_stream(stream, 540)
        layout = _layout(head, labels=labels)
        _check_size(layout, len(raw), compressed=True)
        # Only as much as the header claims, and some tail: a small file must not fill the memory.
        rest = layout.offset + layout.voxel_bytes + _MAX_TAIL + 1 - len(head)
        data = head + _read_stream(stream, rest)
    if len(data) > layout.offset + layout.voxel_bytes + _MAX_TAIL:
        raise RefusedError(f"more than {_MAX_TAIL >> 20} MiB follow the voxels; the header does not describe the file")
    _check_size(layout, len(data), compressed=False)
    return raw, data, layout


def _read_stream(stream: gzip.GzipFile, size: int) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, OSError, zlib.error) as error:
        raise RefusedError(f"the gzip stream is damaged or truncated: {error}") from error


def _header_size(head: bytes) -> int | None:
    """Give 348 or 540 if the bytes start a NIfTI header (nifti1.h, nifti2.h), in either byte order; else None."""
    for size in _HEADERS:
        start = 344 if size == 348 else 4
        magic = head[start : start + 4]
        if _MAGIC.get(magic) == size and size in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")):
            return size
    return None


def _layout(head: bytes, *, labels: bool = False) -> _Layout:
    """Read a header, or refuse what is no picture.

    Raises:
        RefusedError: with the value found and what is supported.
    """
    size = _header_size(head)
    if size is None or len(head) < size:
        raise RefusedError("not NIfTI: sizeof_hdr and magic are not those of NIfTI-1 or NIfTI-2, or the header is cut")
    order: Literal["<", ">"] = "<" if int.from_bytes(head[:4], "little") == size else ">"
    fields = np.frombuffer(head[:size], dtype=_HEADERS[size].newbyteorder(order))[0]
    if bytes(fields["magic"].tobytes()[:4]).ljust(4, b"\0") in _PAIRS:
        raise RefusedError("header and voxels are two files (.hdr, .img); convert to one .nii or .nii.gz first")
    code, intent = int(fields["datatype"]), int(fields["intent_code"])
    if intent in _LABEL_INTENTS and not labels:
        raise RefusedError(f"not a picture (intent_code {intent}: {_LABEL_INTENTS[intent]})")
    if code not in _DTYPES:
        name = nifti1.data_type_codes.label.get(code, "unknown")
        raise RefusedError(f"datatype is {code} ({name}); integers of 8 to 64 bits and floats of 32 or 64 are supported")
    dtype = np.dtype(order + _DTYPES[code])
    if int(fields["bitpix"]) != 8 * dtype.itemsize:
        raise RefusedError(f"bitpix is {fields['bitpix']}, datatype {code} has {8 * dtype.itemsize}; repair the header first")
    slope, intercept = _scaling(fields)
    return _Layout(
        fields=fields,
        shape=_shape(fields),
        dtype=dtype,
        offset=_offset(fields, size),
        slope=slope,
        intercept=intercept,
    )


def _shape(fields: NDArray[Any]) -> tuple[int, ...]:
    dim = [int(length) for length in fields["dim"]]
    shape = tuple(dim[1 : dim[0] + 1]) if 1 <= dim[0] <= 7 else ()
    if not shape or min(shape) < 1:
        raise RefusedError(f"dim is {dim}; the number of axes must be 1 to 7 and their lengths at least 1")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise RefusedError(f"the image has {len(shape)} axes {shape}; 2 and 3 are supported yet: split it first")
    return shape


def _offset(fields: NDArray[Any], size: int) -> int:
    offset = float(fields["vox_offset"])
    if not np.isfinite(offset) or offset != int(offset) or not size + 4 <= offset <= _MAX_HEAD:
        raise RefusedError(f"vox_offset is {offset:g}; it must be a whole number from {size + 4} to {_MAX_HEAD}")
    return int(offset)


def _scaling(fields: NDArray[Any]) -> tuple[float, float]:
    """Give scl_slope and scl_inter; a slope of 0 means no scaling (nifti1.h), and so does NaN in practice."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite([slope, intercept]).all():
        raise RefusedError(f"scl_slope is {slope:g} and scl_inter {intercept:g}; both must be finite")
    return slope, intercept


def _check_size(layout: _Layout, size: int, compressed: bool) -> None:
    """Hold the claim of the header against the bytes that are there, before any memory is taken."""
    needed = layout.offset + layout.voxel_bytes
    if needed > (size * _MAX_RATIO if compressed else size):
        at_most = f"at most {size * _MAX_RATIO} can be compressed in" if compressed else "there are only"
        have = f"{at_most} {size} bytes"
        raise RefusedError(f"truncated: the header needs {needed} bytes, {have}; get a complete copy of the file")


def _source(path: Path, data: bytes, layout: _Layout) -> SourceImage:
    count = layout.voxel_bytes // layout.dtype.itemsize
    flat = np.frombuffer(data, dtype=layout.dtype, count=count, offset=layout.offset)
    stored = flat.reshape(layout.shape, order="F").astype(layout.dtype.newbyteorder("="), order="K")
    stored.setflags(write=False)
    info = np.finfo(stored.dtype) if stored.dtype.kind == "f" else np.iinfo(stored.dtype)
    return SourceImage(
        header=_image_header(path, layout),
        stored=stored,
        slope=layout.slope,
        intercept=layout.intercept,
        range_stored=(float(info.min), float(info.max)),
    )


def _image_header(path: Path, layout: _Layout) -> ImageHeader:
    scale = _MILLIMETERS.get(int(layout.fields["xyzt_units"]) & 7, 1.0)
    pixdim = [abs(float(step)) * scale for step in layout.fields["pixdim"][1 : len(layout.shape) + 1]]
    return ImageHeader(
        path=path,
        format="nifti",
        shape=layout.shape,
        dtype=layout.dtype.newbyteorder("="),
        spacing=tuple(step if np.isfinite(step) and step > 0 else 1.0 for step in pixdim),
    )


def _gzip_head(raw: bytes) -> tuple[bytes, bytes]:
    """Give the header of the first gzip member (RFC 1952 2.3) and the file name in it."""
    flags, end = raw[3], _GZIP_HEAD
    if flags & _HAS_EXTRA:
        end += 2 + int.from_bytes(raw[end : end + 2], "little")
    name = b""
    for flag in (_HAS_NAME, _HAS_COMMENT):
        if flags & flag:
            last = raw.index(b"\0", end) + 1
            name = raw[end : last - 1] if flag == _HAS_NAME else name
            end = last
    return raw[:end], name


def _gzip_facts(raw: bytes) -> tuple[int, str]:
    """Give time and name in a gzip header."""
    return int.from_bytes(raw[4:8], "little"), _gzip_head(raw)[1].decode("latin-1")


def _compressed(data: bytes, like: bytes) -> bytes:
    """Compress into one gzip member with the header of another, so that time and name stay; no clock is read."""
    head = bytearray(_gzip_head(like)[0])
    head[3] &= ~_HAS_CRC  # The header's own checksum is optional and not copied.
    deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflater.compress(data) + deflater.flush()
    return bytes(head) + body + zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
