# SPDX-License-Identifier: Apache-2.0
"""Comparing a DICOM file with its original: every change that a derived image may not have is seen, whichever software
made it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_salm.errors import RefusedError
from monai_salm.io import dicom
from tests.io import builders
from tests.io.builders import (
    NEIGHBOR_UID,
    dicom_dataset,
    functional_groups,
    reference,
    values_in,
    write_compressed,
    write_dicom,
)
from tests.io.derived import DERIVATION, disallowed, protect

Edit = Callable[[Dataset], Any]


def tampered(path: Path, edit: Edit, **how: Any) -> set[str]:
    """Protect a file, edit the result with pydicom and give the names of the changes that are not allowed."""
    dataset = protect(path, **how)
    edit(dataset)
    pydicom.dcmwrite(path.with_name("out.dcm"), dataset)
    return {change.name for change in disallowed(path)}


def _edit(**changes: Any) -> Edit:
    def edit(dataset: Dataset) -> None:
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)

    return edit


def _other_class(dataset: Dataset) -> None:
    dataset.ReferencedImageSequence[0].ReferencedSOPClassUID = "1.2.3"


def _other_meta(dataset: Dataset) -> None:
    dataset.file_meta.SourceApplicationEntityTitle = "X"


def _overlay(dataset: Dataset) -> None:
    dataset.PixelData = bytes([dataset.PixelData[0], dataset.PixelData[1] | 0x80]) + dataset.PixelData[2:]


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        (_edit(PatientID="P2"), "PatientID"),
        (_edit(StudyInstanceUID="1.2.3"), "StudyInstanceUID"),
        (_edit(FrameOfReferenceUID="1.2.3"), "FrameOfReferenceUID"),
        (_edit(ImageType=["DERIVED", "SECONDARY", "AXIAL"]), "ImageType"),
        (_edit(DerivationDescription="other"), "DerivationDescription"),
        (_edit(SourceImageSequence=reference("1.2.3")), "SourceImageSequence[0]"),
        (_edit(ReferencedImageSequence=Sequence([])), "ReferencedImageSequence[0]"),
        (_edit(RescaleSlope="2.00"), "RescaleSlope"),
        (_edit(LargestImagePixelValue=7), "LargestImagePixelValue"),
        (_edit(SOPInstanceUID="1.2.3"), "MediaStorageSOPInstanceUID (not the new SOPInstanceUID)"),
        (_edit(PatientSex="F"), "PatientSex"),
        (lambda dataset: dataset.pop("WindowCenter"), "WindowCenter"),
        (lambda dataset: dataset.pop(0x00091001), "(0009,1001)"),
        (_other_class, "ReferencedImageSequence[0].ReferencedSOPClassUID"),
        (_other_meta, "SourceApplicationEntityTitle"),
        (_overlay, "PixelData (bits above BitsStored)"),
    ],
)
def test_tampering_is_seen(edit: Edit, name: str, tmp_path: Path) -> None:
    extra = {
        "ReferencedImageSequence": reference(NEIGHBOR_UID),
        "DerivationDescription": "x",
        "LargestImagePixelValue": 9,
    }
    path = write_dicom(tmp_path / "source.dcm", dicom_dataset(extra=extra), values_in(10, 1000, (6, 8), "u2"))
    assert name in tampered(path, edit)


def _again(keyword: str) -> Edit:
    """Append the last item of a sequence once more."""
    return lambda dataset: dataset[keyword].value.append(dataset[keyword][-1])


def _in_source(**changes: Any) -> Edit:
    return lambda dataset: _edit(**changes)(dataset.SourceImageSequence[0])


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (_again("DerivationCodeSequence"), {"DerivationCodeSequence[1]"}),
        (_again("SourceImageSequence"), {"SourceImageSequence[1]"}),
        (_again("ContributingEquipmentSequence"), {"ContributingEquipmentSequence[1]"}),
        (_in_source(ReferencedSOPInstanceUID="1.2.3"), {"SourceImageSequence[0]"}),
        (_in_source(ReferencedSOPClassUID="1.2.3"), {"SourceImageSequence[0]"}),
        (_in_source(PurposeOfReferenceCodeSequence=Sequence([])), {"SourceImageSequence[0]"}),
        (lambda dataset: _edit(CodeValue="113040")(dataset.DerivationCodeSequence[0]), {"DerivationCodeSequence[0]"}),
        (_edit(ReferencedSeriesSequence=reference("1.2.3")), {"ReferencedSeriesSequence[0]"}),
        (_edit(ContentQualification="PRODUCT"), {"ContentQualification"}),
        (_edit(LossyImageCompression="01"), {"LossyImageCompression"}),
        (_edit(PhotometricInterpretation="MONOCHROME1"), {"PhotometricInterpretation"}),
        (_edit(ImageType="DERIVED"), {"ImageType"}),
        (lambda dataset: dataset.add_new("SmallestImagePixelValue", "US", 10), {"SmallestImagePixelValue"}),
    ],
)
def test_statements_must_be_those_of_a_derived_image(edit: Edit, names: set[str], tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "source.dcm", dicom_dataset(), values_in(10, 1000, (6, 8), "u2"))
    assert tampered(path, edit) == names


def test_uids_must_be_mapped_one_to_one(tmp_path: Path) -> None:
    extra = {"ReferencedImageSequence": Sequence([*reference(NEIGHBOR_UID), *reference(NEIGHBOR_UID)])}
    path = write_dicom(tmp_path / "source.dcm", dicom_dataset(extra=extra), values_in(10, 1000, (6, 8), "u2"))

    def both(first: str, second: str) -> Edit:
        def edit(dataset: Dataset) -> None:
            for item, uid in zip(dataset.ReferencedImageSequence, (first, second), strict=True):
                item["ReferencedSOPInstanceUID"] = DataElement(0x00081155, "UI", uid, validation_mode=IGNORE)

        return edit

    assert tampered(path, both("1.2.3", "1.2.3")) == set()
    assert tampered(path, both("1.2.3", "1.2.4")) == {"ReferencedImageSequence[1].ReferencedSOPInstanceUID"}
    assert tampered(path, both("letters", "letters")) == {
        f"ReferencedImageSequence[{item}].ReferencedSOPInstanceUID" for item in (0, 1)
    }


def _bytes(edit: Callable[[np.ndarray[Any, Any]], None]) -> Edit:
    def change(dataset: Dataset) -> None:
        content = np.frombuffer(dataset.PixelData, np.uint8).copy()
        edit(content)
        dataset.PixelData = content.tobytes()

    return change


def _set(place: int) -> Edit:
    def edit(content: np.ndarray[Any, Any]) -> None:
        content[place] ^= 0x40

    return _bytes(edit)


@pytest.mark.parametrize(
    ("photometric", "planar", "place", "names"),
    [
        ("RGB", 0, 4, set()),
        ("RGB", 0, -1, {"PixelData (bytes after the frame)"}),
        ("YBR_FULL", 0, 6, set()),
        ("YBR_FULL", 0, 7, {"PixelData (chroma)"}),
        ("YBR_FULL", 0, 8, {"PixelData (chroma)"}),
        ("YBR_FULL", 1, 14, set()),
        ("YBR_FULL", 1, 15, {"PixelData (chroma)"}),
        ("YBR_FULL_422", 0, 5, set()),
        ("YBR_FULL_422", 0, 6, {"PixelData (chroma)"}),
        ("YBR_FULL_422", 0, 7, {"PixelData (chroma)"}),
    ],
)
def test_pixel_bytes_that_are_not_the_picture(
    photometric: str, planar: int, place: int, names: set[str], tmp_path: Path
) -> None:
    shape = (3, 6) if photometric == "YBR_FULL_422" else (3, 5)
    extra = {"PlanarConfiguration": planar}
    dataset = dicom_dataset(
        bits_allocated=8, bits_stored=8, samples=3, photometric=photometric, shape=shape, extra=extra
    )
    samples = 2 if photometric == "YBR_FULL_422" else 3
    path = write_dicom(tmp_path / "source.dcm", dataset, np.full((*shape, samples), 99))
    assert tampered(path, _set(place)) == names


@pytest.mark.parametrize(("signed", "seen"), [(False, True), (True, False)])
def test_bits_above_the_values(signed: bool, seen: bool, tmp_path: Path) -> None:
    """Where signs are extended the high bits of a changed sign are those of the value; of a stack every
    frame counts.
    """
    low = -50 if signed else 0
    dataset = dicom_dataset(frames=3, signed=signed)
    path = write_dicom(tmp_path / "source.dcm", dataset, values_in(low, 99, (3, 6, 8), "i2"))

    def edit(content: np.ndarray[Any, Any]) -> None:
        content.view("<u2")[100] = 0xFFFB

    assert tampered(path, _bytes(edit)) == ({"PixelData (bits above BitsStored)"} if seen else set())


def _in_group(keyword: str, **changes: Any) -> Edit:
    return lambda dataset: _edit(**changes)(dataset[keyword][0].CTImageFrameTypeSequence[0])


def _in_derivation(**changes: Any) -> Edit:
    return lambda dataset: _edit(**changes)(dataset.SharedFunctionalGroupsSequence[0].DerivationImageSequence[0])


def _in_evidence(**changes: Any) -> Edit:
    return lambda dataset: _edit(**changes)(dataset.SourceImageEvidenceSequence[0].ReferencedSeriesSequence[0])


PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (
            _in_group(PER_FRAME, FrameType=["DERIVED", "SECONDARY", "VOLUME", "NONE"]),
            {f"{PER_FRAME}[0].CTImageFrameTypeSequence[0].FrameType"},
        ),
        (
            _in_group(PER_FRAME, FrameType=["DERIVED", "PRIMARY"]),
            {f"{PER_FRAME}[0].CTImageFrameTypeSequence[0].FrameType"},
        ),
        (_in_group(PER_FRAME, FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]), set()),
        (
            _in_group(PER_FRAME, PixelPresentation="COLOR"),
            {f"{PER_FRAME}[0].CTImageFrameTypeSequence[0].PixelPresentation"},
        ),
        (_in_derivation(DerivationCodeSequence=Sequence([])), {f"{SHARED}[0].DerivationImageSequence[0]"}),
        (_in_derivation(SourceImageSequence=reference("1.2.3")), {f"{SHARED}[0].DerivationImageSequence[0]"}),
        (
            lambda dataset: _again("DerivationImageSequence")(dataset[SHARED][0]),
            {f"{SHARED}[0].DerivationImageSequence[1]"},
        ),
        (
            lambda dataset: setattr(
                dataset[PER_FRAME][1], "DerivationImageSequence", dataset[SHARED][0].DerivationImageSequence
            ),
            {f"{PER_FRAME}[1].DerivationImageSequence"},
        ),
        (_again("ReferencedSeriesSequence"), {"ReferencedSeriesSequence[1]"}),
        (_again("SourceImageEvidenceSequence"), {"SourceImageEvidenceSequence[1]"}),
        (_in_evidence(SeriesInstanceUID="1.2.3"), {"SourceImageEvidenceSequence[0]"}),
        (_in_evidence(ReferencedSOPSequence=reference("1.2.3")), {"SourceImageEvidenceSequence[0]"}),
        (
            lambda dataset: _edit(SeriesInstanceUID="1.2.3")(dataset.ReferencedSeriesSequence[0]),
            {"ReferencedSeriesSequence[0]"},
        ),
        (
            lambda dataset: _edit(ReferencedInstanceSequence=reference("1.2.3"))(dataset.ReferencedSeriesSequence[0]),
            {"ReferencedSeriesSequence[0]"},
        ),
        (
            lambda dataset: _edit(RescaleIntercept="5")(dataset[PER_FRAME][2].PixelValueTransformationSequence[0]),
            {f"{PER_FRAME}[2].PixelValueTransformationSequence[0].RescaleIntercept"},
        ),
    ],
)
def test_statements_of_frames(edit: Edit, names: set[str], tmp_path: Path) -> None:
    dataset = dicom_dataset(frames=3, extra=functional_groups(slopes=(1, 2, 3)))
    path = write_dicom(tmp_path / "source.dcm", dataset, values_in(10, 1000, (3, 6, 8), "u2"))
    assert tampered(path, edit) == names


@pytest.mark.parametrize("place", ["RequestAttributesSequence", "ReferencedImageSequence"])
def test_type_is_only_derived_in_its_place(place: str, tmp_path: Path) -> None:
    item = Dataset()
    item.ImageType = item.FrameType = ["ORIGINAL", "PRIMARY"]
    path = write_dicom(
        tmp_path / "source.dcm", dicom_dataset(extra={place: Sequence([item])}), values_in(10, 1000, (6, 8), "u2")
    )

    def edit(dataset: Dataset) -> None:
        dataset[place][0].ImageType = dataset[place][0].FrameType = ["DERIVED", "PRIMARY"]

    assert tampered(path, edit) == {f"{place}[0].ImageType", f"{place}[0].FrameType"}


def compressed(path: Path, syntax: str, photometric: str = "MONOCHROME2", **extra: Any) -> Path:
    pytest.importorskip("imagecodecs", reason="the extra `codecs` is not installed")
    samples = 1 if photometric == "MONOCHROME2" else 3
    dataset = dicom_dataset(
        bits_allocated=8, bits_stored=8, samples=samples, photometric=photometric, shape=(32, 34), extra=extra
    )
    values = values_in(1, 254, (32, 34, 3) if samples == 3 else (32, 34), "u1")
    return write_compressed(path / "source.dcm", dataset, values, syntax)


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (_edit(LossyImageCompression="00"), {"LossyImageCompression"}),
        (_edit(PlanarConfiguration=1), {"PlanarConfiguration"}),
        (_edit(LossyImageCompressionRatio="8"), set()),
    ],
)
def test_statements_of_decoded_pictures(edit: Edit, names: set[str], tmp_path: Path) -> None:
    assert tampered(compressed(tmp_path, builders.JPEG_BASELINE, "YBR_FULL_422"), edit) == names


@pytest.mark.parametrize(
    ("syntax", "photometric", "edit", "name"),
    [
        (builders.JPEG_BASELINE, "RGB", lambda dataset: dataset.pop("LossyImageCompression"), "LossyImageCompression"),
        (builders.JPEG_BASELINE, "YBR_FULL", _edit(PhotometricInterpretation="YBR_FULL"), "PhotometricInterpretation"),
    ],
)
def test_decoded_pictures_must_say_so(syntax: str, photometric: str, edit: Edit, name: str, tmp_path: Path) -> None:
    assert name in tampered(compressed(tmp_path, syntax, photometric), edit)


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        (lambda dataset: dataset.pop("LossyImageCompression"), "LossyImageCompression"),
        (_edit(LossyImageCompression="00"), "LossyImageCompression"),
        (lambda dataset: dataset.pop("LossyImageCompressionRatio"), "LossyImageCompressionRatio"),
        (_edit(LossyImageCompressionRatio=["9", "3"]), "LossyImageCompressionRatio"),
        (_edit(LossyImageCompressionMethod="ISO_15444_1"), "LossyImageCompressionMethod"),
    ],
)
def test_earlier_losses_stay_said(edit: Edit, name: str, tmp_path: Path) -> None:
    path = compressed(
        tmp_path,
        builders.JPEG_BASELINE,
        LossyImageCompression="01",
        LossyImageCompressionRatio="9",
        LossyImageCompressionMethod="ISO_10918_1",
    )
    assert tampered(path, edit) == {name}


@pytest.mark.parametrize("syntax", [builders.JPEG_BASELINE, builders.JPEG_LS_NEAR, builders.JPEG_LS])
def test_file_is_the_same_as_itself(syntax: str, tmp_path: Path) -> None:
    """A picture that was not decoded has nothing to say of it."""
    path = compressed(tmp_path, syntax, "RGB")
    assert dicom.compare_headers(path, path) == []


def test_lossless_source_keeps_its_transfer_syntax(tmp_path: Path) -> None:
    path = compressed(tmp_path, builders.JPEG_LS)
    dataset = protect(path)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.decompress()
    dataset.save_as(tmp_path / "out.dcm")
    assert {change.name for change in disallowed(path)} == {"TransferSyntaxUID"}
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = builders.JPEG_LS_NEAR
    dataset.save_as(tmp_path / "out.dcm", implicit_vr=False, little_endian=True)
    assert "TransferSyntaxUID" in {change.name for change in disallowed(path)}


def test_native_source_keeps_its_transfer_syntax(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "source.dcm", dicom_dataset(), values_in(10, 1000, (6, 8), "u2"))
    dataset = protect(path)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "out.dcm", implicit_vr=True)
    assert "TransferSyntaxUID" in {change.name for change in disallowed(path)}
    lossy = compressed(tmp_path, builders.JPEG_BASELINE)
    assert protect(lossy).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_pixels_of_another_vr_or_length(tmp_path: Path) -> None:
    dataset = dicom_dataset(bits_allocated=8, bits_stored=8)
    path = write_dicom(tmp_path / "source.dcm", dataset, values_in(10, 200, (6, 8), "u1"), vr="OB")

    def other_vr(dataset: Dataset) -> None:
        dataset["PixelData"].VR = "OW"

    def longer(dataset: Dataset) -> None:
        dataset.PixelData += b"\0\0"

    assert tampered(path, other_vr) == {"PixelData"}
    assert tampered(path, longer) == {"PixelData", "PixelData (bytes after the frame)"}


def test_other_number_of_frames(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "source.dcm", dicom_dataset(frames=3), values_in(10, 1000, (3, 6, 8), "u2"))

    def cut(dataset: Dataset) -> None:
        dataset.PixelData, dataset.NumberOfFrames = dataset.PixelData[:192], 2

    assert tampered(path, cut) == {"NumberOfFrames", "PixelData"}


def test_offset_tables_may_go(tmp_path: Path) -> None:
    pytest.importorskip("jpeg_ls", reason="the extra `codecs` is not installed")
    dataset = dicom_dataset(frames=3, shape=(32, 34))
    path = write_compressed(
        tmp_path / "source.dcm", dataset, values_in(1, 4000, (3, 32, 34), "u2"), builders.JPEG_LS, table="extended"
    )
    protect(path)
    changes = {change.name: change.allowed for change in dicom.compare_headers(path, tmp_path / "out.dcm")}
    assert changes["ExtendedOffsetTable"]
    assert changes["ExtendedOffsetTableLengths"]


def test_pictures_and_documents_cannot_be_compared(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "source.dcm", dicom_dataset(), values_in(10, 1000, (6, 8), "u2"))
    other = write_dicom(
        tmp_path / "out.dcm",
        dicom_dataset(extra={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}),
        values_in(10, 1000, (6, 8), "u2"),
    )
    with pytest.raises(RefusedError, match="an image and Segmentation Storage cannot be compared"):
        dicom.compare_headers(path, other)


def test_every_option_gives_allowed_changes(tmp_path: Path) -> None:
    for image_type in ("derived", "keep"):
        for provenance in ("full", "minimal", "none"):
            for secret in (None, b"x"):
                path = write_dicom(tmp_path / "source.dcm", dicom_dataset(), values_in(10, 1000, (6, 8), "u2"))
                protect(path, replace(DERIVATION, image_type=image_type, provenance=provenance, uid_secret=secret))
