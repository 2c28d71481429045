# SPDX-License-Identifier: Apache-2.0
"""Which label belongs to which file, and what is said of tables that cannot be understood."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from monai_salm.errors import RefusedError, UsageError
from monai_salm.io import Segmentation
from monai_salm.pipeline import Inventory, ProtectOptions, labels, scan
from monai_salm.pipeline.deciding import build_plan
from monai_salm.pipeline.file_views import BudgetOptions
from monai_salm.pipeline.labeling import find_labels
from monai_salm.pipeline.labels import (
    LabelAssignment,
    describe_labels,
    label_maps,
    labels_from_folders,
    labels_from_table,
    segmentations_in,
)
from tests.exports import (
    ROOT_UID,
    block,
    dicom_object,
    label_table,
    mr_export,
    mr_series,
    mr_slice,
    nifti_export,
    nifti_file,
)


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
    ids=[
        "path in the input",
        "file in the input",
        "path beside the table",
        "instance",
        "series",
        "study",
        "patient",
        "accession",
    ],
)
def test_key_columns(tmp_path: Path, inventory: Inventory, key: str, form: str) -> None:
    table = label_table(
        tmp_path / "labels.csv", {form.format(n, n + 1): ("ill", "healthy")[n % 2] for n in range(4)}, key
    )
    labels = labels_from_table(table, inventory)
    assert labels.classes == ["healthy", "ill"]
    assert labels.targets == {f"case{n}/image.dcm": 1 - n % 2 for n in range(4)}
    assert (labels.key, labels.unmatched, labels.multi_label) == (key, [], False)


def test_named_column_and_byte_order_mark(tmp_path: Path, inventory: Inventory) -> None:
    table = tmp_path / "labels.csv"
    table.write_bytes(b"\xef\xbb\xbfPatientID, age, grade\r\nP0, 40, 10\r\nP1, 50, 9\r\nP7, 50, 9\r\n")
    labels = labels_from_table(table, inventory, "grade")
    assert labels.classes == ["9", "10"]
    assert labels.targets == {"case0/image.dcm": 1, "case1/image.dcm": 0}
    assert len(labels.unmatched) == 1


def test_findings(tmp_path: Path, inventory: Inventory) -> None:
    table = label_table(
        tmp_path / "l.csv", {"P0": ["0", "1"], "P1": ["1.0", "0"], "P2": ["", "1"]}, "PatientID", ("edema", "mass")
    )
    labels = labels_from_table(table, inventory)
    assert labels.multi_label
    assert labels.classes == ["edema", "mass"]
    assert labels.targets == {"case0/image.dcm": (0.0, 1.0), "case1/image.dcm": (1.0, 0.0)}


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("name,label\nP0,1\n", None, "the first column is 'name'; name it one of path, file, SOPInstanceUID"),
        ("PatientID,grade\nP0,high\n", None, "there is no column 'label'; name one of grade with --label-column"),
        ("PatientID\nP0\n", None, "no other columns"),
        ("PatientID,grade\nP0,1\n", "stage", "there is no column 'stage'; its columns are PatientID, grade"),
        ("PatientID,label\nP0,1\nP0,0\n", None, "line 3 gives the PatientID in line 2 the label .*; keep one"),
        ("path,label\ncase0/image.dcm,1\n./case0/image.dcm,0\n", None, "are one file, with the labels .*; keep one"),
        ("path,label\ncase0/image.dcm,1\nin/case0/image.dcm,0\n", None, "are one file, with the labels .*; keep one"),
        ("PatientID,label\n", None, "has no rows"),
        ("", None, "has no rows"),
        ("PatientID,label\nX1,1\n", None, "none of its 1 labels in column 'PatientID' belongs to an image"),
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
def test_table_that_cannot_be_used(
    tmp_path: Path, inventory: Inventory, text: str, column: str | None, message: str
) -> None:
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
    [
        ("v0.nii.gz", "v0.nii.gz"),
        ("v0_0000.nii.gz", "v0.nii.gz"),
        ("sub/v0.nii.gz", "sub/v0.nii.gz"),
        ("sub/v0.nii.gz", "v0.nii.gz"),
    ],
    ids=["Decathlon", "nnU-Net", "same path", "same name"],
)
def test_label_maps(tmp_path: Path, image: str, label: str) -> None:
    values, label_map = block(0)
    nifti_file(tmp_path / "in" / image, values)
    nifti_file(tmp_path / "maps" / label, label_map)
    nifti_file(tmp_path / "maps" / "other.nii.gz", label_map)
    labels = label_maps(tmp_path / "maps", scan(tmp_path / "in"))
    assert labels.targets == {image: str((tmp_path / "maps" / label).resolve())}
    assert len(labels.unmatched) == 1


def test_label_maps_that_fit_nothing(tmp_path: Path) -> None:
    inventory = scan(nifti_export(tmp_path / "in", 1))
    with pytest.raises(UsageError, match="no such folder; --task segmentation needs a folder"):
        label_maps(tmp_path / "maps", inventory)
    nifti_file(tmp_path / "maps" / "x.nii", block(0)[1])
    with pytest.raises(UsageError, match="none of its 1 files has the name of an image"):
        label_maps(tmp_path / "maps", inventory)


SEG = "1.2.840.10008.5.1.4.1.1.66.4"


def _instances(*numbers: int) -> list[str]:
    return [f"{ROOT_UID}.11.1.{number}" for number in numbers]


@pytest.fixture
def segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str] | str]:
    """Give what the SEG objects of an input segment, by their file names; a text is why one cannot be read."""
    known: dict[str, list[str] | str] = {}

    def read(path: Path) -> Segmentation:
        found = known[path.name]
        if isinstance(found, str):
            raise RefusedError(found)
        return Segmentation({uid: np.zeros((16, 16), np.uint16) for uid in found}, {1: "lesion"})

    monkeypatch.setattr(labels, "read_segmentation", read)
    return known


def _with_seg(folder: Path, *names: str) -> Inventory:
    """Write one volume of four slices, one picture of another series, and SEG objects that refer to the first slice."""
    mr_series(folder, 0, slices=4)
    mr_slice(folder / "other.dcm", 5)
    for number, name in enumerate(names):
        dicom_object(folder / name, SEG, number, _instances(1))
    return scan(folder)


def test_seg_object_is_the_label_map_of_its_whole_series(tmp_path: Path, segmented: dict[str, list[str] | str]) -> None:
    """Its writer lists the slices with a segment; the others are background, not unlabeled."""
    segmented["seg.dcm"] = _instances(1, 2)
    found = segmentations_in(_with_seg(tmp_path, "seg.dcm"))
    assert found.targets == {f"slice{number}.dcm": "seg.dcm" for number in range(1, 5)}
    assert (found.key, found.classes, found.refused) == ("SEG", [], {})


def test_views_that_a_seg_object_does_not_list_have_no_label(
    tmp_path: Path, segmented: dict[str, list[str] | str]
) -> None:
    segmented["seg.dcm"] = _instances(1, 2)
    mr_series(tmp_path, 0, slices=4, Modality="DX")
    dicom_object(tmp_path / "seg.dcm", SEG, 1, _instances(1, 2))
    assert sorted(segmentations_in(scan(tmp_path)).targets) == ["slice3.dcm", "slice4.dcm"]


def test_two_seg_objects_of_one_series_are_none(tmp_path: Path, segmented: dict[str, list[str] | str]) -> None:
    segmented.update({"a.dcm": _instances(1), "b.dcm": _instances(2), "c.dcm": [f"{ROOT_UID}.10.6"]})
    found = segmentations_in(_with_seg(tmp_path, "a.dcm", "b.dcm", "c.dcm"))
    assert (found.rows, found.unmatched) == (3, [])
    assert found.targets == {"other.dcm": "c.dcm"}
    assert set(found.refused) == {f"slice{number}.dcm" for number in range(1, 5)}
    assert (
        found.refused["slice1.dcm"]
        == "it has the segmentations a.dcm and b.dcm, where 1 can be its label map; leave the others out"
    )


def test_seg_object_that_cannot_be_read_refuses_its_series_with_the_reason(
    tmp_path: Path, segmented: dict[str, list[str] | str]
) -> None:
    segmented.update({"a.dcm": "its segments overlap", "c.dcm": [f"{ROOT_UID}.10.6"]})
    inventory = _with_seg(tmp_path, "a.dcm", "c.dcm")
    found = segmentations_in(inventory)
    assert found.targets == {"other.dcm": "c.dcm"}
    plan = build_plan(inventory, BudgetOptions(), labels=found)
    assert plan.refused["slice2.dcm"] == "its segmentation a.dcm cannot be used: its segments overlap"
    assert [sample.target for sample in plan.samples] == ["c.dcm"]


def test_input_without_a_usable_seg_object(tmp_path: Path, segmented: dict[str, list[str] | str]) -> None:
    with pytest.raises(
        UsageError, match=r"no SEG object .* \(there is none that segments one of its images\); give --labels FOLDER"
    ):
        segmentations_in(_with_seg(tmp_path / "none"))
    segmented["seg.dcm"] = "its segments overlap"
    with pytest.raises(UsageError, match=r"\(its segmentation seg\.dcm cannot be used: its segments overlap\)"):
        segmentations_in(_with_seg(tmp_path / "broken", "seg.dcm"))
    segmented["seg.dcm"] = ["1.2.3"]
    with pytest.raises(UsageError, match="there is none that segments one of its images"):
        segmentations_in(_with_seg(tmp_path / "stranger", "seg.dcm"))


def test_series_with_a_seg_object_is_one_sample(tmp_path: Path, segmented: dict[str, list[str] | str]) -> None:
    segmented["seg.dcm"] = _instances(1, 2)
    inventory = _with_seg(tmp_path, "seg.dcm")
    found = find_labels(inventory, ProtectOptions(task="segmentation"))
    plan = build_plan(inventory, BudgetOptions(), labels=found)
    assert [(sample.sample_id, len(sample.files), sample.target) for sample in plan.samples] == [
        (f"{ROOT_UID}.21.1", 4, "seg.dcm")
    ]
    assert plan.refused["other.dcm"] == "it has no label (SEG); add it to the labels, or leave the file out"
    with pytest.raises(UsageError, match="no such folder"):
        find_labels(inventory, ProtectOptions(task="segmentation", labels=tmp_path / "maps"))


def _map_folders(folder: Path, images: dict[str, int], maps: dict[str, int]) -> LabelAssignment:
    """Write pictures and label maps of NIfTI under any names, and match them."""
    for name, number in images.items():
        nifti_file(folder / "in" / name, block(number)[0])
    for name, number in maps.items():
        nifti_file(folder / "maps" / name, block(number)[1])
    return label_maps(folder / "maps", scan(folder / "in"))


@pytest.mark.parametrize(
    "suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".tif", ".tiff", ".jpg", ".bmp", ".dcm"]
)
@pytest.mark.parametrize("other", [".nii.gz", ".nrrd", ".seg.nrrd", ".mha", ".png"])
def test_case_of_nnunet_in_every_format(tmp_path: Path, suffix: str, other: str) -> None:
    """Channels of one case share its label map, whatever the suffixes of both are."""
    found = _map_folders(
        tmp_path, {f"c_0000{suffix}": 0, f"c_0001{suffix}": 1, f"d_0000{suffix}": 2}, {f"c{other}": 0, f"d{other}": 2}
    )
    names = {path: Path(str(target)).name for path, target in found.targets.items()}
    assert names == {f"c_0000{suffix}": f"c{other}", f"c_0001{suffix}": f"c{other}", f"d_0000{suffix}": f"d{other}"}
    assert (found.refused, found.unmatched) == ({}, [])


@pytest.mark.parametrize(
    ("images", "maps", "expected", "reason"),
    [
        (["A/i.nii", "B/i.nii", "c.nii"], ["i.nii", "c.nii"], {"c.nii": "c.nii"},
        "[AB]/i.nii has the same name; put label maps into folders"),
        (["A/i.nii", "B/i.nii"], ["A/i.nii", "i.nii"], {"A/i.nii": "A/i.nii"},
        "2 label maps have its name|has the same name"),
        (["A/i.nii", "B/i.nii"], ["A/i.mha", "B/i.mha"], {"A/i.nii": "A/i.mha", "B/i.nii": "B/i.mha"}, ""),
        (["i.nii", "c.nii"], ["i.mha", "i.nrrd", "c.nii"], {"c.nii": "c.nii"},
        "2 label maps have its name, 'i.mha', 'i.nrrd'; keep one"),
        (["i.nii", "i.mha", "c.nii"], ["i.nrrd", "c.nii"], {"c.nii": "c.nii"}, "which is that of i.(nii|mha), too"),
        (["i.nii", "i.mha", "c.nii"], ["i.nii", "c.nii"], {"i.nii": "i.nii", "c.nii": "c.nii"},
        "which is that of i.nii, too"),
        (["f_0007.nii", "f_0008.nii", "c.nii"], ["f.nii", "c.nii"], {"c.nii": "c.nii"}, ""),
        (["i.nii", "c.nii"], ["i_seg.nii", "c.nii"], {"c.nii": "c.nii"}, "may be i_seg.nii, which has another name"),
        (["i.nii", "c.nii"], ["I.NII", "c.nii"], {"c.nii": "c.nii"}, "may be I.NII, which has another name"),
        (["i_0000.nii", "c.nii"], ["i_mask.nii.gz", "c.nii"], {"c.nii": "c.nii"}, "may be i_mask.nii.gz"),
        (["A/i_0000.nii", "A/i_0001.nii", "B/i_0000.nii", "c.nii"], ["i.nii", "c.nii"], {"c.nii": "c.nii"},
        "has the same name"),
    ],
    ids=[
        "one for two", "path says which", "same folders", "two for one", "two formats", "two formats, one exact",
        "frames", "suffix of masks", "case",
        "channel and mask", "channels of two cases",
    ],
)  # fmt: skip
def test_label_map_is_not_guessed(
    tmp_path: Path, images: list[str], maps: list[str], expected: dict[str, str], reason: str
) -> None:
    numbers = {name: n for n, name in enumerate(images)}
    found = _map_folders(tmp_path, numbers, dict.fromkeys(maps, 0))
    assert {
        path: Path(str(target)).relative_to(tmp_path / "maps").as_posix() for path, target in found.targets.items()
    } == expected
    assert len(found.unmatched) == len(maps) - len(set(expected.values()))
    plan = build_plan(scan(tmp_path / "in"), BudgetOptions(), labels=found)
    assert set(plan.refused) == set(images) - set(expected)
    if reason:
        assert all(re.search(reason, why) for why in found.refused.values())
        assert found.refused


def test_one_label_map_for_all_labels_none(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"none of its 1 files .*could be i.nii, but B/i.nii has the same name; put label maps into folders",
    ):
        _map_folders(tmp_path, {"A/i.nii": 0, "B/i.nii": 1}, {"i.nii": 0})


def test_input_itself_is_no_folder_of_label_maps(tmp_path: Path) -> None:
    inventory = scan(nifti_export(tmp_path / "in", 2))
    with pytest.raises(UsageError, match="the folder of the label maps is the input itself"):
        label_maps(tmp_path / "in", inventory)


def test_label_maps_are_counted(tmp_path: Path) -> None:
    found = _map_folders(tmp_path, {"a.nii": 0, "b.nii": 1, "c.nii": 2}, {"a.nii": 0, "b.nii": 1, "x.nii": 0})
    told = found.to_json(scan(tmp_path / "in"))
    assert (told["rows"], told["unmatched_rows"], told["unlabeled_pictures"]) == (
        3,
        {"count": 1, "first": ["x.nii"]},
        {"count": 1, "first": ["c.nii"]},
    )
    assert "labels: 1 image without a label: c.nii" in describe_labels(told)
