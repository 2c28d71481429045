# SPDX-License-Identifier: Apache-2.0
"""What is not in the protected folder, and what is there in its place: named, and a mismatch unless somebody who knows
says that it is right.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monai_salm.errors import UsageError
from monai_salm.pipeline import VerifyReport, protect, verify
from monai_salm.seals import sealed_json, unsealed_json
from tests.exports import (
    ROOT_UID,
    dicom_object,
    drawn,
    file_set,
    label_table,
    mr_export,
    mr_slice,
    nifti_export,
    small,
    zip_file,
)

SR = "1.2.840.10008.5.1.4.1.1.88.33"
LOST = "case2/image.dcm"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Four pictures, a copy of one of them, a report, a text, and a file that cannot be protected."""
    mr_export(tmp_path / "in", 4)
    shutil.copy(tmp_path / "in" / "case0" / "image.dcm", tmp_path / "in" / "copy.dcm")
    dicom_object(tmp_path / "in" / "sr.dcm", SR, 1, [f"{ROOT_UID}.10.1"])
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "in" / "raw.bin").write_bytes(b"\0x")
    return tmp_path / "in"


def _absent(report: VerifyReport) -> dict[str, tuple[bool, str]]:
    return {entry["path"]: (entry["excused"], entry["reason"]) for entry in report.to_json()["absent"]}


def _manifest(export: Path) -> Path:
    return export.parent / "out.work" / "manifest.jsonl"


def _protected(export: Path, **changes: object) -> Path:
    protect(export, export.parent / "out", drawn(**changes))
    return export.parent / "out"


@pytest.mark.slow
@pytest.mark.parametrize("with_manifest", [True, False], ids=["beside its work folder", "alone"])
@pytest.mark.parametrize("lost", [LOST, "copy.dcm", "sr.dcm", "notes.txt"], ids=["picture", "copy", "report", "text"])
def test_whatever_is_lost_is_named_and_a_mismatch(export: Path, lost: str, with_manifest: bool) -> None:
    out = _protected(export)
    before = verify(export, out)
    assert (before.to_json()["counts"], before.mismatches) == (
        {"protected": 5, "copied": 2, "absent": 1, "mismatch": 0},
        [],
    )
    (out / lost).unlink()
    if not with_manifest:
        shutil.rmtree(export.parent / "out.work")
    report = verify(export, out)
    (mismatch,) = report.mismatches
    assert mismatch.path == lost
    fate = "protected" if lost.endswith("image.dcm") or lost == "copy.dcm" else "copied"
    assert mismatch.problems == [
        "it is absent, and "
        f"{f'''the run's manifest says that it was {fate}''' if with_manifest else 'nothing says why'}"
    ]
    assert _absent(report).keys() == {lost, "raw.bin"}
    assert report.to_json()["counts"]["mismatch"] == 1
    allowed = verify(export, out, allow_absent=True)
    assert (allowed.to_json()["counts"]["absent"], allowed.mismatches) == (2, [])


def test_half_of_the_output_gone_is_no_success(export: Path) -> None:
    out = _protected(export)
    for number in range(2, 4):
        shutil.rmtree(out / f"case{number}")
    assert {file.path for file in verify(export, out).mismatches} == {"case2/image.dcm", "case3/image.dcm"}


def test_empty_output_is_all_absent(export: Path, tmp_path: Path) -> None:
    (tmp_path / "empty" / "case0").mkdir(parents=True)
    (tmp_path / "empty" / ".DS_Store").write_bytes(b"\0")
    report = verify(export, tmp_path / "empty")
    assert report.to_json()["counts"] == {"protected": 0, "copied": 0, "absent": 1, "mismatch": 7}


def test_what_the_rules_refuse_is_rightly_absent(export: Path) -> None:
    out = _protected(export)
    shutil.rmtree(export.parent / "out.work")
    excused, reason = _absent(verify(export, out))["raw.bin"]
    assert excused
    assert reason.startswith("it cannot be protected: unknown binary format")


@pytest.mark.slow
def test_refused_file_that_was_copied_on_demand_and_is_lost(export: Path) -> None:
    out = _protected(export, copy_unprotected=True)
    assert verify(export, out).to_json()["counts"]["absent"] == 0
    (out / "raw.bin").unlink()
    assert [file.problems for file in verify(export, out).mismatches] == [
        ["it is absent, and the run's manifest says that it was copied"]
    ]


@pytest.mark.slow
def test_manifest_of_the_run_excuses_what_it_refused(export: Path, tmp_path: Path) -> None:
    """No rule of the files says that a picture has no label; only the run knows."""
    names = [f"case{number}/image.dcm" for number in range(3)]
    labels = label_table(
        tmp_path / "labels.csv", {name: ("healthy", "ill")[number % 2] for number, name in enumerate(names)}
    )
    out = tmp_path / "out"
    protect(export, out, small(labels=labels, rounds=1))
    report = verify(export, out)
    assert report.mismatches == []
    excused, reason = _absent(report)["case3/image.dcm"]
    assert excused
    assert "refused by the run, says its manifest: it has no label" in reason
    assert (
        report.record
        == f"2 absent files are accepted, because {tmp_path / 'out.work' / 'manifest.jsonl'}, which the run itself "
        "wrote, says that it refused them"
    )
    shutil.rmtree(tmp_path / "out.work")
    report = verify(export, out)
    assert ([file.path for file in report.mismatches], report.record) == (["case3/image.dcm"], "")


def _refuse_in(manifest: Path, **changes: object) -> None:
    """Let a manifest say that a picture was refused, and write other fields into its first line."""
    lines = _lines(manifest)
    for line in lines:
        if line["path"] == LOST:
            line |= {"status": "refused", "sha256_in": "", "sha256_out": ""}
    lines[0] |= changes
    _write(manifest, lines)


def _lines(manifest: Path) -> list[dict[str, Any]]:
    return [unsealed_json(line) for line in manifest.read_text().splitlines()]


def _write(manifest: Path, lines: list[dict[str, Any]]) -> None:
    manifest.write_text("".join(f"{sealed_json(line)}\n" for line in lines))


def _of_other_files(manifest: Path) -> None:
    _write(manifest, [line | {"sha256_out": "0" * 64} for line in _lines(manifest)])


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (
            lambda path: _refuse_in(path, path="../../etc/passwd"),
            "line 1 is damaged (the path ../../etc/passwd leads out of its folder)",
        ),
        (
            lambda path: _refuse_in(path, sha256_in="0" * 64),
            "it is of another run: case0/image.dcm had other bytes there",
        ),
        (_of_other_files, "it is of another run, which wrote other files"),
        (lambda path: path.write_text("{}\n{}\n"), "line 1 is damaged"),
        (lambda path: path.write_bytes(b"\xff\xfe\n\n"), "line 1 is damaged"),
        (lambda path: path.write_text('["a"]\n["b"]\n'), "line 1 is damaged"),
        (
            lambda path: _write(path, [{"path": None, "status": "refused"}]),
            "it is of another run: None is not in the original folder",
        ),
    ],
    ids=["path outside", "other originals", "other outputs", "damaged", "not text", "lists", "no path"],
)
def test_manifest_that_does_not_fit_excuses_nothing(export: Path, spoil: Callable[[Path], object], fault: str) -> None:
    out = _protected(export)
    _refuse_in(_manifest(export))
    spoil(_manifest(export))
    (out / LOST).unlink()
    report = verify(export, out)
    assert [file.path for file in report.mismatches] == [LOST]
    assert f"{_manifest(export)} excuses no absent file: {fault}" in report.record
    assert "\n" not in report.record


@pytest.mark.slow
def test_manifest_is_asked_for_absent_files_alone(export: Path) -> None:
    out = _protected(export)
    _refuse_in(_manifest(export))
    shutil.copy(export / LOST, out / LOST)
    (mismatch,) = verify(export, out).mismatches
    assert mismatch.problems[0] == "no voxel differs from the original: an unprotected image"
    (out / "raw.bin").write_bytes(b"\0x")
    report = verify(export, out)
    assert report.record == "", "nothing is absent, so nobody asks"


def _without(source: Path, *names: str, damaged: str = "") -> None:
    """Write a zip again without some members; of one that is damaged the bytes are others than its checksum says."""
    with zipfile.ZipFile(source) as packed:
        members = {name: packed.read(name) for name in packed.namelist() if name not in names}
    with zipfile.ZipFile(source, "w", zipfile.ZIP_STORED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    if damaged:
        content = source.read_bytes()
        place = content.index(members[damaged])
        source.write_bytes(content[: place + 300] + bytes([content[place + 300] ^ 1]) + content[place + 301 :])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["out.zip", "out"], ids=["zip", "zip in a folder"])
def test_zip_that_lost_members(export: Path, tmp_path: Path, target: str) -> None:
    source = zip_file(tmp_path / "export.zip", export)
    packed = protect(source, tmp_path / target, drawn()).output
    assert verify(source, tmp_path / target).mismatches == []
    _without(packed, LOST, "notes.txt")
    for place in {packed, tmp_path / target}:
        report = verify(source, place)
        assert {file.path: file.problems for file in report.mismatches} == {
            LOST: ["it is absent, and the run's manifest says that it was protected"],
            "notes.txt": ["it is absent, and the run's manifest says that it was copied"],
        }


@pytest.mark.slow
@pytest.mark.parametrize("name", [LOST, "notes.txt"], ids=["picture", "text"])
def test_zip_with_a_damaged_member(export: Path, tmp_path: Path, name: str) -> None:
    (export / "notes.txt").write_text("x" * 400)
    source = zip_file(tmp_path / "export.zip", export)
    protect(source, tmp_path / "out.zip", drawn())
    _without(tmp_path / "out.zip", damaged=name)
    (mismatch,) = verify(source, tmp_path / "out.zip").mismatches
    assert mismatch.path == name
    assert "what is there cannot be handed out: damaged" in mismatch.problems[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [LOST, "notes.txt", "raw.bin"], ids=["picture", "text", "refused"])
@pytest.mark.parametrize("target", ["", "nowhere"], ids=["to the original", "to nothing"])
def test_link_in_place_of_a_file(export: Path, name: str, target: str) -> None:
    """It reads as the original here, and as nothing on the disk that is handed out."""
    out = _protected(export, copy_unprotected=True)
    (out / name).unlink()
    (out / name).symlink_to(export / (target or name))
    (mismatch,) = verify(export, out).mismatches
    assert mismatch.path == name
    assert mismatch.problems[0].startswith("what is there cannot be handed out: ")


def test_copy_whose_first_file_is_gone(export: Path) -> None:
    out = _protected(export)
    (out / "case0" / "image.dcm").unlink()
    assert {file.path for file in verify(export, out).mismatches} == {"case0/image.dcm", "copy.dcm"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"source_reference": False}, {"uids": "keep"}, {"provenance": "minimal"}],
    ids=["full", "no reference", "old UIDs", "minimal"],
)
def test_swapped_arguments_are_recognized_from_the_files(export: Path, options: dict[str, object]) -> None:
    out = _protected(export, **options)
    shutil.rmtree(export.parent / "out.work")
    with pytest.raises(
        UsageError, match=r"the arguments look swapped: .*out was made from .*in; give .*in first, and .*out after it$"
    ):
        verify(out, export)
    assert verify(export, out).mismatches == []


def test_swapped_volumes_are_recognized_from_the_work_folder(tmp_path: Path) -> None:
    nifti_export(tmp_path / "in", 3)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    with pytest.raises(UsageError, match="the arguments look swapped"):
        verify(tmp_path / "out", tmp_path / "in")
    protect(tmp_path / "out", tmp_path / "again", drawn(seed=1))
    assert verify(tmp_path / "out", tmp_path / "again").mismatches == [], "an output may be protected again"
    with pytest.raises(UsageError, match="the arguments look swapped"):
        verify(tmp_path / "again", tmp_path / "out")


@pytest.mark.slow
def test_images_that_are_protected_again_are_not_taken_for_swapped(export: Path, tmp_path: Path) -> None:
    out = _protected(export)
    for provenance in ("full", "none"):
        protect(out, tmp_path / provenance, drawn(seed=1, provenance=provenance))
        report = verify(out, tmp_path / provenance)
        assert report.mismatches == []
        assert {file.bound for file in report.files if file.verdict == "protected"} == {
            "file" if provenance == "full" else "none"
        }, "the old bound is no bound"
        with pytest.raises(UsageError, match="swapped"):
            verify(tmp_path / provenance, out)


@pytest.mark.parametrize("inside", ["", "noise"])
def test_work_folder_is_no_side(export: Path, inside: str) -> None:
    out = _protected(export)
    for pair in ((export, export.parent / "out.work" / inside), (export.parent / "out.work" / inside, out)):
        with pytest.raises(UsageError, match="is the private work folder of a run, which holds no images"):
            verify(*pair)


def test_folders_with_nothing_in_common(export: Path, tmp_path: Path) -> None:
    _protected(export)
    mr_slice(tmp_path / "other" / "x.dcm", 77)
    with pytest.raises(
        UsageError,
        match=r"has none of the 8 paths of .*in \(such as case0/image.dcm\), but others \(such as x.dcm\); give the "
        r"original",
    ):
        verify(export, tmp_path / "other")


@pytest.mark.slow
def test_disc_read_from_its_directory(tmp_path: Path) -> None:
    for number in range(3):
        mr_slice(tmp_path / "loose" / f"{number}.dcm", number, StudyDate="20200101")
    directory = file_set(tmp_path / "in", sorted((tmp_path / "loose").iterdir()))
    (tmp_path / "in" / "aside.txt").write_text("not of the file-set")
    protect(directory, tmp_path / "out", drawn())
    assert verify(directory, tmp_path / "out").mismatches == []
    assert [file.path for file in verify(tmp_path / "in", tmp_path / "out").mismatches] == ["aside.txt"]
