# SPDX-License-Identifier: Apache-2.0
"""Messages give the bytes of their file, however the network cuts them, or say what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_salm.dicomweb.messages import MessageError, Upload, only_part

TYPE = 'multipart/related; type="application/dicom"; boundary="edge"'
FILE = bytes(range(256)) + b"\r\n--edg\r\n\r\n--" + bytes(300)
WHOLE = b"--edge\r\nContent-Type: application/dicom\r\n\r\n" + FILE + b"\r\n--edge--\r\n"


def read(message: bytes, size: int, content_type: str = TYPE) -> bytes:
    pieces = (message[place : place + size] for place in range(0, len(message), size))
    return b"".join(only_part(pieces, content_type))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 10_000])
def test_the_file_comes_out_however_it_is_cut(size: int) -> None:
    assert read(WHOLE, size) == FILE
    assert read(b"preamble\r\n" + WHOLE + b"epilogue", size) == FILE


@pytest.mark.parametrize("size", [5, 10_000])
@pytest.mark.parametrize(
    ("message", "reason"),
    [
        *((WHOLE[:end], "cut off") for end in (3, 20, 60, 300, len(WHOLE) - 12, len(WHOLE) - 4)),
        (b"", "cut off"),
        (b"--edge--\r\n", "empty"),
        (WHOLE[:-4] + WHOLE[6:], "several"),
        (bytes(3 << 20), "not what its Content-Type says"),
    ],
)
def test_what_is_not_one_whole_file_is_told(message: bytes, reason: str, size: int) -> None:
    with pytest.raises(MessageError, match=reason):
        read(message, size if len(message) < 10_000 else 1 << 20)


def test_a_boundary_is_needed() -> None:
    with pytest.raises(MessageError, match="without a boundary"):
        read(WHOLE, 100, "multipart/related")


def test_what_is_sent_is_what_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(FILE)
    upload = Upload(file)
    for _ in range(2):  # sent again where a connection failed
        message = b"".join(upload)
        assert len(message) == len(upload)
        assert read(message, 50, upload.content_type) == FILE
