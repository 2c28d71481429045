# SPDX-License-Identifier: Apache-2.0
"""DICOM objects that are no pictures: what they are, what of them changes, and that nothing else does."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import warnings
import zlib
from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from monai_salm.errors import RefusedError
from monai_salm.io import identify
from monai_salm.io.base import Derivation, Document
from monai_salm.io.dicom import documents
from monai_salm.io.dicom.comparing import compare_headers
from monai_salm.io.dicom.cutting import read_file
from monai_salm.io.dicom.documents import document_of, notes_of, references_of, unprotected_in, write_document
from monai_salm.io.dicom.uids import derived_uid
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

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
SECRET = b"secret"
SEG, RTDOSE, SR, KO = (
    "1.2.840.10008.5.1.4.1.1.66.4",
    "1.2.840.10008.5.1.4.1.1.481.2",
    "1.2.840.10008.5.1.4.1.1.88.33",
    "1.2.840.10008.5.1.4.1.1.88.59",
)
SYNTAXES = pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=["explicit", "implicit", "big", "deflated"],
)
KINDS = {
    "rtplan.dcm": "RT Plan Storage",
    "rtstruct.dcm": "RT Structure Set Storage",
    "rtdose.dcm": "RT Dose Storage",
    "rtdose_rle.dcm": "RT Dose Storage",
    "rtdose_expb.dcm": "RT Dose Storage",
    "badVR.dcm": "RT Dose Storage",
    "ExplVR_BigEndNoMeta.dcm": "RT Ion Plan Storage",
    "ExplVR_LitEndNoMeta.dcm": "RT Ion Plan Storage",
    "liver_1frame.dcm": "Segmentation Storage",
    "liver_expb_1frame.dcm": "Segmentation Storage",
    "reportsi.dcm": "Basic Text SR Storage",
    "reportsi_with_empty_number_tags.dcm": "Basic Text SR Storage",
    "test-SR.dcm": "Comprehensive SR Storage",
    "waveform_ecg.dcm": "12-lead ECG Waveform Storage",
    "empty_charset_LEI.dcm": "dataset without SOP class",
}


def derivation(*changed: str) -> Derivation:
    return Derivation(software="s", version="1", description="d", uid_secret=SECRET, changed_uids=frozenset(changed))


def read(path: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, force=True)


def document(path: Path) -> Document:
    found = document_of(path, read_file(path))
    assert found is not None
    return found


def referred(dataset: Dataset) -> set[str]:
    """Give the instances and series that an object is or refers to, by keyword."""
    keywords = ("SOPInstanceUID", "SeriesInstanceUID", "ReferencedSOPInstanceUID")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {str(element.value) for element in dataset.iterall() if element.keyword in keywords}
    return {uid for uid in found if "." in uid}  # one shipped report refers to "0"


def values(path: Path) -> dict[int, Any]:
    """Give the bytes of every element of the top level but of sequences and UIDs."""
    whole = read(path)
    return {
        int(raw.tag): raw.value for raw in read(path).elements() if dictionary_vr(whole, raw.tag) not in ("SQ", "UI")
    }


def dictionary_vr(dataset: Dataset, tag: int) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(dataset[tag].VR)


def disallowed(original: Path, other: Path) -> list[str]:
    return [change.name for change in compare_headers(original, other) if not change.allowed]


def make(
    path: Path, *, sop_class: str = SR, extra: dict[str, Any] | None = None, syntax: str = ExplicitVRLittleEndian
) -> Path:
    """Write an object without pixel data that refers to a neighbor."""
    keep = ("SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
    dataset = Dataset()
    dataset.SOPClassUID = sop_class
    for keyword in keep:
        dataset[keyword] = dicom_dataset()[keyword]
    dataset.ReferencedImageSequence = reference(NEIGHBOR_UID)
    for keyword, value in (extra or {}).items():
        setattr(dataset, keyword, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPInstanceUID = SOP_UID
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)
    return path


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_kind_and_faithful_copy(name: str, kind: str, tmp_path: Path) -> None:
    assert document(SHIPPED / name).kind == kind
    write_document(SHIPPED / name, tmp_path / "out", derivation("1.2.3"))
    assert (tmp_path / "out").read_bytes() == (SHIPPED / name).read_bytes()
    assert compare_headers(SHIPPED / name, tmp_path / "out") == []


@pytest.mark.parametrize("name", [name for name in KINDS if name != "empty_charset_LEI.dcm"])
def test_references_and_identity_are_renewed(name: str, tmp_path: Path) -> None:
    before = read(SHIPPED / name)
    old = referred(before) - {str(before.StudyInstanceUID)}
    write_document(SHIPPED / name, tmp_path / "out", derivation(*old))
    assert disallowed(SHIPPED / name, tmp_path / "out") == []
    after = read(tmp_path / "out")
    assert referred(after) - {str(before.StudyInstanceUID)} == {derived_uid(SECRET, uid) for uid in old}
    assert (after.StudyInstanceUID, after.get("FrameOfReferenceUID")) == (
        before.StudyInstanceUID,
        before.get("FrameOfReferenceUID"),
    )
    assert values(tmp_path / "out") == values(SHIPPED / name)
    if before.file_meta:
        assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
        assert after.file_meta.ImplementationVersionName == "MONAI_SALM"
        assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
    else:
        assert (tmp_path / "out").read_bytes()[:8] == (SHIPPED / name).read_bytes()[:8]


@pytest.mark.skipif(
    shutil.which("dcmdump") is None or shutil.which("dciodvfy") is None,
    reason="needs dcmdump of dcmtk and dciodvfy of dicom3tools",
)
@pytest.mark.parametrize(
    "name",
    ["rtplan.dcm", "rtdose_rle.dcm", "liver_1frame.dcm", "liver_expb_1frame.dcm", "test-SR.dcm", "waveform_ecg.dcm"],
)
def test_other_software_reads_it(name: str, tmp_path: Path) -> None:
    write_document(SHIPPED / name, tmp_path / "out", derivation(*referred(read(SHIPPED / name))))
    errors = []
    for path in (SHIPPED / name, tmp_path / "out"):
        done = subprocess.run(
            ["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace", check=False
        )
        errors.append(
            {re.sub(r"<[0-9.]+>", "<UID>", line) for line in done.stderr.splitlines() if line.startswith("Error")}
        )
    assert errors[1] - errors[0] == set()
    dump = subprocess.run(["dcmdump", "-q", str(tmp_path / "out")], capture_output=True, check=False)
    assert (dump.returncode, dump.stderr) == (0, b"")


@SYNTAXES
@pytest.mark.parametrize("own", [False, True])
def test_every_syntax(syntax: str, own: bool, tmp_path: Path) -> None:
    nested = reference(NEIGHBOR_UID)
    nested[0].ReferencedImageSequence = reference(NEIGHBOR_UID)
    nested[0].is_undefined_length_sequence_item = True
    path = make(tmp_path / "in", extra={"ReferencedInstanceSequence": nested}, syntax=syntax)
    changed = {NEIGHBOR_UID, SOP_UID, SERIES_UID} if own else {NEIGHBOR_UID}
    write_document(path, tmp_path / "out", derivation(*changed))
    assert disallowed(path, tmp_path / "out") == []
    after = read(tmp_path / "out")
    new = derived_uid(SECRET, NEIGHBOR_UID)
    item = after.ReferencedInstanceSequence[0]
    assert after.ReferencedImageSequence[0].ReferencedSOPInstanceUID == item.ReferencedSOPInstanceUID == new
    assert item.ReferencedImageSequence[0].ReferencedSOPInstanceUID == new
    assert item.is_undefined_length_sequence_item
    assert (
        after.SOPInstanceUID
        == after.file_meta.MediaStorageSOPInstanceUID
        == (derived_uid(SECRET, SOP_UID) if own else SOP_UID)
    )
    assert after.SeriesInstanceUID == (derived_uid(SECRET, SERIES_UID) if own else SERIES_UID)
    assert (after.StudyInstanceUID, after.file_meta.TransferSyntaxUID) == (STUDY_UID, syntax)


def test_keeping_uids_changes_nothing(tmp_path: Path) -> None:
    path = make(tmp_path / "in")
    write_document(
        path,
        tmp_path / "out",
        Derivation(software="s", version="1", description="d", changed_uids=frozenset({NEIGHBOR_UID})),
    )
    assert (tmp_path / "out").read_bytes() == path.read_bytes()


def test_instance_that_only_the_file_meta_information_names(tmp_path: Path) -> None:
    path = make(tmp_path / "in")
    dataset = read(path)
    del dataset.SOPInstanceUID, dataset.SOPClassUID
    dataset.save_as(path)
    write_document(path, tmp_path / "out", derivation(SOP_UID))
    after = read(tmp_path / "out")
    assert after.file_meta.MediaStorageSOPInstanceUID == derived_uid(SECRET, SOP_UID)
    assert after == dataset
    assert disallowed(path, tmp_path / "out") == []


def test_pixels_of_labels_stay(tmp_path: Path) -> None:
    for bits in (1, 8):
        dataset = dicom_dataset(
            bits_allocated=bits,
            bits_stored=bits,
            extra={"SOPClassUID": SEG, "ReferencedImageSequence": reference(NEIGHBOR_UID)},
        )
        path = write_dicom(tmp_path / "in", dataset, values_in(0, 1, (6, 8), "u1"))
        write_document(path, tmp_path / "out", derivation(NEIGHBOR_UID))
        assert read(tmp_path / "out").PixelData == read(path).PixelData
        assert disallowed(path, tmp_path / "out") == []


def test_references() -> None:
    found = document(SHIPPED / "liver_1frame.dcm")
    dataset = read(SHIPPED / "liver_1frame.dcm")
    own = {dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID}
    assert referred(dataset) - own <= found.references
    assert not own & found.references
    assert not any(uid.startswith("1.2.840.10008.") for uid in found.references)
    assert found.identifiers["SOPInstanceUID"] == dataset.SOPInstanceUID


def test_references_of_unknown_elements(tmp_path: Path) -> None:
    """A UID in an element of unknown VR counts when it is all of the value; those of studies never count."""
    dataset = dicom_dataset(extra={"ReferencedStudySequence": reference("1.2.99")})
    block = dataset.private_block(0x0021, "A MAKER", create=True)
    block.add_new(0x01, "UN", b"1.2.77\0\0"[: 6 + 6 % 2])
    block.add_new(0x02, "UN", b"UID 1.2.78")
    nested = reference("1.2.79")
    nested[0].StudyInstanceUID = "1.2.98"
    block.add_new(0x03, "SQ", nested)
    path = write_dicom(tmp_path / "in", dataset, values_in(0, 9, (6, 8), "u2"))
    assert references_of(read_file(path)) == {"1.2.77", "1.2.79"}


def _icon() -> Sequence:
    icon = Dataset()
    icon.Rows = icon.Columns = icon.SamplesPerPixel = 1
    icon.BitsAllocated = 8
    icon.add_new(0x7FE00010, "OB", b"\1\0")
    return Sequence([icon])


def test_icons_go_even_where_nothing_else_changes(tmp_path: Path) -> None:
    nested = reference("1.2.3")
    nested[0].IconImageSequence = _icon()
    path = make(
        tmp_path / "in", sop_class=KO, extra={"ReferencedInstanceSequence": nested, "IconImageSequence": _icon()}
    )
    assert document(path).notes == ("IconImageSequence, a small copy of the pixels, is removed",)
    write_document(path, tmp_path / "out", derivation())
    after = read(tmp_path / "out")
    assert "IconImageSequence" not in after
    assert "IconImageSequence" not in after.ReferencedInstanceSequence[0]
    assert after.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert after.SOPInstanceUID == SOP_UID
    assert disallowed(path, tmp_path / "out") == []


def test_signatures_go_only_with_a_change(tmp_path: Path) -> None:
    signed = reference("1.2.3")
    signed[0].DigitalSignaturesSequence = Sequence([Dataset()])
    extra = {
        "ReferencedInstanceSequence": signed,
        "DigitalSignaturesSequence": Sequence([Dataset()]),
        "MACParametersSequence": Sequence([Dataset()]),
    }
    path = make(tmp_path / "in", extra=extra)
    assert document(path).notes == ("digital signatures are removed where references change",)
    write_document(path, tmp_path / "out", derivation("1.2.4"))
    assert (tmp_path / "out").read_bytes() == path.read_bytes()
    write_document(path, tmp_path / "out", derivation(NEIGHBOR_UID))
    assert not {"DigitalSignaturesSequence", "MACParametersSequence"} & {
        element.keyword for element in read(tmp_path / "out").iterall()
    }
    assert disallowed(path, tmp_path / "out") == []


def test_tiff_preamble_is_zeroed_with_a_change(tmp_path: Path) -> None:
    path = make(tmp_path / "in")
    path.write_bytes(b"II*\0" + b"x" * 124 + path.read_bytes()[128:])
    assert "TIFF" in " ".join(document(path).notes)
    for uid, preamble in (("1.2.3", b"II*\0" + b"x" * 124), (NEIGHBOR_UID, bytes(128))):
        write_document(path, tmp_path / "out", derivation(uid))
        assert (tmp_path / "out").read_bytes()[:128] == preamble
        assert disallowed(path, tmp_path / "out") == []


def _private(group: int, element: int, vr: str, value: bytes) -> Dataset:
    dataset = dicom_dataset()
    dataset.private_block(group, "A MAKER", create=True).add_new(element, vr, value)
    return dataset


@pytest.mark.parametrize(
    ("dataset", "note"),
    [
        (_private(0x7FE1, 0x10, "OB", b"ab"), r"private element (7FE1,1010) holds 2 bytes"),
        (_private(0x0011, 0x01, "OW", bytes(96)), "private element (0011,1001) holds 96 bytes"),
        (_private(0x0011, 0x01, "UN", b"SV10" + bytes(96)), ""),
        (_private(0x0011, 0x01, "OW", bytes(94)), ""),
        (_private(0x0011, 0x01, "LT", b"x" * 200), ""),
    ],
    ids=["group 7FE1", "as large", "header", "smaller", "text"],
)
def test_copies_of_pixels_are_told(dataset: Dataset, note: str, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "in", dataset, values_in(0, 9, (6, 8), "u2"))
    found = unprotected_in(read_file(path))
    assert found.split(" that may be")[0] == note


def _encoded(form: str) -> bytes:
    stream = BytesIO()
    pytest.importorskip("PIL.Image").new("L", (8, 8), 9).save(stream, form)
    return stream.getvalue() + bytes(len(stream.getvalue()) % 2)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian], ids=["explicit", "implicit"])
@pytest.mark.parametrize(
    ("vr", "make"),
    [
        ("UT", lambda: b64encode(_encoded("JPEG")).decode()),
        ("LT", lambda: "a view: data:image/png;base64," + b64encode(_encoded("PNG")).decode()),
        ("OB", lambda: b64encode(_encoded("PNG"))),
        ("OB", lambda: bytes(64) + _encoded("JPEG")),
        ("OB", lambda: bytes(64) + _encoded("JPEG")[:2] + b"\xff\xfe\0\x04ab" + _encoded("JPEG")[2:]),
        ("UN", lambda: b"SV10" + bytes(64) + _encoded("PNG")),
        ("OW", lambda: bytes(64) + _encoded("TIFF")),
    ],
    ids=["base64", "data", "base64 in bytes", "JPEG", "JPEG with comment", "PNG", "TIFF"],
)
def test_pictures_in_elements_are_told(vr: str, make: Callable[[], Any], syntax: str, tmp_path: Path) -> None:
    dataset = dicom_dataset(shape=(256, 256))
    dataset.private_block(0x0011, "A MAKER", create=True).add_new(0x01, vr, make())
    path = write_dicom(tmp_path / "in", dataset, values_in(0, 9, (256, 256), "u2"), transfer_syntax=syntax)
    assert unprotected_in(read_file(path)).startswith("private element (0011,1001) holds ")


def test_picture_in_a_public_text_is_told(tmp_path: Path) -> None:
    path = make(tmp_path / "in", extra={"TextValue": b64encode(_encoded("JPEG")).decode()})
    assert document(path).unprotected.startswith("TextValue (0040,A160) holds ")


def test_pictures_around_the_dataset_are_told(tmp_path: Path) -> None:
    dataset = read(make(tmp_path / "in"))
    dataset.file_meta.PrivateInformationCreatorUID = "1.2.3"
    dataset.file_meta.PrivateInformation = bytes(8) + _encoded("JPEG")
    dataset.save_as(tmp_path / "meta")
    assert document(tmp_path / "meta").unprotected.startswith("PrivateInformation (0002,0102) holds ")
    path = make(tmp_path / "in", syntax=DeflatedExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes() + bytes(2) + _encoded("JPEG"))
    assert "bytes behind the deflated dataset hold an image" in document(path).unprotected


def test_bytes_by_chance_are_no_picture(tmp_path: Path) -> None:
    """Three bytes of a JPEG occur by chance in megabytes, and headers of vendors are long."""
    noise = np.random.default_rng(0).bytes(1 << 20)
    for content in (
        b"SV10\4\3\2\1" + noise,
        b"SV10" + noise + b"\xff\xd8\xff\xe0" + noise,
        b"SV10" + b"0.5\0\0\0\0\x0212\0\0" * 9999,
        b"SV10" + bytes(9999),
    ):
        path = write_dicom(
            tmp_path / "in",
            _private(0x0029, 0x10, "OB", content + bytes(len(content) % 2)),
            values_in(0, 9, (6, 8), "u2"),
        )
        assert unprotected_in(read_file(path)) == ""


def test_label_map_says_what_it_is_known_by(tmp_path: Path) -> None:
    for modality, said, evidence in (("SEG", None, "its Modality is SEG"), ("MR", "label map", "the user says so")):
        path = write_dicom(tmp_path / "in", dicom_dataset(extra={"Modality": modality}), values_in(0, 3, (6, 8), "u2"))
        found = identify(path, said)  # type: ignore[arg-type]
        assert isinstance(found, Document)
        assert found.notes[0] == f"known by: {evidence}"


def test_pixels_in_a_sequence_are_told(tmp_path: Path) -> None:
    dataset = _private(0x0011, 0x01, "SQ", _icon())  # type: ignore[arg-type]
    dataset.DigitalSignaturesSequence = Sequence([Dataset()])
    path = write_dicom(tmp_path / "in", dataset, values_in(0, 9, (6, 8), "u2"))
    assert (
        unprotected_in(read_file(path)).split(" that may be")[0] == "PixelData (7FE0,0010) in a sequence holds 2 bytes"
    )
    assert notes_of(read_file(path)) == ("digital signatures no longer hold and are removed",)


@pytest.mark.parametrize(
    ("extra", "notes"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30"}, "not changed"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30", "FloatPixelData": np.zeros(48, "f4").tobytes()}, "not changed"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.81.1"}, "not changed"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.7"}, ""),
        ({"SOPClassUID": RTDOSE}, ""),
    ],
)
def test_maps_and_labels(extra: dict[str, Any], notes: str, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "in", dicom_dataset(extra=extra), values_in(0, 9, (6, 8), "u2"))
    assert notes in " ".join(document(path).notes)
    assert bool(document(path).notes) == bool(notes)


@pytest.mark.parametrize(
    "sop_class", [CT, "1.2.840.10008.5.1.4.1.1.6.2", "1.2.840.10008.5.1.1.29", "1.2.840.10008.5.1.4.1.1.77.1.6"]
)
def test_pictures(sop_class: str, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "in", dicom_dataset(extra={"SOPClassUID": sop_class}), values_in(0, 9, (6, 8), "u2"))
    assert document_of(path, read_file(path)) is None
    with pytest.raises(RefusedError, match="the file is an image"):
        write_document(path, tmp_path / "out", derivation())


@pytest.mark.parametrize("name", ["examples_palette.dcm", "JPEG2000.dcm", "SC_rgb_rle.dcm"])
def test_shipped_pictures(name: str) -> None:
    assert document_of(SHIPPED / name, read_file(SHIPPED / name)) is None


def test_video_is_a_picture(tmp_path: Path) -> None:
    path = make(tmp_path / "in", sop_class="1.2.3.4")
    path.write_bytes(
        path.read_bytes().replace(
            b"\x14\0" + ExplicitVRLittleEndian.encode() + b"\0", b"\x18\0" + b"1.2.840.10008.1.2.4.102\0"
        )
    )
    assert document_of(path, read_file(path)) is None


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66"},
            "Raw Data Storage: it may hold an image, or the signal of one",
        ),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.2"}, "MR Spectroscopy Storage: it may hold"),
        ({"SOPClassUID": SR}, "PixelData in an object of class Comprehensive SR Storage, which has none"),
        ({"SOPClassUID": "1.2.3.4"}, "PixelData in a private SOP class 1.2.3.4: it may be an image"),
        ({"SOPClassUID": CT, "FloatPixelData": b"\0\0\0\0"}, ""),
    ],
)
def test_what_may_hold_a_picture_is_refused(extra: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "in", dicom_dataset(extra=extra), values_in(0, 9, (6, 8), "u2"))
    with pytest.raises(RefusedError, match=reason or "FloatPixelData in an object of class CT Image Storage"):
        document_of(path, read_file(path))


def test_no_class_with_pixels_is_refused() -> None:
    with pytest.raises(RefusedError, match="PixelData in a dataset without SOP class: it may be an image"):
        document_of(SHIPPED / "nested_priv_SQ.dcm", read_file(SHIPPED / "nested_priv_SQ.dcm"))


@pytest.mark.parametrize("size", [1 << 10, (1 << 16) + 2])
def test_private_class(size: int, tmp_path: Path) -> None:
    path = make(tmp_path / "in", sop_class="1.2.3.4")
    dataset = read(path)
    dataset.private_block(0x0029, "A MAKER", create=True).add_new(0x01, "OB", bytes(size))
    dataset.save_as(path)
    if size < 1 << 16:
        assert document(path).kind == "private SOP class 1.2.3.4"
        assert document(path).notes == ("its private elements are not looked into",)
        return
    with pytest.raises(
        RefusedError, match=r"65546 bytes of private elements in a private SOP class 1.2.3.4, more than 65536"
    ):
        document_of(path, read_file(path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rtplan_truncated.dcm", "truncated: BeamSequence should have 976 bytes, 711 are left"),
        ("meta_missing_tsyntax.dcm", "no TransferSyntaxUID"),
        ("README.txt", "no DICOM file: there is neither preamble"),
    ],
)
def test_damage_is_refused(name: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        read_file(SHIPPED / name)


def test_pydicom_is_asked_of_compressed_files_too(tmp_path: Path) -> None:
    content = (SHIPPED / "rtdose_rle_1frame.dcm").read_bytes()
    assert content.count(b"\x10\0\x20\0UN") == 1
    (tmp_path / "in").write_bytes(content.replace(b"\x10\0\x20\0UN", b"\x10\0\x10\0UN"))
    with pytest.raises(RefusedError, match=r"\(0010,0010\) is there more than once"):
        read_file(tmp_path / "in")


def test_other_differences_are_seen(tmp_path: Path) -> None:
    path = SHIPPED / "liver_1frame.dcm"
    for keyword, value in (
        ("PatientID", "x"),
        ("PixelData", bytes(len(read(path).PixelData))),
        ("ImageType", ["DERIVED", "SECONDARY"]),
        ("SoftwareVersions", "1"),
    ):
        dataset = read(path)
        setattr(dataset, keyword, value)
        dataset.save_as(tmp_path / "out")
        assert disallowed(path, tmp_path / "out") == [keyword]


def test_one_uid_has_one_new_one(tmp_path: Path) -> None:
    path = make(tmp_path / "in", extra={"ReferencedInstanceSequence": reference(NEIGHBOR_UID)})
    dataset = read(path)
    dataset.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "2.25.1"
    dataset.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "2.25.2"
    dataset.save_as(tmp_path / "out")
    assert disallowed(path, tmp_path / "out") == ["ReferencedInstanceSequence[0].ReferencedSOPInstanceUID"]


def test_picture_and_document_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="RT Plan Storage and an image cannot be compared"):
        compare_headers(SHIPPED / "rtplan.dcm", SHIPPED / "MR_small.dcm")


def test_deep_and_broad_nesting_is_quick(tmp_path: Path) -> None:
    """Nested sequences of unknown VR are parsed once per walk, however deep; too deep ones are refused."""
    path = make(tmp_path / "in")
    head = path.read_bytes()
    item, ends = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    leaf = struct.pack("<HHI", 0x0021, 0x1002, 0)
    for depth, refused in ((20, False), (4000, True)):
        start = struct.pack("<HH2sHI", 0x0021, 0x1001, b"UN", 0, 0xFFFFFFFF) + item + b"\xff" * 4
        inner = struct.pack("<HHI", 0x0021, 0x1001, 0xFFFFFFFF) + item + b"\xff" * 4
        path.write_bytes(head + start + inner * depth + leaf * 2000 + ends * (depth + 1))
        if refused:
            with pytest.raises(RefusedError, match="nested more than 64 deep"):
                document(path)
        else:
            assert document(path).references == {NEIGHBOR_UID}


def test_deflated_stream_is_kept_where_nothing_changes(tmp_path: Path) -> None:
    path = make(tmp_path / "in", syntax=DeflatedExplicitVRLittleEndian)
    file = read_file(path)
    content = path.read_bytes()
    start = 132 + sum(len(element.raw) for element in file.meta)
    raw = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    other = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(content[:start] + other.compress(raw) + other.flush())
    write_document(path, tmp_path / "out", derivation("1.2.3"))
    assert (tmp_path / "out").read_bytes() == path.read_bytes()
    assert FRAME_UID not in raw.decode("latin-1")


def test_classes_of_objects_have_the_numbers_of_the_standard() -> None:
    storage = "1.2.840.10008.5.1.4.1.1"
    tables = {
        "_MORE_IMAGES": ("6.2", "77.1.5.8", "501.4", "501.5"),
        "_SIGNALS": ("4.2", "66", "501.6"),
        "_MAPS": ("30", "81.1", "82.1"),
        "_LABELS": ("66.4", "66.7", "66.8", "481.2"),
    }
    printed = {"1.2.840.10008.5.1.1.27"}
    for name, numbers in tables.items():
        found = {str(uid) for uid in getattr(documents, name)}
        assert found == {f"{storage}.{number}" for number in numbers} | (printed if name == "_SIGNALS" else set()), name
