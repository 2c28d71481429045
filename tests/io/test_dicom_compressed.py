# SPDX-License-Identifier: Apache-2.0
"""Compressed DICOM files: exact where the transfer syntax is, written native once where it is lossy; pydicom and
SimpleITK read the results.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, parse_basic_offsets
from pydicom.uid import ExplicitVRLittleEndian

from monai_salm.errors import RefusedError
from monai_salm.io import dicom
from tests.io import builders
from tests.io.builders import dicom_dataset, values_in, write_compressed, write_dicom
from tests.io.derived import DERIVATION, disallowed, protect, values_by_pydicom

pytest.importorskip("imagecodecs", reason="the extra `codecs` is not installed")
pytest.importorskip("jpeg_ls", reason="the extra `codecs` is not installed")

SILENT = replace(DERIVATION, uid_secret=None, image_type="keep", provenance="none")
LOSSLESS = [
    getattr(builders, name)
    for name in ("RLE", "JPEG_LOSSLESS", "JPEG_FIRST_ORDER", "JPEG_LS", "J2K", "HTJ2K", "HTJ2K_RPCL")
]
LOSSY = {
    builders.JPEG_BASELINE: "ISO_10918_1",
    builders.JPEG_EXTENDED: "ISO_10918_1",
    builders.JPEG_LS_NEAR: "ISO_14495_1",
    builders.J2K_LOSSY: "ISO_15444_1",
    builders.HTJ2K_LOSSY: "ISO_15444_15",
}
UNSCALED = {"RescaleSlope": None, "RescaleIntercept": None}


def gray(
    path: Path, syntax: str, *, bits: int = 12, frames: int = 1, extra: dict[str, Any] | None = None, **how: Any
) -> Path:
    dataset = dicom_dataset(bits_allocated=16, bits_stored=bits, frames=frames, shape=(32, 34), extra=extra)
    stack = (frames,) if frames > 1 else ()
    return write_compressed(
        path / "source.dcm", dataset, values_in(1, (1 << bits) - 2, (*stack, 32, 34), "u2"), syntax, **how
    )


def color(
    path: Path, syntax: str, photometric: str, *, shape: tuple[int, int] = (32, 34), extra: dict[str, Any] | None = None
) -> Path:
    dataset = dicom_dataset(
        bits_allocated=8, bits_stored=8, samples=3, photometric=photometric, shape=shape, extra=extra
    )
    return write_compressed(path / "source.dcm", dataset, values_in(1, 254, (*shape, 3), "u1"), syntax)


def by_simpleitk(path: Path) -> NDArray[Any]:
    values: NDArray[Any] = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    return values[0] if values.shape[0] == 1 else values


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("kind", ["gray", "stack", "color"])
def test_lossless_stays_as_it_is_compressed(kind: str, syntax: str, tmp_path: Path) -> None:
    path = (
        color(tmp_path, syntax, "RGB", extra=UNSCALED)
        if kind == "color"
        else gray(tmp_path, syntax, frames=3 if kind == "stack" else 1, extra=UNSCALED)
    )
    before, after = pydicom.dcmread(path), protect(path)
    assert after.file_meta.TransferSyntaxUID == syntax
    assert "LossyImageCompression" not in after
    assert after["PixelData"].is_undefined_length
    for keyword in ("PhotometricInterpretation", "PlanarConfiguration", "BitsStored"):
        assert after.get(keyword) == before.get(keyword)
    np.testing.assert_array_equal(
        by_simpleitk(path.with_name("out.dcm")), dicom.read_source(path.with_name("out.dcm")).stored
    )


@pytest.mark.parametrize(
    "how", [{"table": "extended"}, {"table": "none"}, {"fragments": 3}, {"fragments": 2, "table": "none"}, {}], ids=str
)
def test_frames_get_a_fragment_each_and_a_right_table(how: dict[str, Any], tmp_path: Path) -> None:
    path = gray(tmp_path, builders.JPEG_LS, frames=3, **how)
    assert ("ExtendedOffsetTable" in pydicom.dcmread(path)) == (how.get("table") == "extended")
    after = protect(path)
    assert not {"ExtendedOffsetTable", "ExtendedOffsetTableLengths"} & set(after.dir())
    fragments = list(generate_fragments(after.PixelData))[1:]  # behind the table
    assert len(fragments) == 3
    table = parse_basic_offsets(after.PixelData)
    first = 8 + 4 * 3
    assert table == [0, 8 + len(fragments[0]), 16 + len(fragments[0]) + len(fragments[1])]
    for offset, fragment in zip(table, fragments, strict=True):
        place = first + offset
        assert after.PixelData[place : place + 8] == b"\xfe\xff\x00\xe0" + struct.pack("<I", len(fragment))
        assert len(fragment) % 2 == 0


def test_frames_are_compressed_as_they_were(tmp_path: Path) -> None:
    """The predictor of lossless JPEG is named in the header of its scan, behind the one component."""
    path = gray(tmp_path, builders.JPEG_LOSSLESS)
    predictors = [
        content[content.index(b"\xff\xda\0\x08") + 7]
        for content in (pydicom.dcmread(path).PixelData, protect(path).PixelData)
    ]
    assert predictors == [4, 4]


def test_extended_table_is_believed(tmp_path: Path) -> None:
    path = gray(tmp_path, builders.JPEG_LS, frames=3, table="extended")
    dataset = pydicom.dcmread(path)
    dataset.ExtendedOffsetTable = struct.pack("<3Q", 0, 8, 16)
    dataset.save_as(path)
    with pytest.raises(RefusedError, match="ExtendedOffsetTable does not fit the fragments"):
        dicom.read_source(path)


@pytest.mark.parametrize("syntax", [builders.JPEG_LS, builders.JPEG_BASELINE])
def test_elements_after_the_pixels_stay(syntax: str, tmp_path: Path) -> None:
    bits = 8 if syntax == builders.JPEG_BASELINE else 12
    assert (
        protect(gray(tmp_path, syntax, bits=bits, extra={"DataSetTrailingPadding": b"\1\2\3\4"})).DataSetTrailingPadding
        == b"\1\2\3\4"
    )


@pytest.mark.parametrize("syntax", LOSSY)
@pytest.mark.parametrize("frames", [1, 3])
def test_lossy_is_decoded_once(frames: int, syntax: str, tmp_path: Path) -> None:
    bits = 8 if syntax == builders.JPEG_BASELINE else 12
    path = gray(tmp_path, syntax, bits=bits, frames=frames, extra=UNSCALED)
    source = dicom.read_source(path)
    assert source.header.output_transfer_syntax == ExplicitVRLittleEndian
    assert source.header.notes[-1].endswith(
        "is for lossy compression, so the pixels are written as Explicit VR Little Endian"
    )
    compressed = (
        sum(map(len, generate_fragments(pydicom.dcmread(path).PixelData))) - 4 * frames
    )  # without the table of offsets
    after = protect(path)
    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert not after["PixelData"].is_undefined_length
    assert (after["PixelData"].VR, len(after.PixelData)) == ("OW", 2 * source.stored.size)
    assert (after.LossyImageCompression, after.LossyImageCompressionMethod) == ("01", LOSSY[syntax])
    assert float(after.LossyImageCompressionRatio) == pytest.approx(2 * source.stored.size / compressed, rel=0.02)
    assert after.PhotometricInterpretation == "MONOCHROME2"
    assert "PlanarConfiguration" not in after
    written = dicom.read_source(path.with_name("out.dcm"))
    assert (written.header.output_transfer_syntax, written.header.notes) == ("", ())
    assert np.count_nonzero(written.stored != source.stored) == 1
    np.testing.assert_array_equal(by_simpleitk(path.with_name("out.dcm")), written.stored)


@pytest.mark.parametrize(
    ("syntax", "photometric"),
    [
        (builders.JPEG_BASELINE, "RGB"),
        (builders.JPEG_BASELINE, "YBR_FULL"),
        (builders.JPEG_BASELINE, "YBR_FULL_422"),
        (builders.J2K_LOSSY, "YBR_ICT"),
        (builders.JPEG_LS_NEAR, "RGB"),
        (builders.HTJ2K_LOSSY, "YBR_ICT"),
    ],
)
@pytest.mark.parametrize("planar", [0, 1])
def test_lossy_color_becomes_rgb(planar: int, syntax: str, photometric: str, tmp_path: Path) -> None:
    path = color(tmp_path, syntax, photometric, extra={"PlanarConfiguration": planar} | UNSCALED)
    source = dicom.read_source(path)
    assert source.header.trailing == (3,)
    after = protect(path)
    assert (after.PhotometricInterpretation, after.PlanarConfiguration, after["PixelData"].VR) == ("RGB", 0, "OB")
    stored = dicom.read_source(path.with_name("out.dcm")).stored
    np.testing.assert_array_equal(by_simpleitk(path.with_name("out.dcm")), stored)
    np.testing.assert_array_equal(np.frombuffer(after.PixelData, np.uint8), stored.ravel())
    np.testing.assert_allclose(source.stored.astype(int), values_in(1, 254, (32, 34, 3), "u1"), atol=12)


def test_lossy_picture_of_odd_length_is_padded(tmp_path: Path) -> None:
    after = protect(color(tmp_path, builders.JPEG_BASELINE, "RGB", shape=(3, 5)))
    assert len(after.PixelData) == 46
    assert after.PixelData[-1] == 0


def test_earlier_losses_stay_said(tmp_path: Path) -> None:
    """A ratio and a method are kept with all their values, and LossyImageCompression is never reset."""
    extra = {
        "LossyImageCompression": "00",
        "LossyImageCompressionRatio": ["9.5", "4"],
        "LossyImageCompressionMethod": ["ISO_10918_1", "ISO_15444_1"],
    }
    after = protect(gray(tmp_path, builders.JPEG_BASELINE, bits=8, extra=extra))
    assert after.LossyImageCompression == "01"
    assert list(map(str, after.LossyImageCompressionRatio)) == ["9.5", "4"]
    assert list(after.LossyImageCompressionMethod) == ["ISO_10918_1", "ISO_15444_1"]
    for syntax in (builders.JPEG_LS, ExplicitVRLittleEndian):
        dataset = dicom_dataset(shape=(32, 34), extra=extra | {"LossyImageCompression": "01"})
        values = values_in(1, 4094, (32, 34), "u2")
        write = write_dicom if syntax == ExplicitVRLittleEndian else write_compressed
        path = write(tmp_path / "source.dcm", dataset, values, transfer_syntax=syntax)
        after = protect(path)
        assert (after.LossyImageCompression, list(after.LossyImageCompressionMethod)) == (
            "01",
            ["ISO_10918_1", "ISO_15444_1"],
        )


def test_empty_loss_attributes_are_filled(tmp_path: Path) -> None:
    after = protect(
        gray(
            tmp_path, builders.JPEG_LS_NEAR, extra={"LossyImageCompressionRatio": "", "LossyImageCompressionMethod": ""}
        )
    )
    assert float(after.LossyImageCompressionRatio) > 1
    assert after.LossyImageCompressionMethod == "ISO_14495_1"


def test_silence_keeps_what_the_pixels_need(tmp_path: Path) -> None:
    """Where nothing is to be said the file still has to say how its pixels are encoded, and an unchanged one is not
    decoded.
    """
    path = color(tmp_path, builders.JPEG_BASELINE, "YBR_FULL_422")
    after = protect(path, SILENT)
    assert (after.LossyImageCompression, after.PhotometricInterpretation) == ("01", "RGB")
    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    dicom.write_like(dicom.read_source(path), dicom.read_source(path).stored, tmp_path / "out.dcm", SILENT)
    assert (tmp_path / "out.dcm").read_bytes() == path.read_bytes()


def test_what_no_encoder_takes_is_written_native(tmp_path: Path) -> None:
    path = tmp_path / "source.dcm"
    path.write_bytes(Path(get_testdata_file("SC_rgb_rle_32bit.dcm", download=False)).read_bytes())
    header = dicom.identify(path)
    assert header.output_transfer_syntax == ExplicitVRLittleEndian
    assert "is not one that such pixels can be encoded in" in header.notes[-1]
    after = protect(path)
    assert after.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert "LossyImageCompression" not in after


def test_ybr_in_a_lossless_syntax_keeps_its_chroma(tmp_path: Path) -> None:
    path = color(tmp_path, builders.JPEG_LS, "YBR_FULL")
    source = dicom.read_source(path)
    assert source.header.trailing == ()
    dicom.write_like(
        source,
        np.where(source.stored < 200, source.stored + np.uint8(3), source.stored),
        tmp_path / "out.dcm",
        DERIVATION,
    )
    assert disallowed(path) == []
    before, after = (
        pydicom.pixels.pixel_array(pydicom.dcmread(file), raw=True).astype(int) for file in (path, tmp_path / "out.dcm")
    )
    np.testing.assert_array_equal(before[..., 1:], after[..., 1:])
    assert (after - before)[..., 0].max() == 3
    assert values_by_pydicom(tmp_path / "out.dcm").shape == (32, 34)


def test_padding_of_a_lossless_syntax_stays(tmp_path: Path) -> None:
    path = gray(tmp_path, builders.J2K, extra={"PixelPaddingValue": 1, "PixelPaddingRangeLimit": 20})
    source = dicom.read_source(path)
    assert source.padding.sum() > 1
    with pytest.raises(RefusedError, match="within the padding range"):
        dicom.write_like(source, source.stored + np.uint16(1), tmp_path / "out.dcm", DERIVATION)


@pytest.mark.parametrize(
    ("syntax", "changes", "reason"),
    [
        ("1.2.840.10008.1.2.4.100", {}, "MPEG2 .* video is not protected"),
        ("1.2.840.10008.1.2.4.52", {}, "is not supported"),
        (
            builders.JPEG_LS,
            {"NumberOfFrames": 100000},
            r"NumberOfFrames is 100000, but \d+ bytes of fragments hold at most",
        ),
        (builders.JPEG_LS, {"Rows": 60000, "Columns": 60000}, "make 7200000000 bytes, more than 1000 times"),
        (builders.JPEG_LS, {"Rows": 33}, r"a compressed frame has \(rows, columns, samples\) \(32, 34, 1\)"),
        (builders.JPEG_LS, {"NumberOfFrames": 2}, "for 2 frames|names 1 frames, NumberOfFrames is 2"),
        (
            builders.JPEG_LS,
            {"PhotometricInterpretation": "PALETTE COLOR"},
            "PALETTE COLOR: a pixel is the number of a color",
        ),
        (
            builders.JPEG_LS,
            {"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3},
            "YBR_FULL_422 in JPEG-LS",
        ),
        (ExplicitVRLittleEndian, {}, "PixelData is encapsulated though the transfer syntax is native"),
    ],
)
def test_refused(syntax: str, changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = gray(tmp_path, builders.JPEG_LS)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    path.write_bytes(_encoded(dataset))
    with pytest.raises(RefusedError, match=reason):
        dicom.read_source(path)


def _encoded(dataset: Dataset) -> bytes:
    """Write as Explicit VR Little Endian whatever the transfer syntax says, for pydicom refuses to contradict it."""
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    pydicom.filewriter.write_dataset(buffer, dataset)
    head = pydicom.filebase.DicomBytesIO()
    pydicom.filewriter.write_file_meta_info(head, dataset.file_meta)
    return bytes(128) + b"DICM" + head.getvalue() + buffer.getvalue()
