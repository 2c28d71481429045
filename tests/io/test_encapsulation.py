# SPDX-License-Identifier: Apache-2.0
"""Frames in fragments, judged by pydicom."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from pydicom.encaps import encapsulate as pydicom_encapsulate
from pydicom.encaps import encapsulate_extended, generate_frames

from monai_salm.errors import RefusedError
from monai_salm.io.dicom import encapsulation
from monai_salm.io.dicom.encapsulation import encapsulate, split_frames

RLE = "1.2.840.10008.1.2.5"
JPEG, J2K = "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.90"

FRAMES = [bytes([number]) * (10 + 3 * number) + b"\xff\xd9" for number in range(1, 5)]


def padded(frame: bytes) -> bytes:
    return frame + bytes(len(frame) % 2)


def items(*contents: bytes) -> memoryview:
    return memoryview(b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(content)) + content for content in contents))


def halves(frame: bytes) -> list[bytes]:
    return [padded(frame)[:6], padded(frame)[6:]]


def test_encapsulate_is_what_pydicom_reads_and_writes() -> None:
    value = encapsulate(FRAMES)
    assert value == pydicom_encapsulate(FRAMES)
    assert list(generate_frames(value, number_of_frames=4)) == [padded(frame) for frame in FRAMES]
    assert split_frames(memoryview(value), 4, None, JPEG) == [padded(frame) for frame in FRAMES]


def test_encapsulate_leaves_the_table_out_where_offsets_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encapsulation, "_OFFSET_LIMIT", 30)
    assert encapsulate(FRAMES)[:8] == b"\xfe\xff\x00\xe0\0\0\0\0"


def test_fragments_are_joined() -> None:
    every = [part for frame in FRAMES for part in halves(frame)]
    expected = [padded(frame) for frame in FRAMES]
    offsets = np.cumsum([0, *[len(padded(frame)) + 16 for frame in FRAMES[:-1]]]).tolist()
    table = struct.pack("<4I", *offsets)
    assert split_frames(items(b"", *every), 1, None, RLE) == [b"".join(every)]
    assert split_frames(items(table, *every), 4, None, RLE) == expected
    assert split_frames(items(b"", *every), 4, None, J2K) == expected
    assert split_frames(items(b"", *map(padded, FRAMES)), 4, None, RLE) == expected
    assert split_frames(items(b"", *every), 4, (offsets, [len(frame) for frame in FRAMES]), RLE) == FRAMES
    value, starts, lengths = encapsulate_extended(FRAMES)
    extended = (np.frombuffer(starts, "<u8").tolist(), np.frombuffer(lengths, "<u8").tolist())
    assert split_frames(memoryview(value), 4, extended, JPEG) == [
        frame[:length] for frame, length in zip(expected, extended[1], strict=True)
    ]


@pytest.mark.parametrize(
    ("value", "frames", "extended", "message"),
    [
        (items(), 1, None, "has no fragments"),
        (items(b""), 1, None, "has no fragments"),
        (memoryview(bytes(items(b"", b"abcd"))[:-2]), 1, None, "says 4 bytes where 2 are left"),
        (memoryview(bytes(items(b"", b"abcd")) + b"junk"), 1, None, "no item at byte 20"),
        (items(b"\0\0", b"abcd"), 2, None, "no multiple of 4"),
        (
            items(struct.pack("<I", 0), b"abcd", b"abcd"),
            2,
            None,
            "the basic offset table names 1 frames, NumberOfFrames is 2",
        ),
        (items(struct.pack("<2I", 0, 11), b"abcd", b"abcd"), 2, None, "the basic offset table does not fit"),
        (items(struct.pack("<2I", 12, 0), b"abcd", b"abcd"), 2, None, "the basic offset table does not fit"),
        (items(b"", b"abcd", b"abcd", b"abcd"), 2, None, "3 fragments of 1 images for 2 frames"),
        (items(b"", b"abcd", b"abcd"), 2, ([0], [4]), "ExtendedOffsetTable names 1 frames"),
        (items(b"", b"abcd", b"abcd"), 2, ([0, 12], [4]), "ExtendedOffsetTableLengths does not fit"),
        (items(b"", b"abcd", b"abcd"), 2, ([0, 12], [4, 5]), "ExtendedOffsetTableLengths does not fit"),
    ],
)
def test_damaged_encapsulation(
    value: memoryview, frames: int, extended: tuple[list[int], list[int]] | None, message: str
) -> None:
    with pytest.raises(RefusedError, match=message):
        split_frames(value, frames, extended, J2K)


def test_rle_is_not_split_by_markers() -> None:
    with pytest.raises(RefusedError, match="8 fragments for 4 frames"):
        split_frames(items(b"", *[part for frame in FRAMES for part in halves(frame)]), 4, None, RLE)
