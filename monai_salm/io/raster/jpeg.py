# SPDX-License-Identifier: Apache-2.0
"""JPEG, which is read only: noise would not outlive its compression, so the image is written as PNG with the same
metadata.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from monai_salm.errors import RefusedError
from monai_salm.io.base import StoredArray
from monai_salm.io.leftovers import holds_picture
from monai_salm.io.raster import png
from monai_salm.io.raster.decoding import Raster, check_claim, decode, frozen
from monai_salm.io.raster.exif import PREVIEW_REMOVED, without_preview

SIGNATURE = b"\xff\xd8\xff"
_EXIF, _ICC, _JFIF, _ADOBE = b"Exif\0\0", b"ICC_PROFILE\0", b"JFIF\0", b"Adobe"
_KEPT = (_EXIF, _ICC, _JFIF, _ADOBE)
_MANY = 1 << 10
_SOS, _EOI, _DHT, _JPG, _DAC = 0xDA, 0xD9, 0xC4, 0xC8, 0xCC
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_DHT, _JPG, _DAC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_LOSSY = "a JPEG is lossy, so the image is written as PNG"


@dataclass(frozen=True)
class JpegFile:
    """A JPEG that was read.

    Args:
        raster: the image.
        segments: (marker, data) before and between the scans.
    """

    raster: Raster
    segments: tuple[tuple[int, bytes], ...]

    @property
    def exif(self) -> bytes:
        """Bytes of the EXIF block, from its byte order mark on; empty without one."""
        return next(
            (data[len(_EXIF) :] for marker, data in self.segments if marker == 0xE1 and data.startswith(_EXIF)), b""
        )

    @property
    def profile(self) -> bytes:
        """Bytes of the ICC profile, its parts joined in order (ICC.1 B.4); empty without one."""
        parts = [data[len(_ICC) :] for marker, data in self.segments if marker == 0xE2 and data.startswith(_ICC)]
        return b"".join(part[2:] for part in sorted(parts, key=lambda part: part[:1]))

    @property
    def density(self) -> bytes:
        """Data of a pHYs chunk with the density of the JFIF segment; empty without one."""
        jfif = next(
            (data for marker, data in self.segments if marker == 0xE0 and data.startswith(_JFIF) and len(data) >= 12),
            b"",
        )
        if not jfif:
            return b""
        per_meter = {1: 100 / 2.54, 2: 100.0}.get(jfif[7])
        counts = [int.from_bytes(jfif[start : start + 2], "big") for start in (8, 10)]
        numbers = [round(count * (per_meter or 1.0)) for count in counts]
        return b"".join(map(png.four_bytes, numbers)) + bytes([per_meter is not None]) if all(counts) else b""

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of the segments with metadata that the PNG does not get."""
        named = {marker: f"APP{marker - 0xE0}" for marker in range(0xE0, 0xF0)} | {0xFE: "COM"}
        return tuple(named[marker] for marker, data in self.segments if marker in named and not data.startswith(_KEPT))


def read(raw: bytes) -> JpegFile:
    """Read a JPEG.

    Raises:
        RefusedError: damaged, truncated, or of a kind that is not supported.
    """
    segments, end = _segments(raw)
    frames = [data for marker, data in segments if marker in _FRAMES]
    if len(frames) != 1 or len(frames[0]) < 6:
        raise RefusedError(f"the JPEG has {len(frames)} frames; one is supported: get a complete copy of the file")
    depth, rows, columns, channels = (
        frames[0][0],
        int.from_bytes(frames[0][1:3], "big"),
        int.from_bytes(frames[0][3:5], "big"),
        frames[0][5],
    )
    if depth != 8 or channels not in (1, 3):
        raise RefusedError(
            f"the JPEG has {channels} components of {depth} bits; gray and color of 8 bits are supported, CMYK is "
            "not: convert it to PNG"
        )
    check_claim(rows, columns, channels, len(raw))
    pixels = decode(raw, "JPEG", {"L": "u1", "RGB": "u1"}, (rows, columns) if channels == 1 else (rows, columns, 3))
    file = JpegFile(Raster(raw=raw, stored=frozen(pixels), suffix=".png"), segments)
    lost = [
        *dict.fromkeys(file.lost),
        *([f"{len(raw) - end} bytes behind its end"] if raw[end:].strip(b"\0\xff") and not _is_more(raw[end:]) else []),
    ]
    kept = without_preview(file.exif)
    removed = (PREVIEW_REMOVED,) if kept != file.exif else ()
    shown = holds_picture(kept) or holds_picture(file.profile)
    unprotected = "its EXIF block or color profile holds an image, which is not protected" if shown else ""
    notes = (_LOSSY, *([f"not carried over to the PNG: {', '.join(lost)}"] if lost else []), *removed)
    return replace(
        file, raster=replace(file.raster, notes=notes, unprotected=unprotected, left_out=_left_out(file, raw[end:]))
    )


def _left_out(file: JpegFile, behind: bytes) -> str:
    """Say what else than the image a JPEG holds, of which the PNG has nothing."""
    parts = []
    if _is_more(behind):
        parts.append(f"{len(behind)} bytes behind its end, such as another image (MPO) or a film (motion photo)")
    if any(
        holds_picture(data) for marker, data in file.segments if marker & 0xF0 == 0xE0 and not data.startswith(_KEPT)
    ):
        parts.append("images in its application segments, such as previews or a depth map")
    return " and ".join(parts)


def _is_more(behind: bytes) -> bool:
    """Say whether bytes behind the end of a JPEG are worth to be missed: zeros and a few bytes of any kind are not."""
    return holds_picture(behind) or len(behind.strip(b"\0\xff")) >= _MANY


def write(file: JpegFile, stored: StoredArray) -> bytes:
    """Give a PNG with other values and the JPEG's density, profile and EXIF block."""
    extra = {
        b"pHYs": file.density,
        b"iCCP": file.profile and b"ICC profile\0\0" + zlib.compress(file.profile, 6),
        b"eXIf": without_preview(file.exif),
    }
    return png.compose(stored, [png.make_chunk(kind, data) for kind, data in extra.items() if data])


def _segments(raw: bytes) -> tuple[tuple[tuple[int, bytes], ...], int]:
    """Give the marker segments up to the end of the image (ITU-T T.81 B.1), and that end; the entropy-coded data are
    passed over.
    """
    segments: list[tuple[int, bytes]] = []
    place = 2
    while True:
        while raw[place : place + 2] == b"\xff\xff":
            place += 1
        if raw[place : place + 1] != b"\xff" or len(raw) < place + 2:
            raise RefusedError(
                f"damaged or truncated: no marker at byte {place} of {len(raw)}; get a complete copy of the file"
            )
        marker = raw[place + 1]
        if marker == _EOI:
            return tuple(segments), place + 2
        if marker in _ALONE:
            place += 2
            continue
        length = int.from_bytes(raw[place + 2 : place + 4], "big")
        if length < 2 or place + 2 + length > len(raw):
            raise RefusedError(
                f"truncated: a segment of {length} bytes begins at byte {place} of {len(raw)}; get a complete "
                "copy of the file"
            )
        segments.append((marker, raw[place + 4 : place + 2 + length]))
        place += 2 + length
        if marker == _SOS:
            place = _end_of_scan(raw, place)


def _end_of_scan(raw: bytes, place: int) -> int:
    """Give the place of the first marker after entropy-coded data, other than restarts."""
    while (place := raw.find(b"\xff", place)) >= 0 and place + 1 < len(raw):
        if raw[place + 1] not in (0, 0xFF, *range(0xD0, 0xD8)):
            return place
        place += 1 if raw[place + 1] == 0xFF else 2
    raise RefusedError("truncated: the JPEG does not end; get a complete copy of the file")
