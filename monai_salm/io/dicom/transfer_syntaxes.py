# SPDX-License-Identifier: Apache-2.0
"""Transfer syntaxes (PS3.5 10): which are native, which are decoded and encoded, and how each loses values."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from monai_salm.io.dicom.codestreams import Family
from monai_salm.io.dicom.elements import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, Encoding

NATIVE: Mapping[str, Encoding] = {
    ImplicitVRLittleEndian: IMPLICIT_LITTLE,
    ExplicitVRLittleEndian: EXPLICIT_LITTLE,
    ExplicitVRBigEndian: EXPLICIT_BIG,
    DeflatedExplicitVRLittleEndian: EXPLICIT_LITTLE,
}
"""How the elements of a dataset with native pixels are encoded; of all others as Explicit VR Little Endian."""

HIGH_THROUGHPUT = frozenset({HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K})

FAMILIES: Mapping[str, Family] = {
    JPEGBaseline8Bit: "jpeg",
    JPEGExtended12Bit: "jpeg",
    JPEGLossless: "jpeg",
    JPEGLosslessSV1: "jpeg",
    JPEGLSLossless: "jpeg-ls",
    JPEGLSNearLossless: "jpeg-ls",
    JPEG2000Lossless: "jpeg2000",
    JPEG2000: "jpeg2000",
    **dict.fromkeys(HIGH_THROUGHPUT, "jpeg2000"),
}
"""The standards of the codestreams that are decoded; RLE (PS3.5 G) has none."""

LOSSY_METHODS: Mapping[str, str] = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGExtended12Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000: "ISO_15444_1",
    HTJ2K: "ISO_15444_15",
}
"""LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5.1)."""

LOSSY = frozenset(LOSSY_METHODS)
"""Decoded once and written native."""

LOSSLESS = frozenset({RLELossless, *FAMILIES}) - LOSSY
"""Decoded and encoded again exactly."""

_COMPRESSED = ("1.2.840.10008.1.2.4.", RLELossless)
_VIDEO = re.compile(r"1\.2\.840\.10008\.1\.2\.4\.10[0-8](\.1)?")
"""MPEG-2, MPEG-4 and HEVC (PS3.5 A.4.5 to A.4.8, also fragmentable)."""


def is_known(transfer_syntax: str) -> bool:
    """Say whether it is known how the elements of such a dataset are encoded, whatever its pixels are."""
    return transfer_syntax in NATIVE or transfer_syntax.startswith(_COMPRESSED)


def is_video(transfer_syntax: str) -> bool:
    """Say whether the pixels are those of a video."""
    return _VIDEO.fullmatch(transfer_syntax) is not None
