# SPDX-License-Identifier: Apache-2.0
"""Reading pictures: whether a DICOM file is one that can be protected faithfully, and its values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.charset import convert_encodings, decode_bytes

from monai_salm.errors import RefusedError
from monai_salm.io.base import Document, ImageHeader
from monai_salm.io.dicom.elements import PIXEL_DATA
from monai_salm.io.dicom.files import (
    NATIVE,
    DicomFile,
    ascii_values,
    class_name,
    find,
    floats,
    read_file,
    shown,
    uid_name,
)
from monai_salm.io.dicom.pixels import PixelFormat

_DICOMDIR = "1.2.840.10008.1.3.10"
_IDENTIFIERS = {
    0x00080018: "SOPInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x0020000D: "StudyInstanceUID",
    0x00200052: "FrameOfReferenceUID",
    0x00100020: "PatientID",
    0x00080050: "AccessionNumber",
}


def check_picture(file: DicomFile) -> PixelFormat:
    """Give the format of the pixels, or refuse what is no single-frame grayscale picture in a native transfer syntax.

    Raises:
        RefusedError: with the value found and what is supported.
    """
    _check_class(file)
    _check_pixel_element(file)
    frames = file.number(0x00280008)
    if frames not in (None, 1.0):
        raise RefusedError(f"NumberOfFrames is {shown(file.text(0x00280008))}; only single-frame images are supported yet")
    if file.find(0x52009229) is not None or file.find(0x52009230) is not None:
        raise RefusedError("functional groups (an enhanced image) are not supported yet")
    photometric = file.text(0x00280004)
    samples = file.unsigned(0x00280002)
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise RefusedError(
            f"PhotometricInterpretation is {shown(photometric) or 'absent'} with {samples} samples per pixel; "
            "only MONOCHROME1 and MONOCHROME2 with 1 are supported yet"
        )
    lut = file.find(0x00283000)
    if lut is not None and lut.size:
        raise RefusedError("ModalityLUTSequence maps stored to real values by a table; only RescaleSlope is supported")
    pixel_format = _pixel_format(file)
    rescale(file)
    return pixel_format


def _check_class(file: DicomFile) -> None:
    sop_class = file.text(0x00080016) or next(iter(ascii_values(find(file.meta, 0x00020002))), "")
    if sop_class == _DICOMDIR:
        raise RefusedError("not a picture (a DICOMDIR)")
    for tag, name in ((0x00080016, "SOPClassUID"), (0x00080018, "SOPInstanceUID")):
        if not file.text(tag):
            raise RefusedError(f"{name} is absent or empty; the file is truncated or no DICOM object")
    name = class_name(sop_class)
    if not name:
        raise RefusedError(f"SOP class {shown(sop_class)} is not known, so neither is what the object means")
    if "Image Storage" not in name:
        raise RefusedError(f"not a picture ({name})")


def _check_pixel_element(file: DicomFile) -> None:
    for tag, name in ((0x7FE00008, "FloatPixelData"), (0x7FE00009, "DoubleFloatPixelData")):
        if file.find(tag) is not None:
            raise RefusedError(f"{name} (a map of floats) is not supported; only PixelData is")
    element = file.find(PIXEL_DATA)
    if element is None:
        raise RefusedError("there is no PixelData; the file is truncated or holds no image")
    if file.transfer_syntax not in NATIVE:
        raise RefusedError(
            f"transfer syntax {uid_name(file.transfer_syntax)} is compressed; only native ones are supported yet: "
            "decompress first, for example with gdcmconv --raw"
        )
    if element.undefined:
        raise RefusedError("PixelData is encapsulated though the transfer syntax is native; repair the file first")


def _pixel_format(file: DicomFile) -> PixelFormat:
    names = {
        0x00280010: "Rows",
        0x00280011: "Columns",
        0x00280100: "BitsAllocated",
        0x00280101: "BitsStored",
        0x00280102: "HighBit",
        0x00280103: "PixelRepresentation",
    }
    numbers = {name: file.unsigned(tag) for tag, name in names.items()}
    absent = [name for name, number in numbers.items() if number is None]
    if absent:
        raise RefusedError(f"{', '.join(absent)} absent or not one number; these are required to read the pixels")
    rows, columns, allocated, stored, high, signed = (number or 0 for number in numbers.values())
    if rows == 0 or columns == 0:
        raise RefusedError(f"Rows x Columns is {rows} x {columns}; there is no pixel")
    if allocated not in (8, 16, 32) or (allocated == 32 and not file.encoding.little):
        raise RefusedError(f"BitsAllocated is {allocated}; 8 and 16 are supported, and 32 in little endian")
    if not 1 <= stored <= allocated:
        raise RefusedError(f"BitsStored is {stored}; it must be 1 to BitsAllocated, which is {allocated}")
    if high != stored - 1:
        raise RefusedError(f"HighBit is {high} with BitsStored {stored}; it must be {stored - 1} (PS3.5 8.1.1), for readers disagree on others")
    if signed not in (0, 1):
        raise RefusedError(f"PixelRepresentation is {signed}; 0 (unsigned) and 1 (two's complement) are defined")
    element = file.find(PIXEL_DATA)
    size, vr = (element.size, element.vr) if element is not None else (0, "")
    if not file.encoding.little and vr != "OW" and (allocated, vr) != (8, "OB"):
        raise RefusedError(f"PixelData of {allocated} bits in big endian is written as {vr}; OW is supported")
    frame = rows * columns * allocated // 8
    if size < frame:
        raise RefusedError(f"PixelData has {size} bytes, Rows x Columns x BitsAllocated need {frame}; it is truncated")
    if size >= 2 * frame and size > frame + 1:
        raise RefusedError(f"PixelData has {size} bytes, one frame needs {frame}: more frames than are declared")
    return PixelFormat(
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=signed == 1,
        swapped_bytes=allocated == 8 and not file.encoding.little and vr == "OW",
        little=file.encoding.little,
    )


def rescale(file: DicomFile) -> tuple[float, float]:
    """Give RescaleSlope and RescaleIntercept (PS3.3 C.11.1.1), 1 and 0 where absent.

    Raises:
        RefusedError: they are no usable numbers.
    """
    slope, intercept = file.number(0x00281053), file.number(0x00281052)
    slope = 1.0 if slope is None else slope
    intercept = 0.0 if intercept is None else intercept
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise RefusedError(
            f"RescaleSlope is {_shown_values(file, 0x00281053)}, RescaleIntercept {_shown_values(file, 0x00281052)}; "
            "the slope must be one finite number other than 0, the intercept a finite one"
        )
    return slope, intercept


def _shown_values(file: DicomFile, tag: int) -> str:
    return shown("\\".join(file.texts(tag))) or "absent"


def identify(path: Path) -> ImageHeader | Document:
    """Read what planning needs of a picture, without its pixels.

    Raises:
        RefusedError: the file is no picture that can be protected faithfully.
    """
    file = read_file(path, pixels=False)
    return picture_header(path, file, check_picture(file))


def has_embedded_overlays(file: DicomFile) -> bool:
    """Say whether overlays are declared in the bits above the pixel values (retired; OverlayBitPosition)."""
    return any(element.tag >> 24 == 0x60 and element.tag & 0xFFFF == 0x0102 and any(element.value) for element in file.elements)


def picture_header(path: Path, file: DicomFile, pixel_format: PixelFormat) -> ImageHeader:
    """Give the header of a picture that ``check_picture`` found to be one."""
    return ImageHeader(
        path=path,
        format="dicom",
        shape=(pixel_format.rows, pixel_format.columns),
        dtype=pixel_format.dtype,
        modality=file.text(0x00080060),
        identifiers=_identifiers(file),
        slice_position=_slice_position(file),
        instance_number=_instance_number(file),
        spacing=_spacing(file),
        window_real=_window(file),
        derivation=_text_in_charset(file, 0x00082111),
    )


def _identifiers(file: DicomFile) -> dict[str, str]:
    found = {name: _text_in_charset(file, tag) for tag, name in _IDENTIFIERS.items()}
    return {name: value for name, value in found.items() if value}


def _text_in_charset(file: DicomFile, tag: int) -> str:
    """Decode an element that may be in any character set (PS3.3 C.12.1.1.2)."""
    element = file.find(tag)
    if element is None:
        return ""
    encodings = convert_encodings(file.texts(0x00080005) or ["ISO_IR 6"])
    return str(decode_bytes(bytes(element.value), encodings, set())).strip("\0 ")


def _slice_position(file: DicomFile) -> float | None:
    """Project ImagePositionPatient onto the normal of ImageOrientationPatient (PS3.3 C.7.6.2.1.1)."""
    position, orientation = floats(file.texts(0x00200032)), floats(file.texts(0x00200037))
    if len(position) != 3 or len(orientation) != 6:
        return None
    along = float(np.dot(position, np.cross(orientation[:3], orientation[3:])))
    return along if np.isfinite(along) else None


def _instance_number(file: DicomFile) -> int | None:
    number = file.number(0x00200013)
    return int(number) if number is not None and np.isfinite(number) else None


def _spacing(file: DicomFile) -> tuple[float, ...]:
    """Give PixelSpacing, else ImagerPixelSpacing (PS3.3 10.7.1.3), both rows first."""
    for tag in (0x00280030, 0x00181164):
        spacing = floats(file.texts(tag))
        if len(spacing) == 2 and np.isfinite(spacing).all() and min(spacing) > 0:
            return tuple(spacing)
    return (1.0, 1.0)


def _window(file: DicomFile) -> tuple[float, float] | None:
    """Give the first VOI window (PS3.3 C.11.2.1.2); a sigmoid has no ends, so it is none."""
    center, width = (floats(file.texts(tag)[:1]) for tag in (0x00281050, 0x00281051))
    if not center or not width or not np.isfinite([*center, *width]).all():
        return None
    function = file.text(0x00281056) or "LINEAR"
    if function == "LINEAR":
        low, high = center[0] - 0.5 - (width[0] - 1) / 2, center[0] - 0.5 + (width[0] - 1) / 2
    elif function == "LINEAR_EXACT":
        low, high = center[0] - width[0] / 2, center[0] + width[0] / 2
    else:
        return None
    return (low, high) if low < high else None
