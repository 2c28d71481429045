# SPDX-License-Identifier: Apache-2.0
"""Headers of compressed frames: what a codestream says of itself, read before a decoder of another language sees it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from monai_salm.errors import RefusedError

Family = Literal["jpeg", "jpeg-ls", "jpeg2000"]

_SOF_JPEG = {0xC0: "lossy", 0xC1: "lossy", 0xC2: "lossy", 0xC3: "lossless"}
_SOF_JPEG_LS = 0xF7
_SOS, _APP0, _APP15 = 0xDA, 0xE0, 0xEF
_STANDALONE = {0x01, 0xD8, *range(0xD0, 0xD8)}
_JP2 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_SOC_SIZ = b"\xff\x4f\xff\x51"
_COD, _SOT = 0xFF52, 0xFF90
_END = b"\xff\xd9"
_RGB_IDS = (b"RGB", b"rgb")


@dataclass(frozen=True, kw_only=True)
class FrameFormat:
    """How one frame of compressed pixel data decodes.

    Args:
        rows: lines.
        columns: pixels of a line.
        samples: of a pixel, 1 or 3.
        bits_allocated: size of a pixel cell: 8, 16 or 32.
        bits_stored: how many of its low bits are the value.
        signed: whether the value is two's complement.
        photometric: PhotometricInterpretation as in the file.
    """

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    photometric: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded frame."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixel cells."""
        return np.dtype(f"u{self.bits_allocated // 8}")


@dataclass(frozen=True, kw_only=True)
class Codestream:
    """What the header of one compressed frame says.

    Args:
        data: the codestream, without a container around it.
        rows: lines.
        columns: pixels of a line.
        samples: components.
        precision: bits of a sample.
        signed: whether samples are signed; only JPEG 2000 says so.
        lossless: whether the process is; of JPEG-LS that no error is allowed.
        parameter: of the first scan: the predictor of lossless JPEG, the interleave mode of JPEG-LS.
        color_transform: whether JPEG 2000 transforms color.
        marked_rgb: JPEG components that are called R, G and B.
        marked_ybr: a JFIF marker, which means luminance and chroma.
    """

    data: bytes = field(repr=False)
    rows: int
    columns: int
    samples: int
    precision: int
    signed: bool = False
    lossless: bool = True
    parameter: int = 0
    color_transform: bool = False
    marked_rgb: bool = False
    marked_ybr: bool = False


def read_codestream(data: bytes, family: Family) -> Codestream:
    """Read the header of a compressed frame.

    Args:
        data: the frame.
        family: the standard that it follows: ITU-T T.81, T.87 or T.800.

    Raises:
        RefusedError: no such codestream, a truncated one, or one with components of several sizes or types.
    """
    try:
        return _read_jpeg2000(data) if family == "jpeg2000" else _read_jpeg(data, family)
    except (struct.error, IndexError) as error:
        raise RefusedError(f"the header of a {family.upper()} frame is truncated") from error


def _read_jpeg(data: bytes, family: Family) -> Codestream:
    """Read the markers of JPEG or JPEG-LS up to the first scan."""
    frame = b""
    sof = 0
    jfif = False
    for marker, segment, end in _segments(data):
        if marker == _SOF_JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            if frame:
                raise RefusedError(f"a {family.upper()} frame has two frame headers; repair the file first")
            sof, frame = marker, segment
        elif _APP0 <= marker <= _APP15:
            jfif = jfif or segment.startswith(b"JFIF")
        elif marker == _SOS:
            # Coded data holds no such marker by chance, and decoders make up what is missing.
            if data.find(_END, end) < 0:
                raise RefusedError(f"a {family.upper()} frame has no end-of-image marker; the file is truncated")
            break
    else:
        raise RefusedError(f"a {family.upper()} frame has no scan; the file is truncated")
    if (sof not in _SOF_JPEG) if family == "jpeg" else (sof != _SOF_JPEG_LS):
        raise RefusedError(
            f"a frame is no {family.upper()} of a known process (frame header {sof:#04x}); its transfer syntax is wrong"
        )
    precision, rows, columns, samples = struct.unpack_from(">BHHB", frame)
    identifiers = bytes(frame[6 + 3 * index] for index in range(samples))
    scanned = segment[0]
    near, parameter = segment[1 + 2 * scanned], segment[2 + 2 * scanned]
    is_jpeg = family == "jpeg"
    return Codestream(
        data=data,
        rows=rows,
        columns=columns,
        samples=samples,
        precision=precision,
        lossless=_SOF_JPEG[sof] == "lossless" if is_jpeg else near == 0,
        # Ss of lossless JPEG is the predictor, NEAR of JPEG-LS lies in the same place before its interleave mode.
        parameter=near if is_jpeg else parameter,
        marked_rgb=identifiers in _RGB_IDS,
        marked_ybr=jfif,
    )


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield the markers that have a segment, with it and its end, in the order of the stream; the first must be the
    start of an image.
    """
    if not data.startswith(b"\xff\xd8"):
        raise RefusedError(
            "a frame does not begin with the start-of-image marker of JPEG; its transfer syntax is wrong"
        )
    position = 2
    while position < len(data):
        if data[position] != 0xFF:
            raise RefusedError(f"a JPEG frame has no marker at byte {position}; the file is damaged")
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        position += 2
        if marker in _STANDALONE:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if length < 2 or position + length > len(data):
            raise RefusedError(
                f"a segment of a JPEG frame says {length} bytes where {len(data) - position} are left; the file "
                "is damaged"
            )
        yield marker, data[position + 2 : position + length], position + length
        position += length


def _read_jpeg2000(data: bytes) -> Codestream:
    """Read the main header of JPEG 2000; that of HTJ2K has the same segments."""
    if data.startswith(_JP2):
        # PS3.5 A.4.4 wants the bare codestream; a container's palettes and profiles would change the values.
        start = data.find(_SOC_SIZ)
        data = data[start:] if start >= 0 else data
    if not data.startswith(_SOC_SIZ):
        raise RefusedError("a frame does not begin with a JPEG 2000 codestream; its transfer syntax is wrong")
    x1, y1, x0, y0, tile_x, tile_y = struct.unpack_from(">6I", data, 8)
    (samples,) = struct.unpack_from(">H", data, 40)
    if not 0 < samples <= 4:
        raise RefusedError(f"a JPEG 2000 frame has {samples} components; 1 or 3 are supported")
    if not (tile_x and tile_y and x0 < x1 and y0 < y1):
        raise RefusedError("a JPEG 2000 frame has an empty image or tile; the file is damaged")
    components = {struct.unpack_from(">3B", data, 42 + 3 * index) for index in range(samples)}
    depth, *sampling = components.pop()
    if components or sampling != [1, 1]:
        raise RefusedError(
            "the components of a JPEG 2000 frame differ in depth or are subsampled; convert it to Explicit Little "
            "Endian first"
        )
    transform, reversible = _coding_style(data)
    return Codestream(
        data=data,
        rows=y1 - y0,
        columns=x1 - x0,
        samples=samples,
        precision=(depth & 0x7F) + 1,
        signed=bool(depth >> 7),
        lossless=reversible,
        color_transform=transform,
    )


def _coding_style(data: bytes) -> tuple[bool, bool]:
    """Give whether the default coding style transforms color, and whether its wavelet is the reversible one (T.800
    A.6.1).
    """
    position = 2
    while True:
        marker, length = struct.unpack_from(">2H", data, position)
        if marker == _COD:
            return bool(data[position + 8]), data[position + 13] == 1
        if marker == _SOT or marker < 0xFF30 or length < 2:
            raise RefusedError("a JPEG 2000 frame has no coding style; the file is damaged")
        position += 2 + length
