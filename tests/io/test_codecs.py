# SPDX-License-Identifier: Apache-2.0
"""Compressed frames, judged by other decoders: those of pydicom's plugins and of SimpleITK."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.encaps import encapsulate as pydicom_encapsulate
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder

from monai_salm.errors import RefusedError
from monai_salm.io.dicom.codecs import FrameFormat, can_encode, check_codec, decode_frame, encode_frame, libraries
from monai_salm.io.dicom.codestreams import read_codestream
from monai_salm.io.dicom.encapsulation import split_frames
from monai_salm.io.dicom.transfer_syntaxes import FAMILIES, LOSSLESS, LOSSY
from tests.io.builders import dicom_dataset, write_dicom

pytest.importorskip("imagecodecs", reason="the extra `codecs` is not installed")
pytest.importorskip("jpeg_ls", reason="the extra `codecs` is not installed")

RLE = "1.2.840.10008.1.2.5"
J = "1.2.840.10008.1.2.4."
BASELINE, EXTENDED, JPEG, JPEG_FIRST, JPEG_LS, NEAR, J2K, J2K_LOSSY, HTJ2K, HTJ2K_RPCL, HTJ2K_LOSSY = (
    f"{J}{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)
)
FILES = Path(pydicom.__file__).parent / "data" / "test_files"

GRAY = FrameFormat(
    rows=23, columns=17, samples=1, bits_allocated=16, bits_stored=12, signed=False, photometric="MONOCHROME2"
)
RGB = replace(GRAY, samples=3, bits_allocated=8, bits_stored=8, photometric="RGB")
FORMATS = {
    "u8": replace(GRAY, bits_allocated=8, bits_stored=8),
    "s8": replace(GRAY, bits_allocated=8, bits_stored=8, signed=True),
    "u8-in-16": replace(GRAY, bits_stored=8),
    "u10": replace(GRAY, bits_stored=10),
    "u12": GRAY,
    "s12": replace(GRAY, signed=True),
    "u16": replace(GRAY, bits_stored=16),
    "s16": replace(GRAY, bits_stored=16, signed=True),
    "one-pixel": replace(GRAY, rows=1, columns=1),
    "one-row": replace(GRAY, rows=1, columns=70),
    "large": replace(GRAY, rows=67, columns=131),
    "rgb8": RGB,
    "rgb8-small": replace(RGB, rows=3, columns=3),
    "rct8": replace(RGB, photometric="YBR_RCT"),
    "ybr8": replace(RGB, photometric="YBR_FULL"),
    "rgb16": replace(RGB, bits_allocated=16, bits_stored=16),
}


def words_of(frame: FrameFormat, content: str) -> NDArray[Any]:
    """Make words of all BitsStored values, sign-extended where they are signed."""
    half = 1 << frame.bits_stored - 1
    low, high = (-half, half - 1) if frame.signed else (0, 2 * half - 1)
    if content == "random":
        values = np.random.default_rng(7).integers(low, high, frame.shape, endpoint=True)
        values.flat[0], values.flat[-1] = low, high
    elif content == "constant":
        values = np.full(frame.shape, low)
    else:
        values = np.linspace(low, high, int(np.prod(frame.shape))).astype(np.int64).reshape(frame.shape)
    return values.astype(f"i{frame.dtype.itemsize * 2}").astype(frame.dtype)


def by_others(encoded: bytes, syntax: str, frame: FrameFormat) -> Iterator[tuple[str, NDArray[Any]]]:
    """Decode a frame with each of pydicom's plugins that can, to words."""
    decoder = get_decoder(syntax)
    for plugin in decoder.available_plugins:
        if plugin == "pillow":
            continue  # does not know every color, and keeps 8 bits of some
        options = {
            "rows": frame.rows,
            "columns": frame.columns,
            "samples_per_pixel": frame.samples,
            "photometric_interpretation": frame.photometric,
            "bits_allocated": frame.bits_allocated,
            "bits_stored": frame.bits_stored,
            "pixel_representation": int(frame.signed),
            "planar_configuration": 0,
            "number_of_frames": 1,
            "pixel_keyword": "PixelData",
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values, _ = decoder.as_array(
                pydicom_encapsulate([encoded]), raw=syntax in LOSSLESS, decoding_plugin=plugin, **options
            )
        yield plugin, values.reshape(frame.shape).astype(f"i{2 * frame.dtype.itemsize}").astype(frame.dtype)


def by_simpleitk(encoded: bytes, syntax: str, frame: FrameFormat, path: Path) -> NDArray[Any]:
    dataset = dicom_dataset(
        bits_allocated=frame.bits_allocated,
        bits_stored=frame.bits_stored,
        signed=frame.signed,
        photometric=frame.photometric,
        shape=(frame.rows, frame.columns),
        extra={"RescaleSlope": None, "RescaleIntercept": None, "SamplesPerPixel": frame.samples},
    )
    if frame.samples == 3:
        dataset.PlanarConfiguration = 0
    write_dicom(path, dataset, np.zeros(frame.shape, frame.dtype))
    written = pydicom.dcmread(path)
    written.file_meta.TransferSyntaxUID = syntax
    written.PixelData = pydicom_encapsulate([encoded])
    written["PixelData"].VR = "OB"
    written.save_as(path)
    values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    return values.reshape(frame.shape).astype(f"i{2 * frame.dtype.itemsize}").astype(frame.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("content", ["random", "constant", "gradient"])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("syntax", sorted(LOSSLESS))
def test_round_trip(syntax: str, name: str, content: str, tmp_path: Path) -> None:
    frame = FORMATS[name]
    words = words_of(frame, content)
    tiny = frame.rows * frame.columns < 10
    if syntax == JPEG_LS and tiny:
        return
    encoded = encode_frame(words, syntax, frame)
    np.testing.assert_array_equal(decode_frame(encoded, syntax, frame), words)
    np.testing.assert_array_equal(decode_frame(encoded + b"\0", syntax, frame), words)
    again = encode_frame(words, syntax, frame, like=encoded)
    assert again == encoded
    for plugin, values in by_others(encoded, syntax, frame):
        np.testing.assert_array_equal(values, words, err_msg=plugin)
    # GDCM in SimpleITK converts YBR, and cannot read colors of 16 bits in RLE, RLE that is much larger than the cells,
    # or 8 bits of JPEG-LS in cells of 16.
    if (
        frame.photometric != "YBR_FULL"
        and not (syntax == RLE and (name == "rgb16" or tiny))
        and not (syntax == JPEG_LS and name == "u8-in-16")
    ):
        np.testing.assert_array_equal(by_simpleitk(encoded, syntax, frame, tmp_path / "frame.dcm"), words)
    if syntax != RLE:
        stream = read_codestream(encoded, FAMILIES[syntax])
        assert stream.precision == frame.bits_stored
        assert stream.color_transform == (frame.photometric == "YBR_RCT" and syntax in (J2K, HTJ2K, HTJ2K_RPCL))


@pytest.mark.parametrize("syntax", sorted(LOSSLESS))
def test_unused_bits_are_kept(syntax: str) -> None:
    """Overlays of old files lie above BitsStored, and some encoders code whole cells."""
    words = words_of(GRAY, "random") | np.uint16(0x8000)
    np.testing.assert_array_equal(decode_frame(encode_frame(words, syntax, GRAY), syntax, GRAY), words)


@pytest.mark.parametrize(("bits", "exact"), [(20, True), (24, True), (25, False)])
def test_wide_cells(bits: int, exact: bool) -> None:
    frame = replace(GRAY, bits_allocated=32, bits_stored=bits)
    assert can_encode(J2K, frame) == exact
    assert not any(can_encode(syntax, frame) for syntax in LOSSLESS - {J2K})
    for wide in (frame, replace(frame, signed=True)) if exact else ():
        words = words_of(wide, "random")
        np.testing.assert_array_equal(decode_frame(encode_frame(words, J2K, wide), J2K, wide), words)


def test_htj2k_rpcl_is_ordered_as_its_name_says() -> None:
    frame = replace(GRAY, rows=3, columns=4097)
    stream = encode_frame(words_of(frame, "random"), HTJ2K_RPCL, frame)
    style = stream.index(b"\xff\x52")
    assert (stream[style + 5], stream[style + 9]) == (2, 7)  # the order, and as many levels as leave 64 pixels
    assert b"\xff\x55" in stream[:200]  # lengths of tile-parts
    assert stream.count(b"\xff\x90\x00\x0a") == 8  # a part for each resolution


def test_jpeg_ls_larger_than_twice_its_cells_is_refused() -> None:
    """So it is with pyjpegls, and only in frames of a few pixels."""
    frame = FORMATS["one-pixel"]
    with pytest.raises(RefusedError, match="destination buffer is too small"):
        encode_frame(words_of(frame, "constant"), JPEG_LS, frame)


def test_old_frame_is_imitated() -> None:
    """Depth, signedness, predictor, interleave mode and color transform stay, as far as the values allow."""
    signed = replace(GRAY, bits_stored=10, signed=True)
    old = encode_frame(words_of(GRAY, "random"), J2K, GRAY)  # unsigned, 12 bits
    new = read_codestream(encode_frame(words_of(signed, "random"), J2K, signed, like=old), "jpeg2000")
    assert (new.signed, new.precision) == (False, 12)
    narrow = encode_frame(words_of(replace(GRAY, bits_stored=8), "random"), J2K, replace(GRAY, bits_stored=8))
    assert read_codestream(encode_frame(words_of(GRAY, "random"), J2K, GRAY, like=narrow), "jpeg2000").precision == 12
    words = words_of(RGB, "random")
    plain = encode_frame(words, J2K, RGB)
    assert not read_codestream(
        encode_frame(words, J2K, replace(RGB, photometric="YBR_RCT"), like=plain), "jpeg2000"
    ).color_transform
    for predictor in range(1, 8):
        old = libraries.imagecodecs.jpeg8_encode(
            words, lossless=True, predictor=predictor, bitspersample=8, colorspace="RGB", outcolorspace="RGB"
        )
        assert read_codestream(encode_frame(words, JPEG, RGB, like=old), "jpeg").parameter == predictor
        assert read_codestream(encode_frame(words, JPEG_FIRST, RGB, like=old), "jpeg").parameter == 1
    for mode in (0, 1, 2):
        source = np.moveaxis(words, -1, 0) if mode == 0 else words
        old = bytes(libraries.jpeg_ls.encode_buffer(source.tobytes(), 23, 17, 3, 8, 0, mode))
        new_frame = encode_frame(words, JPEG_LS, RGB, like=old)
        assert read_codestream(new_frame, "jpeg-ls").parameter == mode
        for _, values in by_others(new_frame, JPEG_LS, RGB):
            np.testing.assert_array_equal(values, words)


def shipped() -> list[Path]:
    found = []
    for path in sorted(FILES.glob("*.dcm")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        if "Rows" in dataset and dataset.file_meta.get("TransferSyntaxUID", "") in LOSSLESS | LOSSY:
            found.append(path)
    return found


def format_of(dataset: pydicom.Dataset) -> FrameFormat:
    size = {"rows": dataset.Rows, "columns": dataset.Columns, "samples": dataset.SamplesPerPixel}
    bits = {
        "bits_allocated": dataset.BitsAllocated,
        "bits_stored": dataset.BitsStored,
        "signed": bool(dataset.PixelRepresentation),
    }
    return FrameFormat(**size, **bits, photometric=dataset.PhotometricInterpretation)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_shipped_file(path: Path) -> None:
    """Whatever pydicom ships decodes as its own plugins decode it, and is encoded again so that they read the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
    syntax, frame, count = (
        str(dataset.file_meta.TransferSyntaxUID),
        format_of(dataset),
        int(dataset.get("NumberOfFrames", 1)),
    )
    frames = split_frames(memoryview(dataset.PixelData.removesuffix(b"\xfe\xff\xdd\xe0\0\0\0\0")), count, None, syntax)
    if path.stem == "JPEG2000-embedded-sequence-delimiter":  # its codestream is no longer one, for every decoder
        with pytest.raises(RefusedError, match="1024, 3722445056"):
            decode_frame(frames[0], syntax, frame)
        return
    for data in frames[:3]:
        words = decode_frame(data, syntax, frame)
        assert (words.shape, words.dtype) == (frame.shape, frame.dtype)
        others = [] if syntax == EXTENDED else list(by_others(data, syntax, frame))
        assert others or syntax == EXTENDED
        for plugin, values in others:
            np.testing.assert_array_equal(values, words, err_msg=plugin)
        if syntax in LOSSLESS and can_encode(syntax, frame):
            encoded = encode_frame(words, syntax, frame, like=data)
            for plugin, values in by_others(encoded, syntax, frame):
                np.testing.assert_array_equal(values, words, err_msg=plugin)


@pytest.mark.parametrize(
    "path", [path for path in shipped() if path.stem in ("JPEG-lossy", "JPGExtended")], ids=lambda path: path.stem
)
def test_jpeg_of_12_bits_reads_as_simpleitk_does(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    words = decode_frame(next(generate_frames(dataset.PixelData, number_of_frames=1)), EXTENDED, format_of(dataset))
    np.testing.assert_array_equal(words, SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[0])


def test_lossy_values_are_clipped_to_bits_stored() -> None:
    words = np.full((16, 16), 1023, np.uint16)
    words[:, 8:] = 0
    encoded = libraries.imagecodecs.jpeg8_encode(words * 4 + 3, level=40, bitspersample=12)
    frame = replace(GRAY, rows=16, columns=16, bits_stored=11)
    assert decode_frame(encoded, EXTENDED, replace(frame, bits_stored=12)).max() > 2047
    assert decode_frame(encoded, EXTENDED, frame).max() == 2047
    signed = decode_frame(encoded, EXTENDED, replace(frame, signed=True)).view(np.int16)
    assert -1024 <= signed.min() <= signed.max() <= 1023


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("marker", ["none", "jfif", "adobe", "letters"])
def test_color_of_baseline_jpeg(photometric: str, marker: str) -> None:
    """What the components are is said by the dataset, unless the codestream is certain: as pydicom decides."""
    frame = replace(RGB, rows=16, columns=24, photometric=photometric)
    values = words_of(frame, "gradient")
    # JFIF goes with luminance and chroma, Adobe's marker with RGB; both are taken out where they are not asked for.
    made = libraries.imagecodecs.jpeg8_encode(
        values, level=98, outcolorspace="YCBCR" if marker == "jfif" else "RGB", subsampling="444"
    )
    data = made
    if marker in ("none", "letters"):
        start = made.index(b"\xff\xee")
        data = made[:start] + made[start + 16 :]
    if marker == "none":
        sof = data.index(b"\xff\xc0") + 10
        sos = data.index(b"\xff\xda") + 5
        renamed = bytearray(data)
        for index in range(3):
            renamed[sof + 3 * index] = renamed[sos + 2 * index] = index + 1
        data = bytes(renamed)
    words = decode_frame(data, BASELINE, frame)
    others = list(by_others(data, BASELINE, frame))
    assert others
    for plugin, theirs in others:
        assert np.abs(theirs.astype(int) - words).max() <= 1, plugin


@pytest.mark.parametrize("syntax", [NEAR, J2K_LOSSY, HTJ2K_LOSSY])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_ICT"])
def test_lossy_color_is_given_as_rgb(syntax: str, photometric: str) -> None:
    frame = replace(RGB, rows=32, columns=40, photometric=photometric)
    values = words_of(frame, "random")
    if syntax == NEAR:
        data = bytes(libraries.jpeg_ls.encode_buffer(values.tobytes(), 32, 40, 3, 8, 2, 2))
        if photometric == "YBR_ICT":
            with pytest.raises(RefusedError, match="'YBR_ICT' is not decoded from JPEG-LS"):
                decode_frame(data, syntax, frame)
            return
    elif syntax == J2K_LOSSY:
        data = libraries.imagecodecs.jpeg2k_encode(
            values, level=30, codecformat="J2K", reversible=False, mct=photometric == "YBR_ICT"
        )
    else:
        data = libraries.imagecodecs.htj2k_encode(
            values, level=0.02, reversible=False, rgb=photometric == "YBR_ICT", planar=False
        )
    others = list(by_others(data, syntax, frame))
    assert others
    for plugin, theirs in others:
        np.testing.assert_array_equal(theirs, decode_frame(data, syntax, frame), err_msg=plugin)


def encoded_gray(syntax: str, frame: FrameFormat = GRAY) -> bytes:
    if syntax == BASELINE:
        return libraries.imagecodecs.jpeg8_encode(words_of(frame, "random"), level=90)
    return encode_frame(words_of(frame, "random"), syntax, frame)


@pytest.mark.parametrize("syntax", [JPEG_FIRST, JPEG_LS, J2K, HTJ2K])
def test_hostile_headers_are_refused_before_a_decoder_sees_them(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded_gray(syntax)
    wide = encode_frame(words_of(replace(GRAY, bits_stored=16), "random"), syntax, replace(GRAY, bits_stored=16))
    monkeypatch.setattr("monai_salm.io.dicom.codecs.frames.DECODERS", {})
    for change in ({"rows": 24}, {"columns": 50000}, {"samples": 3}):
        with pytest.raises(
            RefusedError, match=r"a compressed frame has \(rows, columns, samples\) \(23, 17, 1\), the dataset says"
        ):
            decode_frame(data, syntax, replace(GRAY, **change))
    with pytest.raises(RefusedError, match="a compressed frame has 16 bits, BitsAllocated is 8"):
        decode_frame(wide, syntax, replace(GRAY, bits_allocated=8, bits_stored=8))
    with pytest.raises(RefusedError, match="would decode to 2048 MiB; more than 1000 times is not believed"):
        decode_frame(data, syntax, replace(GRAY, rows=32768, columns=32768))
    with pytest.raises(RefusedError, match=r"does not begin with|no marker|header of a"):
        decode_frame(b"\0" * 100, syntax, GRAY)


@pytest.mark.parametrize("syntax", [BASELINE, JPEG_FIRST, JPEG_LS, J2K, HTJ2K, RLE])
def test_truncated_frame_is_refused(syntax: str) -> None:
    frame = replace(GRAY, rows=40, columns=40, bits_allocated=8, bits_stored=8)
    data = encoded_gray(syntax, frame)
    for length in [*range(0, 200, 7), len(data) // 2, len(data) - 4]:
        with pytest.raises(RefusedError, match=r"truncated|damaged|refuses|does not begin|are left"):
            decode_frame(data[:length], syntax, frame)


def test_header_details_are_refused() -> None:
    with pytest.raises(RefusedError, match="a JPEG frame is lossy, which JPEG Lossless"):
        decode_frame(encoded_gray(BASELINE, FORMATS["u8"]), JPEG_FIRST, FORMATS["u8"])
    with pytest.raises(RefusedError, match="a JPEG frame is lossless, which JPEG Baseline"):
        decode_frame(encoded_gray(JPEG_FIRST, FORMATS["u8"]), BASELINE, FORMATS["u8"])
    with pytest.raises(RefusedError, match="no JPEG-LS of a known process"):
        decode_frame(encoded_gray(JPEG_FIRST), JPEG_LS, GRAY)
    data = bytearray(encode_frame(words_of(RGB, "random"), J2K, RGB))
    for change in ({46: 2}, {45: 15}, {43: 2, 46: 2, 49: 2}):
        changed = bytearray(data)
        for position, value in change.items():
            changed[position] = value
        with pytest.raises(RefusedError, match="differ in depth or are subsampled"):
            decode_frame(bytes(changed), J2K, RGB)
    data = bytearray(encoded_gray(JPEG_FIRST))
    start = data.index(b"\xff\xc3")
    with pytest.raises(RefusedError, match="two frame headers"):
        decode_frame(bytes(data[:start] + data[start : start + 13] * 2 + data[start + 13 :]), JPEG_FIRST, GRAY)
    with pytest.raises(RefusedError, match=r"MPEG2 .* is not decoded; convert"):
        decode_frame(b"", f"{J}100", GRAY)


def test_what_a_codec_gives_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_of(GRAY, "random")
    data = encode_frame(words, J2K, GRAY)
    for wrong in (words[:3], words.astype(np.float32), None):
        monkeypatch.setattr("monai_salm.io.dicom.codecs.frames.DECODERS", {"jpeg2000": lambda *_, wrong=wrong: wrong})
        with pytest.raises(RefusedError, match="a frame decoded to"):
            decode_frame(data, J2K, GRAY)
    monkeypatch.setattr("monai_salm.io.dicom.codecs.frames.DECODERS", {"jpeg2000": lambda *_: words ^ 1})
    with pytest.raises(RefusedError, match="does not give the same values back"):
        encode_frame(words, J2K, GRAY)


def test_what_cannot_be_encoded_is_refused() -> None:
    assert not any(can_encode(syntax, GRAY) for syntax in LOSSY)
    assert not can_encode(RLE, replace(RGB, bits_allocated=32, bits_stored=32))
    with pytest.raises(RefusedError, match="is not encoded; convert the file to Explicit VR Little Endian"):
        encode_frame(words_of(GRAY, "random"), J2K_LOSSY, GRAY)
    with pytest.raises(RefusedError, match=r"the words to encode are uint8 \(23, 17\)"):
        encode_frame(words_of(FORMATS["u8"], "random"), J2K, GRAY)
    frame = replace(GRAY, bits_allocated=32)
    with pytest.raises(RefusedError, match="do not fit in the 16 bits"):
        encode_frame(words_of(frame, "random") | np.uint32(1 << 31), JPEG_LS, frame)


@pytest.mark.parametrize(
    ("module", "package", "syntaxes"),
    [
        ("imagecodecs", "imagecodecs", (JPEG, J2K)),
        pytest.param("imagecodecs", "imagecodecs", (HTJ2K,), id="htj2k"),
        ("jpeg_ls", "pyjpegls", (JPEG_LS,)),
    ],
)
def test_missing_package(module: str, package: str, syntaxes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = {syntax: encoded_gray(syntax) for syntax in syntaxes}
    monkeypatch.setattr(libraries, module, None)
    for syntax, data in frames.items():
        message = rf"{syntax}\) needs {package}; install it: pip install '{package}>=\d"
        with pytest.raises(RefusedError, match=message):
            decode_frame(data, syntax, GRAY)
        with pytest.raises(RefusedError, match=message):
            encoded_gray(syntax)
        with pytest.raises(RefusedError, match=message):
            check_codec(syntax)
    check_codec(RLE)


def test_package_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "imagecodecs", SimpleNamespace(__version__="2025.3.30"))
    with pytest.raises(RefusedError, match=r"needs another imagecodecs than 2025.3.30, .*pip install --upgrade"):
        check_codec(HTJ2K)


def test_rle_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "imagecodecs", None)
    monkeypatch.setattr(libraries, "jpeg_ls", None)
    assert decode_frame(encoded_gray(RLE), RLE, GRAY).shape == (23, 17)
