# SPDX-License-Identifier: Apache-2.0
"""Old and new UIDs of two folders: what is lost, stale or contradictory is said; what was not handed out is only
counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from monai_salm.io import Document, ImageHeader
from monai_salm.pipeline import protect, verify
from monai_salm.pipeline.identities import Found, Identities
from tests.exports import ROOT_UID, dicom_object, drawn, mr_series

SR, KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.59"


def _picture(uid: str, series: str = "", references: Iterable[str] = ()) -> ImageHeader:
    return ImageHeader(
        path=Path(uid), format="dicom", shape=(2, 2), dtype=np.dtype("i2"), identifiers=_names(uid, series),
        references=frozenset(references)
    )  # fmt: skip


def _document(uid: str, series: str = "", references: Iterable[str] = (), files: Iterable[str] = ()) -> Document:
    return Document(
        path=Path(uid), format="dicom", kind="x", identifiers=_names(uid, series), references=frozenset(references),
        files=frozenset(files)
    )  # fmt: skip


def _names(uid: str, series: str) -> dict[str, str]:
    return {
        key: value
        for key, value in (("SOPInstanceUID", uid), ("SeriesInstanceUID", series), ("StudyInstanceUID", "1.0"))
        if value
    }


Pairs = dict[str, tuple[Found, Found | None]]


def _identities(pairs: Pairs) -> Identities:
    originals = {path: original for path, (original, _) in pairs.items()}
    return Identities(originals, ((path, old, new) for path, (old, new) in pairs.items() if new is not None))


def _problems(pairs: Pairs) -> dict[str, list[str]]:
    identities = _identities(pairs)
    return {
        path: found
        for path, (old, new) in pairs.items()
        if new is not None and (found := identities.problems(path, old, new))
    }


PICTURE: tuple[Found, Found] = (_picture("1.1", "1.2"), _picture("2.1", "2.2", ["1.1"]))


def test_references_that_follow_are_no_problem() -> None:
    pairs: Pairs = {
        "p": PICTURE,
        "d": (_document("3.1", "3.2", ["1.1", "1.2"]), _document("4.1", "4.2", ["2.1", "2.2"])),
    }
    identities = _identities(pairs)
    assert identities.new == {"1.1": "2.1", "1.2": "2.2", "3.1": "4.1", "3.2": "4.2"}
    assert _problems(pairs) == {}
    assert identities.dangling(pairs["d"][0]) == []


def test_lost_reference() -> None:
    pairs: Pairs = {"p": PICTURE, "d": (_document("3.1", "3.2", ["1.1"]), _document("4.1", "4.2"))}
    assert _problems(pairs) == {"d": ["the reference to 1.1 is gone; the object is 2.1 now"]}


def test_stale_reference() -> None:
    """Both what is old and what is missing are said of a reference that did not follow, also of one beside the right
    one.
    """
    pairs: Pairs = {"p": PICTURE, "d": (_document("3.1", "", ["1.1"]), _document("3.1", "", ["1.1"]))}
    assert _problems(pairs) == {
        "d": ["the reference to 1.1 is gone; the object is 2.1 now", "it still refers to 1.1, which is 2.1 now"]
    }
    pairs["d"] = (_document("3.1", "", ["1.1"]), _document("4.1", "", ["1.1", "2.1"]))
    assert _problems(pairs) == {"d": ["it still refers to 1.1, which is 2.1 now"]}


def test_reference_to_an_object_that_keeps_its_uid() -> None:
    pairs: Pairs = {
        "p": (_picture("1.1"), _picture("1.1")),
        "d": (_document("3.1", "", ["1.1"]), _document("3.1", "", ["1.1"])),
    }
    assert _problems(pairs) == {}
    pairs["d"] = (_document("3.1", "", ["1.1"]), _document("4.1"))
    assert _problems(pairs) == {"d": ["the reference to 1.1 is gone; the object is 1.1 now"]}


def test_reference_to_the_own_series_is_the_own_series() -> None:
    pairs: Pairs = {"p": PICTURE, "d": (_document("3.1", "1.2", ["1.2"]), _document("4.1", "2.2"))}
    assert _problems(pairs) == {}


def test_picture_may_name_its_source_but_no_other_original() -> None:
    pairs: Pairs = {"p": PICTURE, "q": (_picture("1.3", "1.4"), _picture("2.3", "2.4", ["1.1", "1.3", "1.4"]))}
    assert _problems(pairs) == {"q": ["it still refers to 1.1, which is 2.1 now"]}


def test_document_may_not_name_what_it_was_itself() -> None:
    pairs: Pairs = {"p": PICTURE, "d": (_document("3.1", "3.2"), _document("4.1", "4.2", ["3.1"]))}
    assert _problems(pairs) == {"d": ["it still refers to 3.1, which is 4.1 now"]}


def test_one_old_uid_with_two_new_ones() -> None:
    pairs: Pairs = {
        "a": (_picture("1.1", "1.9"), _picture("2.1", "2.9")),
        "b": (_picture("1.2", "1.9"), _picture("2.2", "2.8")),
    }
    assert _problems(pairs) == {"b": ["SeriesInstanceUID 1.9 became 2.8 here and 2.9 elsewhere"]}


def test_one_new_uid_for_two_old_ones() -> None:
    pairs: Pairs = {
        "a": (_picture("1.1", "1.9"), _picture("2.1", "2.9")),
        "b": (_picture("1.2", "1.9"), _picture("2.1", "2.9")),
    }
    assert _problems(pairs) == {"b": ["SOPInstanceUID 2.1 stands for 1.2 here and for 1.1 elsewhere"]}


def test_copy_that_was_not_protected_may_stay_behind_in_its_series() -> None:
    """Wherever it comes in the order of paths; but nothing may refer to what became of the others by its old name."""
    pairs: Pairs = {
        "a": (_picture("1.1", "1.9"), _picture("1.1", "1.9")), "b": (_picture("1.2", "1.9"), _picture("2.2", "2.9")),
        "d": (_document("3.1", "3.2", ["1.1", "1.2"]), _document("4.1", "4.2", ["1.1", "2.2"])),
    }  # fmt: skip
    assert _identities(pairs).new["1.9"] == "2.9"
    assert _problems(pairs) == {}
    pairs["d"] = (pairs["d"][0], _document("4.1", "4.2", ["1.1", "1.2"]))
    assert list(_problems(pairs)) == ["d"]


def test_reference_to_what_is_in_neither_folder_has_to_stay() -> None:
    pairs: Pairs = {"p": PICTURE, "d": (_document("3.1", "", ["1.1", "9.9"]), _document("4.1", "", ["2.1", "9.8"]))}
    assert _problems(pairs) == {"d": ["it refers to 9.8, where the original refers to 9.9"]}
    pairs["d"] = (_document("3.1", "", ["1.1", "9.9"]), _document("4.1", "", ["2.1", "9.9"]))
    assert _problems(pairs) == {}
    pairs["q"] = (_picture("1.5", "1.6"), _picture("2.5", "2.6", ["1.5", "9.7"]))
    assert _problems(pairs) == {"q": ["it refers to 9.7, where the original refers to nothing else"]}


def test_what_has_no_uids_has_no_conflicts() -> None:
    text = Document(path=Path("t"), format="other", kind="text")
    assert _problems({"p": PICTURE, "t": (text, text), "u": (text, text)}) == {}


def test_what_was_not_handed_out_is_counted_and_no_problem() -> None:
    pairs: Pairs = {
        "p": PICTURE,
        "q": (_picture("1.3", "1.4"), None),
        "d": (_document("3.1", "", ["1.1", "1.3", "1.4", "9.9"]), _document("4.1", "", ["2.1", "5.3", "5.4", "9.9"])),
    }
    assert _problems(pairs) == {}
    assert _identities(pairs).dangling(pairs["d"][0]) == ["1.3", "1.4"]


@pytest.fixture
def moved(tmp_path: Path) -> Path:
    """A protected study in an archive's own tree, in which no file has the name of its original."""
    slices = [f"{ROOT_UID}.11.1.{number}" for number in (1, 2, 3)]
    mr_series(tmp_path / "in", 0, slices=3)
    dicom_object(tmp_path / "in" / "a.dcm", KEY_OBJECTS, 1, slices[:2])
    dicom_object(tmp_path / "in" / "b.dcm", KEY_OBJECTS, 2, slices[:2])  # of the same images
    dicom_object(tmp_path / "in" / "c.dcm", SR, 3, slices[2:])
    dicom_object(tmp_path / "in" / "d.dcm", SR, 4)  # of none, so that it stays as it is
    protect(tmp_path / "in", tmp_path / "out", drawn())
    (tmp_path / "moved").mkdir()
    for number, path in enumerate(sorted((tmp_path / "out").rglob("*.dcm"), reverse=True)):
        path.rename(tmp_path / "moved" / f"{number}.dcm")
    return tmp_path / "moved"


def test_files_that_an_archive_moved_are_found(moved: Path) -> None:
    report = verify(moved.parent / "in", moved)
    assert report.to_json()["counts"] == {"protected": 3, "copied": 4, "absent": 0, "mismatch": 0}


def test_a_document_that_was_changed_is_not_found(moved: Path) -> None:
    for path in moved.iterdir():
        content = path.read_bytes()
        if SR.encode() in content:
            path.write_bytes(content.replace(b"OT", b"XX"))
    problems = {file.path for file in verify(moved.parent / "in", moved).mismatches}
    assert {"c.dcm", "d.dcm"} <= problems
