# SPDX-License-Identifier: Apache-2.0
"""DICOM: what a derived image says, what it keeps, and what is refused. pydicom reads what our own bytes wrote."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_salm.errors import RefusedError
from monai_salm.io import dicom
from monai_salm.io.base import Document
from monai_salm.io.dicom.uids import derived_uid, is_valid_uid
from tests.io.builders import (
    CT,
    FRAME_UID,
    NEIGHBOR_UID,
    SERIES_UID,
    SOP_UID,
    STUDY_UID,
    dicom_dataset,
    reference,
    values_in,
    write_dicom,
)
from tests.io.derived import DERIVATION, SECRET, disallowed, protect

SYNTAXES = pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=["explicit", "implicit", "big"]
)


def make(path: Path, extra: dict[str, Any] | None = None, **how: Any) -> Path:
    dataset = dicom_dataset(extra=extra)
    return write_dicom(path / "source.dcm", dataset, values_in(10, 1000, (6, 8), "u2"), **how)


def test_header(tmp_path: Path) -> None:
    header = dicom.identify(make(tmp_path))
    assert header.identifiers == {
        "SOPInstanceUID": SOP_UID,
        "SeriesInstanceUID": SERIES_UID,
        "StudyInstanceUID": STUDY_UID,
        "FrameOfReferenceUID": FRAME_UID,
        "PatientID": "P1",
        "AccessionNumber": "A1",
    }
    assert (header.modality, header.instance_number, header.slice_position) == ("CT", 7, 35.5)
    assert header.spacing == (0.5, 0.25)
    assert header.window_real == (-160.0, 239.0)


@pytest.mark.parametrize(
    ("extra", "window"),
    [
        ({"WindowWidth": None}, None),
        ({"WindowWidth": 1, "WindowCenter": 5}, None),
        ({"WindowWidth": 10, "WindowCenter": 5, "VOILUTFunction": "LINEAR_EXACT"}, (0.0, 10.0)),
        ({"VOILUTFunction": "SIGMOID"}, None),
    ],
)
def test_window(extra: dict[str, Any], window: tuple[float, float] | None, tmp_path: Path) -> None:
    assert dicom.identify(make(tmp_path, extra)).window_real == window


def test_position_is_along_the_normal(tmp_path: Path) -> None:
    extra = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [5, 100, 100]}
    assert dicom.identify(make(tmp_path, extra)).slice_position == -5
    assert dicom.identify(make(tmp_path, {"ImagePositionPatient": None})).slice_position is None


def test_patient_in_other_character_set(tmp_path: Path) -> None:
    path = make(tmp_path, {"SpecificCharacterSet": "ISO_IR 192", "PatientID": "Jörg"})
    assert dicom.identify(path).identifiers["PatientID"] == "Jörg"


@SYNTAXES
def test_attributes_of_a_derived_image(syntax: str, tmp_path: Path) -> None:
    dataset = protect(make(tmp_path, {"DerivationDescription": "resampled"}, transfer_syntax=syntax))
    assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID == derived_uid(SECRET, SOP_UID)
    assert dataset.SeriesInstanceUID == derived_uid(SECRET, SERIES_UID)
    assert (dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == (STUDY_UID, FRAME_UID)
    assert dataset.ImageType == ["DERIVED", "PRIMARY", "AXIAL"]
    assert dataset.DerivationDescription == "resampled; at most 3 HU"
    assert dataset.DerivationCodeSequence[0].CodeValue == "113042"
    (image,) = dataset.SourceImageSequence
    assert (image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID) == (CT, SOP_UID)
    assert image.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    (equipment,) = dataset.ContributingEquipmentSequence
    assert equipment.Manufacturer == "monai_salm 1.2"
    assert not {"ManufacturerModelName", "SoftwareVersions"} & set(
        equipment.dir()
    )  # dcm2niix would take them for the scanner's
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109103"
    assert "ContributionDateTime" not in equipment
    assert dataset.file_meta.ImplementationVersionName == "MONAI_SALM"
    header = dicom.identify(tmp_path / "out.dcm")
    assert header.derivation == dataset.DerivationDescription
    tags = [int(element.tag) for element in dataset]
    assert tags == sorted(tags)


@SYNTAXES
def test_all_else_stays(syntax: str, tmp_path: Path) -> None:
    """pydicom finds every other element, private ones and unknown ones included, as it was."""
    extra = {"ReferencedImageSequence": reference(NEIGHBOR_UID), "PatientComments": "odd"}
    path = make(tmp_path, extra, transfer_syntax=syntax)
    before, after = pydicom.dcmread(path), protect(path)
    changed = {
        "ImageType", "SOPInstanceUID", "SeriesInstanceUID", "DerivationDescription", "DerivationCodeSequence",
        "SourceImageSequence", "ContributingEquipmentSequence", "PixelData",
    }  # fmt: skip
    for element in before:
        if element.keyword not in changed:
            assert after[element.tag] == element
    assert {element.keyword for element in after if element.tag not in before} <= changed


def test_keeping_uids_gives_no_reference_to_itself(tmp_path: Path) -> None:
    dataset = protect(make(tmp_path), replace(DERIVATION, uid_secret=None))
    assert (dataset.SOPInstanceUID, dataset.SeriesInstanceUID) == (SOP_UID, SERIES_UID)
    assert "SourceImageSequence" not in dataset


@SYNTAXES
@pytest.mark.parametrize("undefined", [False, True])
def test_references_are_rewritten_at_any_depth(syntax: str, undefined: bool, tmp_path: Path) -> None:
    inner = Dataset()
    inner.ReferencedImageSequence = reference(NEIGHBOR_UID)
    inner.ReferencedImageSequence.extend(reference(SOP_UID))
    inner.ReferencedImageSequence.extend(reference("1.2.3"))
    inner.SeriesInstanceUID = SERIES_UID
    inner.StudyInstanceUID = STUDY_UID
    inner.is_undefined_length_sequence_item = undefined
    dataset = dicom_dataset(extra={"ReferencedSeriesSequence": Sequence([inner])})
    dataset["ReferencedSeriesSequence"].is_undefined_length = undefined
    block = dataset.private_block(0x0021, "A MAKER", create=True)
    block.add_new(0x01, "UI", SOP_UID)
    block.add_new(0x02, "SQ", reference(NEIGHBOR_UID))
    path = write_dicom(tmp_path / "source.dcm", dataset, values_in(0, 9, (6, 8), "u2"), transfer_syntax=syntax)
    after = protect(path, replace(DERIVATION, changed_uids=frozenset({NEIGHBOR_UID, STUDY_UID})))
    assert after["ReferencedSeriesSequence"].is_undefined_length is undefined
    series = after.ReferencedSeriesSequence[0]
    assert series.is_undefined_length_sequence_item is undefined
    found = [item.ReferencedSOPInstanceUID for item in series.ReferencedImageSequence]
    assert found == [derived_uid(SECRET, NEIGHBOR_UID), derived_uid(SECRET, SOP_UID), "1.2.3"]
    assert (series.SeriesInstanceUID, series.StudyInstanceUID) == (derived_uid(SECRET, SERIES_UID), STUDY_UID)
    content = path.with_name("out.dcm").read_bytes()
    assert content.count(NEIGHBOR_UID.encode()) == 0
    assert content.count(SOP_UID.encode() + b"\0" * (len(SOP_UID) % 2)) == 1  # In SourceImageSequence.


def test_study_uid_that_equals_the_series_uid_stays(tmp_path: Path) -> None:
    after = protect(make(tmp_path, {"StudyInstanceUID": SERIES_UID, "ReferencedStudySequence": reference(SERIES_UID)}))
    assert after.StudyInstanceUID == SERIES_UID
    assert after.ReferencedStudySequence[0].ReferencedSOPInstanceUID == SERIES_UID
    assert after.SeriesInstanceUID == derived_uid(SECRET, SERIES_UID)


def test_illegal_uid_is_not_spread(tmp_path: Path) -> None:
    path = make(tmp_path)
    path.write_bytes(path.read_bytes().replace(SOP_UID.encode(), b"1.02" + SOP_UID[4:].encode()))
    assert "SourceImageSequence" not in protect(path)


def test_what_became_wrong_is_removed(tmp_path: Path) -> None:
    icon = Dataset()
    icon.Rows = icon.Columns = 1
    icon.BitsAllocated = 8
    icon.PixelData = b"\1\0"
    icon["PixelData"].VR = "OB"
    nested = reference(NEIGHBOR_UID)
    nested[0].IconImageSequence = Sequence([icon])
    extra = {
        "InstanceCreationDate": "20200101", "InstanceCreationTime": "1200", "IconImageSequence": Sequence([icon]),
        "SmallestPixelValueInSeries": 1, "LargestPixelValueInSeries": 9, "ContentQualification": "PRODUCT",
        "DigitalSignaturesSequence": Sequence([Dataset()]), "ReferencedImageSequence": nested,
    }  # fmt: skip
    after = protect(make(tmp_path, extra))
    assert [keyword for keyword in extra if keyword in after] == ["ContentQualification", "ReferencedImageSequence"]
    assert after.ContentQualification == "RESEARCH"
    assert "IconImageSequence" not in after.ReferencedImageSequence[0]


@pytest.mark.parametrize(
    ("image_type", "expected"),
    [
        (None, ["DERIVED", "PRIMARY"]),
        ("ORIGINAL", ["DERIVED", "PRIMARY"]),
        (["DERIVED", "SECONDARY", "", "X"], ["DERIVED", "SECONDARY", "", "X"]),
    ],
)
def test_image_type(image_type: Any, expected: list[str], tmp_path: Path) -> None:
    assert list(protect(make(tmp_path, {"ImageType": image_type})).ImageType) == expected


def test_illegal_letters_are_kept(tmp_path: Path) -> None:
    path = make(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"AXIAL", b"AX\xe4AL").replace(SOP_UID.encode(), b"\xe4" * len(SOP_UID)))
    source = dicom.read_source(path)
    for name, secret in (("out.dcm", SECRET), ("kept.dcm", None)):
        dicom.write_like(source, source.stored, tmp_path / name, replace(DERIVATION, uid_secret=secret))
        assert b"DERIVED\\PRIMARY\\AX\xe4AL" in (tmp_path / name).read_bytes()
    assert disallowed(path) == []


def test_full_derivation_description_is_left(tmp_path: Path) -> None:
    assert protect(make(tmp_path, {"DerivationDescription": "x" * 1015})).DerivationDescription == "x" * 1015


def test_items_are_appended(tmp_path: Path) -> None:
    extra = {"SourceImageSequence": reference("1.2.3"), "ContributingEquipmentSequence": Sequence([])}
    after = protect(make(tmp_path, extra))
    assert [item.ReferencedSOPInstanceUID for item in after.SourceImageSequence] == ["1.2.3", SOP_UID]
    assert len(after.ContributingEquipmentSequence) == 1


@pytest.mark.parametrize(
    ("extremes", "expected"), [((10, 1000), (11, 1000)), ((21, 1000), (31, 1000)), ((5, 5), (31, 1000))]
)
def test_extreme_values_are_recomputed_as_the_source_did(
    extremes: tuple[int, int], expected: tuple[int, int], tmp_path: Path
) -> None:
    """With padding, without it, or wrongly: then without it."""
    extra = {
        "SmallestImagePixelValue": extremes[0], "LargestImagePixelValue": extremes[1],
        "PixelPaddingValue": 9, "PixelPaddingRangeLimit": 20,
    }  # fmt: skip
    if extremes[0] == 10:
        del extra["PixelPaddingValue"], extra["PixelPaddingRangeLimit"]
    path = make(tmp_path, extra)
    source = dicom.read_source(path)
    stored = source.stored.copy()
    image = ~source.padding
    smallest = stored[image].min()
    stored[stored == smallest] = expected[0]
    dicom.write_like(source, stored, path.with_name("out.dcm"), DERIVATION)
    after = pydicom.dcmread(path.with_name("out.dcm"))
    assert (after.SmallestImagePixelValue, after.LargestImagePixelValue) == expected
    assert disallowed(path) == []


def test_signed_extremes_have_the_signed_vr(tmp_path: Path) -> None:
    dataset = dicom_dataset(signed=True, extra={"SmallestImagePixelValue": -50, "LargestImagePixelValue": 50})
    after = protect(write_dicom(tmp_path / "source.dcm", dataset, values_in(-50, 50, (6, 8), "i2")))
    assert (after["SmallestImagePixelValue"].VR, after.SmallestImagePixelValue) == ("SS", -50)


@pytest.mark.parametrize(
    ("signed", "bits", "value", "limit", "expected"),
    [
        (False, 12, 0, None, (0, 0)),
        (False, 12, 20, 10, (10, 20)),
        (True, 16, -2000, None, (-2000, -2000)),
        (True, 16, 63536, 63636, (-2000, -1900)),
        (True, 12, 63536, None, (-2000, -2000)),
        (True, 12, 4096 - 2000, None, (-2000, -2000)),
        (False, 12, 60000, None, None),
    ],
)
def test_padding(
    signed: bool, bits: int, value: int, limit: int | None, expected: tuple[int, int] | None, tmp_path: Path
) -> None:
    dataset = dicom_dataset(signed=signed, bits_stored=bits)
    for tag, number in ((0x00280120, value), (0x00280121, limit)):
        if number is not None:
            dataset.add_new(tag, "SS" if number < 0 else "US", number)
    path = write_dicom(tmp_path / "source.dcm", dataset, values_in(0, 100, (6, 8), "i2" if signed else "u2"))
    assert dicom.read_source(path).padding_stored == expected


@pytest.mark.parametrize(("place", "value"), [((0, 0), 11), ((5, 7), 10), ((0, 1), 12)], ids=["leave", "enter", "move"])
def test_padding_is_neither_left_nor_entered(place: tuple[int, int], value: int, tmp_path: Path) -> None:
    dataset = dicom_dataset(extra={"PixelPaddingValue": 10, "PixelPaddingRangeLimit": 40})
    path = write_dicom(tmp_path / "source.dcm", dataset, values_in(10, 1000, (6, 8), "u2"))
    source = dicom.read_source(path)
    stored = source.stored.copy()
    stored[place] = 41 if value == 11 else value
    with pytest.raises(RefusedError, match="1 values enter, leave or move within the padding range"):
        dicom.write_like(source, stored, tmp_path / "out", DERIVATION)


def test_padding_value_above_bits_stored_is_refused(tmp_path: Path) -> None:
    dataset = dicom_dataset(extra={"PixelPaddingValue": 0x8005})
    path = write_dicom(tmp_path / "source.dcm", dataset, values_in(4, 6, (6, 8), "u2"), overlay_bit=15)
    with pytest.raises(RefusedError, match="PixelPaddingValue 32773 does not fit in BitsStored 12"):
        dicom.read_source(path)


def test_mixed_sign_extension_is_refused(tmp_path: Path) -> None:
    dataset = dicom_dataset(signed=True, bits_stored=16)
    dataset.add_new(0x60000102, "US", 0)  # an overlay beside the pixels, which does not explain the bits in them
    path = write_dicom(tmp_path / "source.dcm", dataset, values_in(-9000, 9000, (6, 8), "i2"))
    content = path.read_bytes()
    head = b"\x28\0\x01\x01US\2\0"
    path.write_bytes(content.replace(head + b"\x10\0", head + b"\x0c\0").replace(b"US\2\0\x0f\0", b"US\2\0\x0b\0"))
    with pytest.raises(RefusedError, match="in part sign extensions"):
        dicom.read_source(path)


def test_overlay_in_pixel_cells_survives(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "source.dcm", dicom_dataset(), values_in(0, 99, (6, 8), "u2"), overlay_bit=12)
    words = np.frombuffer(protect(path).PixelData, "<u2")
    assert (words >> 12).tolist() == [1, 0] * 24


@pytest.mark.parametrize(("first", "kept"), [(b"II*\0", False), (b"MM\0*", False), (b"RIFF", True)])
def test_preamble(first: bytes, kept: bool, tmp_path: Path) -> None:
    path = make(tmp_path, preamble=first + b"x" * 124)
    protect(path)
    assert path.with_name("out.dcm").read_bytes()[:128] == (first + b"x" * 124 if kept else bytes(128))


def test_wrong_group_lengths_are_dropped_and_others_kept(tmp_path: Path) -> None:
    path = make(tmp_path)
    content = path.read_bytes()
    for group, following in ((8, b"\x08\0\x08\0CS"), (0x10, b"\x10\0\x10\0PN")):
        length = group.to_bytes(2, "little") + b"\0\0UL\4\0\x63\0\0\0"
        content = content.replace(following, length + following, 1)
    path.write_bytes(content)
    protect(path)
    written = path.with_name("out.dcm").read_bytes()
    assert (b"\x08\0\0\0UL" in written, b"\x10\0\0\0UL" in written) == (False, True)


def _sop(uid: str) -> dict[str, Any]:
    return {"SOPClassUID": uid}


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (
            _sop("1.2.840.10008.1.3.10"),
            "PixelData in an object of class Media Storage Directory Storage, which has none",
        ),
        (_sop("1.2.3.4"), "PixelData in a private SOP class 1.2.3.4"),
        ({"SOPInstanceUID": None}, "SOPInstanceUID is absent"),
        ({"NumberOfFrames": 2}, "PixelData has 96 bytes, .* need 192; it is truncated"),
        ({"NumberOfFrames": 0}, "NumberOfFrames is 0; a whole number from 1"),
        ({"NumberOfFrames": [1, 2]}, r"NumberOfFrames is 1\\2; a whole number from 1"),
        (
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_RCT", "PlanarConfiguration": 0},
            "YBR_RCT in .* is defined in JPEG 2000 alone",
        ),
        (
            {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
            "PixelData has 96 bytes, .* need 288; it is truncated",
        ),
        ({"SamplesPerPixel": 3}, "is MONOCHROME2 with 3 samples"),
        ({"PhotometricInterpretation": "RGB"}, "is RGB with 1 samples"),
        ({"SamplesPerPixel": 4, "PhotometricInterpretation": "CMYK"}, "is CMYK with 4 samples"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422"}, "YBR_FULL_422 with 8 columns of 16 bits"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR: a pixel is the number of a color"),
        ({"PhotometricInterpretation": None}, "is absent with 1 samples"),
        ({"Rows": 0}, "0 x 8; there is no pixel"),
        ({"Rows": 65535, "Columns": 65535}, "truncated"),
        ({"Rows": None}, "Rows absent"),
        ({"Rows": 3}, "more frames than are declared"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "BitsAllocated is 1"),
        ({"BitsStored": 17, "HighBit": 16}, "BitsStored is 17"),
        ({"HighBit": 15}, r"HighBit is 15 with BitsStored 12; it must be 11"),
        ({"PixelRepresentation": 2}, "PixelRepresentation is 2"),
        ({"RescaleSlope": 0}, "must be one finite number other than 0"),
        ({"RescaleSlope": [1, 2]}, "must be one finite number other than 0"),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, "ModalityLUTSequence"),
        ({"FloatPixelData": b"\0\0\0\0"}, "FloatPixelData"),
        ({"PerFrameFunctionalGroupsSequence": Sequence([Dataset(), Dataset()])}, "has 2 items for 1 frames"),
    ],
)
def test_refused(extra: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = make(tmp_path, extra)
    for read in (dicom.identify, dicom.read_source):
        with pytest.raises(RefusedError, match=reason) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("sop_class", "kind"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", "Segmentation Storage"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "RT Dose Storage"),
        ("1.2.840.10008.5.1.4.1.1.30", "Parametric Map Storage"),
    ],
)
def test_pixels_that_are_no_picture(sop_class: str, kind: str, tmp_path: Path) -> None:
    path = make(tmp_path, _sop(sop_class))
    found = dicom.identify(path)
    assert isinstance(found, Document)
    assert (found.kind, found.identifiers["SOPInstanceUID"]) == (kind, SOP_UID)
    with pytest.raises(RefusedError, match=rf"not an image \({kind}\)"):
        dicom.read_source(path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            b"1.2.840.10008.1.2.1\0",
            b"1.2.840.10008.1.2.5\0",
            "PixelData is not encapsulated though the transfer syntax is compressed",
        ),
        (b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0", "1.2.840.10008.1.2.9 is not known"),
        (b"\2\0\x10\0UI", b"\2\0\x11\0UI", "no TransferSyntaxUID"),
        (b"\x10\0\x20\0LO", b"\x10\0\x10\0PN", r"\(0010,0010\) is there more than once"),
        (b"\x10\0\x20\0LO", b"\x10\0\x20\0\1\2", "is none"),
        (b"DICM", b"NONE", "no DICOM file"),
    ],
)
def test_damage_is_refused(old: bytes, new: bytes, reason: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(RefusedError, match=reason):
        dicom.read_source(path)


def test_meta_less_file_is_recognized_and_refused(tmp_path: Path) -> None:
    path = make(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[content.index(b"\x08\0\x08\0CS") :])
    assert dicom.sniff(path)
    with pytest.raises(RefusedError, match="an image without preamble and file meta information"):
        dicom.identify(path)


@pytest.mark.parametrize("content", [b"", b"\x08\x00", b"text " * 99, bytes(200), b"\x5c\1\0\0" + bytes(400)])
def test_others_are_not_sniffed(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    assert not dicom.sniff(tmp_path / "a")


def test_derived_uid() -> None:
    uid = derived_uid(SECRET, SOP_UID)
    assert is_valid_uid(uid)
    assert (
        uid == "2.25.251108246089428962313637004653880284379"
    )  # Must never change: a later run has to find the same UIDs.
    assert uid not in (derived_uid(b"other", SOP_UID), derived_uid(SECRET, SERIES_UID))
    assert uid.startswith("2.25.")
    assert len(uid) <= 44
    assert (int(uid[5:]) >> 76 & 15, int(uid[5:]) >> 62 & 3) == (4, 2)


@pytest.mark.parametrize(
    ("uid", "valid"),
    [("1.2.3", True), ("1.0.3", True), ("1.02", False), ("1..2", False), ("", False), ("1." * 40 + "1", False)],
)
def test_valid_uid(uid: str, valid: bool) -> None:
    assert is_valid_uid(uid) is valid


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
@SYNTAXES
def test_no_new_conformance_error(syntax: str, tmp_path: Path) -> None:
    path = make(tmp_path, {"SmallestImagePixelValue": 10, "DerivationDescription": "x"}, transfer_syntax=syntax)
    protect(path)
    errors = [
        {
            line
            for line in subprocess.run(
                ["dciodvfy", "-new", str(file)], capture_output=True, text=True, errors="replace", check=False
            ).stderr.splitlines()
            if line.startswith("Error")
        }
        for file in (path, path.with_name("out.dcm"))
    ]
    assert errors[1] - errors[0] == set()
