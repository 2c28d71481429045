# SPDX-License-Identifier: Apache-2.0
"""References of an export: what gets a new UID in turn, and what a DICOMDIR and a detached header say of files that are
not handed out.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from monai_salm.io import Derivation, Document, ImageHeader, identify
from monai_salm.pipeline import ProtectResult, protect, verify
from monai_salm.pipeline.documents import write_documents
from monai_salm.pipeline.inventory import Inventory, file_digest
from monai_salm.pipeline.references import own_uids, renewed_uids
from monai_salm.pipeline.scanning import scan
from tests.exports import ROOT_UID, block, dicom_object, drawn, file_set, mr_export, mr_slice, nifti_file, tree

KO, SR, SEG, RTSTRUCT = (f"1.2.840.10008.5.1.4.1.1.{name}" for name in ("88.59", "88.33", "66.4", "481.3"))
FIRST_PICTURE = f"{ROOT_UID}.10.1"


def _picture(uid: str, series: str) -> ImageHeader:
    identifiers = {"SOPInstanceUID": uid, "SeriesInstanceUID": series, "StudyInstanceUID": "1.9"}
    return ImageHeader(path=Path(uid), format="dicom", shape=(2, 2), dtype=np.dtype("i2"), identifiers=identifiers)


def _document(uid: str, series: str, references: Iterable[str] = (), **changes: Any) -> Document:
    identifiers = {"SOPInstanceUID": uid, "SeriesInstanceUID": series, "StudyInstanceUID": "1.9"}
    fields: dict[str, Any] = {"path": Path(uid), "format": "dicom", "kind": "x", "references": frozenset(references)}
    return Document(**(fields | {"identifiers": {key: value for key, value in identifiers.items() if value}} | changes))


PICTURE = _picture("1.1", "1.2")
KEY, REPORT, MAP = _document("3.1", "3.2", ["4.1"]), _document("4.1", "4.2", ["5.1"]), _document("5.1", "5.2", ["1.1"])


@pytest.mark.parametrize(
    "documents", [(KEY, REPORT, MAP), (MAP, REPORT, KEY), (REPORT, MAP, KEY)], ids=["against", "along", "mixed"]
)
def test_what_refers_to_a_changed_document_changes_in_turn(documents: tuple[Document, ...]) -> None:
    assert renewed_uids([PICTURE], documents) == {"1.1", "1.2", "3.1", "3.2", "4.1", "4.2", "5.1", "5.2"}
    assert renewed_uids([PICTURE], (KEY, REPORT)) == {"1.1", "1.2"}, (
        "without the segmentation nothing leads to the picture"
    )
    assert renewed_uids([], documents) == frozenset()


@pytest.mark.parametrize(
    ("document", "renewed"),
    [
        (_document("6.1", "6.2", ["1.2"]), {"6.1", "6.2"}),
        (_document("6.1", "1.2"), {"6.1"}),
        (_document("6.1", "6.2", ["7.7"]), set()),
        (_document("6.1", "6.2", ["1.9"]), set()),
        (_document("", "6.2", ["1.1"]), set()),
        (_document("6.1", "", ["1.1"]), {"6.1"}),
        (_document("0", "6.2", ["1.1"]), {"6.2"}),
        (_document("6.1", "0", ["1.1"]), {"6.1"}),
        (_document("6.1", "6.2", ["1.1"], format="other"), set()),
    ],
    ids=[
        "its series",
        "in its series",
        "stranger",
        "its study",
        "no UID",
        "no series",
        "UID 0",
        "series 0",
        "no DICOM",
    ],
)
def test_what_refers_to_a_changed_picture(document: Document, renewed: set[str]) -> None:
    assert renewed_uids([PICTURE], [document]) == {"1.1", "1.2"} | renewed


def test_a_series_is_renewed_as_a_whole() -> None:
    """Or one series of the archive would become two, of which one has the old UID and the other the new."""
    changed, unchanged, far = (
        _document("6.1", "6.9", ["1.1"]),
        _document("6.2", "6.9", ["7.7"]),
        _document("8.1", "8.9", ["6.2"]),
    )
    assert renewed_uids([PICTURE], [far, unchanged, changed]) == {"1.1", "1.2", "6.1", "6.2", "6.9", "8.1", "8.9"}


def test_zero_is_no_uid() -> None:
    """One report refers to "0", as many wrong files do: that names nothing, so nothing follows."""
    assert own_uids(_document("0", "")) == frozenset()
    assert renewed_uids([_picture("0", "0")], [_document("6.1", "6.2", ["0"])]) == frozenset()


def test_studies_keep_their_names() -> None:
    assert "1.9" not in own_uids(PICTURE)


def _export(folder: Path) -> Path:
    """Write two pictures, a chain of documents that leads to the first, and documents that refer to nothing that
    changes.
    """
    mr_export(folder, 2)
    dicom_object(folder / "ko.dcm", KO, 1, [f"{ROOT_UID}.40.3"])
    dicom_object(folder / "sr.dcm", SR, 2, [f"{ROOT_UID}.40.4"])
    dicom_object(folder / "struct.dcm", RTSTRUCT, 3, [FIRST_PICTURE])
    dicom_object(folder / "alone.dcm", SR, 5, ["1.2.3.4"])
    dicom_object(folder / "zero.dcm", SR, 6, ["0"], SeriesInstanceUID=f"{ROOT_UID}.50.7")
    dicom_object(folder / "beside.dcm", KO, 7, ["1.2.3.4"], SeriesInstanceUID=f"{ROOT_UID}.50.3")
    return folder


def test_chain_is_written_with_new_uids_and_what_is_outside_it_byte_for_byte(tmp_path: Path) -> None:
    _export(tmp_path / "in")
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert result.to_json()["counts"] == {"protected": 2, "copied": 6, "refused": 0, "failed": 0}
    before, after = tree(tmp_path / "in"), tree(tmp_path / "out")
    assert {name for name in before if after[name] == before[name]} == {"alone.dcm", "zero.dcm"}
    assert "references to changed objects were renewed" in result.fates["ko.dcm"].reason
    assert "renewed" not in result.fates["alone.dcm"].reason
    objects = {name: pydicom.dcmread(tmp_path / "out" / name) for name in before}
    for name, target in (("ko.dcm", "sr.dcm"), ("sr.dcm", "struct.dcm"), ("struct.dcm", "case0/image.dcm")):
        assert [item.ReferencedSOPInstanceUID for item in objects[name].ReferencedInstanceSequence] == [
            objects[target].SOPInstanceUID
        ]
    assert objects["beside.dcm"].SeriesInstanceUID == objects["sr.dcm"].SeriesInstanceUID
    report = verify(tmp_path / "in", tmp_path / "out")
    assert report.to_json()["counts"] == {"protected": 2, "copied": 6, "absent": 0, "mismatch": 0}


def test_kept_uids_leave_documents_as_they_are(tmp_path: Path) -> None:
    _export(tmp_path / "in")
    protect(tmp_path / "in", tmp_path / "out", drawn(uids="keep"))
    before, after = tree(tmp_path / "in"), tree(tmp_path / "out")
    assert {name for name in before if after[name] != before[name]} == {"case0/image.dcm", "case1/image.dcm"}
    for name in ("case0/image.dcm", "case1/image.dcm"):
        old, new = (pydicom.dcmread(tmp_path / folder / name) for folder in ("in", "out"))
        assert (old.SOPInstanceUID, old.SeriesInstanceUID) == (new.SOPInstanceUID, new.SeriesInstanceUID)
        assert new.file_meta.MediaStorageSOPInstanceUID == old.SOPInstanceUID
    assert not verify(tmp_path / "in", tmp_path / "out").mismatches


def _disc(folder: Path) -> tuple[Path, dict[str, str]]:
    """Write a file-set of three pictures, the last of which is refused, and give its DICOMDIR and the pictures' paths
    by SOP Instance UID.
    """
    for number in range(3):
        mr_slice(folder / f"{number}.dcm", number, StudyDate="20200101")
    mr_slice(folder / "2.dcm", 2, np.full((24, 24), 7), StudyDate="20200101")
    place = file_set(folder.parent / "in", sorted(folder.iterdir()))
    return place, {
        str(pydicom.dcmread(path).SOPInstanceUID): path.relative_to(place.parent).as_posix()
        for path in place.parent.rglob("IM*")
    }


@pytest.mark.slow
def test_directory_lists_what_is_handed_out(tmp_path: Path) -> None:
    place, paths = _disc(tmp_path / "loose")
    refused = paths[f"{ROOT_UID}.10.3"]
    result = protect(place.parent, tmp_path / "out", drawn())
    assert result.fates[refused].status == "refused"
    document = identify(tmp_path / "out" / "DICOMDIR")
    assert isinstance(document, Document)
    assert document.files == set(paths.values()) - {refused}
    assert not verify(place.parent, tmp_path / "out").mismatches
    records = [
        item
        for item in pydicom.dcmread(tmp_path / "out" / "DICOMDIR").DirectoryRecordSequence
        if "ReferencedFileID" in item
    ]
    for item in records:
        instance = pydicom.dcmread(tmp_path / "out" / Path(*item.ReferencedFileID))
        assert instance.SOPInstanceUID == item.ReferencedSOPInstanceUIDInFile
    protect(place.parent, tmp_path / "all", drawn(copy_unprotected=True))
    assert identify(tmp_path / "all" / "DICOMDIR").files == set(paths.values())  # type: ignore[union-attr]


@pytest.mark.slow
def test_directory_lists_documents_too_and_is_written_last(tmp_path: Path) -> None:
    """Its name sorts before those of the documents that it lists, and it cannot tell what is absent before these are
    there.
    """
    mr_slice(tmp_path / "loose" / "0.dcm", 0, StudyDate="20200101")
    extra = {
        "StudyDate": "20200101",
        "ContentDate": "20200101",
        "ContentTime": "120000",
        "InstanceNumber": 1,
        "StructureSetLabel": "x",
        "Modality": "RTSTRUCT",
    }
    dicom_object(
        tmp_path / "loose" / "z.dcm",
        RTSTRUCT,
        3,
        [FIRST_PICTURE],
        StructureSetDate="20200101",
        StructureSetTime="120000",
        **extra,
    )
    place = file_set(tmp_path / "in", sorted((tmp_path / "loose").iterdir()))
    assert len(identify(place).files) == 2  # type: ignore[union-attr]
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert result.to_json()["counts"] == {"protected": 1, "copied": 2, "refused": 0, "failed": 0}
    assert identify(tmp_path / "out" / "DICOMDIR").files == identify(place).files  # type: ignore[union-attr]
    assert not verify(tmp_path / "in", tmp_path / "out").mismatches


@pytest.mark.slow
def test_names_of_a_disc_in_lower_case_are_there(tmp_path: Path) -> None:
    """A disc's names are upper case in its DICOMDIR, and often lower on a copy."""
    place, paths = _disc(tmp_path / "loose")
    for path in sorted(place.parent.rglob("*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.lower()))
    result = protect(place.parent, tmp_path / "out", drawn())
    assert result.to_json()["counts"] == {"protected": 2, "copied": 1, "refused": 1, "failed": 0}
    assert len(identify(tmp_path / "out" / "dicomdir").files) == len(paths) - 1  # type: ignore[union-attr]
    assert not verify(place.parent, tmp_path / "out").mismatches


def _pair(folder: Path, values: Any) -> Path:
    nibabel = pytest.importorskip("nibabel")
    folder.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Pair(values, np.eye(4))
    image.to_filename(folder / "v.img")
    return folder


def test_header_of_values_that_are_not_handed_out_stays_in_too(tmp_path: Path) -> None:
    _pair(
        tmp_path / "in",
        np.full((8, 8, 8), 7, dtype=np.int16) + np.random.default_rng(0).integers(0, 3, (8, 8, 8), np.int16),
    )
    nifti_file(tmp_path / "in" / "good.nii", block(0)[0])
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert sorted(tree(tmp_path / "out")) == ["good.nii"]
    assert result.fates["v.img"].status == "refused"
    assert (result.fates["v.hdr"].status, result.fates["v.hdr"].reason) == (
        "refused",
        "the file of its values, v.img, is not handed out",
    )
    protect(tmp_path / "in", tmp_path / "all", drawn(copy_unprotected=True))
    assert tree(tmp_path / "all")["v.hdr"] == tree(tmp_path / "in")["v.hdr"]
    assert not [file for file in verify(tmp_path / "in", tmp_path / "out").files if file.verdict == "mismatch"]


def test_document_that_cannot_be_written_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monai_salm.errors import RefusedError
    from monai_salm.pipeline import documents

    _export(tmp_path / "in")
    real = documents.write_document

    def write(document: Document, target: Path, derivation: Derivation) -> None:
        if document.path.name == "sr.dcm":
            raise RefusedError("its references cannot be renewed")
        real(document, target, derivation)

    monkeypatch.setattr(documents, "write_document", write)
    result: ProtectResult = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert result.to_json()["counts"] == {"protected": 2, "copied": 5, "refused": 1, "failed": 0}
    assert not (tmp_path / "out" / "sr.dcm").exists()


def test_write_documents_says_what_it_did(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("x")
    inventory: Inventory = scan(tmp_path / "in")
    digest = file_digest(tmp_path / "in" / "notes.txt")
    derivation = Derivation(software="s", version="1", description="")
    with warnings.catch_warnings():
        (fate,) = write_documents(inventory, {"notes.txt": digest}, tmp_path / "out", derivation, frozenset())
    assert (fate.status, fate.reason, fate.sha256_in, fate.sha256_out) == (
        "copied",
        "no image (text)",
        digest,
        digest,
    )
