# SPDX-License-Identifier: Apache-2.0
"""Small image files of every kind, written by other software than the one under test (pydicom, struct)."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.pixels import get_encoder
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

SOP_UID = "1.2.826.0.1.3680043.8.498.1"
SERIES_UID = "1.2.826.0.1.3680043.8.498.2"
STUDY_UID = "1.2.826.0.1.3680043.8.498.3"
FRAME_UID = "1.2.826.0.1.3680043.8.498.4"
NEIGHBOR_UID = "1.2.826.0.1.3680043.8.498.5"
CT = "1.2.840.10008.5.1.4.1.1.2"


def values_in(low: int, high: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Spread values over a range, both ends included."""
    count = int(np.prod(shape))
    return np.linspace(low, high, count).round().astype(dtype).reshape(shape)


def dicom_dataset(
    *,
    bits_allocated: int = 16,
    bits_stored: int = 12,
    signed: bool = False,
    photometric: str = "MONOCHROME2",
    shape: tuple[int, int] = (6, 8),
    samples: int = 1,
    frames: int = 1,
    extra: Mapping[str, Any] | None = None,
) -> Dataset:
    """Make a CT slice, or a stack of some, without its pixels.

    Args:
        bits_allocated: size of a pixel cell.
        bits_stored: size of its value.
        signed: two's complement.
        photometric: PhotometricInterpretation.
        shape: Rows and Columns.
        samples: SamplesPerPixel; of 3 PlanarConfiguration is 0.
        frames: NumberOfFrames, which one frame does without.
        extra: attributes by keyword, over the default ones; None removes one.
    """
    dataset = Dataset()
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SOPClassUID = CT
    dataset.SOPInstanceUID = SOP_UID
    dataset.StudyDate = "20200101"
    dataset.AccessionNumber = "A1"
    dataset.Modality = "CT"
    dataset.Manufacturer = "Maker"
    dataset.PatientName = "Doe^Jane"
    dataset.PatientID = "P1"
    dataset.StudyInstanceUID = STUDY_UID
    dataset.SeriesInstanceUID = SERIES_UID
    dataset.FrameOfReferenceUID = FRAME_UID
    dataset.InstanceNumber = 7
    dataset.ImagePositionPatient = [-10, -20, 35.5]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.SamplesPerPixel = samples
    dataset.PhotometricInterpretation = photometric
    if samples > 1:
        dataset.PlanarConfiguration = 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.Rows, dataset.Columns = shape
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.BitsAllocated = bits_allocated
    dataset.BitsStored = bits_stored
    dataset.HighBit = bits_stored - 1
    dataset.PixelRepresentation = int(signed)
    dataset.WindowCenter = [40, 300]
    dataset.WindowWidth = [400, 1500]
    dataset.RescaleIntercept = -1024
    dataset.RescaleSlope = 2
    block = dataset.private_block(0x0009, "A MAKER", create=True)
    block.add_new(0x01, "OB", b"\x01\x02\x03\x04")
    block.add_new(0x02, "UN", b"\xfe\xff\x00\xe0odd!")
    for keyword, value in (extra or {}).items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def write_dicom(
    path: Path,
    dataset: Dataset,
    values: NDArray[Any],
    *,
    transfer_syntax: str = ExplicitVRLittleEndian,
    sign_extended: bool = True,
    overlay_bit: int | None = None,
    trailing: bytes = b"",
    preamble: bytes = bytes(128),
    vr: str = "OW",
) -> Path:
    """Write a dataset with pixels.

    Args:
        path: where.
        dataset: from :func:`dicom_dataset`.
        values: of its shape, in the order in which the file holds them.
        transfer_syntax: a native one.
        sign_extended: whether the unused bits repeat the sign of signed values; otherwise they are 0.
        overlay_bit: number of a bit that is set in every other pixel cell, as an overlay.
        trailing: bytes after the frame.
        preamble: the first 128 bytes.
        vr: of the pixel data; 8 bits in OB are not swapped in big endian.
    """
    bits, stored = max(8, int(dataset.BitsAllocated)), int(dataset.BitsStored)
    words = values.astype(np.int64) & ((1 << bits) - 1 if sign_extended else (1 << stored) - 1)
    if overlay_bit is not None:
        words.ravel()[::2] |= 1 << overlay_bit
        words.ravel()[1::2] &= ~(1 << overlay_bit)
        dataset.add_new(0x60000100, "US", bits)
        dataset.add_new(0x60000102, "US", overlay_bit)
    big = transfer_syntax == ExplicitVRBigEndian
    content = words.astype(f"{'>' if big else '<'}u{bits // 8}").tobytes() + trailing
    content += bytes(len(content) % 2)
    if big and bits == 8 and vr == "OW":
        content = np.frombuffer(content, dtype="<u2").byteswap().tobytes()
    dataset.add_new(0x7FE00010, vr, content)
    return _save(path, dataset, transfer_syntax, preamble)


def _save(path: Path, dataset: Dataset, transfer_syntax: str, preamble: bytes = bytes(128)) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", CT)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", SOP_UID)
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    dataset.preamble = preamble
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


RLE = "1.2.840.10008.1.2.5"
(
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_FIRST_ORDER,
    JPEG_LS,
    JPEG_LS_NEAR,
    J2K,
    J2K_LOSSY,
    HTJ2K,
    HTJ2K_RPCL,
    HTJ2K_LOSSY,
) = (f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203))
_SUBSAMPLING = {"YBR_FULL_422": "422"}


def encoded_frame(values: NDArray[Any], dataset: Dataset, transfer_syntax: str) -> bytes:
    """Compress one frame with an encoder of pydicom's plugins, or of imagecodecs where pydicom has none.

    Args:
        values: ``(rows, columns)``, or ``(rows, columns, 3)`` of RGB.
        dataset: what it is compressed for; of lossy JPEG its photometric interpretation says what color becomes.
        transfer_syntax: UID.
    """
    stored, photometric = int(dataset.BitsStored), str(dataset.PhotometricInterpretation)
    cells = values.astype(f"{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}")
    if transfer_syntax in (RLE, JPEG_LS, JPEG_LS_NEAR, J2K, J2K_LOSSY):
        options = {
            "rows": dataset.Rows, "columns": dataset.Columns, "number_of_frames": 1,
            "samples_per_pixel": dataset.SamplesPerPixel,
            "bits_allocated": dataset.BitsAllocated, "bits_stored": stored,
            "pixel_representation": dataset.PixelRepresentation,
            "photometric_interpretation": photometric, "planar_configuration": 0,
        } | {JPEG_LS_NEAR: {"jls_error": 2}, J2K_LOSSY: {"j2k_psnr": [50]}}.get(transfer_syntax, {})  # fmt: skip
        plugin = {RLE: "pydicom"}.get(transfer_syntax, "")
        return bytes(get_encoder(transfer_syntax).encode(cells, encoding_plugin=plugin, **options))
    import imagecodecs  # an extra, which most tests do without

    if transfer_syntax in (HTJ2K, HTJ2K_RPCL, HTJ2K_LOSSY):
        lossy = {"level": 0.01, "reversible": False} if transfer_syntax == HTJ2K_LOSSY else {"reversible": True}
        return bytes(imagecodecs.htj2k_encode(cells, rgb=photometric in ("YBR_RCT", "YBR_ICT"), planar=False, **lossy))
    samples = (cells.astype(np.int64) & (1 << stored) - 1).astype(f"u{1 if stored <= 8 else 2}")
    color = {"colorspace": "RGB", "outcolorspace": "RGB"} if samples.ndim == 3 else {}
    if transfer_syntax in (JPEG_LOSSLESS, JPEG_FIRST_ORDER):
        predictor = 4 if transfer_syntax == JPEG_LOSSLESS else 1
        return bytes(
            imagecodecs.jpeg8_encode(samples, lossless=True, predictor=predictor, bitspersample=stored, **color)
        )
    if photometric.startswith("YBR"):
        color = {"colorspace": "RGB", "outcolorspace": "YCBCR", "subsampling": _SUBSAMPLING.get(photometric, "444")}
    return bytes(imagecodecs.jpeg8_encode(samples, level=98, bitspersample=stored, **color))


def write_compressed(
    path: Path,
    dataset: Dataset,
    values: NDArray[Any],
    transfer_syntax: str,
    *,
    fragments: int = 1,
    table: str = "basic",
) -> Path:
    """Write a dataset with compressed pixels.

    Args:
        path: where.
        dataset: from :func:`dicom_dataset`.
        values: of its shape; the first axis counts frames where it has NumberOfFrames.
        transfer_syntax: a compressed one.
        fragments: of each frame.
        table: "basic", "extended" (with one fragment a frame) or "none": where the frames begin is said there.
    """
    frames = [
        encoded_frame(frame, dataset, transfer_syntax)
        for frame in (values if "NumberOfFrames" in dataset else [values])
    ]
    if table == "extended":
        content, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    else:
        content = encapsulate(frames, fragments_per_frame=fragments, has_bot=table == "basic")
    dataset.add_new(0x7FE00010, "OB", content)
    dataset["PixelData"].is_undefined_length = True
    return _save(path, dataset, transfer_syntax)


def functional_groups(
    *, slopes: tuple[float | None, ...] = (), shared_slope: float | None = None, frame_type: bool = True
) -> dict[str, Sequence]:
    """Make the functional groups of an enhanced CT image, as attributes by keyword.

    Args:
        slopes: of each frame, whose intercept is its number; None for a frame without one.
        shared_slope: of all frames, with an intercept of -7; None without one.
        frame_type: whether frames, or all of them together where there are none, have a FrameType.
    """
    frames = [_group(slope, number) for number, slope in enumerate(slopes)]
    shared = _group(shared_slope, -7)
    for group in (frames or [shared]) if frame_type else []:
        group.CTImageFrameTypeSequence = Sequence([Dataset()])
        group.CTImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    groups = {"SharedFunctionalGroupsSequence": Sequence([shared])}
    return groups | ({"PerFrameFunctionalGroupsSequence": Sequence(frames)} if frames else {})


def _group(slope: float | None, intercept: float) -> Dataset:
    group = Dataset()
    if slope is not None:
        rescale = Dataset()
        rescale.RescaleIntercept, rescale.RescaleSlope, rescale.RescaleType = intercept, slope, "HU"
        group.PixelValueTransformationSequence = Sequence([rescale])
    return group


def reference(uid: str) -> Sequence:
    """Make a sequence of one reference to an image."""
    item = Dataset()
    item.ReferencedSOPClassUID = CT
    item.ReferencedSOPInstanceUID = uid
    return Sequence([item])


_CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}


def nifti_bytes(
    values: NDArray[Any],
    *,
    version: int = 1,
    order: str = "<",
    slope: float = 0.0,
    intercept: float = 0.0,
    dim: tuple[int, ...] | None = None,
    extension: bytes = b"",
    tail: bytes = b"",
    **fields: Any,
) -> bytes:
    """Make a NIfTI file from its definition, every field by its offset in nifti1.h or nifti2.h.

    Args:
        values: voxels.
        version: 1 or 2.
        order: byte order, "<" or ">".
        slope: scl_slope.
        intercept: scl_inter.
        dim: lengths of the axes, by default those of ``values``.
        extension: bytes between the header and the voxels; with the four that announce it a multiple of 16.
        tail: bytes after the voxels.
        fields: ``datatype``, ``bitpix``, ``vox_offset``, ``intent_code``, ``magic`` or ``ndim`` other than fits.
    """
    kind = values.dtype.str[1:]
    size = 348 if version == 1 else 540
    between = (b"\1\0\0\0" if extension else bytes(4)) + extension
    dim = dim or values.shape
    lengths = [fields.get("ndim", len(dim)), *dim, *[1] * (7 - len(dim))]
    pixdim = [1.0, 0.5, 0.75, 2.0, 1.0, 1.0, 1.0, 1.0]
    offset = fields.get("vox_offset", size + len(between))
    code, bitpix = fields.get("datatype", _CODES.get(kind, 0)), fields.get("bitpix", values.itemsize * 8)
    header = bytearray(size)
    if version == 1:
        places = {
            0: ("i", [348]), 40: ("8h", lengths), 68: ("h", [fields.get("intent_code", 0)]), 70: ("2h", [code, bitpix]),
            76: ("8f", pixdim), 108: ("3f", [offset, slope, intercept]), 123: ("b", [2]),
            148: ("5s", [b"hello"]), 252: ("2h", [1, 4]), 344: ("4s", [fields.get("magic", b"n+1\0")]),
        }  # fmt: skip
    else:
        places = {
            0: ("i", [540]), 4: ("8s", [fields.get("magic", b"n+2\0\r\n\x1a\n")]), 12: ("2h", [code, bitpix]),
            16: ("8q", lengths), 104: ("8d", pixdim), 168: ("q", [offset]), 176: ("2d", [slope, intercept]),
            240: ("5s", [b"hello"]), 500: ("i", [2]), 504: ("i", [fields.get("intent_code", 0)]),
        }  # fmt: skip
    for place, (form, content) in places.items():
        struct.pack_into(order + form, header, place, *content)
    return bytes(header) + between + values.astype(order + kind).tobytes(order="F") + tail


def gzip_bytes(content: bytes, *, name: str = "", mtime: int = 0) -> bytes:
    """Compress with a file name and a time in the gzip header."""
    packed = gzip.compress(content, mtime=mtime)
    if not name:
        return packed
    head = bytearray(packed[:10])
    head[3] |= 8
    return bytes(head) + name.encode("latin-1") + b"\0" + packed[10:]
