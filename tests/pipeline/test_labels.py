# SPDX-License-Identifier: Apache-2.0
"""Which label belongs to which file, and what is said of tables that cannot be understood."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_salm.errors import UsageError
from monai_salm.pipeline import Inventory, scan
from monai_salm.pipeline.labels import label_maps, labels_from_folders, labels_from_table
from monai_salm.pipeline.plan import BudgetOptions, build_plan
from tests.exports import ROOT_UID, block, label_table, mr_export, mr_slice, nifti_export, nifti_file


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    return scan(mr_export(tmp_path / "in", 4))


@pytest.mark.parametrize(
    ("key", "form"),
    [
        ("path", "case{0}/image.dcm"),
        ("file", "./case{0}/image.dcm"),
        ("path", "in/case{0}/image.dcm"),
        ("SOPInstanceUID", ROOT_UID + ".10.{1}"),
        ("SeriesInstanceUID", ROOT_UID + ".20.{1}"),
        ("StudyInstanceUID", ROOT_UID + ".30.{1}"),
        ("PatientID", "P{0}"),
        ("AccessionNumber", "A{0}"),
    ],
    ids=["path in the input", "file in the input", "path beside the table", "instance", "series", "study", "patient", "accession"],
)
def test_key_columns(tmp_path: Path, inventory: Inventory, key: str, form: str) -> None:
    table = label_table(tmp_path / "labels.csv", {form.format(n, n + 1): ("ill", "healthy")[n % 2] for n in range(4)}, key)
    labels = labels_from_table(table, inventory)
    assert labels.classes == ["healthy", "ill"]
    assert labels.targets == {f"case{n}/image.dcm": 1 - n % 2 for n in range(4)}
    assert (labels.key, labels.unused, labels.multi_label) == (key, 0, False)


def test_named_column_and_byte_order_mark(tmp_path: Path, inventory: Inventory) -> None:
    table = tmp_path / "labels.csv"
    table.write_bytes(b"\xef\xbb\xbfPatientID, age, grade\r\nP0, 40, 10\r\nP1, 50, 9\r\nP7, 50, 9\r\n")
    labels = labels_from_table(table, inventory, "grade")
    assert labels.classes == ["9", "10"]
    assert labels.targets == {"case0/image.dcm": 1, "case1/image.dcm": 0}
    assert labels.unused == 1


def test_findings(tmp_path: Path, inventory: Inventory) -> None:
    table = label_table(tmp_path / "l.csv", {"P0": ["0", "1"], "P1": ["1.0", "0"], "P2": ["", "1"]}, "PatientID", ("edema", "mass"))
    labels = labels_from_table(table, inventory)
    assert labels.multi_label
    assert labels.classes == ["edema", "mass"]
    assert labels.targets == {"case0/image.dcm": [0.0, 1.0], "case1/image.dcm": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("name,label\nP0,1\n", None, "the first column is 'name'; name it one of path, file, SOPInstanceUID"),
        ("PatientID,grade\nP0,high\n", None, "there is no column 'label'; name one of grade with --label-column"),
        ("PatientID\nP0\n", None, "no other columns"),
        ("PatientID,grade\nP0,1\n", "stage", "there is no column 'stage'; its columns are PatientID, grade"),
        ("PatientID,label\nP0,1\nP0,0\n", None, "line 3 gives 'P0' the label .*; keep one"),
        ("path,label\ncase0/image.dcm,1\n./case0/image.dcm,0\n", None, "are one file, with the labels .*; keep one"),
        ("path,label\ncase0/image.dcm,1\nin/case0/image.dcm,0\n", None, "are one file, with the labels .*; keep one"),
        ("PatientID,label\n", None, "has no rows"),
        ("", None, "has no rows"),
        ("PatientID,label\nX1,1\n", None, "none of its 1 labels in column 'PatientID' belongs to a picture"),
        ("PatientID,label\nP0,1,2\n", None, "line 2 has more fields than the 2 columns"),
    ],
    ids=[
        "key",
        "label column",
        "only keys",
        "named column",
        "conflict",
        "conflict of spellings",
        "conflict of bases",
        "no rows",
        "empty",
        "no match",
        "ragged",
    ],
)
def test_table_that_cannot_be_used(tmp_path: Path, inventory: Inventory, text: str, column: str | None, message: str) -> None:
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=message):
        labels_from_table(table, inventory, column)


@pytest.mark.parametrize("content", [None, b"PatientID,label\n\xff\xfe,1\n"], ids=["missing", "not UTF-8"])
def test_table_that_cannot_be_read(tmp_path: Path, inventory: Inventory, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot be read \(.*; give a CSV file in UTF-8"):
        labels_from_table(tmp_path / "labels.csv", inventory)


def test_same_row_twice_is_no_conflict(tmp_path: Path, inventory: Inventory) -> None:
    (tmp_path / "l.csv").write_text("PatientID,label\nP0,1\nP0,1\nP1,0\n")
    assert len(labels_from_table(tmp_path / "l.csv", inventory).targets) == 2


def test_folders_are_classes(tmp_path: Path) -> None:
    for number, folder in enumerate(("ill", "healthy", "ill")):
        mr_slice(tmp_path / folder / f"{number}.dcm", number)
    labels = labels_from_folders(scan(tmp_path))
    assert labels.classes == ["healthy", "ill"]
    assert labels.targets == {"healthy/1.dcm": 0, "ill/0.dcm": 1, "ill/2.dcm": 1}


def test_copy_in_the_folder_of_another_class_is_refused(tmp_path: Path) -> None:
    for number, folder in enumerate(("healthy", "ill")):
        mr_slice(tmp_path / folder / f"{number}.dcm", number)
    (tmp_path / "ill" / "copy.dcm").write_bytes((tmp_path / "healthy" / "0.dcm").read_bytes())
    inventory = scan(tmp_path)
    plan = build_plan(inventory, BudgetOptions(), labels=labels_from_folders(inventory))
    assert "but has another label" in plan.refused["ill/copy.dcm"]


def test_file_outside_any_folder_has_no_class(tmp_path: Path) -> None:
    mr_slice(tmp_path / "0.dcm", 0)
    with pytest.raises(UsageError, match=r"0\.dcm lies in no folder below .*; give --labels FILE"):
        labels_from_folders(scan(tmp_path))


@pytest.mark.parametrize(
    ("image", "label"),
    [("v0.nii.gz", "v0.nii.gz"), ("v0_0000.nii.gz", "v0.nii.gz"), ("sub/v0.nii.gz", "sub/v0.nii.gz"), ("sub/v0.nii.gz", "v0.nii.gz")],
    ids=["Decathlon", "nnU-Net", "same path", "same name"],
)
def test_label_maps(tmp_path: Path, image: str, label: str) -> None:
    values, label_map = block(0)
    nifti_file(tmp_path / "in" / image, values)
    nifti_file(tmp_path / "maps" / label, label_map)
    nifti_file(tmp_path / "maps" / "other.nii.gz", label_map)
    labels = label_maps(tmp_path / "maps", scan(tmp_path / "in"))
    assert labels.targets == {image: str((tmp_path / "maps" / label).resolve())}
    assert labels.unused == 1


def test_label_maps_that_fit_nothing(tmp_path: Path) -> None:
    inventory = scan(nifti_export(tmp_path / "in", 1))
    with pytest.raises(UsageError, match="no such folder; --task segmentation needs a folder"):
        label_maps(tmp_path / "maps", inventory)
    nifti_file(tmp_path / "maps" / "x.nii", block(0)[1])
    with pytest.raises(UsageError, match="none of its 1 files has the name of a picture"):
        label_maps(tmp_path / "maps", inventory)
