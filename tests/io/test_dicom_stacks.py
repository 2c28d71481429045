# SPDX-License-Identifier: Apache-2.0
"""Color, stacks and mosaics of DICOM: which bytes are the picture, and that no other byte changes."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from monai_salm.errors import RefusedError
from monai_salm.io import dicom
from tests.io.builders import dicom_dataset, functional_groups, values_in, write_dicom
from tests.io.derived import DERIVATION, protect

SYNTAXES = pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=["explicit", "implicit", "big"]
)


def stack(path: Path, extra: dict[str, Any] | None = None, frames: int = 3, **how: Any) -> Path:
    return write_dicom(
        path / "source.dcm", dicom_dataset(frames=frames, extra=extra), values_in(1, 4000, (frames, 6, 8), "u2"), **how
    )


def color(
    path: Path, photometric: str, *, shape: tuple[int, int] = (6, 8), extra: dict[str, Any] | None = None, **how: Any
) -> Path:
    dataset = dicom_dataset(
        bits_allocated=8, bits_stored=8, photometric=photometric, samples=3, shape=shape, extra=extra
    )
    samples = 2 if photometric == "YBR_FULL_422" else 3
    return write_dicom(
        path / "source.dcm", dataset, np.random.default_rng(3).integers(60, 190, (*shape, samples)), **how
    )


def pixel_bytes(path: Path) -> np.ndarray[Any, Any]:
    return np.frombuffer(pydicom.dcmread(path).PixelData, np.uint8)


@SYNTAXES
@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({"slopes": (2, 3, 0.5)}, [(2, 0), (3, 1), (0.5, 2)]),
        ({"slopes": (2, None, 3), "shared_slope": 5}, [(2, 0), (5, -7), (3, 2)]),
        ({"slopes": (2, None, 3)}, [(2, 0), (2, -1024), (3, 2)]),
        ({"shared_slope": 5}, [(5, -7)] * 3),
        ({"slopes": (None, None, None), "shared_slope": 5}, [(5, -7)] * 3),
        ({"slopes": (None, None, None)}, [(2, -1024)] * 3),
        ({}, [(2, -1024)] * 3),
    ],
    ids=["per frame", "one shared", "one general", "shared", "empty groups", "general of empty groups", "general"],
)
def test_each_frame_has_its_rescaling(
    groups: dict[str, Any], expected: list[tuple[float, float]], syntax: str, tmp_path: Path
) -> None:
    source = dicom.read_source(stack(tmp_path, functional_groups(**groups), transfer_syntax=syntax))
    pictures = source.pictures()
    assert [(picture.slope, picture.intercept) for picture in pictures] == expected
    for frame, (slope, intercept) in enumerate(expected):
        np.testing.assert_array_equal(source.real[frame], source.stored[frame].astype(float) * slope + intercept)
        np.testing.assert_array_equal(pictures[frame].real, source.real[frame])
    assert (source.slope, source.intercept) == expected[0]
    assert bool(source.frame_rescale) == (len(set(expected)) > 1)


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"slopes": (1, 2)}, "has 2 items for 3 frames"),
        ({"slopes": (1, 2, 3, 4)}, "has 4 items for 3 frames"),
        ({"slopes": (1, 2, 0)}, "RescaleSlope is 0"),
        ({"shared_slope": 0}, "RescaleSlope is 0"),
    ],
)
def test_contradicting_groups_are_refused(groups: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = stack(tmp_path, functional_groups(**groups))
    for read in (dicom.identify, dicom.read_source):
        with pytest.raises(RefusedError, match=reason):
            read(path)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, (1, 0)),
        ({"RescaleSlope": None}, (1, -1024)),
        ({"RescaleIntercept": None}, (2, 0)),
    ],
)
def test_missing_half_of_the_rescaling(extra: dict[str, Any], expected: tuple[float, float], tmp_path: Path) -> None:
    source = dicom.read_source(stack(tmp_path, extra))
    assert (source.slope, source.intercept) == expected


def test_header_of_a_stack(tmp_path: Path) -> None:
    header = dicom.identify(stack(tmp_path, {"SpacingBetweenSlices": 3, "SliceThickness": 2}))
    assert (header.shape, header.trailing, header.stacked, header.spacing) == ((3, 6, 8), (), True, (3, 0.5, 0.25))
    header = dicom.identify(color(tmp_path, "RGB"))
    assert (header.shape, header.trailing, header.stacked, header.spacing) == ((6, 8), (3,), False, (0.5, 0.25))
    header = dicom.identify(color(tmp_path, "YBR_FULL"))
    assert (header.shape, header.trailing, header.stacked) == ((6, 8), (), False)


def _measures(**spacing: Any) -> Sequence:
    group, item = Dataset(), Dataset()
    for keyword, value in spacing.items():
        setattr(item, keyword, value)
    group.PixelMeasuresSequence = Sequence([item])
    return Sequence([group])


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"PixelSpacing": None}, (1, 1, 1)),
        ({"PixelSpacing": None, "ImagerPixelSpacing": [0.1, 0.2]}, (1, 0.1, 0.2)),
        ({"PixelSpacing": [0, 1], "ImagerPixelSpacing": [0.1, 0.2]}, (1, 0.1, 0.2)),
        ({"SliceThickness": 2}, (2, 0.5, 0.25)),
        ({"SliceThickness": -2}, (1, 0.5, 0.25)),
        (
            {"PixelSpacing": None, "SharedFunctionalGroupsSequence": _measures(PixelSpacing=[3, 4], SliceThickness=5)},
            (5, 3, 4),
        ),
        (
            {
                "PixelSpacing": None,
                "PerFrameFunctionalGroupsSequence": Sequence([*_measures(PixelSpacing=[3, 4]), Dataset(), Dataset()]),
            },
            (1, 3, 4),
        ),
    ],
)
def test_spacing(extra: dict[str, Any], expected: tuple[float, ...], tmp_path: Path) -> None:
    header = dicom.identify(stack(tmp_path, extra))
    assert header.spacing == expected
    assert header.spacing_known == (extra != {"PixelSpacing": None})


def test_only_the_chosen_frame_changes(tmp_path: Path) -> None:
    path = stack(tmp_path)
    before, after = pixel_bytes(path).reshape(3, -1), np.frombuffer(protect(path).PixelData, np.uint8).reshape(3, -1)
    assert (before != after).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("photometric", "planar", "luminance"),
    [
        ("YBR_FULL", 0, np.tile([True, False, False], 48)),
        ("YBR_FULL", 1, np.repeat([True, False, False], 48)),
        ("YBR_FULL_422", 0, np.tile([True, True, False, False], 24)),
        ("YBR_FULL_422", 1, np.tile([True, True, False, False], 24)),
    ],
)
def test_chroma_stays(photometric: str, planar: int, luminance: np.ndarray[Any, Any], tmp_path: Path) -> None:
    path = color(tmp_path, photometric, extra={"PlanarConfiguration": planar})
    source = dicom.read_source(path)
    np.testing.assert_array_equal(source.stored.ravel(), pixel_bytes(path)[luminance])
    dicom.write_like(source, source.stored + np.uint8(2), tmp_path / "out.dcm", DERIVATION)
    before, after = pixel_bytes(path), pixel_bytes(tmp_path / "out.dcm")
    np.testing.assert_array_equal(after[~luminance], before[~luminance])
    np.testing.assert_array_equal(after[luminance], before[luminance] + 2)


def test_step_of_luminance_is_a_step_of_every_color(tmp_path: Path) -> None:
    path = color(tmp_path, "YBR_FULL")
    source = dicom.read_source(path)
    dicom.write_like(source, source.stored + np.uint8(2), tmp_path / "out.dcm", DERIVATION)
    before, after = (
        pixel_array(pydicom.dcmread(file), as_rgb=True).astype(int) for file in (path, tmp_path / "out.dcm")
    )
    assert np.abs(after - before).max() == 2


def test_planes_stay_planes(tmp_path: Path) -> None:
    path = color(tmp_path, "RGB", extra={"PlanarConfiguration": 1})
    source = dicom.read_source(path)
    np.testing.assert_array_equal(source.stored[..., 0].ravel(), pixel_bytes(path)[:48])
    stored = source.stored.copy()
    stored[2, 3] += np.array([1, 2, 3], np.uint8)
    dicom.write_like(source, stored, tmp_path / "out.dcm", DERIVATION)
    difference = (pixel_bytes(tmp_path / "out.dcm") - pixel_bytes(path)).reshape(3, 6, 8)
    assert difference[:, 2, 3].tolist() == [1, 2, 3]
    assert np.count_nonzero(difference) == 3
    assert pydicom.dcmread(tmp_path / "out.dcm").PlanarConfiguration == 1


@pytest.mark.parametrize(
    ("syntax", "vr", "place"),
    [(ExplicitVRLittleEndian, "OW", -1), (ExplicitVRBigEndian, "OW", -2), (ExplicitVRBigEndian, "OB", -1)],
)
@pytest.mark.parametrize("planar", [0, 1])
def test_pad_byte_stays(planar: int, syntax: str, vr: str, place: int, tmp_path: Path) -> None:
    """45 samples lie in 46 bytes, of which the last is none; in big endian words it is the last but one."""
    path = color(tmp_path, "RGB", shape=(3, 5), extra={"PlanarConfiguration": planar}, transfer_syntax=syntax, vr=vr)
    stored = dicom.read_source(path).stored
    content = bytearray(path.read_bytes())
    content[place] = 0x77
    path.write_bytes(content)
    np.testing.assert_array_equal(dicom.read_source(path).stored, stored)
    written = np.frombuffer(protect(path).PixelData, np.uint8)
    assert (len(written), written[place]) == (46, 0x77)
    assert np.count_nonzero(written != pixel_bytes(path)) == 1


@pytest.mark.filterwarnings("ignore:The pixel data is .* bytes long:UserWarning")  # so says pydicom
def test_bytes_after_the_frames_stay(tmp_path: Path) -> None:
    assert protect(stack(tmp_path, trailing=b"more")).PixelData.endswith(b"more")
    assert protect(color(tmp_path, "RGB", shape=(3, 5), trailing=b"odd")).PixelData.endswith(b"odd")
    with pytest.raises(RefusedError, match="more frames than are declared"):
        dicom.identify(stack(tmp_path, trailing=bytes(96)))


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_elements_after_the_pixels_stay(syntax: str, tmp_path: Path) -> None:
    path = stack(tmp_path, {"DataSetTrailingPadding": b"\1\2\3\4"}, transfer_syntax=syntax)
    assert protect(path).DataSetTrailingPadding == b"\1\2\3\4"
    assert (
        protect(
            color(tmp_path, "YBR_FULL", extra={"DataSetTrailingPadding": b"\1\2\3\4"}, transfer_syntax=syntax)
        ).DataSetTrailingPadding
        == b"\1\2\3\4"
    )


@pytest.mark.parametrize("samples", [1, 3])
def test_overlays_above_the_values_stay(samples: int, tmp_path: Path) -> None:
    photometric, last = ("RGB", (3,)) if samples == 3 else ("MONOCHROME2", ())
    dataset = dicom_dataset(frames=3, samples=samples, photometric=photometric)
    path = write_dicom(tmp_path / "source.dcm", dataset, values_in(0, 99, (3, 6, 8, *last), "u2"), overlay_bit=12)
    assert dicom.read_source(path).stored.max() == 99
    source = dicom.read_source(path)
    dicom.write_like(source, source.stored + np.uint16(1), tmp_path / "out.dcm", DERIVATION)
    words = pixel_bytes(tmp_path / "out.dcm").view("<u2")
    assert (words >> 12).tolist() == [1, 0] * (72 * samples)
    assert all(change.allowed for change in dicom.compare_headers(path, tmp_path / "out.dcm"))


def _region(*places: int | None) -> Dataset:
    item = Dataset()
    for keyword, place in zip(("MinX0", "MinY0", "MaxX1", "MaxY1"), places, strict=True):
        if place is not None:
            setattr(item, f"RegionLocation{keyword}", place)
    return item


@SYNTAXES
def test_regions_of_ultrasound(syntax: str, tmp_path: Path) -> None:
    """They are given as x and y of the first and the last pixel; those beyond the frame, empty or incomplete are left
    out.
    """
    items = [
        _region(1, 2, 4, 3),
        _region(6, 4, 100, 100),
        _region(8, 0, 9, 5),
        _region(3, 3, 2, 5),
        _region(0, None, 3, 3),
    ]
    path = color(tmp_path, "RGB", extra={"SequenceOfUltrasoundRegions": Sequence(items)}, transfer_syntax=syntax)
    assert dicom.identify(path).regions == ((2, 4, 1, 5), (4, 6, 6, 8))
    assert dicom.identify(stack(tmp_path)).regions == ()


def _csa(count: int) -> bytes:
    """Make the head of a Siemens CSA header and its one entry, as described by nibabel's documentation
    of the format.
    """
    name = b"NumberOfImagesInMosaic".ljust(64, b"\0")
    text = f"{count}".rjust(6).encode()
    return (
        b"SV10\4\3\2\1"
        + struct.pack("<2I", 1, 77)
        + name
        + struct.pack("<i4s3i", 1, b"US\0\0", 6, 6, 77)
        + struct.pack("<4i", 6, 6, 77, 6)
        + text
    )


def mosaic(
    path: Path,
    *,
    where: str = "number",
    creator: str = "SIEMENS MR HEADER",
    count: int = 4,
    kind: str = "MOSAIC",
    block: int = 0x10,
) -> Path:
    dataset = dicom_dataset(extra={"ImageType": ["ORIGINAL", "PRIMARY", "M", kind]})
    if where == "number":
        dataset.add_new(0x00190000 | block, "LO", creator)
        dataset.add_new(0x0019000A | block << 8, "US", count)
    elif where == "text":
        dataset.add_new(0x00290000 | block, "LO", creator)
        dataset.add_new(0x00290010 | block << 8, "OB", _csa(count))
    return write_dicom(path / "source.dcm", dataset, values_in(0, 4000, (6, 8), "u2"))


CSA = {"where": "text", "creator": "SIEMENS CSA HEADER"}


@pytest.mark.parametrize(
    ("how", "shape"),
    [
        ({}, (4, 3, 4)),
        ({"count": 3}, (4, 3, 4)),
        ({"block": 0x11}, (4, 3, 4)),
        (CSA, (4, 3, 4)),
        (CSA | {"block": 0x12, "count": 2}, (4, 3, 4)),
        ({"creator": "OTHER"}, (6, 8)),
        (CSA | {"creator": "OTHER"}, (6, 8)),
        ({"where": "nowhere"}, (6, 8)),
        ({"kind": "NORM"}, (6, 8)),
        ({"count": 1}, (6, 8)),
        ({"count": 9}, (6, 8)),
    ],
)
def test_tiles_of_a_mosaic(how: dict[str, Any], shape: tuple[int, ...], tmp_path: Path) -> None:
    source = dicom.read_source(mosaic(tmp_path, **how))
    frame = values_in(0, 4000, (6, 8), "u2")
    assert source.header.shape == shape
    assert source.header.stacked == (len(shape) == 3)
    expected = np.array([frame[:3, :4], frame[:3, 4:], frame[3:, :4], frame[3:, 4:]]) if len(shape) == 3 else frame
    np.testing.assert_array_equal(source.stored, expected)


def test_mosaic_has_no_regions(tmp_path: Path) -> None:
    """They are places in the whole frame, which is none of the pictures."""
    path = mosaic(tmp_path)
    dataset = pydicom.dcmread(path)
    dataset.SequenceOfUltrasoundRegions = Sequence([_region(1, 2, 4, 3)])
    dataset.save_as(path)
    assert dicom.identify(path).regions == ()


def test_tile_is_written_where_it_was(tmp_path: Path) -> None:
    path = mosaic(tmp_path)
    source = dicom.read_source(path)
    stored = source.stored.copy()
    stored[1, 2, 0] += 1
    dicom.write_like(source, stored, tmp_path / "out.dcm", DERIVATION)
    difference = pydicom.dcmread(tmp_path / "out.dcm").pixel_array - pydicom.dcmread(path).pixel_array
    assert np.argwhere(difference).tolist() == [[2, 4]]


def test_extremes_of_all_frames(tmp_path: Path) -> None:
    path = stack(tmp_path, {"SmallestImagePixelValue": 1, "LargestImagePixelValue": 4000})
    source = dicom.read_source(path)
    dicom.write_like(source, source.stored + np.uint16(1), tmp_path / "out.dcm", DERIVATION)
    written = pydicom.dcmread(tmp_path / "out.dcm")
    assert (written.SmallestImagePixelValue, written.LargestImagePixelValue) == (2, 4001)


def test_extremes_without_room_are_removed(tmp_path: Path) -> None:
    dataset = dicom_dataset(
        bits_allocated=32, bits_stored=32, extra={"SmallestImagePixelValue": 3, "LargestImagePixelValue": 3}
    )
    path = write_dicom(tmp_path / "source.dcm", dataset, values_in(3, 1 << 20, (6, 8), "u4"))
    written = protect(path)
    assert written.SmallestImagePixelValue == 3
    assert "LargestImagePixelValue" not in written


def test_empty_extremes_are_those_of_all_pixels(tmp_path: Path) -> None:
    extra = {
        "SmallestImagePixelValue": 1,
        "LargestImagePixelValue": 4000,
        "PixelPaddingValue": 1,
        "PixelPaddingRangeLimit": 100,
    }
    dataset = dicom_dataset(frames=3, extra=extra)
    dataset["SmallestImagePixelValue"].clear()
    path = write_dicom(
        tmp_path / "source.dcm", dataset, values_in(1, 4000, (3, 6, 8), "u2"), transfer_syntax=ImplicitVRLittleEndian
    )
    after = protect(path)
    assert (after.SmallestImagePixelValue, after.LargestImagePixelValue) == (1, 4000)


def test_color_has_no_padding(tmp_path: Path) -> None:
    """PixelPaddingValue is defined of monochrome images alone; in color it would make holes."""
    assert dicom.read_source(color(tmp_path, "RGB", extra={"PixelPaddingValue": 100})).padding_stored is None
    assert dicom.read_source(color(tmp_path, "YBR_FULL", extra={"PixelPaddingValue": 100})).padding_stored is None
    assert dicom.read_source(stack(tmp_path, {"PixelPaddingValue": 100})).padding_stored == (100, 100)


def test_refused_color(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="YBR_FULL_422 with 7 columns of 8 bits"):
        dicom.identify(color(tmp_path, "YBR_FULL_422", shape=(6, 7)))
    with pytest.raises(RefusedError, match=r"PixelData has 96 bytes, .* need 144; it is truncated"):
        dicom.identify(
            write_dicom(
                tmp_path / "a",
                dicom_dataset(bits_allocated=8, bits_stored=8, samples=3, photometric="RGB"),
                np.zeros((6, 8, 2)),
            )
        )
    with pytest.raises(RefusedError, match="PixelData of 16 bits in big endian is written as OB"):
        dicom.identify(
            write_dicom(
                tmp_path / "b",
                dicom_dataset(),
                values_in(0, 9, (6, 8), "u2"),
                transfer_syntax=ExplicitVRBigEndian,
                vr="OB",
            )
        )
