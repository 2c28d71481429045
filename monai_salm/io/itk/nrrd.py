# SPDX-License-Identifier: Apache-2.0
"""Headers of NRRD files (teem.sourceforge.net/nrrd/format.html), attached (``.nrrd``) and detached (``.nhdr``)."""

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

_MAGIC = re.compile(rb"NRRD000[1-6]\r?\n")
_END = re.compile(rb"\r?\n\r?\n")
_DATA_FILE = re.compile(rb"^data ?file:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)

_TYPES = {
    name: code
    for code, names in {
        "i1": "signed char,int8,int8_t",
        "u1": "uchar,unsigned char,uint8,uint8_t",
        "i2": "short,short int,signed short,signed short int,int16,int16_t",
        "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
        "i4": "int,signed int,int32,int32_t",
        "u4": "uint,unsigned int,uint32,uint32_t",
        "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
        "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(",")
}
_ENCODINGS: dict[str, Literal["", "gzip"]] = {"raw": "", "gzip": "gzip", "gz": "gzip"}
_SPATIAL = ("domain", "space")
_UNKNOWN = ("???", "none")
_SHARING = ("list", "vector", "time", "rgb-color", "3-color")
"""Kinds of axes whose samples share one noise. Others (alpha, hue, complex parts, tensors, normals) are
no brightness.
"""
_MILLIMETERS = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "micron": 0.001}
_EXTREMES = ("min", "max", "oldmin", "oldmax")


def is_nrrd(head: bytes) -> bool:
    """Say whether bytes start an NRRD header."""
    return _MAGIC.match(head) is not None


def data_name(text: bytes) -> str:
    """Give the data file that a header names; empty if the voxels follow the header."""
    end = _END.search(text)
    found = _DATA_FILE.search(text, 0, end.start() if end else len(text))
    return found[1].decode("latin-1").strip() if found else ""


def layout(path: Path) -> Layout:
    """Read a header.

    Raises:
        RefusedError: with the value found and what is supported.
    """
    text = read_text(path, until=_END)
    end = _END.search(text)
    lines = re.split(r"\r?\n", text[: end.start() if end else len(text)].decode("latin-1"))[1:]
    pairs, keys = _parse([line for line in lines if line])
    fields = single("NRRD", pairs)
    if "datafile" not in fields and end is None:
        raise RefusedError(
            f"truncated: the NRRD header does not end within {min(len(text), MAX_HEADER)} bytes; get a complete "
            "copy of the file"
        )
    sizes = _sizes(fields)
    encoding = fields.get("encoding", "").lower()
    if encoding not in _ENCODINGS:
        raise RefusedError(f"encoding is {encoding[:64]!r}; raw and gzip are supported: convert the file first")
    dtype = _dtype(fields)
    spatial = _spatial(fields, len(sizes))
    shared = [axis for axis in range(len(sizes)) if axis not in spatial]
    order, count = arrange(spatial, shared)
    if not set(_words(fields, "kinds", len(sizes))) & {"rgb-color", "3-color", "list", "time"}:
        check_vectors(dtype, count, tuple(sizes[axis] for axis in order[count:]))
    steps = _spacing(fields, len(sizes))
    return Layout(
        kind="NRRD",
        header_path=path,
        data_path=_data_path(path, fields),
        text=text[: end.end()] if end else text,
        fields=tuple((line.partition(":")[0], line) for line in lines if line),
        sizes=sizes,
        order=order,
        spatial=count,
        dtype=dtype,
        offset=_offset(fields, 0 if end is None or "datafile" in fields else end.end()),
        packing=_ENCODINGS[encoding],
        spacing=tuple(steps[axis] for axis in order[:count]),
        modality="MR" if keys.get("modality", "").upper() in ("DWMRI", "MR") else "",
        segments=any(key.startswith("Segment0_") for key in keys),
        notes=("its header gives the lowest and highest value, which are those before noise",)
        if set(_EXTREMES) & set(fields)
        else (),
    )


def _parse(lines: list[str]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Part the lines of a header into fields, their names lowercase without spaces, and keys with values."""
    fields, keys = [], {}
    for line in lines:
        if line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon:
            raise RefusedError(
                f"the NRRD header has the line {line[:64]!r}, which is neither a field nor a key; repair the "
                "header first"
            )
        if value.startswith("="):
            keys[name] = value[1:].strip()
        else:
            fields.append((name.lower().replace(" ", ""), value.strip()))
    return fields, keys


def _sizes(fields: dict[str, str]) -> tuple[int, ...]:
    sizes = whole_numbers("sizes", fields.get("sizes", ""))
    dimension = whole_numbers("dimension", fields.get("dimension", ""))
    if dimension != (len(sizes),):
        raise RefusedError(
            f"dimension is {fields['dimension'][:64]!r}, sizes has {len(sizes)} numbers; repair the header first"
        )
    return sizes


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    name = " ".join(fields.get("type", "").lower().split())
    if name not in _TYPES:
        raise RefusedError(f"type is {name[:64]!r}; integers of 8 to 64 bits, float and double are supported")
    dtype = np.dtype(_TYPES[name])
    endian = fields.get("endian", "").lower()
    if dtype.itemsize > 1 and endian not in ("little", "big"):
        raise RefusedError(f"endian is {endian[:64]!r}, type {name} needs little or big; repair the header first")
    return dtype.newbyteorder(">" if endian == "big" else "<")


def _data_path(path: Path, fields: dict[str, str]) -> Path:
    name = fields.get("datafile")
    if name is None:
        return path
    if name.upper().startswith("LIST") or "%" in name:
        raise RefusedError(f"the voxels are in several files ({name[:64]!r}); convert to one .nrrd first")
    return beside(path, name)


def _offset(fields: dict[str, str], start: int) -> int:
    lines, skip = fields.get("lineskip", "0"), fields.get("byteskip", "0")
    raw = fields.get("encoding", "").lower() == "raw"
    if lines != "0" or skip not in (("0", "-1") if raw else ("0",)):
        raise RefusedError(
            f"line skip is {lines[:64]!r} and byte skip {skip[:64]!r}; 0 is supported, and a byte skip of -1 for "
            "raw voxels"
        )
    return -1 if skip == "-1" else start


def _words(fields: dict[str, str], name: str, count: int) -> list[str]:
    """Give the words of a field that has one for each axis; none if it is absent."""
    words = fields.get(name, "").lower().split()
    if words and len(words) != count:
        raise RefusedError(f"{name} has {len(words)} words for {count} axes; repair the header first")
    return words


def _directions(fields: dict[str, str], count: int) -> list[float | None]:
    """Give the step along each axis, None where an axis has no direction in space; empty if the header gives no
    directions.
    """
    value = fields.get("spacedirections", "")
    found = re.findall(r"none|\([^()]*\)", value, re.IGNORECASE)
    if value and (len(found) != count or re.sub(r"none|\([^()]*\)|\s", "", value, flags=re.IGNORECASE)):
        raise RefusedError(
            f"space directions is {value[:64]!r}; a vector or none for each of {count} axes is needed: repair the "
            "header first"
        )
    return [
        None if word.lower() == "none" else math.hypot(*real_numbers("space directions", word[1:-1])) for word in found
    ]


def _spatial(fields: dict[str, str], count: int) -> list[int]:
    """Find the axes that noise lies on, by their kinds and directions; without either up to three axes are spatial."""
    kinds, steps = _words(fields, "kinds", count), _directions(fields, count)
    if not kinds and not steps and count > 3:
        raise RefusedError(f"the header does not say which of {count} axes are spatial; add the field kinds")
    spatial = []
    for axis, kind in enumerate(kinds or ["???"] * count):
        directed = not steps or steps[axis] is not None
        if kind in _SPATIAL and not directed:
            raise RefusedError(f"axis {axis} is a {kind} without a direction; repair the header first")
        if kind not in (*_SPATIAL, *_UNKNOWN, *_SHARING):
            raise RefusedError(
                f"kind of axis {axis} is {kind[:64]!r}; {', '.join((*_SPATIAL, *_SHARING))} are supported"
            )
        if kind not in _SHARING and directed:
            spatial.append(axis)
    return spatial


def _spacing(fields: dict[str, str], count: int) -> list[float]:
    """Give millimeters along each axis, NaN where unknown."""
    steps = _directions(fields, count)
    if steps:
        units = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
        scale = _MILLIMETERS.get(units[0], 1.0) if len(set(units)) == 1 else 1.0
        return [math.nan if step is None else step * scale for step in steps]
    spacings = real_numbers("spacings", fields.get("spacings", "")) or (math.nan,) * count
    if len(spacings) != count:
        raise RefusedError(f"spacings has {len(spacings)} numbers for {count} axes; repair the header first")
    units = re.findall(r'"([^"]*)"', fields.get("units", ""))
    scales = [_MILLIMETERS.get(unit, 1.0) for unit in units] if len(units) == count else [1.0] * count
    return [step * scale for step, scale in zip(spacings, scales, strict=True)]
