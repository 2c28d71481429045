# SPDX-License-Identifier: Apache-2.0
"""DICOMDIR: new UIDs, records of absent files taken out, and links that pydicom and our own walk over
the bytes follow.
"""

from __future__ import annotations

import gc
import shutil
import struct
import subprocess
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from monai_salm.errors import RefusedError
from monai_salm.io.base import Derivation, Document
from monai_salm.io.dicom.comparing import compare_headers
from monai_salm.io.dicom.cutting import read_file
from monai_salm.io.dicom.documents import document_of, write_document
from monai_salm.io.dicom.uids import derived_uid

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
SECRET = b"secret"
KINDS = [
    "DICOMDIR",
    "DICOMDIR-implicit",
    "DICOMDIR-bigEnd",
    "DICOMDIR-reordered",
    "DICOMDIR-nopatient",
    "DICOMDIR-empty.dcm",
]
JPEG_LOSSLESS, EXPLICIT = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1"


def derivation(
    changed: frozenset[str] = frozenset(), absent: frozenset[str] = frozenset(), syntaxes: dict[str, str] | None = None
) -> Derivation:
    return Derivation(
        software="s",
        version="1",
        description="d",
        uid_secret=SECRET,
        changed_uids=changed,
        absent_files=absent,
        transfer_syntaxes=syntaxes or {},
    )


def read(path: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path)


def document(path: Path) -> Document:
    found = document_of(path, read_file(path))
    assert found is not None
    return found


def walked(path: Path) -> list[tuple[int, str, str]]:
    """Follow the links from record to record by the places that pydicom found the records at."""
    dataset = read(path)
    records = {item.seq_item_tell: item for item in dataset.DirectoryRecordSequence}
    found = []

    def level(place: int, depth: int) -> int:
        last = 0
        while place:
            item, last = records[place], place
            file = item.get("ReferencedFileID", "")
            found.append((depth, item.DirectoryRecordType, file if isinstance(file, str) else "/".join(file)))
            level(item.OffsetOfReferencedLowerLevelDirectoryEntity, depth + 1)
            place = item.OffsetOfTheNextDirectoryRecord
        return last

    last = level(dataset.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity, 0)
    # One of the shipped files is wrong in this; what is written never is.
    assert last == dataset.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity or path.name == "DICOMDIR-nopatient"
    return found


def disallowed(original: Path, other: Path) -> list[str]:
    return [change.name for change in compare_headers(original, other) if not change.allowed]


def all_uids(path: Path) -> frozenset[str]:
    keywords = ("ReferencedSOPInstanceUIDInFile", "SeriesInstanceUID")
    return frozenset(
        str(item[keyword].value)
        for item in read(path).DirectoryRecordSequence
        for keyword in keywords
        if keyword in item
    )


@pytest.mark.parametrize("name", KINDS)
def test_nothing_to_change(name: str, tmp_path: Path) -> None:
    write_document(
        SHIPPED / name,
        tmp_path / "DICOMDIR",
        derivation(frozenset({"1.2.3"}), frozenset({"NOT/THERE"}), {"1.2.3": EXPLICIT}),
    )
    assert (tmp_path / "DICOMDIR").read_bytes() == (SHIPPED / name).read_bytes()


@pytest.mark.parametrize("name", KINDS[:-1])
def test_new_uids_and_links(name: str, tmp_path: Path) -> None:
    source, target = SHIPPED / name, tmp_path / "DICOMDIR"
    own = read(source).file_meta.MediaStorageSOPInstanceUID
    write_document(source, target, derivation(all_uids(source) | {own}))
    assert disallowed(source, target) == []
    assert walked(target) == walked(source)
    after = read(target)
    assert after.file_meta.MediaStorageSOPInstanceUID == derived_uid(SECRET, own)
    assert all_uids(target) == {derived_uid(SECRET, uid) for uid in all_uids(source)}
    for old, new in zip(read(source).DirectoryRecordSequence, after.DirectoryRecordSequence, strict=True):
        assert old.get("StudyInstanceUID") == new.get("StudyInstanceUID")
        assert old.get("ReferencedFileID") == new.get("ReferencedFileID")


def test_identity_and_files() -> None:
    found = document(SHIPPED / "DICOMDIR")
    assert found.kind == "Media Storage Directory Storage"
    assert found.identifiers == {"SOPInstanceUID": read(SHIPPED / "DICOMDIR").file_meta.MediaStorageSOPInstanceUID}
    assert all((SHIPPED / name).is_file() for name in found.files)
    assert len(found.files) == 31
    assert all_uids(SHIPPED / "DICOMDIR") <= found.references


@pytest.mark.slow
def test_pydicom_loads_every_instance(tmp_path: Path) -> None:
    """Under their new UIDs, which the instances have too."""
    for name in document(SHIPPED / "DICOMDIR").files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        dataset = read(SHIPPED / name)
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
            setattr(dataset, keyword, derived_uid(SECRET, dataset[keyword].value))
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.save_as(tmp_path / name)
    write_document(SHIPPED / "DICOMDIR", tmp_path / "DICOMDIR", derivation(all_uids(SHIPPED / "DICOMDIR")))
    loaded = _loaded(tmp_path / "DICOMDIR")
    assert len(loaded) == 31
    assert all(ours == theirs for ours, theirs in loaded)


def _loaded(path: Path) -> list[tuple[str, str]]:
    """Give the SOP Instance UID of every instance, by the DICOMDIR and by its file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = [(str(instance.SOPInstanceUID), str(instance.load().SOPInstanceUID)) for instance in FileSet(path)]
        gc.collect()  # a file-set warns when it goes, for it leaves a temporary folder
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS[:-1])
@pytest.mark.parametrize(
    "prefix", ["77654033", "77654033/CR", "98892001/CT5N", "98892003/MR700/4558", "98892003/MR1/15820", "9", "7", ""]
)
def test_records_of_absent_files_go(name: str, prefix: str, tmp_path: Path) -> None:
    """With the patients, studies and series that are left without any."""
    source, target = SHIPPED / name, tmp_path / "DICOMDIR"
    absent = frozenset(file for file in document(source).files if file.startswith(prefix))
    assert absent
    write_document(source, target, derivation(absent=absent))
    assert disallowed(source, target) == []
    assert document(target).files == document(source).files - absent
    expected = []
    for depth, kind, file in reversed(walked(source)):
        kept = file not in absent if file else bool(expected) and expected[0][0] > depth
        if kept:
            expected.insert(0, (depth, kind, file))
    assert walked(target) == expected


def test_own_uid_alone(tmp_path: Path) -> None:
    own = read(SHIPPED / "DICOMDIR").file_meta.MediaStorageSOPInstanceUID
    write_document(SHIPPED / "DICOMDIR", tmp_path / "DICOMDIR", derivation(frozenset({own})))
    assert read(tmp_path / "DICOMDIR").file_meta.MediaStorageSOPInstanceUID == derived_uid(SECRET, own)
    assert walked(tmp_path / "DICOMDIR") == walked(SHIPPED / "DICOMDIR")


def test_records_below_an_absent_file_go(tmp_path: Path) -> None:
    source, target = tmp_path / "SOURCE", tmp_path / "DICOMDIR"
    dataset = read(SHIPPED / "DICOMDIR")
    records = {item.seq_item_tell: item for item in dataset.DirectoryRecordSequence}
    upper = next(
        item for item in records.values() if item.DirectoryRecordType == "IMAGE" and item.OffsetOfTheNextDirectoryRecord
    )
    lower = records[upper.OffsetOfTheNextDirectoryRecord]
    upper.OffsetOfReferencedLowerLevelDirectoryEntity = upper.OffsetOfTheNextDirectoryRecord
    upper.OffsetOfTheNextDirectoryRecord, lower.OffsetOfTheNextDirectoryRecord = lower.OffsetOfTheNextDirectoryRecord, 0
    dataset.save_as(source)
    names = {"/".join(item.ReferencedFileID) for item in (upper, lower)}
    write_document(source, target, derivation(absent=frozenset({"/".join(upper.ReferencedFileID)})))
    assert document(target).files == document(source).files - names
    assert disallowed(source, target) == []
    assert len(walked(target)) == len(walked(source)) - 2


@pytest.mark.skipif(shutil.which("dcdirdmp") is None, reason="needs dcdirdmp of dicom3tools")
def test_other_software_reads_it(tmp_path: Path) -> None:
    absent = frozenset(file for file in document(SHIPPED / "DICOMDIR").files if file.startswith("98892003"))
    write_document(SHIPPED / "DICOMDIR", tmp_path / "DICOMDIR", derivation(all_uids(SHIPPED / "DICOMDIR"), absent))
    done = subprocess.run(
        ["dcdirdmp", str(tmp_path / "DICOMDIR")], capture_output=True, text=True, errors="replace", check=False
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0
    assert ("98892001" in text, "98892003" in text) == (True, False)
    if shutil.which("dcmdump"):
        dump = subprocess.run(["dcmdump", "-q", str(tmp_path / "DICOMDIR")], capture_output=True, check=False)
        assert (dump.returncode, dump.stderr) == (0, b"")


def test_transfer_syntax_follows(tmp_path: Path) -> None:
    source, target = tmp_path / "SOURCE", tmp_path / "DICOMDIR"
    content = (SHIPPED / "DICOMDIR").read_bytes()
    element = struct.pack("<HH2sH", 0x0004, 0x1512, b"UI", 20) + EXPLICIT.encode() + b"\0"
    at = content.index(element, 2000)
    # Of the same length, so that the places stay.
    source.write_bytes(
        content[:at]
        + element.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
        + content[at + len(element) :]
    )
    record = next(
        item
        for item in read(source).DirectoryRecordSequence
        if item.get("ReferencedTransferSyntaxUIDInFile") == "1.2.840.10008.1.2.5"
    )
    write_document(source, target, derivation(syntaxes={record.ReferencedSOPInstanceUIDInFile: EXPLICIT}))
    assert disallowed(source, target) == []
    assert {
        item.get("ReferencedTransferSyntaxUIDInFile", EXPLICIT) for item in read(target).DirectoryRecordSequence
    } == {EXPLICIT}


def test_icons_go_and_undefined_lengths_stay(tmp_path: Path) -> None:
    dataset = read(SHIPPED / "DICOMDIR")
    icon = Dataset()
    icon.Rows = icon.Columns = 1
    icon.add_new(0x7FE00010, "OB", b"\1\0")
    for item in dataset.DirectoryRecordSequence:
        item.is_undefined_length_sequence_item = True
    dataset["DirectoryRecordSequence"].is_undefined_length = True
    dataset.DirectoryRecordSequence[3].IconImageSequence = [icon]
    source, target = tmp_path / "SOURCE", tmp_path / "DICOMDIR"
    dataset.save_as(source)
    _with_right_places(source)
    assert walked(source) == walked(SHIPPED / "DICOMDIR")
    assert document(source).notes == ("IconImageSequence, a small copy of the pixels, is removed",)
    write_document(source, target, derivation())
    assert disallowed(source, target) == []
    assert walked(target) == walked(source)
    after = read(target)
    assert after["DirectoryRecordSequence"].is_undefined_length
    assert all("IconImageSequence" not in item for item in after.DirectoryRecordSequence)


def _with_right_places(path: Path) -> None:
    """Set the links anew from those of the shipped file, whose records are the same."""
    old = [item.seq_item_tell for item in read(SHIPPED / "DICOMDIR").DirectoryRecordSequence]
    dataset = read(path)
    new = dict(zip([0, *old], [0, *(item.seq_item_tell for item in dataset.DirectoryRecordSequence)], strict=True))
    for tag in (0x00041200, 0x00041202):
        dataset[tag].value = new[dataset[tag].value]
    for item in dataset.DirectoryRecordSequence:
        for tag in (0x00041400, 0x00041420):
            item[tag].value = new[item[tag].value]
    dataset.save_as(path)


def _patched(path: Path, tag: tuple[int, int], value: int, number: int = 0) -> Path:
    """Set the value of the number-th UL with a tag."""
    content = bytearray((SHIPPED / "DICOMDIR").read_bytes())
    head, at = struct.pack("<HH2sH", *tag, b"UL", 4), -1
    for _ in range(number + 1):
        at = content.index(head, at + 1)
    content[at + 8 : at + 12] = struct.pack("<I", value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        ((0x0004, 0x1400), 397, "is 397, where no directory record starts"),
        ((0x0004, 0x1200), 1, "is 1, where no directory record starts"),
        ((0x0004, 0x1400), 396, "round in a circle at record 0"),
        ((0x0004, 0x1420), 396, "directory record 0 is reached twice"),
    ],
)
def test_damaged_links_are_refused(tag: tuple[int, int], value: int, reason: str, tmp_path: Path) -> None:
    path = _patched(tmp_path / "DICOMDIR", tag, value)
    with pytest.raises(RefusedError, match=reason):
        document_of(path, read_file(path))


@pytest.mark.parametrize(("tag", "number"), [((0x0004, 0x1400), 0), ((0x0004, 0x1420), 1), ((0x0004, 0x1202), 0)])
def test_wrong_links_are_seen(tag: tuple[int, int], number: int, tmp_path: Path) -> None:
    path = _patched(tmp_path / "DICOMDIR", tag, 0, number)
    assert disallowed(SHIPPED / "DICOMDIR", path) == ["DirectoryRecordSequence (links)"]


def test_other_records_are_seen(tmp_path: Path) -> None:
    dataset = read(SHIPPED / "DICOMDIR")
    dataset.DirectoryRecordSequence[0].PatientID = dataset.DirectoryRecordSequence[0].PatientID[::-1]
    dataset.save_as(tmp_path / "a")
    assert disallowed(SHIPPED / "DICOMDIR", tmp_path / "a") == ["DirectoryRecordSequence[0].PatientID"]
    assert "DirectoryRecordSequence" in disallowed(SHIPPED / "DICOMDIR-empty.dcm", SHIPPED / "DICOMDIR")
