# SPDX-License-Identifier: Apache-2.0
"""Headers of MetaImage files (itk.org/Wiki/ITK/MetaIO/Documentation), attached (``.mha``) and detached (``.mhd``)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

import numpy as np

from monai_salm.errors import RefusedError
from monai_salm.io.itk.layout import (
    MAX_HEADER,
    Layout,
    arrange,
    beside,
    check_vectors,
    read_text,
    real_numbers,
    single,
    whole_numbers,
)

_START = re.compile(rb"(ObjectType|NDims|Comment)[ \t]*[=:]")
_LINE = re.compile(r"\s*([A-Za-z_][^=:]*?)\s*[=:]\s*(.*?)\s*")
DATA_FILE = re.compile(rb"^[ \t]*ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*?)[ \t]*(?:(\r?\n)|\Z)", re.MULTILINE)
"""The last line of a header."""

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
"""MET_LONG is left out: MetaIO takes it for 4 bytes, other writers for the 8 of their machine."""
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
_MODALITIES = {"MET_MOD_CT": "CT", "MET_MOD_MR": "MR", "MET_MOD_NM": "NM", "MET_MOD_US": "US"}
_MOST_AXES = 4


def may_be_metaimage(head: bytes) -> bool:
    """Say whether the first bytes of a file may start a MetaImage."""
    return _START.match(head) is not None


def is_metaimage(head: bytes) -> bool:
    """Say whether bytes, at least the whole header, start a MetaImage."""
    return may_be_metaimage(head) and DATA_FILE.search(head) is not None


def data_name(text: bytes) -> str:
    """Give the data file that a header names; empty if the voxels follow the header."""
    found = DATA_FILE.search(text)
    name = found[1].decode("latin-1") if found else ""
    return "" if name.upper() == "LOCAL" else name


def layout(path: Path) -> Layout:
    """Read a header.

    Raises:
        RefusedError: with the value found and what is supported.
    """
    text = read_text(path, until=DATA_FILE)
    end = DATA_FILE.search(text)
    if end is None:
        raise RefusedError(
            f"truncated: the MetaImage header has no ElementDataFile within {MAX_HEADER >> 20} MiB; get a "
            "complete copy of the file"
        )
    lines = [line for line in re.split(r"\r?\n", text[: end.end()].decode("latin-1")) if line.strip()]
    matches = [_LINE.fullmatch(line) for line in lines]
    for line, match in zip(lines, matches, strict=True):
        if match is None:
            raise RefusedError(
                f"the MetaImage header has the line {line[:64]!r}, which is not 'name = value'; repair the header first"
            )
    pairs = [(match[1], match[2]) for match in matches if match is not None]
    fields = single("MetaImage", pairs)
    if fields.get("ObjectType", "Image") != "Image":
        raise RefusedError(f"ObjectType is {fields['ObjectType'][:64]!r}; Image is supported")
    sizes, channels = _sizes(fields)
    dtype = _dtype(fields)
    axes = list(range(len(sizes)))
    order, spatial = arrange(axes[1:], [0]) if channels > 1 else arrange(axes, [])
    check_vectors(dtype, spatial, tuple(sizes[axis] for axis in order[spatial:]) if channels > 1 else ())
    data_path = _data_path(path, fields)
    packing, packed_size = _packing(fields, detached=data_path != path)
    digits = re.search(rb"^[ \t]*CompressedDataSize[ \t]*[=:][ \t]*([0-9]+)", text[: end.end()], re.MULTILINE)
    return Layout(
        kind="MetaImage",
        header_path=path,
        data_path=data_path,
        text=text[: end.end()],
        fields=tuple(zip((name for name, _ in pairs), lines, strict=True)),
        sizes=sizes,
        order=order,
        spatial=spatial,
        dtype=dtype,
        offset=_offset(fields, end.end() if data_path == path else 0, packing),
        packing=packing,
        packed_size=packed_size,
        packed_span=digits.span(1) if digits and packed_size is not None else (0, 0),
        spacing=_spacing(fields, len(sizes) - (channels > 1))[:spatial],
        modality=_MODALITIES.get(fields.get("Modality", ""), ""),
        notes=("its header gives the lowest and highest value, which are those before noise",)
        if {"ElementMin", "ElementMax"} & set(fields)
        else (),
    )


def _sizes(fields: dict[str, str]) -> tuple[tuple[int, ...], int]:
    """Give the lengths of the axes, that of the channels first if there are several, and the number of channels."""
    sizes = whole_numbers("DimSize", fields.get("DimSize", ""))
    if whole_numbers("NDims", fields.get("NDims", "")) != (len(sizes),):
        raise RefusedError(
            f"NDims is {fields['NDims'][:64]!r}, DimSize has {len(sizes)} numbers; repair the header first"
        )
    if len(sizes) > _MOST_AXES:
        raise RefusedError(
            f"NDims is {len(sizes)}; at most {_MOST_AXES} are supported, the fourth for time: split the image first"
        )
    channels = whole_numbers("ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))
    if len(channels) != 1:
        raise RefusedError(
            f"ElementNumberOfChannels is {fields['ElementNumberOfChannels'][:64]!r}; one number is needed: repair "
            "the header first"
        )
    return (channels + sizes if channels[0] > 1 else sizes), channels[0]


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    name = fields.get("ElementType", "")
    if name not in _TYPES:
        raise RefusedError(f"ElementType is {name[:64]!r}; {', '.join(_TYPES)} are supported: convert the file first")
    if not _boolean(fields, "BinaryData", default=True):
        raise RefusedError("BinaryData is False, the voxels are text; convert the file first")
    slope, intercept = (
        fields.get(f"ElementToIntensityFunction{word}", default) for word, default in (("Slope", "1"), ("Offset", "0"))
    )
    if real_numbers("ElementToIntensityFunction", f"{slope} {intercept}") != (1.0, 0.0):
        raise RefusedError(
            f"ElementToIntensityFunction is {slope[:32]}, {intercept[:32]}; readers differ in whether it applies: "
            "rescale the voxels first"
        )
    orders = {
        _boolean(fields, name, default=False)
        for name in ("ElementByteOrderMSB", "BinaryDataByteOrderMSB")
        if name in fields
    }
    if len(orders) > 1:
        raise RefusedError(
            "ElementByteOrderMSB and BinaryDataByteOrderMSB contradict each other; repair the header first"
        )
    return np.dtype((">" if True in orders else "<") + _TYPES[name])


def _boolean(fields: dict[str, str], name: str, *, default: bool) -> bool:
    value = fields.get(name, str(default))
    if value.lower() not in _BOOLEANS:
        raise RefusedError(f"{name} is {value[:64]!r}; True or False is needed: repair the header first")
    return _BOOLEANS[value.lower()]


def _data_path(path: Path, fields: dict[str, str]) -> Path:
    name = fields["ElementDataFile"]
    if name.upper() == "LOCAL":
        return path
    if name.upper().startswith("LIST") or "%" in name:
        raise RefusedError(f"the voxels are in several files ({name[:64]!r}); convert to one .mha first")
    return beside(path, name)


def _packing(fields: dict[str, str], *, detached: bool) -> tuple[Literal["", "zlib"], int | None]:
    """Say how the voxels are compressed, and into how many bytes if the header says so."""
    if not _boolean(fields, "CompressedData", default=False):
        return "", None
    if detached:
        raise RefusedError(
            "the voxels are compressed in a file of their own, whose size another file's header gives; convert to "
            "one .mha first"
        )
    size = whole_numbers("CompressedDataSize", fields.get("CompressedDataSize", ""))  # without it MetaIO reads noise
    if len(size) != 1:
        raise RefusedError(
            f"CompressedDataSize is {fields['CompressedDataSize'][:64]!r}; one number is needed: repair the "
            "header first"
        )
    return "zlib", size[0]


def _offset(fields: dict[str, str], start: int, packing: str) -> int:
    value = fields.get("HeaderSize", "0")
    if value == "-1" and not packing:
        return -1
    if value == "0":
        return start
    if start or packing or not re.fullmatch(r"[0-9]{1,18}", value):
        raise RefusedError(
            f"HeaderSize is {value[:64]!r}; 0 is supported, -1 for voxels that are not compressed, and more for a "
            "data file of its own"
        )
    return int(value)


def _spacing(fields: dict[str, str], count: int) -> tuple[float, ...]:
    value = fields.get("ElementSpacing", fields.get("ElementSize", ""))
    spacing = real_numbers("ElementSpacing", value) or (math.nan,) * count
    if len(spacing) != count:
        raise RefusedError(f"ElementSpacing has {len(spacing)} numbers for {count} axes; repair the header first")
    return spacing
