# SPDX-License-Identifier: Apache-2.0
"""What a derived image says: the options of a derivation, and enhanced images, which say it of their frames as well."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from monai_salm.errors import RefusedError
from monai_salm.io import dicom
from monai_salm.io.dicom.uids import derived_uid
from tests.io.builders import (
    NEIGHBOR_UID,
    SERIES_UID,
    SOP_UID,
    STUDY_UID,
    dicom_dataset,
    functional_groups,
    reference,
    values_in,
    write_dicom,
)
from tests.io.derived import DERIVATION, SECRET, protect

SYNTAXES = pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=["explicit", "implicit", "big"]
)
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
STATEMENTS = {"DerivationDescription", "DerivationCodeSequence", "SourceImageSequence", "ContributingEquipmentSequence"}

SOURCES_OF_FRAMES = {"ReferencedSeriesSequence", "SourceImageEvidenceSequence"}


def plain(path: Path, extra: dict[str, Any] | None = None, **how: Any) -> Path:
    return write_dicom(path / "source.dcm", dicom_dataset(extra=extra), values_in(10, 1000, (6, 8), "u2"), **how)


def enhanced(
    path: Path, extra: dict[str, Any] | None = None, *, groups: dict[str, Any] | None = None, **how: Any
) -> Path:
    said = functional_groups(**(groups or {"slopes": (1, 2, 3)}))
    dataset = dicom_dataset(frames=3, extra={"SOPClassUID": ENHANCED_CT, **said, **(extra or {})})
    return write_dicom(path / "source.dcm", dataset, values_in(10, 1000, (3, 6, 8), "u2"), **how)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, STATEMENTS),
        ({"source_reference": False}, STATEMENTS - {"SourceImageSequence"}),
        ({"provenance": "minimal"}, {"DerivationDescription"}),
        ({"provenance": "minimal", "source_reference": True}, {"DerivationDescription"}),
        ({"provenance": "none"}, set()),
        ({"uid_secret": None}, STATEMENTS - {"SourceImageSequence"}),
        ({"image_type": "keep"}, STATEMENTS),
        ({"image_type": "keep", "provenance": "none", "uid_secret": None}, set()),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
@pytest.mark.parametrize("is_enhanced", [False, True])
def test_options(is_enhanced: bool, options: dict[str, Any], said: set[str], tmp_path: Path) -> None:
    path = (enhanced if is_enhanced else plain)(tmp_path)
    before, after = pydicom.dcmread(path), protect(path, replace(DERIVATION, **options))
    refers = "SourceImageSequence" in said
    first = "ORIGINAL" if options.get("image_type") == "keep" else "DERIVED"
    assert set(after.dir()) - set(before.dir()) == said | (SOURCES_OF_FRAMES if is_enhanced and refers else set())
    assert list(after.ImageType) == [first, "PRIMARY", "AXIAL"]
    assert (after.SOPInstanceUID == SOP_UID) == (options.get("uid_secret", SECRET) is None)
    if is_enhanced:
        assert ("DerivationImageSequence" in after.SharedFunctionalGroupsSequence[0]) == refers
        for group in after.PerFrameFunctionalGroupsSequence:
            assert list(group.CTImageFrameTypeSequence[0].FrameType) == [first, "PRIMARY", "VOLUME", "NONE"]
            assert "DerivationImageSequence" not in group
    assert (after.file_meta.get("ImplementationVersionName") == "MONAI_SALM") == (options.get("provenance") != "none")


def test_where_nothing_is_said_only_values_and_uids_differ(tmp_path: Path) -> None:
    for path in (plain(tmp_path), enhanced(tmp_path)):
        protect(path, replace(DERIVATION, provenance="none", image_type="keep"))
        changed = {change.name for change in dicom.compare_headers(path, tmp_path / "out.dcm")}
        assert changed - {"FileMetaInformationGroupLength"} == {
            "MediaStorageSOPInstanceUID",
            "SOPInstanceUID",
            "SeriesInstanceUID",
        }
        assert b"MONAI_SALM" not in (tmp_path / "out.dcm").read_bytes()
        protect(path, replace(DERIVATION, provenance="none", image_type="keep", uid_secret=None))
        before, after = path.read_bytes(), (tmp_path / "out.dcm").read_bytes()
        assert len(before) == len(after)
        assert sum(one != other for one, other in zip(before, after, strict=True)) in (
            1,
            2,
        )  # bytes of the value that changed


@SYNTAXES
def test_frames_say_that_they_are_derived(syntax: str, tmp_path: Path) -> None:
    after = protect(enhanced(tmp_path, transfer_syntax=syntax))
    types = [list(group.CTImageFrameTypeSequence[0].FrameType) for group in after.PerFrameFunctionalGroupsSequence]
    assert types == [["DERIVED", "PRIMARY", "VOLUME", "NONE"]] * 3
    assert [
        group.PixelValueTransformationSequence[0].RescaleSlope for group in after.PerFrameFunctionalGroupsSequence
    ] == [1, 2, 3]
    after = protect(enhanced(tmp_path, groups={"shared_slope": 2}, transfer_syntax=syntax))
    assert list(after.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0].FrameType) == [
        "DERIVED",
        "PRIMARY",
        "VOLUME",
        "NONE",
    ]


@pytest.mark.parametrize("keyword", ["CTImage", "MRImage", "PET", "WholeSlideMicroscopyImage"])
@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (["ORIGINAL", "PRIMARY"], ["DERIVED", "PRIMARY"]),
        (["DERIVED", "SECONDARY", "X", "MIXED"], ["DERIVED", "SECONDARY", "X", "MIXED"]),
        ("ORIGINAL", ["DERIVED", "PRIMARY"]),
    ],
)
def test_frame_types_of_every_modality(keyword: str, before: Any, expected: list[str], tmp_path: Path) -> None:
    group, item = Dataset(), Dataset()
    item.FrameType = before
    setattr(group, f"{keyword}FrameTypeSequence", Sequence([item]))
    after = protect(enhanced(tmp_path, {"SharedFunctionalGroupsSequence": Sequence([group])}))
    assert list(after.SharedFunctionalGroupsSequence[0][f"{keyword}FrameTypeSequence"][0].FrameType) == expected


@SYNTAXES
@pytest.mark.parametrize("undefined", [False, True])
def test_derivation_image_of_all_frames(undefined: bool, syntax: str, tmp_path: Path) -> None:
    groups = functional_groups(slopes=(1, 2, 3))
    dataset = dicom_dataset(frames=3, extra={"SOPClassUID": ENHANCED_CT} | groups)
    for keyword in groups:
        dataset[keyword].is_undefined_length = undefined
        for item in dataset[keyword]:
            item.is_undefined_length_sequence_item = undefined
    after = protect(
        write_dicom(tmp_path / "source.dcm", dataset, values_in(10, 1000, (3, 6, 8), "u2"), transfer_syntax=syntax)
    )
    for keyword in groups:
        assert after[keyword].is_undefined_length is undefined
        assert {item.is_undefined_length_sequence_item for item in after[keyword]} == {undefined}
    (derivation,) = after.SharedFunctionalGroupsSequence[0].DerivationImageSequence
    assert derivation.DerivationDescription == "at most 3 HU"
    assert derivation.DerivationCodeSequence[0].CodeValue == "113042"
    (source,) = derivation.SourceImageSequence
    assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (ENHANCED_CT, SOP_UID)
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    (series,) = after.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == SERIES_UID
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence] == [SOP_UID]
    assert series.ReferencedInstanceSequence[0].ReferencedSOPClassUID == ENHANCED_CT
    (study,) = after.SourceImageEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (STUDY_UID, SERIES_UID)
    assert [(item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID) for item in series.ReferencedSOPSequence] == [
        (ENHANCED_CT, SOP_UID)
    ]
    assert after.SOPInstanceUID == derived_uid(SECRET, SOP_UID)


def test_derivation_image_of_each_frame_stays(tmp_path: Path) -> None:
    """A functional group is shared or per frame, never both."""
    groups = functional_groups(slopes=(1, 2, 3))
    derivation = Dataset()
    derivation.SourceImageSequence = reference(NEIGHBOR_UID)
    groups["PerFrameFunctionalGroupsSequence"][1].DerivationImageSequence = Sequence([derivation])
    after = protect(enhanced(tmp_path, groups))
    assert "DerivationImageSequence" not in after.SharedFunctionalGroupsSequence[0]
    kept = [len(group.get("DerivationImageSequence", [])) for group in after.PerFrameFunctionalGroupsSequence]
    assert kept == [0, 1, 0]


def test_derivation_image_is_appended(tmp_path: Path) -> None:
    groups = functional_groups(slopes=(1, 2, 3))
    earlier = Dataset()
    earlier.DerivationDescription = "resampled"
    groups["SharedFunctionalGroupsSequence"][0].DerivationImageSequence = Sequence([earlier])
    after = protect(enhanced(tmp_path, groups))
    assert [item.DerivationDescription for item in after.SharedFunctionalGroupsSequence[0].DerivationImageSequence] == [
        "resampled",
        "at most 3 HU",
    ]


def test_references_in_groups_are_rewritten(tmp_path: Path) -> None:
    groups = functional_groups(slopes=(1, 2, 3))
    groups["PerFrameFunctionalGroupsSequence"][2].ReferencedImageSequence = reference(NEIGHBOR_UID)
    series = Dataset()
    series.SeriesInstanceUID = SERIES_UID
    series.ReferencedInstanceSequence = reference(NEIGHBOR_UID)
    after = protect(
        enhanced(tmp_path, groups | {"ReferencedSeriesSequence": Sequence([series])}),
        replace(DERIVATION, changed_uids=frozenset({NEIGHBOR_UID})),
    )
    frame = after.PerFrameFunctionalGroupsSequence[2]
    assert frame.ReferencedImageSequence[0].ReferencedSOPInstanceUID == derived_uid(SECRET, NEIGHBOR_UID)
    assert frame.CTImageFrameTypeSequence[0].FrameType[0] == "DERIVED"
    assert [item.SeriesInstanceUID for item in after.ReferencedSeriesSequence] == [
        derived_uid(SECRET, SERIES_UID),
        SERIES_UID,
    ]


def test_classic_images_get_no_common_reference(tmp_path: Path) -> None:
    assert not SOURCES_OF_FRAMES & set(protect(plain(tmp_path)).dir())


def test_whole_slides_have_no_evidence(tmp_path: Path) -> None:
    """The module of whole slide images does not know it."""
    after = protect(enhanced(tmp_path, {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6"}))
    assert SOURCES_OF_FRAMES & set(after.dir()) == {"ReferencedSeriesSequence"}


def test_without_a_valid_uid_nothing_refers_to_the_source(tmp_path: Path) -> None:
    path = enhanced(tmp_path)
    path.write_bytes(path.read_bytes().replace(SOP_UID.encode(), b"1.02" + SOP_UID[4:].encode()))
    after = protect(path)
    assert not {"SourceImageSequence", *SOURCES_OF_FRAMES} & set(after.dir())
    assert "DerivationImageSequence" not in after.SharedFunctionalGroupsSequence[0]
    assert after.PerFrameFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0].FrameType[0] == "DERIVED"


def test_groups_that_are_no_sequence_are_refused(tmp_path: Path) -> None:
    path = enhanced(tmp_path, groups={"shared_slope": 1})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\x00\x52\x29\x92SQ", b"\x00\x52\x29\x92OB"))
    source = dicom.read_source(path)
    with pytest.raises(RefusedError, match="SharedFunctionalGroupsSequence should be a sequence but is written as OB"):
        dicom.write_like(source, source.stored, tmp_path / "out.dcm", DERIVATION)


def test_equipment_of_earlier_changes_stays(tmp_path: Path) -> None:
    earlier = Dataset()
    earlier.Manufacturer = "Other"
    after = protect(
        plain(tmp_path, {"ContributingEquipmentSequence": Sequence([earlier])}),
        replace(DERIVATION, software="soft\\ware", version="1" * 99),
    )
    assert [item.Manufacturer for item in after.ContributingEquipmentSequence] == ["Other", f"soft/ware {'1' * 54}"]
    assert after.ContributingEquipmentSequence[1].ContributionDescription == "at most 3 HU"
    assert after.Manufacturer == "Maker"


def test_description_is_one_line_of_ascii(tmp_path: Path) -> None:
    after = protect(plain(tmp_path), replace(DERIVATION, description="±3 HU\nof   noise"))
    assert after.DerivationDescription == "?3 HU of noise"
    assert protect(plain(tmp_path), replace(DERIVATION, description="x" * 2000)).DerivationDescription == "x" * 1024


def test_signatures_and_content_qualification(tmp_path: Path) -> None:
    """They go, or become right, whatever is to be said."""
    extra = {
        "DigitalSignaturesSequence": Sequence([Dataset()]),
        "MACParametersSequence": Sequence([Dataset()]),
        "ContentQualification": "PRODUCT",
    }
    path = plain(tmp_path, extra | {"InstanceCreationDate": "20200101"})
    after = protect(path, replace(DERIVATION, provenance="none", image_type="keep", uid_secret=None))
    assert [keyword for keyword in (*extra, "InstanceCreationDate") if keyword in after] == ["ContentQualification"]
    assert after.ContentQualification == "RESEARCH"


def _conformance_errors(path: Path) -> set[str]:
    done = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    return {line for line in done.stderr.splitlines() if line.startswith("Error")}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
@pytest.mark.parametrize("groups", [{"slopes": (1, 2, 3)}, {"shared_slope": 2}], ids=["per frame", "shared"])
@SYNTAXES
def test_no_new_conformance_error_in_an_enhanced_image(syntax: str, groups: dict[str, Any], tmp_path: Path) -> None:
    path = enhanced(tmp_path, groups=groups, transfer_syntax=syntax)
    protect(path)
    assert _conformance_errors(tmp_path / "out.dcm") - _conformance_errors(path) == set()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of dicom3tools")
@SYNTAXES
def test_no_new_conformance_error_without_source(syntax: str, tmp_path: Path) -> None:
    path = enhanced(tmp_path, transfer_syntax=syntax)
    protect(path, replace(DERIVATION, source_reference=False))
    assert _conformance_errors(tmp_path / "out.dcm") - _conformance_errors(path) == set()
