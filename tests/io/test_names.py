# SPDX-License-Identifier: Apache-2.0
"""Names are bytes: every reader and writer gets one that it can open, and every file comes out under its own."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.cli import main
from monai_salm.disk import atomic_target
from monai_salm.errors import RefusedError, printable
from monai_salm.io import dcmtk_finds_within, read_with_simpleitk
from monai_salm.pipeline import protect, verify
from tests.exports import block, body, drawn, label_table, mr_slice, nifti_file, plan_in, plan_lines, small, tree

sitk: Any = pytest.importorskip("SimpleITK")

LATIN_1 = os.fsdecode(b"caf\xe9")
NAMES = {
    "Latin-1": LATIN_1,
    "newline": "a\n'\"$(b)",
    "dash": "-rf",
    "dot": ".hidden",
    "temporary": ".salm-0123456789ab-01234567",
    "control": "a\x1b[31m\x7f",
    "backslash": "a\\b",
    "percent": "%03d~*?[a]",
    "space": " a ",
    "wide": "😀\u202e",
}
LONGEST = 255


def _write_all(folder: Path, name: str) -> set[str]:
    """Write a picture of each kind under one name, each with its suffix."""
    folder.mkdir(parents=True)
    gray = (body(1) // 3).astype(np.uint8)
    mr_slice(folder / "x.dcm", 1)
    nifti_file(folder / "x.nii", block(1)[0])
    nifti_file(folder / "x.nii.gz", block(2)[0])
    for number, suffix in enumerate((".nrrd", ".mha"), 3):
        sitk.WriteImage(sitk.GetImageFromArray(block(number)[0]), str(folder / f"x{suffix}"))
    for number, suffix in enumerate((".png", ".tif"), 5):
        sitk.WriteImage(sitk.GetImageFromArray(gray + np.uint8(number)), str(folder / f"x{suffix}"))
    sitk.WriteImage(sitk.GetImageFromArray(gray + np.uint8(9)), str(folder / "y.jpg"))
    (folder / "x.txt").write_text("no picture")
    for path in list(folder.iterdir()):
        path.rename(folder / f"{name}{path.name.removeprefix('x')}")
    return {path.name for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("place", ["file", "folder"])
def test_every_format_under_every_name(
    name: str, place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in" / (name if place == "folder" else "plain")
    names = _write_all(tmp_path / "in" / "written", name if place == "file" else "plain")
    (tmp_path / "in" / "written").rename(folder)
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert {fate.status for path, fate in result.fates.items() if not path.endswith(".txt")} == {"protected"}
    written = {name.removesuffix(".jpg") + ".png" if name.endswith(".jpg") else name for name in names}
    assert {path.name for path in (tmp_path / "out" / folder.name).iterdir()} == written
    report = verify(tmp_path / "in", tmp_path / "out")
    assert report.to_json()["counts"] == {"protected": 8, "copied": 1, "absent": 0, "mismatch": 0}
    seen = {Path(file.path).suffix: file.second_reader for file in report.files}
    assert {suffix for suffix in seen if not seen[suffix].startswith("SimpleITK")} == {".txt"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("letter", ["a", "é", "日"])
@pytest.mark.parametrize("suffix", [".dcm", ".nii.gz", ".png"])
def test_names_that_barely_fit(letter: str, suffix: str, tmp_path: Path) -> None:
    room = LONGEST - len(suffix)
    name = letter * (room // len(letter.encode())) + "a" * (room % len(letter.encode())) + suffix
    assert len(os.fsencode(name)) == LONGEST
    (tmp_path / "in").mkdir()
    if suffix == ".dcm":
        mr_slice(tmp_path / "in" / name, 1)
    elif suffix == ".png":
        sitk.WriteImage(sitk.GetImageFromArray((body(1) // 3).astype(np.uint8)), str(tmp_path / "in" / name))
    else:
        nifti_file(tmp_path / "in" / name, block(1)[0])
    assert protect(tmp_path / "in", tmp_path / "out", drawn()).fates[name].status == "protected"
    (file,) = verify(tmp_path / "in", tmp_path / "out").files
    assert (file.verdict, file.second_reader[:9]) == ("protected", "SimpleITK")


def test_name_that_becomes_too_long_is_refused_alone(tmp_path: Path) -> None:
    mr_slice(tmp_path / "in" / "a.dcm", 1)
    name = "a" * LONGEST  # a JPEG, which is written as .png
    sitk.WriteImage(sitk.GetImageFromArray((body(1) // 3).astype(np.uint8)), str(tmp_path / "in" / "b.jpg"))
    (tmp_path / "in" / "b.jpg").rename(tmp_path / "in" / name)
    fates = protect(tmp_path / "in", tmp_path / "out", drawn()).fates
    assert (fates["a.dcm"].status, fates[name].status) == ("protected", "refused")
    assert "cannot be written under this name (File name too long; its name has 259 bytes" in fates[name].reason
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.dcm"]


def test_deep_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of nearly 4096 bytes are read and written, longer ones are refused one by one."""
    for top, length in (("in", 3900), ("beyond", 4400)):
        (tmp_path / top).mkdir()
        monkeypatch.chdir(tmp_path / top)
        while len(str(Path.cwd())) < length - 210:
            Path("d" * 200).mkdir()
            os.chdir("d" * 200)
        mr_slice(Path("a.dcm"), 1)
        monkeypatch.chdir(tmp_path)
    mr_slice(tmp_path / "beyond" / "b.dcm", 2)
    (fate,) = protect(tmp_path / "in", tmp_path / "o", drawn()).fates.values()
    assert len(fate.path) > 3500
    assert fate.status == "protected"
    (file,) = verify(tmp_path / "in", tmp_path / "o").files
    assert (file.verdict, file.second_reader) == (
        "protected",
        "SimpleITK, dcmtk" if dcmtk_finds_within(*[tmp_path / "beyond" / "b.dcm"] * 2, 1) else "SimpleITK",
    )
    fates = protect(tmp_path / "beyond", tmp_path / "p", drawn()).fates
    assert sorted(fate.status for fate in fates.values()) == ["protected", "refused"]
    # What can be read may be too long where it is to go.
    deeper = tmp_path / ("e" * 200)
    fates = protect(tmp_path / "in", deeper, drawn(work_dir=tmp_path / "w")).fates
    assert [fate.status for fate in fates.values()] == ["refused"]
    assert "give a shorter output" in next(iter(fates.values())).reason


def test_composed_and_decomposed_names_are_two_files(tmp_path: Path) -> None:
    mr_slice(tmp_path / "in" / "\u00e9.dcm", 1)
    mr_slice(tmp_path / "in" / "e\u0301.dcm", 2)
    if len(tree(tmp_path / "in")) < 2:
        pytest.skip("this disk takes both names for one")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    assert sorted(tree(tmp_path / "out")) == ["e\u0301.dcm", "\u00e9.dcm"]
    assert verify(tmp_path / "in", tmp_path / "out").to_json()["counts"]["protected"] == 2


@pytest.mark.slow
def test_input_output_and_work_folder_may_be_no_utf8(tmp_path: Path) -> None:
    """The store of the noise, the state of the search and the surrogate lie in it."""
    source = tmp_path / LATIN_1
    for number in range(4):
        mr_slice(source / f"{LATIN_1}{number}.dcm", number)
    table = label_table(tmp_path / "labels.csv", {f"P{number}": number % 2 for number in range(4)}, "PatientID")
    out, work = tmp_path / os.fsdecode(b"o\xfct"), tmp_path / os.fsdecode(b"w\xf6rk")
    protect(source, out, small(labels=table, work_dir=work))
    protect(source, out, small(labels=table, work_dir=work, resume=True))
    assert verify(source, out).to_json()["counts"]["protected"] == 4
    plan = plan_in(plan_lines(work / "plan.jsonl"))
    assert plan.samples[0].files[0].path.startswith(LATIN_1)
    other = tmp_path / "again"
    protect(source, other, small(labels=table, surrogate=str(work / "surrogate.safetensors")))
    assert len(list(other.iterdir())) == 4


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_names_are_printed_on_any_terminal(encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mr_slice(Path(LATIN_1, "\u65e5\u202e\x1b[31m.dcm"), 1)
    Path(LATIN_1, "bad\n\x9b.bin").write_bytes(b"\0")
    out = f"\u00fc{LATIN_1}"
    for command in (
        ["protect", LATIN_1, out, "--method", "random"],
        ["scan", LATIN_1],
        ["scan", LATIN_1, "--json"],
        ["verify", out, out],
        ["keygen", out + "k"],
    ):
        printed, logged = (
            io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True) for _ in range(2)
        )
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", printed)
            patch.setattr(sys, "stderr", logged)
            with pytest.raises(SystemExit) as stopped:
                main([*command, *(["--quiet"] if command[0] != "keygen" else [])])
        text = b"".join(stream.buffer.getvalue() for stream in (printed, logged))  # type: ignore[attr-defined]
        assert stopped.value.code in ({2} if command[0] == "verify" else {0, 3}), text
        assert not set(text) & (set(range(32)) - {10}), "no control characters"
        if "--json" in command:
            assert {file["path"] for file in json.loads(text)["files"]} == {"\u65e5\u202e\x1b[31m.dcm", "bad\n\x9b.bin"}
        else:
            assert (b"bad  .bin" if command[0] in ("scan", "protect") else b"caf\\xe9") in text


def test_printable() -> None:
    assert printable(f"{LATIN_1} \u65e5\n\x1b\u202e") == "caf\\xe9 \u65e5   "


def test_zip_members_keep_their_bytes(tmp_path: Path) -> None:
    """Neither UTF-8, nor said to be it; nor shorter than 255 bytes once they are letters."""
    mr_slice(tmp_path / "a.dcm", 1)
    mr_slice(tmp_path / "b.dcm", 2)
    sitk.WriteImage(sitk.GetImageFromArray((body(1) // 3).astype(np.uint8)), str(tmp_path / "c.jpg"))
    raw = {
        b"caf\xe9.dcm": "a.dcm",
        b"\xb0" * 120 + b".dcm": "b.dcm",
        "größe".encode() + b".jpg": "c.jpg",
        b"n\xe9e.jpg": "c.jpg",
    }
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as packed:
        for number, path in enumerate(raw.values()):
            packed.write(tmp_path / path, f"{number}" * len(list(raw)[number]))
    content = (tmp_path / "in.zip").read_bytes()
    for number, name in enumerate(raw):
        content = content.replace(f"{number}".encode() * len(name), name)
    (tmp_path / "in.zip").write_bytes(content)
    result = protect(tmp_path / "in.zip", tmp_path / "out.zip", drawn())
    assert {fate.status for fate in result.fates.values()} == {"protected"}
    with zipfile.ZipFile(tmp_path / "out.zip") as packed:
        names = [
            entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437") for entry in packed.infolist()
        ]
    assert sorted(names) == sorted(name.replace(b".jpg", b".png") for name in raw)
    report = verify(tmp_path / "in.zip", tmp_path / "out.zip")
    assert report.to_json()["counts"] == {"protected": 4, "copied": 0, "absent": 0, "mismatch": 0}
    assert "größe.jpg" in {file.path for file in report.files}


def test_second_readers_open_what_is_there(tmp_path: Path) -> None:
    for name in (LATIN_1, "a\nb", "x" * 250):
        path = mr_slice(tmp_path / name / f"{name}.dcm", 1)
        assert read_with_simpleitk(path) is not None
        assert dcmtk_finds_within(path, path, 0) in (True, None)
        absent = tmp_path / name / f"{name}2.dcm"
        assert read_with_simpleitk(absent) is None
        assert dcmtk_finds_within(path, absent, 0) is None


def test_second_reader_finds_the_header_beside_values(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(block(1)[0]), str(tmp_path / "a.img"))
    for suffix in (".img", ".hdr"):
        (tmp_path / f"a{suffix}").rename(tmp_path / f"{LATIN_1}{suffix}")
    (tmp_path / f"{LATIN_1}x.hdr").write_bytes(b"another")
    found = read_with_simpleitk(tmp_path / f"{LATIN_1}.img")
    assert found is not None
    np.testing.assert_array_equal(found, block(1)[0].T)


def test_second_reader_copies_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError("no links here")

    path = mr_slice(tmp_path / f"{LATIN_1}.dcm", 1)
    monkeypatch.setattr(Path, "symlink_to", no_link)
    assert read_with_simpleitk(path) is not None


def test_temporary_name_is_short_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / ("\u65e5" * 85)
    with atomic_target(target) as temporary:
        assert len(temporary.name) < 40
        temporary.write_bytes(b"1")
    assert tree(tmp_path) == {target.name: b"1"}
    with (
        pytest.raises(
            RefusedError, match=r"cannot be written under this name \(File name too long; its name has 256 bytes"
        ),
        atomic_target(tmp_path / ("a" * 256)),
    ):
        pass
    assert tree(tmp_path) == {target.name: b"1"}
