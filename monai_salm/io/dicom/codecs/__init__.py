# SPDX-License-Identifier: Apache-2.0
"""Compressed frames: decoded to pixel cells, encoded again exactly, and the libraries that do it."""

from __future__ import annotations

from monai_salm.io.dicom.codecs.frames import can_encode, decode_frame, encode_frame, is_reversible
from monai_salm.io.dicom.codecs.libraries import check_codec
from monai_salm.io.dicom.codestreams import FrameFormat

__all__ = ["FrameFormat", "can_encode", "check_codec", "decode_frame", "encode_frame", "is_reversible"]
