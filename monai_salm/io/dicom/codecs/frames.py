# SPDX-License-Identifier: Apache-2.0
"""Compressed frames (PS3.5 A.4, 8.2): decoded to pixel cells, and encoded again exactly where the transfer syntax is
lossless.

JPEG and JPEG 2000 are decoded by imagecodecs, JPEG-LS by pyjpegls, RLE by pydicom. What a C library is given was held
against the dataset before, and what it gives back is believed only when it decodes to the same bits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import RLELossless

from monai_salm.errors import RefusedError
from monai_salm.io.dicom.codestreams import Codestream, Family, FrameFormat, read_codestream
from monai_salm.io.dicom.encapsulation import encapsulate, split_frames
from monai_salm.io.dicom.files import uid_name

__all__ = [
    "LOSSLESS",
    "LOSSY",
    "FrameFormat",
    "can_encode",
    "check_codec",
    "decode_frame",
    "encapsulate",
    "encode_frame",
    "is_reversible",
    "split_frames",
]


def _optional(module: str) -> Any:
    """Import a module of the extra ``codecs``, or give None."""
    try:
        return import_module(module)
    except ImportError:
        return None


imagecodecs = _optional("imagecodecs")
jpeg_ls = _optional("jpeg_ls")

_RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
_JPEG_LOSSLESS, _JPEG_LOSSLESS_FIRST_ORDER = f"{_JPEG}57", f"{_JPEG}70"
_HTJ2K_RPCL = f"{_JPEG}202"
_HTJ2K = frozenset({f"{_JPEG}201", _HTJ2K_RPCL, f"{_JPEG}203"})
_FAMILIES: dict[str, Family] = {
    f"{_JPEG}50": "jpeg",
    f"{_JPEG}51": "jpeg",
    _JPEG_LOSSLESS: "jpeg",
    _JPEG_LOSSLESS_FIRST_ORDER: "jpeg",
    f"{_JPEG}80": "jpeg-ls",
    f"{_JPEG}81": "jpeg-ls",
    f"{_JPEG}90": "jpeg2000",
    f"{_JPEG}91": "jpeg2000",
    **dict.fromkeys(_HTJ2K, "jpeg2000"),
}

LOSSY = frozenset({f"{_JPEG}50", f"{_JPEG}51", f"{_JPEG}81", f"{_JPEG}91", f"{_JPEG}203"})
"""Decoded once and written native."""

LOSSLESS = frozenset({_RLE, *_FAMILIES}) - LOSSY
"""Decoded and encoded again exactly."""

_TO_NATIVE = "convert the file to Explicit VR Little Endian first, for example with gdcmconv --raw"
_ENCODED_BITS = 16
_ENCODED_BITS_JPEG2000 = 24
"""OpenJPEG keeps 26 bits exactly, and the color transform takes one."""
_BOMB_BYTES, _BOMB_RATIO = 1 << 28, 1000
_YBR_FULL = ("YBR_FULL", "YBR_FULL_422")
_LOSSY_COLORS = {
    "jpeg": ("RGB", *_YBR_FULL),
    "jpeg-ls": ("RGB", *_YBR_FULL),
    "jpeg2000": ("RGB", *_YBR_FULL, "YBR_ICT", "YBR_RCT"),
}
_INTERLEAVED_BY_PIXEL = 2


def check_codec(transfer_syntax: str) -> None:
    """Find out before any frame is decoded whether the package that decodes it is installed.

    Raises:
        RefusedError: it is not; with the command that installs it.
    """
    family = _FAMILIES.get(transfer_syntax)
    if family == "jpeg-ls":
        _function(jpeg_ls, "pyjpegls", "jlsread", transfer_syntax)
    elif family is not None:
        _function(imagecodecs, "imagecodecs", "jpeg8_decode" if family == "jpeg" else "jpeg2k_decode", transfer_syntax)


def is_reversible(data: bytes, transfer_syntax: str, frame: FrameFormat) -> bool:
    """Say whether a frame's process can give back what was encoded: lossless JPEG, JPEG-LS without allowed error,
    reversible JPEG 2000.

    Raises:
        RefusedError: its header is not that of such a frame.
    """
    return transfer_syntax == _RLE or _codestream(data, transfer_syntax, frame).lossless


def can_encode(transfer_syntax: str, frame: FrameFormat) -> bool:
    """Say whether :func:`encode_frame` knows how to encode such frames; where it does not, they can be
    written native.
    """
    if transfer_syntax not in LOSSLESS:
        return False
    bits = frame.bits_allocated if transfer_syntax == _RLE else frame.bits_stored
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
    if transfer_syntax == _RLE:
        words = _decode_rle(data, frame)
    elif transfer_syntax in _FAMILIES:
        stream = _codestream(data, transfer_syntax, frame)
        values = _DECODERS[_FAMILIES[transfer_syntax]](stream, transfer_syntax, frame)
        words = _words(values, stream, frame)
    else:
        raise RefusedError(
            f"transfer syntax {uid_name(transfer_syntax)} is not decoded; convert to Explicit Little Endian first"
        )
    return _clipped(words, frame) if transfer_syntax in LOSSY else words


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
            f"{name} of {frame.bits_stored} bits and {frame.samples} samples is not encoded; {_TO_NATIVE}"
        )
    if words.shape != frame.shape or words.dtype != frame.dtype:
        raise RefusedError(
            f"the words to encode are {words.dtype} {words.shape}, the frame is {frame.dtype} {frame.shape}"
        )
    words = np.ascontiguousarray(words)
    if transfer_syntax == _RLE:
        encoded = _encode_rle(words, frame)
    else:
        family = _FAMILIES[transfer_syntax]
        old = None if like is None else read_codestream(like, family)
        precision = _precision(words, frame, old, _encoded_bits(transfer_syntax))
        encoded = _ENCODERS[family](
            words & words.dtype.type((1 << precision) - 1), precision, transfer_syntax, frame, old
        )
    if not np.array_equal(decode_frame(encoded, transfer_syntax, frame), words):
        raise RefusedError(f"{name} does not give the same values back after encoding; {_TO_NATIVE}")
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
    stream = read_codestream(data, _FAMILIES[transfer_syntax])
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
    if _FAMILIES[transfer_syntax] == "jpeg" and stream.lossless == (transfer_syntax in LOSSY):
        raise RefusedError(
            f"a JPEG frame is {'lossless' if stream.lossless else 'lossy'}, which {uid_name(transfer_syntax)} is "
            "not; repair the file first"
        )
    if (
        transfer_syntax in LOSSY
        and frame.samples == 3
        and frame.photometric not in _LOSSY_COLORS[_FAMILIES[transfer_syntax]]
    ):
        raise RefusedError(
            f"photometric interpretation {frame.photometric!r} is not decoded from {uid_name(transfer_syntax)}; "
            "convert it to RGB first"
        )
    return stream


def _foreign(call: Callable[[], Any], transfer_syntax: str) -> Any:
    """Call a foreign codec; whatever it raises or warns of becomes a refusal or nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    except Exception as error:  # codecs raise whatever their C library says, each its own type
        reason = " ".join(str(error).split()).rpartition("plugins: ")[2][:200] or type(error).__name__
        raise RefusedError(f"{uid_name(transfer_syntax)}: the codec refuses a frame ({reason})") from error


def _function(module: Any, package: str, name: str, transfer_syntax: str) -> Any:
    """Give a function of an optional package."""
    # Some builds of imagecodecs lack a codec, and old versions HTJ2K.
    found = getattr(module, name, None)
    if found is None:
        raise RefusedError(f"{uid_name(transfer_syntax)} needs {package}; install it: pip install 'monai_salm[codecs]'")
    return found


def _words(values: Any, stream: Codestream, frame: FrameFormat) -> NDArray[Any]:
    """Give decoded samples as pixel cells: their bits, extended by the sign that the dataset says they have, not the
    codestream.
    """
    if (
        not isinstance(values, np.ndarray)
        or values.shape != frame.shape
        or values.dtype.kind not in "iu"
        or values.dtype.itemsize > frame.dtype.itemsize
    ):
        got = f"{values.dtype} {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise RefusedError(f"a frame decoded to {got}, expected {frame.dtype} {frame.shape}; the file is damaged")
    cells = np.ascontiguousarray(values).astype(f"{values.dtype.kind}{frame.dtype.itemsize}").view(frame.dtype)
    cells = cells & frame.dtype.type((1 << stream.precision) - 1)
    return _extended(cells, stream.precision) if frame.signed else cells


def _extended(cells: NDArray[Any], precision: int) -> NDArray[Any]:
    """Extend the sign of ``precision`` bits over the cell: unsigned words wrap around as two's complement does."""
    sign = cells.dtype.type(1 << precision - 1)
    extended: NDArray[Any] = (cells ^ sign) - sign
    return extended


def _clipped(words: NDArray[Any], frame: FrameFormat) -> NDArray[Any]:
    """Bring values that a lossy codec overshot back into BitsStored."""
    half = 1 << frame.bits_stored - 1
    clipped: NDArray[Any] = words.clip(0, 2 * half - 1)
    if frame.signed:
        clipped = words.view(f"i{words.dtype.itemsize}").clip(-half, half - 1).view(words.dtype)
    return clipped


def _precision(words: NDArray[Any], frame: FrameFormat, like: Codestream | None, limit: int) -> int:
    """Choose the bits of a sample: those of the old frame, else BitsStored, else the whole cell where overlays lie
    above the values.
    """
    for bits in ([] if like is None else [like.precision]) + [max(2, frame.bits_stored), frame.bits_allocated]:
        low = words & words.dtype.type((1 << bits) - 1)
        if bits <= limit and np.array_equal(_extended(low, bits) if frame.signed else low, words):
            return bits
    raise RefusedError(f"the words do not fit in the {limit} bits that this compression encodes; {_TO_NATIVE}")


def _encoded_bits(transfer_syntax: str) -> int:
    """Give the most bits of a sample that are encoded: all that the standards allow, save for JPEG 2000 and for RLE
    beyond PS3.5 8.2.2.
    """
    is_plain = _FAMILIES.get(transfer_syntax) == "jpeg2000" and transfer_syntax not in _HTJ2K
    return _ENCODED_BITS_JPEG2000 if is_plain else _ENCODED_BITS


def _container(precision: int) -> int:
    """Give the bytes of the smallest integer that holds a sample."""
    return 1 if precision <= 8 else 2 if precision <= 16 else 4


def _decode_jpeg(stream: Codestream, transfer_syntax: str, frame: FrameFormat) -> Any:
    decode = _function(imagecodecs, "imagecodecs", "jpeg8_decode", transfer_syntax)
    if frame.samples == 1:
        return _foreign(lambda: decode(stream.data), transfer_syntax)
    coded = "YCBCR" if _becomes_rgb(stream, transfer_syntax, frame) else "RGB"
    return _foreign(lambda: decode(stream.data, colorspace=coded, outcolorspace="RGB"), transfer_syntax)


def _decode_jpeg_ls(stream: Codestream, transfer_syntax: str, frame: FrameFormat) -> Any:
    decode = _function(jpeg_ls, "pyjpegls", "jlsread", transfer_syntax)
    return _rgb(_foreign(lambda: decode(stream.data), transfer_syntax), stream, transfer_syntax, frame)


def _decode_jpeg2000(stream: Codestream, transfer_syntax: str, frame: FrameFormat) -> Any:
    # OpenJPEG reads HTJ2K too. The decoder of OpenJPH that imagecodecs has hides errors, and values of lossy frames
    # wrap around in it.
    decode = _function(imagecodecs, "imagecodecs", "jpeg2k_decode", transfer_syntax)
    return _rgb(_foreign(lambda: decode(stream.data), transfer_syntax), stream, transfer_syntax, frame)


def _becomes_rgb(stream: Codestream, transfer_syntax: str, frame: FrameFormat) -> bool:
    """Say whether lossy components are luminance and chroma, to be converted.

    The dataset says what they are, also against Adobe's marker, unless the codestream is certain: so pydicom has it.
    """
    if transfer_syntax not in LOSSY or frame.samples == 1 or stream.marked_rgb:
        return False
    return stream.marked_ybr or frame.photometric in _YBR_FULL


def _rgb(values: Any, stream: Codestream, transfer_syntax: str, frame: FrameFormat) -> Any:
    """Convert what the codec leaves as luminance and chroma."""
    if not _becomes_rgb(stream, transfer_syntax, frame):
        return values
    return _foreign(lambda: convert_color_space(values, "YBR_FULL", "RGB"), transfer_syntax)


def _encode_jpeg(
    values: NDArray[Any], precision: int, transfer_syntax: str, frame: FrameFormat, like: Codestream | None
) -> bytes:
    encode = _function(imagecodecs, "imagecodecs", "jpeg8_encode", transfer_syntax)
    predictor = like.parameter if like is not None and transfer_syntax == _JPEG_LOSSLESS else 1
    color = {"colorspace": "RGB", "outcolorspace": "RGB"} if frame.samples == 3 else {}
    samples = values.astype(f"u{_container(precision)}")
    return bytes(
        _foreign(
            lambda: encode(samples, lossless=True, predictor=predictor, bitspersample=precision, **color),
            transfer_syntax,
        )
    )


def _encode_jpeg_ls(
    values: NDArray[Any], precision: int, transfer_syntax: str, frame: FrameFormat, like: Codestream | None
) -> bytes:
    encode = _function(jpeg_ls, "pyjpegls", "encode_buffer", transfer_syntax)
    interleave = _INTERLEAVED_BY_PIXEL if like is None else like.parameter
    samples = values.astype(f"<u{_container(precision)}")
    if frame.samples == 3 and interleave == 0:
        samples = np.moveaxis(samples, -1, 0)
    layout = {
        "rows": frame.rows,
        "columns": frame.columns,
        "samples_per_pixel": frame.samples,
        "bits_stored": precision,
    }
    return bytes(
        _foreign(
            lambda: encode(samples.tobytes(), **layout, lossy_error=0, interleave_mode=interleave), transfer_syntax
        )
    )


def _encode_jpeg2000(
    values: NDArray[Any], precision: int, transfer_syntax: str, frame: FrameFormat, like: Codestream | None
) -> bytes:
    signed = frame.signed if like is None else like.signed
    transform = frame.samples == 3 and (frame.photometric == "YBR_RCT" if like is None else like.color_transform)
    size = _container(precision)
    samples = (
        (_extended(values, precision) if signed else values).astype(f"u{size}").view(f"{'i' if signed else 'u'}{size}")
    )
    if transfer_syntax not in _HTJ2K:
        encode = _function(imagecodecs, "imagecodecs", "jpeg2k_encode", transfer_syntax)
        options = {"codecformat": "J2K", "reversible": True, "mct": transform, "bitspersample": precision}
        return bytes(_foreign(lambda: encode(samples, level=0, **options), transfer_syntax))
    encode = _function(imagecodecs, "imagecodecs", "htj2k_encode", transfer_syntax)
    # imagecodecs says that samples fill their integers. What is coded is their distance to the middle of the range, so
    # that moving them to the middle of the integer's range codes the same stream, in which only the depth remains to be
    # set.
    if not signed:
        samples = samples + samples.dtype.type((1 << 8 * size - 1) - (1 << precision - 1))
    options = {"reversible": True, "planar": False, "rgb": transform}
    if transfer_syntax == _HTJ2K_RPCL:
        # It wants the lengths of tile-parts in the header, a part for each resolution, and a lowest one of at most 64
        # pixels.
        options |= {
            "tlm": True,
            "tilepart": 1,
            "resolutions": max(5, (max(frame.rows, frame.columns) - 1 >> 6).bit_length()),
        }
    stream = bytearray(_foreign(lambda: encode(samples, **options), transfer_syntax))
    for component in range(frame.samples):
        stream[42 + 3 * component] = precision - 1 | signed << 7
    return bytes(stream)


_DECODERS: dict[Family, Callable[[Codestream, str, FrameFormat], Any]] = {
    "jpeg": _decode_jpeg,
    "jpeg-ls": _decode_jpeg_ls,
    "jpeg2000": _decode_jpeg2000,
}
_ENCODERS: dict[Family, Callable[[NDArray[Any], int, str, FrameFormat, Codestream | None], bytes]] = {
    "jpeg": _encode_jpeg,
    "jpeg-ls": _encode_jpeg_ls,
    "jpeg2000": _encode_jpeg2000,
}


def _rle_options(frame: FrameFormat) -> dict[str, Any]:
    return {
        "rows": frame.rows,
        "columns": frame.columns,
        "samples_per_pixel": frame.samples,
        "photometric_interpretation": "MONOCHROME2" if frame.samples == 1 else "RGB",
        "bits_allocated": frame.bits_allocated,
        "bits_stored": frame.bits_allocated,
        "pixel_representation": 0,
        "planar_configuration": 0,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
    }


def _decode_rle(data: bytes, frame: FrameFormat) -> NDArray[Any]:
    def decode() -> Any:
        return get_decoder(RLELossless).as_array(
            encapsulate([data]), raw=True, decoding_plugin="pydicom", **_rle_options(frame)
        )[0]

    values = _foreign(decode, _RLE)
    if not isinstance(values, np.ndarray) or values.shape != frame.shape or values.dtype != frame.dtype:
        raise RefusedError("an RLE frame decoded to another shape than the dataset says; the file is damaged")
    return np.ascontiguousarray(values)


def _encode_rle(words: NDArray[Any], frame: FrameFormat) -> bytes:
    cells = words.astype(words.dtype.newbyteorder("<")).tobytes()
    return bytes(
        _foreign(lambda: get_encoder(RLELossless).encode(cells, encoding_plugin="pydicom", **_rle_options(frame)), _RLE)
    )
