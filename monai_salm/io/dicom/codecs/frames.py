# SPDX-License-Identifier: Apache-2.0
"""Compressed frames (PS3.5 A.4, 8.2): decoded to pixel cells, and encoded again exactly where the transfer syntax is
lossless.

What a library is given was held against the dataset before, and what it gives back is believed only when it decodes to
the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import RLELossless

from monai_salm.errors import RefusedError
from monai_salm.io.dicom.codecs.cells import TO_NATIVE, cells_of, chosen_precision, clipped
from monai_salm.io.dicom.codecs.libraries import DECODERS, ENCODERS, YBR_FULL, decode_rle, encode_rle
from monai_salm.io.dicom.codestreams import Codestream, FrameFormat, read_codestream
from monai_salm.io.dicom.transfer_syntaxes import FAMILIES, HIGH_THROUGHPUT, LOSSLESS, LOSSY
from monai_salm.io.dicom.wording import uid_name

_ENCODED_BITS = 16
_ENCODED_BITS_JPEG2000 = 24
"""OpenJPEG keeps 26 bits exactly, and the color transform takes one."""
_BOMB_BYTES, _BOMB_RATIO = 1 << 28, 1000
_LOSSY_COLORS = {
    "jpeg": ("RGB", *YBR_FULL),
    "jpeg-ls": ("RGB", *YBR_FULL),
    "jpeg2000": ("RGB", *YBR_FULL, "YBR_ICT", "YBR_RCT"),
}


def is_reversible(data: bytes, transfer_syntax: str, frame: FrameFormat) -> bool:
    """Say whether a frame's process can give back what was encoded: lossless JPEG, JPEG-LS without allowed error,
    reversible JPEG 2000.

    Raises:
        RefusedError: its header is not that of such a frame.
    """
    return transfer_syntax == RLELossless or _codestream(data, transfer_syntax, frame).lossless


def can_encode(transfer_syntax: str, frame: FrameFormat) -> bool:
    """Say whether :func:`encode_frame` knows how to encode such frames; where it does not, they can be
    written native.
    """
    if transfer_syntax not in LOSSLESS:
        return False
    bits = frame.bits_allocated if transfer_syntax == RLELossless else frame.bits_stored
    return bits <= _encoded_bits(transfer_syntax)


def decode_frame(data: bytes, transfer_syntax: str, frame: FrameFormat) -> NDArray[Any]:
    """Decode one frame to pixel cells.

    What a codestream holds in fewer bits than a cell is sign-extended where pixels are signed; RLE holds whole cells,
    which stay as they are. Of a lossless syntax color is given as it is coded, but for the color transform of JPEG
    2000, which every decoder undoes. Of a lossy one it is given as RGB, as pydicom's ``pixel_array`` does. JPEG is
    pinned to libjpeg-turbo (accurate integer inverse DCT, smooth upsampling of chroma), from which other decoders
    differ by a level. Values that a lossy frame has outside of BitsStored are clipped to it.

    Args:
        data: the compressed frame; pad bytes may follow.
        transfer_syntax: UID, of LOSSLESS or LOSSY.
        frame: what the dataset says of it.

    Returns:
        Unsigned words in native byte order, ``(rows, columns)`` or ``(rows, columns, 3)``.

    Raises:
        RefusedError: a package is missing, the frame contradicts the dataset, or it is damaged.
    """
    _check_bomb(data, transfer_syntax, frame)
    if transfer_syntax == RLELossless:
        words = decode_rle(data, frame)
    elif transfer_syntax in FAMILIES:
        stream = _codestream(data, transfer_syntax, frame)
        values = DECODERS[FAMILIES[transfer_syntax]](stream, transfer_syntax, frame)
        words = cells_of(values, stream, frame)
    else:
        raise RefusedError(
            f"transfer syntax {uid_name(transfer_syntax)} is not decoded; convert to Explicit Little Endian first"
        )
    return clipped(words, frame) if transfer_syntax in LOSSY else words


def encode_frame(words: NDArray[Any], transfer_syntax: str, frame: FrameFormat, *, like: bytes | None = None) -> bytes:
    """Encode pixel cells exactly, and prove it by decoding them.

    Args:
        words: as :func:`decode_frame` gives them.
        transfer_syntax: UID, of LOSSLESS.
        frame: what the dataset says of them.
        like: the frame that they replace; its depth, signedness, predictor, interleave mode and color transform are
            kept as far as the words allow.

    Returns:
        The frame, without pad byte.

    Raises:
        RefusedError: a package is missing, or the words cannot be encoded exactly.
    """
    name = uid_name(transfer_syntax)
    if not can_encode(transfer_syntax, frame):
        raise RefusedError(
            f"{name} of {frame.bits_stored} bits and {frame.samples} samples is not encoded; {TO_NATIVE}"
        )
    if words.shape != frame.shape or words.dtype != frame.dtype:
        raise RefusedError(
            f"the words to encode are {words.dtype} {words.shape}, the frame is {frame.dtype} {frame.shape}"
        )
    words = np.ascontiguousarray(words)
    if transfer_syntax == RLELossless:
        encoded = encode_rle(words, frame)
    else:
        family = FAMILIES[transfer_syntax]
        old = None if like is None else read_codestream(like, family)
        precision = chosen_precision(words, frame, old, _encoded_bits(transfer_syntax))
        encoded = ENCODERS[family](
            words & words.dtype.type((1 << precision) - 1), precision, transfer_syntax, frame, old
        )
    if not np.array_equal(decode_frame(encoded, transfer_syntax, frame), words):
        raise RefusedError(f"{name} does not give the same values back after encoding; {TO_NATIVE}")
    return encoded


def _check_bomb(data: bytes, transfer_syntax: str, frame: FrameFormat) -> None:
    """Refuse a frame that would unpack to far more than any image does."""
    size = frame.rows * frame.columns * frame.samples * frame.bits_allocated // 8
    if size > _BOMB_BYTES and size > _BOMB_RATIO * len(data):
        raise RefusedError(
            f"a frame of {len(data)} bytes ({uid_name(transfer_syntax)}) would decode to {size >> 20} MiB; more "
            "than 1000 times is not believed"
        )


def _codestream(data: bytes, transfer_syntax: str, frame: FrameFormat) -> Codestream:
    """Read a frame's header and hold it against the dataset."""
    stream = read_codestream(data, FAMILIES[transfer_syntax])
    said, found = (frame.rows, frame.columns, frame.samples), (stream.rows, stream.columns, stream.samples)
    if said != found:
        raise RefusedError(
            f"a compressed frame has (rows, columns, samples) {found}, the dataset says {said}; repair the file first"
        )
    if stream.precision > frame.bits_allocated:
        raise RefusedError(
            f"a compressed frame has {stream.precision} bits, BitsAllocated is {frame.bits_allocated}; repair the "
            "file first"
        )
    if FAMILIES[transfer_syntax] == "jpeg" and stream.lossless == (transfer_syntax in LOSSY):
        raise RefusedError(
            f"a JPEG frame is {'lossless' if stream.lossless else 'lossy'}, which {uid_name(transfer_syntax)} is "
            "not; repair the file first"
        )
    if (
        transfer_syntax in LOSSY
        and frame.samples == 3
        and frame.photometric not in _LOSSY_COLORS[FAMILIES[transfer_syntax]]
    ):
        raise RefusedError(
            f"photometric interpretation {frame.photometric!r} is not decoded from {uid_name(transfer_syntax)}; "
            "convert it to RGB first"
        )
    return stream


def _encoded_bits(transfer_syntax: str) -> int:
    """Give the most bits of a sample that are encoded: all that the standards allow, save for JPEG 2000 and for RLE
    beyond PS3.5 8.2.2.
    """
    is_plain = FAMILIES.get(transfer_syntax) == "jpeg2000" and transfer_syntax not in HIGH_THROUGHPUT
    return _ENCODED_BITS_JPEG2000 if is_plain else _ENCODED_BITS
