# SPDX-License-Identifier: Apache-2.0
"""DICOMDIRs as they are found in practice: records follow files with other names, and what is removed is told and
judged alike by protect and verify.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from monai_salm.cli import main
from monai_salm.errors import RefusedError
from monai_salm.io import Derivation, Document, identify, write_document
from monai_salm.pipeline import protect, scan, verify
from monai_salm.pipeline.file_sets import ambiguity, directory_problems, meant_files
from tests.exports import drawn, file_set, mr_slice, tree


def _document(*files: str) -> Document:
    return Document(path=Path("x"), format="dicom", kind="x", files=frozenset(files))


@pytest.mark.parametrize(
    ("record", "file"),
    [
        ("DICOM/IM1", "DICOM/IM1"),
        ("DICOM/IM1", "DICOM/IM1.dcm"),
        ("DICOM/IM1", "DICOM/IM1.DCM"),
        ("DICOM/IM1", "DICOM/IM1.;1"),
        ("DICOM/IM1", "DICOM/IM1;1"),
        ("DICOM/IM1", "dicom/im1"),
        ("DICOM/IM1", "dicom/im1.dcm;1"),
        ("dicom/im1", "DICOM/IM1.dcm"),
        ("DICOM/IM1.DCM", "DICOM/IM1"),
        ("/DICOM//IM1", "DICOM/IM1"),
        ("./DICOM/IM1", "DICOM/IM1.dcm"),
    ],
)
@pytest.mark.parametrize("folder", [".", "disc", "a/b"])
def test_names_that_mean_one_file(record: str, file: str, folder: str) -> None:
    path = file if folder == "." else f"{folder}/{file}"
    assert meant_files([record], folder, [path, f"{folder}/DICOM/IM11.dcm", "DICOM2/IM1"]) == {record: [path]}


@pytest.mark.parametrize(
    "file", ["IM1.jpg", "IM1.dcm.txt", "IM1/IM1", "IM12.dcm", "IM1.1", "other/DICOM/IM1", "disk/IM1"]
)
def test_names_that_mean_another_file(file: str) -> None:
    assert meant_files(["IM1"], ".", [file]) == {"IM1": []}
    assert meant_files(["../IM1"], "disc", ["IM1"]) == {"../IM1": []}
    assert meant_files(["IM1"], "disc", ["Disc/IM1"]) == {"IM1": []}


def test_exact_name_wins_and_is_meant_by_no_other() -> None:
    assert meant_files(["IM1"], ".", ["IM1", "IM1.dcm", "im1"]) == {"IM1": ["IM1"]}
    meant = meant_files(["IM1", "IM1.DCM"], ".", ["IM1.DCM", "im1.dcm"])
    assert meant == {"IM1": ["im1.dcm"], "IM1.DCM": ["IM1.DCM"]}
    assert ambiguity(meant, ".") == ""


def test_what_cannot_be_told() -> None:
    assert ambiguity(meant_files(["IM1"], ".", ["im1", "IM1.dcm"]), ".").startswith(
        "its record IM1 may be of IM1.dcm or of im1"
    )
    assert ambiguity(meant_files(["IM1", "im1"], "d", ["d/Im1.dcm"]), "d").startswith(
        "its records IM1 and im1 may both be of d/Im1.dcm"
    )
    assert ambiguity(meant_files(["IM1", "/IM1"], "d", ["d/IM1"]), "d") == "", "one name, written in two ways"
    assert ambiguity({}, ".") == ""


def test_what_a_protected_directory_lists() -> None:
    old = _document("A/1", "A/2")
    everything = {"disc/A/1", "disc/A/2", "disc/DICOMDIR"}
    assert directory_problems("disc/DICOMDIR", old, old, everything, everything) == []
    lost = directory_problems("disc/DICOMDIR", old, old, everything, everything - {"disc/A/1"})
    assert lost == ["it lists 1 files that are not there, the first of them A/1"]
    assert directory_problems("disc/DICOMDIR", old, _document("A/2"), everything, everything - {"disc/A/1"}) == [], (
        "removed on purpose"
    )
    gone = directory_problems("disc/DICOMDIR", old, _document("A/2"), everything, everything)
    assert gone == ["it no longer lists 1 files that are there, the first of them A/1"]
    # Of two files that a record could mean the one that is not handed out was the one.
    assert directory_problems("DICOMDIR", _document("1"), _document("1"), {"1", "1.dcm"}, {"1.dcm"}) != []
    assert directory_problems("p", None, old, set(), set()) == []


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file-set of three pictures, the last of which is constant and is refused."""
    folder = tmp_path_factory.mktemp("disc")
    for number in range(3):
        mr_slice(
            folder / "loose" / f"{number}.dcm",
            number,
            np.full((24, 24), 7) if number == 2 else None,
            StudyDate="20200101",
        )
    return file_set(folder / "set", sorted((folder / "loose").iterdir())).parent


def _renamed(disc: Path, target: Path, rename: Callable[[str], str], place: str = "DICOMDIR") -> Path:
    """Copy a file-set under other names."""
    for name, content in tree(disc).items():
        path = target / (place if name == "DICOMDIR" else (Path(place).parent / rename(name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return target / place


def _lower_records(path: Path) -> None:
    path.write_bytes(re.sub(rb"PT\d+.ST\d+.SE\d+.IM\d+", lambda found: found[0].lower(), path.read_bytes()))


def _exit_code(source: Path, out: Path) -> object:
    with pytest.raises(SystemExit) as stopped:
        main(["protect", str(source), str(out), "--method", "random", "--quiet"])
    return stopped.value.code


KINDS: dict[str, tuple[Callable[[str], str], str]] = {
    "as written": (lambda name: name, "DICOMDIR"),
    "suffix": (lambda name: f"{name}.dcm", "DICOMDIR"),
    "upper suffix": (lambda name: f"{name}.DCM", "DICOMDIR"),
    "version": (lambda name: f"{name}.;1", "DICOMDIR"),
    "lower case": (str.lower, "dicomdir"),
    "lower case and suffix": (lambda name: f"{name.lower()}.dcm", "DICOMDIR"),
    "in a folder": (lambda name: f"{name}.dcm", "disc 1/DICOMDIR"),
}


@pytest.mark.slow
@pytest.mark.parametrize("lower_records", [False, True], ids=["upper records", "lower records"])
@pytest.mark.parametrize("kind", KINDS)
def test_records_follow_their_files(
    kind: str, lower_records: bool, disc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rename, name = KINDS[kind]
    place = _renamed(disc, tmp_path / "in", rename, name)
    if lower_records:
        _lower_records(place)
    mr_slice(tmp_path / "in" / "other.dcm", 7)  # not listed
    everything = set(tree(tmp_path / "in"))
    for source, files in ((tmp_path / "in", everything), (place, everything - {"other.dcm"})):
        root = source if source.is_dir() else place.parent
        out = tmp_path / f"out of {source.name}"
        result = protect(source, out, drawn())
        expected = {(tmp_path / "in" / path).relative_to(root).as_posix() for path in files}
        assert set(result.fates) == expected
        (refused,) = (path for path, fate in result.fates.items() if fate.status == "refused")
        directory = place.relative_to(root).as_posix()
        assert result.fates[directory].left_out.startswith(
            "1 of its 3 records are of files that are not handed out (first "
        )
        assert [problem["status"] for problem in result.to_json()["problems"]] == ["refused", "incomplete"]
        listed = scan(out).listed[directory]
        assert sorted(path for (path,) in listed.values()) == sorted(
            path for path in expected - {refused, directory} if "other" not in path
        )
        for item in pydicom.dcmread(out / directory).DirectoryRecordSequence:
            if "ReferencedFileID" in item:
                (path,) = listed["/".join(item.ReferencedFileID)]
                assert pydicom.dcmread(out / path).SOPInstanceUID == item.ReferencedSOPInstanceUIDInFile
        report = verify(source, out)
        assert not report.mismatches
    assert _exit_code(tmp_path / "in", tmp_path / "cli") == 3
    assert "1 of its 3 records" in "".join(capsys.readouterr())


def test_files_in_other_folders_are_absent(disc: Path, tmp_path: Path) -> None:
    """A DICOMDIR that lists none of the files that are there goes out empty, and the run says so."""
    place = _renamed(disc, tmp_path / "in", lambda name: f"moved/{Path(name).name}")
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert result.fates["DICOMDIR"].left_out.startswith("3 of its 3 records")
    assert not verify(tmp_path / "in", tmp_path / "out").mismatches
    alone = protect(place, tmp_path / "alone", drawn())
    assert alone.fates["DICOMDIR"].left_out.startswith("3 of its 3 records")
    assert _exit_code(place, tmp_path / "cli") == 3


@pytest.mark.slow
def test_two_files_for_one_record(disc: Path, tmp_path: Path) -> None:
    """The one with the exact name is meant; where neither has it, the DICOMDIR is refused, and renaming one helps, as
    the message says.
    """
    place = _renamed(disc, tmp_path / "in", lambda name: name)
    first = min(path for path in tree(place.parent) if path != "DICOMDIR")
    mr_slice(place.parent / f"{first}.dcm", 8)
    assert scan(place.parent).listed["DICOMDIR"][first] == [first]
    assert f"{first}.dcm" not in {record.path for record in scan(place).files}
    lower = f"{Path(first).parent.as_posix()}/{Path(first).name.lower()}"
    (place.parent / first).rename(place.parent / lower)
    for source in (place, place.parent):
        assert "may be of" in scan(source).refused["DICOMDIR"]
        result = protect(source, tmp_path / f"out of {source.name}", drawn())
        assert result.fates["DICOMDIR"].status == "refused"
        assert not verify(source, tmp_path / f"out of {source.name}").mismatches
    (place.parent / lower).rename(place.parent / first)
    assert not any("may be of" in reason for reason in scan(place.parent).refused.values())


@pytest.mark.slow
def test_verify_tells_a_removed_record_from_a_lost_one(disc: Path, tmp_path: Path) -> None:
    place = _renamed(disc, tmp_path / "in", lambda name: f"{name}.dcm")
    result = protect(place.parent, tmp_path / "out", drawn())
    report = verify(place.parent, tmp_path / "out")
    assert not report.mismatches
    (verdict,) = (file for file in report.files if file.path == "DICOMDIR")
    assert any(change.startswith("DirectoryRecordSequence[") for change in verdict.header_changes)
    (refused,) = (path for path, fate in result.fates.items() if fate.status == "refused")
    kept = next(path for path in result.fates if path not in (refused, "DICOMDIR"))
    directory = identify(tmp_path / "out" / "DICOMDIR")
    assert isinstance(directory, Document)
    shutil.copy(tmp_path / "out" / "DICOMDIR", tmp_path / "right")
    silent = Derivation(
        software="", version="", description="", provenance="none", absent_files=frozenset({kept.removesuffix(".dcm")})
    )
    write_document(Document(path=tmp_path / "right", format="dicom", kind=""), tmp_path / "out" / "DICOMDIR", silent)
    (mismatch,) = verify(place.parent, tmp_path / "out").mismatches
    assert any("is gone; the object is" in problem for problem in mismatch.problems)
    assert any(problem.startswith("it no longer lists 1 files that are there") for problem in mismatch.problems)
    shutil.copy(tmp_path / "right", tmp_path / "out" / "DICOMDIR")
    (tmp_path / "out" / kept).unlink()
    assert any(
        "it lists 1 files that are not there" in problem
        for file in verify(place.parent, tmp_path / "out").mismatches
        for problem in file.problems
    )


def test_records_twice_are_refused(disc: Path, tmp_path: Path) -> None:
    place = _renamed(disc, tmp_path / "in", lambda name: name)
    content = place.read_bytes()
    start = content.index(b"\x04\0\x20\x12SQ")
    place.write_bytes(content + content[start:])
    with pytest.raises(RefusedError, match="DirectoryRecordSequence is there more than once"):
        identify(place)
