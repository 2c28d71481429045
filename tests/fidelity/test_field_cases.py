# SPDX-License-Identifier: Apache-2.0
"""Conditions from public bug reports: DICOM files that contradict themselves, file-sets, archives, and names that
barely can be.

What is right of each is in its test; label maps and tables have files of their own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.exports import block, file_set, mr_export, mr_slice, nifti_file, tree, zip_file
from tests.fidelity import fuzz
from tests.fidelity.field_inputs import (
    LATIN_1,
    RANDOM,
    Command,
    ct_slice,
    ct_values,
    element,
    fates_of,
    itk_file,
    meta_elements,
    meta_end,
    volume_file,
)
from tests.io.builders import CT, RLE, SOP_UID, gzip_bytes, nifti_bytes

JPEG_LOSSLESS, IMPLICIT, EXPLICIT = (b"1.2.840.10008.1.2.4.70", b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1")


# Advice that helps ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "window", [(), ("--window=-1024,-770",), ("--window", "lung")], ids=["auto", "of its values", "lung"]
)
def test_where_there_is_no_anatomy_no_window_is_advised(
    command: Command, tmp_path: Path, window: tuple[str, ...]
) -> None:
    for number in range(4):
        air = np.random.default_rng(number).integers(0, 255, (24, 24))
        ct_slice(tmp_path / "in" / f"{number}.dcm", number, air, SeriesInstanceUID=SOP_UID, StudyInstanceUID=SOP_UID)
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM, *window)
    reasons = {fate.reason for fate in fates_of(tmp_path / "out").values() if fate.status == "refused"}
    assert (told.code, len(fates_of(tmp_path / "out")), tree(tmp_path / "out")) == (1, 4, {})
    assert all(
        "no anatomy" in reason and not re.search("(give|or) (another|a wider) --window", reason) for reason in reasons
    ), reasons


def test_where_another_window_helps_it_is_advised(command: Command, tmp_path: Path) -> None:
    bone = np.where(ct_values(1) > 0, ct_values(1) + 600, 0)
    ct_slice(tmp_path / "in" / "bone.dcm", 1, bone)
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM)
    assert told.code == 1
    assert "--window" in told.text
    assert command("protect", tmp_path / "in", tmp_path / "bone", *RANDOM, "--window", "bone").code == 0


@pytest.mark.parametrize(
    "garbage",
    [b"\x09\0\x0c\0\x0d\0\x0b\0\x09\0", b"ISO_IR 100\\\0\0\0", b"\xff\xfe\xfd\xfc"],
    ids=["numbers", "value of zeros", "no text"],
)
def test_garbage_in_the_character_set_is_named(command: Command, tmp_path: Path, garbage: bytes) -> None:
    content = ct_slice(tmp_path / "in" / "a.dcm", 1).read_bytes()
    start = meta_end(content)
    (tmp_path / "in" / "a.dcm").write_bytes(content[:start] + element(8, 5, "CS", garbage) + content[start:])
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM)
    (fate,) = fates_of(tmp_path / "out").values()
    if fate.status == "protected":
        assert command("verify", tmp_path / "in", tmp_path / "out", "--quiet").code == 0
        assert element(8, 5, "CS", garbage) in (tmp_path / "out" / "a.dcm").read_bytes()
    else:
        assert (told.code, fate.status) == (1, "refused")
        assert "SpecificCharacterSet" in fate.reason


def test_one_object_in_two_encodings_is_no_other_picture(command: Command, tmp_path: Path) -> None:
    source = pydicom.dcmread(ct_slice(tmp_path / "in" / "a.dcm", 1))
    source.compress(RLE, generate_instance_uid=False)
    source.save_as(tmp_path / "in" / "b_rle.dcm")
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM)
    first, second = fates_of(tmp_path / "out").values()
    assert first.status == "protected"
    if second.status == "protected":
        written = [pydicom.dcmread(tmp_path / "out" / name).pixel_array for name in ("a.dcm", "b_rle.dcm")]
        np.testing.assert_array_equal(*written)
    else:
        assert (told.code, second.status) == (3, "refused")
        assert "another encoding" in second.reason
        assert "another image" not in second.reason
        assert "UID of its own" not in second.reason


def test_another_picture_of_the_same_uid_still_is_one(command: Command, tmp_path: Path) -> None:
    ct_slice(tmp_path / "in" / "a.dcm", 1)
    ct_slice(tmp_path / "in" / "b.dcm", 1, ct_values(2))
    assert command("protect", tmp_path / "in", tmp_path / "out", *RANDOM).code == 3
    assert "another image" in fates_of(tmp_path / "out")["b.dcm"].reason


@pytest.mark.parametrize("modality", ["ct", "Ct", " ct", "XX", "OT"])
def test_modality_that_is_not_quite_ct_gets_no_larger_budget(command: Command, tmp_path: Path, modality: str) -> None:
    values = ct_values(1) + np.where(ct_values(1) > 0, np.linspace(-900, 600, 24), 0).astype(
        np.int16
    )  # from lung to bone
    ct_slice(tmp_path / "in" / "a.dcm", 1, values)
    source = pydicom.dcmread(ct_slice(tmp_path / "in" / "b.dcm", 2, values))
    source["Modality"]._value = modality
    source.save_as(tmp_path / "in" / "b.dcm")
    command("protect", tmp_path / "in", tmp_path / "out", *RANDOM)
    fates = fates_of(tmp_path / "out")
    assert fates["b.dcm"].status in ("protected", "refused")
    if fates["b.dcm"].status == "protected":
        assert fates["b.dcm"].epsilon_real <= fates["a.dcm"].epsilon_real


@pytest.mark.parametrize("inside", [False, True], ids=["the input", "in a folder"])
def test_zip_that_was_cut_is_called_damaged(command: Command, tmp_path: Path, inside: bool) -> None:
    mr_export(tmp_path / "whole", 2)
    content = zip_file(tmp_path / "whole.zip", tmp_path / "whole").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "half.zip").write_bytes(content[: len(content) * 2 // 3])
    mr_slice(tmp_path / "in" / "a.dcm", 7)
    source, output = (
        (tmp_path / "in", tmp_path / "out") if inside else (tmp_path / "in" / "half.zip", tmp_path / "out.zip")
    )
    told = command("protect", source, output, *RANDOM)
    assert told.code == 3 if inside else told.code in (1, 2)
    assert re.search("damaged|cut|truncated|complete copy", told.words(tmp_path)), told.text
    assert "not opened; unpack it first" not in told.text
    assert "half.zip" not in tree(tmp_path / "out")


# Contradictions outside the dataset ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("again", "refused"),
    [
        ([(0x10, EXPLICIT)], False),
        ([(0x10, JPEG_LOSSLESS)], True),
        ([(0x10, IMPLICIT)], True),
        ([(3, b"1.2.3.4")], False),
        ([(2, CT.encode()), (0x10, EXPLICIT), (0x12, b"1.2.3")], False),
    ],
    ids=["same syntax", "JPEG", "implicit", "second instance UID", "whole group"],
)
def test_meta_information_a_second_time(
    command: Command, tmp_path: Path, again: list[tuple[int, bytes]], refused: bool
) -> None:
    content = ct_slice(tmp_path / "in" / "a.dcm", 1).read_bytes()
    more, start = b"".join(element(2, number, "UI", value) for number, value in again), meta_end(content)
    (tmp_path / "in" / "a.dcm").write_bytes(content[:start] + more + content[start:])
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM)
    (fate,) = fates_of(tmp_path / "out").values()
    if fate.status == "protected":
        assert not refused
        written = (tmp_path / "out" / "a.dcm").read_bytes()
        assert meta_elements(written) == meta_elements(content)
        assert written[meta_end(written) :].startswith(more)
        assert command("verify", tmp_path / "in", tmp_path / "out", "--quiet").code == 0
    else:
        assert (told.code, fate.status, tree(tmp_path / "out")) == (1, "refused", {})


# File-sets -----------------------------------------------------------------------------------------------------------
def _disc(folder: Path, rename: Any) -> dict[str, str]:
    """Write a file-set of three images whose files bear other names than its records; gives the SOP Instance UID of
    each file.
    """
    warnings.simplefilter("ignore")  # of pydicom's own writer, within the test
    file_set(
        folder / "in", [mr_slice(folder / "made" / f"{number}.dcm", number, SeriesNumber=1) for number in range(3)]
    )
    for path in sorted(path for path in (folder / "in").rglob("*") if path.is_file() and path.name != "DICOMDIR"):
        target = folder / "in" / rename(path.relative_to(folder / "in").as_posix())
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return {
        path: pydicom.dcmread(folder / "in" / path).SOPInstanceUID
        for path in tree(folder / "in")
        if "DICOMDIR" not in path.upper()
    }


def _records(path: Path) -> list[str]:
    """Give the SOP Instance UIDs that a DICOMDIR lists and has in use."""
    records = pydicom.dcmread(path).DirectoryRecordSequence
    return sorted(
        record.ReferencedSOPInstanceUIDInFile
        for record in records
        if "ReferencedFileID" in record and record.RecordInUseFlag != 0
    )


_RENAMED = {
    "suffix": lambda name: f"{name}.dcm",
    "capital suffix": lambda name: f"{name}.DCM",
    "small letters": lambda name: name.lower(),
    "small letters and suffix": lambda name: f"{name.lower()}.dcm",
    "version of ISO 9660": lambda name: f"{name};1",
    "dot of ISO 9660": lambda name: f"{name}.",
}


@pytest.mark.slow
@pytest.mark.parametrize("names", _RENAMED)
@pytest.mark.parametrize("alone", [False, True], ids=["folder", "DICOMDIR"])
def test_records_follow_files_of_other_names(command: Command, tmp_path: Path, names: str, alone: bool) -> None:
    before = _disc(tmp_path, _RENAMED[names])
    told = command("protect", tmp_path / "in" / "DICOMDIR" if alone else tmp_path / "in", tmp_path / "out", *RANDOM)
    fates = fates_of(tmp_path / "out")
    if "ISO 9660" in names and (fates["DICOMDIR"].status == "refused" or fates["DICOMDIR"].left_out):
        assert told.code in (1, 3)
        return
    assert {path: fate.status for path, fate in fates.items()} == dict.fromkeys(before, "protected") | {
        "DICOMDIR": "copied"
    }, told.text
    assert told.code == 0
    after = sorted(pydicom.dcmread(tmp_path / "out" / path).SOPInstanceUID for path in before)
    assert not set(after) & set(before.values())
    assert _records(tmp_path / "out" / "DICOMDIR") == after
    assert command("verify", tmp_path / "in", tmp_path / "out", "--quiet").code == 0


@pytest.mark.slow
def test_removed_records_are_told(command: Command, tmp_path: Path) -> None:
    """A file that is absent, or refused, cannot stay listed, and who gets the file-set is told so."""
    before = _disc(tmp_path, lambda name: name)
    (tmp_path / "in" / min(before)).unlink()
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM)
    fate = fates_of(tmp_path / "out")["DICOMDIR"]
    assert told.code == 3, told.text
    assert fate.status == "refused" or fate.left_out
    assert "DICOMDIR" in told.out
    if fate.status == "copied":
        assert len(_records(tmp_path / "out" / "DICOMDIR")) == 2
        assert command("verify", tmp_path / "in", tmp_path / "out", "--quiet").code == 0


# Two headers of one data file ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("skip", ["", "byte skip: -1\n"], ids=["no skip", "skip"])
def test_nrrd_header_of_a_nifti_file(command: Command, tmp_path: Path, skip: str) -> None:
    nifti_file(tmp_path / "in" / "img.nii.gz", block(1)[0])
    head = (
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 16 16 12\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace: "
        "left-posterior-superior\n"
    )
    (tmp_path / "in" / "img.nhdr").write_text(
        f"{head}endian: little\nencoding: gzip\n{skip}data file: img.nii.gz\n", encoding="ascii"
    )
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM)
    statuses = {path: fate.status for path, fate in fates_of(tmp_path / "out").items()}
    assert told.code == (3 if "refused" in statuses.values() else 0)
    assert command("verify", tmp_path / "in", tmp_path / "out", "--quiet").code == 0, statuses


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_affine_of_nan_is_quiet(command: Command, tmp_path: Path, suffix: str) -> None:
    content = bytearray(nifti_bytes(block(1)[0]))
    content[280:328] = np.full(12, np.nan, "<f4").tobytes()
    content[254:256] = b"\1\0"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a{suffix}").write_bytes(gzip_bytes(bytes(content)) if suffix == ".nii.gz" else bytes(content))
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM)
    assert (told.code in (0, 1), told.err) == (True, "")
    if told.code == 0:
        checked = command("verify", tmp_path / "in", tmp_path / "out", "--quiet")
        assert (checked.code, checked.err) == (0, "")


# Names are bytes -----------------------------------------------------------------------------------------------------
def _raster(path: Path, values: Any) -> Path:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.clip(values // 3, 0, 255).astype(np.uint8)).save(path.with_name("plain" + path.suffix))
    return path.with_name("plain" + path.suffix).rename(path)


_WRITERS: dict[str, Any] = {
    ".dcm": lambda path: mr_slice(path, 1),
    ".nii": lambda path: volume_file(path, block(1)[0]),
    ".nii.gz": lambda path: volume_file(path, block(1)[0]),
    ".nrrd": lambda path: itk_file(path.with_name("plain.nrrd"), block(1)[0]).rename(path),
    ".mha": lambda path: itk_file(path.with_name("plain.mha"), block(1)[0]).rename(path),
    ".png": lambda path: _raster(path, block(1)[0][..., 6]),
    ".jpg": lambda path: _raster(path, block(1)[0][..., 6]),
    ".tif": lambda path: _raster(path, block(1)[0][..., 6]),
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fuzz.Worker]:
    started = fuzz.Worker(tmp_path_factory.mktemp("worker"))
    yield started
    started.stop()


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize("suffix", _WRITERS)
def test_names_that_are_no_utf_8(worker: fuzz.Worker, tmp_path: Path, suffix: str, folder: bool) -> None:
    """In a process of its own, for what a library in C++ throws cannot be caught."""
    (tmp_path / "in").mkdir()
    made = _WRITERS[suffix](tmp_path / "in" / f"plain{suffix}")
    odd = os.fsdecode(LATIN_1)
    if folder:
        (tmp_path / "in" / odd).mkdir()
        made.rename(tmp_path / "in" / odd / made.name)
    else:
        made.rename(made.with_name(odd + suffix))
    outcome = worker.check(tmp_path / "in")
    assert (outcome.kind, outcome.detail) == ("protected", "")


@pytest.mark.slow
def test_names_that_are_no_utf_8_can_be_printed(tmp_path: Path) -> None:
    odd = os.fsdecode(LATIN_1)
    mr_slice(tmp_path / "in" / odd / "a.dcm", 1)
    (tmp_path / "in" / f"{odd}.bin").write_bytes(b"\0x")
    script = (
        "import sys\nfrom monai_salm import cli\nsource, output = sys.argv[1:]\n"
        f"for words in (['protect', source, output, *{RANDOM}], ['verify', source, output], ['verify', source, "
        "output, '--json'], ['scan', source]):\n"
        "    try:\n        cli.main(words)\n    except SystemExit as stop:\n        print('exit', stop.code, "
        "flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "in", tmp_path / "out"],
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(rb"^exit (\d)", done.stdout, re.MULTILINE) == [b"3", b"0", b"0", b"0"], done.stdout
    assert b"unexpected" not in done.stderr
    assert b"Unicode" not in done.stderr


@pytest.mark.parametrize(("suffix", "length"), [(".dcm", 244), *((suffix, 255) for suffix in _WRITERS)])
def test_names_that_barely_fit(command: Command, tmp_path: Path, suffix: str, length: int) -> None:
    (tmp_path / "in").mkdir()
    name = "a" * (length - len(suffix)) + suffix
    _WRITERS[suffix](tmp_path / "in" / name)
    told = command("protect", tmp_path / "in", tmp_path / "out", *RANDOM)
    assert told.code == 0, told.text
    assert list(tree(tmp_path / "out")) == [f"{name[: -len(suffix)]}.png" if suffix == ".jpg" else name]
    assert command("verify", tmp_path / "in", tmp_path / "out", "--quiet").code == 0


def test_names_that_barely_fit_in_a_zip(command: Command, tmp_path: Path) -> None:
    name = "b" * 251 + ".dcm"
    mr_slice(tmp_path / "in" / name, 1)
    (tmp_path / "in" / ("c" * 251 + ".txt")).write_text("hello", encoding="ascii")
    zip_file(tmp_path / "in.zip", tmp_path / "in")
    told = command("protect", tmp_path / "in.zip", tmp_path / "out.zip", *RANDOM)
    assert told.code == 0, told.text
    assert {fate.status for fate in fates_of(tmp_path / "out.zip").values()} == {"protected", "copied"}
    assert command("verify", tmp_path / "in.zip", tmp_path / "out.zip", "--quiet").code == 0


def test_nested_character_set_stays(command: Command, tmp_path: Path) -> None:
    item = Dataset()
    item.SpecificCharacterSet, item.PatientName = "ISO_IR 192", "Grün^Änne"
    ct_slice(tmp_path / "in" / "a.dcm", 1, OtherPatientIDsSequence=Sequence([item]))
    assert command("protect", tmp_path / "in", tmp_path / "out", *RANDOM).code == 0
    assert str(pydicom.dcmread(tmp_path / "out" / "a.dcm").OtherPatientIDsSequence[0].PatientName) == "Grün^Änne"
