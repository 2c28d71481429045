# SPDX-License-Identifier: Apache-2.0
"""The libraries that decode and encode: imagecodecs for JPEG and JPEG 2000, pyjpegls for JPEG-LS, pydicom for RLE.

Whatever they raise becomes a refusal; what they give back is for the caller to judge.
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
from pydicom.uid import HTJ2KLosslessRPCL, JPEGLossless, RLELossless

from monai_salm.errors import RefusedError, how_to_install
from monai_salm.io.dicom.codecs.cells import sign_extended
from monai_salm.io.dicom.codestreams import Codestream, Family, FrameFormat
from monai_salm.io.dicom.encapsulation import encapsulate
from monai_salm.io.dicom.transfer_syntaxes import FAMILIES, HIGH_THROUGHPUT, LOSSY
from monai_salm.io.dicom.wording import uid_name


def _optional(module: str) -> Any:
    """Import a module of the extra ``codecs``, or give None."""
    try:
        return import_module(module)
    except ImportError:
        return None


imagecodecs = _optional("imagecodecs")
jpeg_ls = _optional("jpeg_ls")

YBR_FULL = ("YBR_FULL", "YBR_FULL_422")
_INTERLEAVED_BY_PIXEL = 2


def check_codec(transfer_syntax: str) -> None:
    """Find out before any frame is decoded whether the package that decodes it is installed.

    Raises:
        RefusedError: it is not; with the command that installs it.
    """
    family = FAMILIES.get(transfer_syntax)
    if family == "jpeg-ls":
        _function(jpeg_ls, "pyjpegls", "jlsread", transfer_syntax)
    elif family is not None:
        _function(imagecodecs, "imagecodecs", "jpeg8_decode" if family == "jpeg" else "jpeg2k_decode", transfer_syntax)


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
    found = getattr(module, name, None)
    if found is None and module is not None:  # some builds of imagecodecs lack a codec, and old versions HTJ2K
        raise RefusedError(
            f"{uid_name(transfer_syntax)} needs another {package} than {getattr(module, '__version__', 'this')}, which "
            f"lacks it; pip install --upgrade {package} (HTJ2K: 2026.1.14 or newer, which needs Python 3.11)"
        )
    if found is None:
        raise RefusedError(f"{uid_name(transfer_syntax)} needs {package}; install it: {how_to_install(package)}")
    return found


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
    return stream.marked_ybr or frame.photometric in YBR_FULL


def _rgb(values: Any, stream: Codestream, transfer_syntax: str, frame: FrameFormat) -> Any:
    """Convert what the codec leaves as luminance and chroma."""
    if not _becomes_rgb(stream, transfer_syntax, frame):
        return values
    return _foreign(lambda: convert_color_space(values, "YBR_FULL", "RGB"), transfer_syntax)


def _encode_jpeg(
    values: NDArray[Any], precision: int, transfer_syntax: str, frame: FrameFormat, like: Codestream | None
) -> bytes:
    encode = _function(imagecodecs, "imagecodecs", "jpeg8_encode", transfer_syntax)
    predictor = like.parameter if like is not None and transfer_syntax == JPEGLossless else 1
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
        (sign_extended(values, precision) if signed else values)
        .astype(f"u{size}")
        .view(f"{'i' if signed else 'u'}{size}")
    )
    if transfer_syntax not in HIGH_THROUGHPUT:
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
    if transfer_syntax == HTJ2KLosslessRPCL:
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


DECODERS: dict[Family, Callable[[Codestream, str, FrameFormat], Any]] = {
    "jpeg": _decode_jpeg,
    "jpeg-ls": _decode_jpeg_ls,
    "jpeg2000": _decode_jpeg2000,
}
ENCODERS: dict[Family, Callable[[NDArray[Any], int, str, FrameFormat, Codestream | None], bytes]] = {
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


def decode_rle(data: bytes, frame: FrameFormat) -> NDArray[Any]:
    """Decode an RLE frame to whole cells.

    Raises:
        RefusedError: it is damaged.
    """

    def decode() -> Any:
        return get_decoder(RLELossless).as_array(
            encapsulate([data]), raw=True, decoding_plugin="pydicom", **_rle_options(frame)
        )[0]

    values = _foreign(decode, RLELossless)
    if not isinstance(values, np.ndarray) or values.shape != frame.shape or values.dtype != frame.dtype:
        raise RefusedError("an RLE frame decoded to another shape than the dataset says; the file is damaged")
    return np.ascontiguousarray(values)


def encode_rle(words: NDArray[Any], frame: FrameFormat) -> bytes:
    """Encode whole cells as an RLE frame."""
    cells = words.astype(words.dtype.newbyteorder("<")).tobytes()
    return bytes(
        _foreign(
            lambda: get_encoder(RLELossless).encode(cells, encoding_plugin="pydicom", **_rle_options(frame)),
            RLELossless,
        )
    )
