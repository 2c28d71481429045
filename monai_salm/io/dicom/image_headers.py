# SPDX-License-Identifier: Apache-2.0
"""Telling what a DICOM file is: an image that can be protected faithfully, with its header, or something else."""

from __future__ import annotations

from pathlib import Path
from sys import intern

import numpy as np
from pydicom.uid import ExplicitVRLittleEndian

from monai_salm.errors import RefusedError
from monai_salm.io.base import ImageHeader
from monai_salm.io.dicom import tags
from monai_salm.io.dicom.codecs import FrameFormat, can_encode, check_codec
from monai_salm.io.dicom.documents import notes_of, references_of, unprotected_in
from monai_salm.io.dicom.elements import PIXEL_DATA
from monai_salm.io.dicom.files import META_GROUP, DicomFile, ascii_values, decoded_text, floats, identifiers
from monai_salm.io.dicom.frames import frame_rescales, mosaic_tiles, spacing, ultrasound_regions
from monai_salm.io.dicom.pixels import Layout, PixelFormat
from monai_salm.io.dicom.transfer_syntaxes import FAMILIES, LOSSLESS, LOSSY, NATIVE, is_video
from monai_salm.io.dicom.wording import class_name, shown, uid_name
from monai_salm.io.modalities import MODALITIES
from monai_salm.io.sharing import shared

_LAYOUTS: dict[str, Layout] = {
    "MONOCHROME1": "gray",
    "MONOCHROME2": "gray",
    "RGB": "rgb",
    "YBR_RCT": "rgb",
    "YBR_ICT": "rgb",
    "YBR_FULL": "ybr",
    "YBR_FULL_422": "ybr422",
}
_MAX_RATIO = 1000
_MAX_UNCHECKED_BYTES = 1 << 28


def check_picture(file: DicomFile) -> PixelFormat:
    """Give the format of an image's pixels, or refuse what cannot be protected faithfully.

    Raises:
        RefusedError: with the value found and what is supported.
    """
    _check_identity(file)
    _check_pixel_element(file)
    lut = file.find(tags.MODALITY_LUT_SEQUENCE)
    if lut is not None and lut.size:
        raise RefusedError("ModalityLUTSequence maps stored to real values by a table; only RescaleSlope is supported")
    pixel_format = _pixel_format(file)
    frame_rescales(file, pixel_format.frames)
    return pixel_format


def _check_identity(file: DicomFile) -> None:
    if not file.prefix or not file.transfer_syntax:
        raise RefusedError(
            "an image without preamble and file meta information, whose encoding can only be guessed; write it "
            "as a DICOM file first, for example with dcmconv"
        )
    for tag, name in ((tags.SOP_CLASS_UID, "SOPClassUID"), (tags.SOP_INSTANCE_UID, "SOPInstanceUID")):
        if not file.text(tag):
            raise RefusedError(f"{name} is absent or empty; the file is truncated or no DICOM object")
    stated = [element for element in [*file.meta, *file.elements] if element.tag == tags.MEDIA_STORAGE_SOP_CLASS_UID]
    other = next(
        (uid for element in stated for uid in ascii_values(element) if uid != file.text(tags.SOP_CLASS_UID)), ""
    )
    if other:
        raise RefusedError(
            f"the file meta information says {uid_name(other)}, the dataset "
            f"{uid_name(file.text(tags.SOP_CLASS_UID))}: readers go by the one or the other; "
            "repair the file first, for example with dcmconv, which keeps that of the dataset"
        )


def _check_pixel_element(file: DicomFile) -> None:
    element = file.find(PIXEL_DATA)
    if element is None:
        raise RefusedError(
            f"there is no PixelData in an object of class {class_name(file.text(tags.SOP_CLASS_UID))}; the file "
            "is truncated or holds no image"
        )
    if file.transfer_syntax in NATIVE:
        if element.undefined:
            raise RefusedError("PixelData is encapsulated though the transfer syntax is native; repair the file first")
        return
    if is_video(file.transfer_syntax):
        raise RefusedError(
            f"{uid_name(file.transfer_syntax)}: video is not protected; leave it out, or share frames of it as images"
        )
    if file.transfer_syntax not in LOSSLESS | LOSSY:
        raise RefusedError(
            f"transfer syntax {uid_name(file.transfer_syntax)} is not supported (a codec that no longer is in "
            "use, or not yet); "
            "convert to Explicit VR Little Endian first, for example with gdcmconv --raw"
        )
    check_codec(file.transfer_syntax)
    if not element.undefined:
        raise RefusedError(
            "PixelData is not encapsulated though the transfer syntax is compressed; repair the file first"
        )


def _pixel_format(file: DicomFile) -> PixelFormat:
    numbers = {name: file.unsigned(tag) for tag, name in _REQUIRED.items()}
    absent = [name for name, number in numbers.items() if number is None]
    if absent:
        raise RefusedError(f"{', '.join(absent)} absent or not one number; these are required to read the pixels")
    samples, rows, columns, allocated, stored, high, signed = (number or 0 for number in numbers.values())
    if rows == 0 or columns == 0:
        raise RefusedError(f"Rows x Columns is {rows} x {columns}; there is no pixel")
    if allocated not in (8, 16, 32) or (allocated == 32 and not file.encoding.little):
        raise RefusedError(f"BitsAllocated is {allocated}; 8 and 16 are supported, and 32 in little endian")
    if not 1 <= stored <= allocated:
        raise RefusedError(f"BitsStored is {stored}; it must be 1 to BitsAllocated, which is {allocated}")
    if high != stored - 1:
        raise RefusedError(
            f"HighBit is {high} with BitsStored {stored}; it must be {stored - 1} (PS3.5 8.1.1), for readers "
            "disagree on others"
        )
    if signed not in (0, 1):
        raise RefusedError(f"PixelRepresentation is {signed}; 0 (unsigned) and 1 (two's complement) are defined")
    layout = _layout(file, samples)
    if layout == "ybr422" and (columns % 2 or allocated != 8):
        raise RefusedError(
            f"YBR_FULL_422 with {columns} columns of {allocated} bits; an even number of 8 bits is defined (PS3.3 "
            "C.7.6.3.1.2)"
        )
    element = file.find(PIXEL_DATA)
    vr = element.vr if element is not None else ""
    if not file.encoding.little and vr != "OW" and (allocated, vr) != (8, "OB"):
        raise RefusedError(f"PixelData of {allocated} bits in big endian is written as {vr}; OW is supported")
    native = file.transfer_syntax in NATIVE
    pixel_format = PixelFormat(
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=signed == 1,
        frames=_frames(file),
        layout=layout,
        planar=native and layout != "ybr422" and samples == 3 and file.unsigned(tags.PLANAR_CONFIGURATION) == 1,
        tiles=mosaic_tiles(file, rows, columns) if samples == 1 and _frames(file) == 1 else (1, 1),
        swapped_bytes=allocated == 8 and not file.encoding.little and vr == "OW",
        little=file.encoding.little,
    )
    if native:
        _check_length(pixel_format, element.size if element is not None else 0)
    else:
        _check_claim(pixel_format, element.size if element is not None else 0)
    return pixel_format


_REQUIRED = {
    tags.SAMPLES_PER_PIXEL: "SamplesPerPixel",
    tags.ROWS: "Rows",
    tags.COLUMNS: "Columns",
    tags.BITS_ALLOCATED: "BitsAllocated",
    tags.BITS_STORED: "BitsStored",
    tags.HIGH_BIT: "HighBit",
    tags.PIXEL_REPRESENTATION: "PixelRepresentation",
}


def _layout(file: DicomFile, samples: int) -> Layout:
    photometric = file.text(tags.PHOTOMETRIC_INTERPRETATION)
    if photometric == "PALETTE COLOR":
        raise RefusedError(
            "PALETTE COLOR: a pixel is the number of a color, and the next number may be any other; "
            "convert it to RGB first, for example with gdcmconv --apply-lut"
        )
    layout = _LAYOUTS.get(photometric)
    if layout is None or samples != (1 if layout == "gray" else 3):
        raise RefusedError(
            f"PhotometricInterpretation is {shown(photometric) or 'absent'} with {samples} samples per pixel; "
            f"{', '.join(_LAYOUTS)} with their 1 or 3 are supported"
        )
    if photometric in ("YBR_RCT", "YBR_ICT") and FAMILIES.get(file.transfer_syntax) != "jpeg2000":
        raise RefusedError(
            f"{photometric} in {uid_name(file.transfer_syntax)}: it is defined in JPEG 2000 alone (PS3.3 "
            "C.7.6.3.1.2), so the colors are not known"
        )
    if file.transfer_syntax in LOSSY and layout != "gray":
        return "rgb"  # decoded to colors, since each decoder has its own way with chroma
    if layout == "ybr422" and file.transfer_syntax not in NATIVE:
        raise RefusedError(
            f"YBR_FULL_422 in {uid_name(file.transfer_syntax)} is not defined; convert to Explicit VR Little "
            "Endian first"
        )
    return layout


def _frames(file: DicomFile) -> int:
    frames = file.number(tags.NUMBER_OF_FRAMES)
    if frames is None:
        return 1
    if not np.isfinite(frames) or frames < 1 or frames != int(frames):
        found = shown("\\".join(file.texts(tags.NUMBER_OF_FRAMES)))
        raise RefusedError(f"NumberOfFrames is {found}; a whole number from 1 is needed")
    return int(frames)


def _check_length(pixel_format: PixelFormat, size: int) -> None:
    """Hold what the header claims against the bytes that are there, before any memory is taken."""
    if size < pixel_format.size:
        raise RefusedError(
            f"PixelData has {size} bytes, Rows x Columns x NumberOfFrames x BitsAllocated need "
            f"{pixel_format.size}; it is truncated"
        )
    if size >= pixel_format.size + pixel_format.frame_bytes and size > pixel_format.size + 1:
        raise RefusedError(
            f"PixelData has {size} bytes, {pixel_format.frames} frames need {pixel_format.size}: more frames than "
            "are declared"
        )


def _check_claim(pixel_format: PixelFormat, size: int) -> None:
    """Hold what the header claims against what so many compressed bytes can hold, before any memory is taken."""
    if pixel_format.frames > size // 8:
        raise RefusedError(
            f"NumberOfFrames is {pixel_format.frames}, but {size} bytes of fragments hold at most {size // 8} frames"
        )
    if pixel_format.size > max(_MAX_UNCHECKED_BYTES, _MAX_RATIO * size):
        raise RefusedError(
            f"Rows x Columns x NumberOfFrames make {pixel_format.size} bytes, more than {_MAX_RATIO} times the "
            f"{size} that are compressed"
        )


def has_embedded_overlays(file: DicomFile) -> bool:
    """Say whether overlays are declared in the bits above the pixel values (retired; OverlayBitPosition)."""
    return any(
        element.tag >> 24 == 0x60 and element.tag & 0xFFFF == 0x0102 and any(element.value) for element in file.elements
    )


def picture_header(path: Path, file: DicomFile, pixel_format: PixelFormat) -> ImageHeader:
    """Give the header of an image that ``check_picture`` found to be one."""
    shape = pixel_format.picture_shape
    frame = FrameFormat(
        rows=pixel_format.rows, columns=pixel_format.columns, samples=pixel_format.samples,
        bits_allocated=pixel_format.bits_allocated,
        bits_stored=pixel_format.bits_stored, signed=pixel_format.signed,
        photometric=file.text(tags.PHOTOMETRIC_INTERPRETATION),
    )  # fmt: skip
    native = file.transfer_syntax in NATIVE or can_encode(file.transfer_syntax, frame)
    notes = notes_of(file)
    modality = file.text(tags.MODALITY).upper()  # careless writers use lower case
    if modality and modality not in MODALITIES:
        notes += (
            f"Modality is {shown(modality)}, which is no code of the standard, so that nothing is known of its values",
        )
    if not native and file.elements[0].tag >> 16 == META_GROUP:
        raise RefusedError(
            f"{uid_name(file.transfer_syntax)} is written as Explicit VR Little Endian, but file meta information "
            "is there a second time and would "
            "contradict it; remove that, for example with dcmodify -nb -ie -e '(0002,0010)'"
        )
    if not native:
        why = "for lossy compression" if file.transfer_syntax in LOSSY else "not one that such pixels can be encoded in"
        notes += (
            f"the source's transfer syntax, {uid_name(file.transfer_syntax)}, is {why}, so the pixels are written "
            "as Explicit VR Little Endian",
        )
    steps, known = spacing(file)
    return ImageHeader(
        path=path,
        format="dicom",
        shape=shared(shape),
        trailing=(3,) if pixel_format.layout == "rgb" else (),
        color=pixel_format.layout == "rgb",
        stacked=pixel_format.stacked,
        regions=ultrasound_regions(file, pixel_format.rows, pixel_format.columns)
        if pixel_format.tiles == (1, 1)
        else (),
        dtype=pixel_format.dtype,
        modality=intern(modality),
        identifiers=identifiers(file),
        slice_position=_slice_position(file),
        instance_number=_instance_number(file),
        spacing=shared(steps[-len(shape) :]),
        spacing_known=known,
        window_real=shared(_window(file)),
        derivation=decoded_text(file, tags.DERIVATION_DESCRIPTION),
        output_transfer_syntax="" if native else ExplicitVRLittleEndian,
        references=references_of(file),
        notes=shared(notes),
        unprotected=unprotected_in(file),
    )


def _slice_position(file: DicomFile) -> float | None:
    """Project ImagePositionPatient onto the normal of ImageOrientationPatient (PS3.3 C.7.6.2.1.1)."""
    position, orientation = floats(file.texts(tags.IMAGE_POSITION)), floats(file.texts(tags.IMAGE_ORIENTATION))
    if len(position) != 3 or len(orientation) != 6:
        return None
    (a, b, c), (d, e, f) = orientation[:3], orientation[3:]
    along = float(np.dot(position, [b * f - c * e, c * d - a * f, a * e - b * d]))
    return along if np.isfinite(along) else None


def _instance_number(file: DicomFile) -> int | None:
    number = file.number(tags.INSTANCE_NUMBER)
    return int(number) if number is not None and np.isfinite(number) else None


def _window(file: DicomFile) -> tuple[float, float] | None:
    center, width = (floats(file.texts(tag)[:1]) for tag in (tags.WINDOW_CENTER, tags.WINDOW_WIDTH))
    return voi_window(center[0], width[0], file.text(tags.VOI_LUT_FUNCTION)) if center and width else None


def voi_window(center: float, width: float, function: str) -> tuple[float, float] | None:
    """Give the ends of a VOI window (PS3.3 C.11.2.1.2); a sigmoid has none.

    Args:
        center, width: WindowCenter and WindowWidth.
        function: VOILUTFunction; empty if absent, which is LINEAR.
    """
    if not np.isfinite([center, width]).all():
        return None
    if function in ("", "LINEAR"):
        low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    elif function == "LINEAR_EXACT":
        low, high = center - width / 2, center + width / 2
    else:
        return None
    return (low, high) if low < high else None
