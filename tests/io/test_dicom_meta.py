# SPDX-License-Identifier: Apache-2.0
"""File meta information and elements that contradict each other or the dataset: kept where readers agree, refused where
they do not.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import warnings
from pathlib import Path

import pydicom
import pytest

from monai_salm.errors import RefusedError, VerificationError
from monai_salm.io import Derivation, ImageHeader, dicom, identify, read_back, read_source, write_like
from monai_salm.io.dicom.comparing import compare_headers
from monai_salm.io.dicom.cutting import read_file
from monai_salm.io.dicom.uids import derived_uid
from tests.io.builders import (
    CT,
    JPEG_BASELINE,
    SOP_UID,
    dicom_dataset,
    reference,
    values_in,
    write_compressed,
    write_dicom,
)

EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
SECRET = b"secret"
START = 132
HEAD = 12
"""Bytes of FileMetaInformationGroupLength."""


def element(group: int, number: int, vr: str, value: bytes) -> bytes:
    value += bytes(len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr.encode(), len(value)) + value


def uid(number: int, value: str) -> bytes:
    return element(2, number, "UI", value.encode())


MODALITY = element(8, 0x60, "CS", b"CT")


def parts(path: Path, transfer_syntax: str = EXPLICIT) -> tuple[bytes, bytes, bytes]:
    """Give preamble and prefix, the meta group without its length, and the dataset of a small CT slice."""
    write_dicom(
        path,
        dicom_dataset(signed=True, bits_stored=16),
        values_in(-900, 1000, (6, 8), "i2"),
        transfer_syntax=transfer_syntax,
    )
    content = path.read_bytes()
    (length,) = struct.unpack("<I", content[START + 8 : START + HEAD])
    end = START + HEAD + length
    return content[:START], content[START + HEAD : end], content[end:]


def put(path: Path, meta: bytes, dataset: bytes, length: int | None, preamble: bytes) -> Path:
    path.write_bytes(
        preamble + (element(2, 0, "UL", struct.pack("<I", length)) if length is not None else b"") + meta + dataset
    )
    return path


def changed(path: Path, target: Path, **options: str) -> Path:
    """Write a file with other values, as a run does."""
    source = read_source(path)
    values = source.stored.copy()
    values[2:4, 2:4] += 3
    secret = None if options.pop("uids", "new") == "keep" else SECRET
    derivation = Derivation(software="s", version="1", description="d", uid_secret=secret, **options)  # type: ignore[arg-type]
    write_like(source, values, target, derivation)
    assert (read_back(source, target).stored == values).all()
    return target


def disallowed(original: Path, other: Path) -> list[str]:
    return [change.name for change in compare_headers(original, other) if not change.allowed]


def pydicom_reads(path: Path) -> tuple[dict[int, object], list[int]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path)
        assert dataset.pixel_array.shape == (6, 8)
        return {int(item.tag): item.value for item in dataset.file_meta}, [
            int(item.tag) for item in dataset if item.tag.element
        ]


def dcmtk_reads(path: Path, *tags: str) -> list[str]:
    """Give the values that dcmdump shows of some elements, in the order of the file."""
    command = ["dcmdump", "-q", *(part for tag in tags for part in ("+P", tag)), str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [re.split(r" +#", line)[0] for line in lines]


REPEATED = {
    "transfer syntax": uid(0x10, EXPLICIT),
    "own UID": uid(3, SOP_UID),
    "another UID": uid(3, "1.2.3.4"),
    "writer": uid(0x12, "1.2.3") + element(2, 0x13, "SH", b"OTHER "),
    "source": element(2, 0x16, "AE", b"STATION "),
    "whole": b"whole",
    "whole with length": b"length",
}


@pytest.mark.parametrize("kind", REPEATED)
def test_meta_group_a_second_time_stays_where_it_is(kind: str, tmp_path: Path) -> None:
    preamble, meta, dataset = parts(tmp_path / "plain")
    repeated = {"whole": meta, "whole with length": element(2, 0, "UL", struct.pack("<I", len(meta))) + meta}.get(
        kind, REPEATED[kind]
    )
    source = put(tmp_path / "in", meta, repeated + dataset, len(meta), preamble)
    assert isinstance(identify(source), ImageHeader)
    kept = changed(source, tmp_path / "kept", uids="keep", provenance="none", image_type="keep")
    assert kept.read_bytes().startswith(source.read_bytes()[: START + HEAD + len(meta) + len(repeated)]), (
        "nothing before the dataset is touched"
    )
    target = changed(source, tmp_path / "out")
    assert disallowed(source, target) == []
    file = read_file(target)
    (length,) = struct.unpack("<I", bytes(file.meta[0].value))
    assert length == sum(len(item.raw) for item in file.meta[1:]), "the length is that of the first group alone"
    second = b"".join(bytes(item.raw) for item in file.elements if item.tag >> 16 == 2)
    expected = repeated.replace(uid(3, SOP_UID), uid(3, derived_uid(SECRET, SOP_UID)))
    assert second == (expected[HEAD:] if kind == "whole with length" else expected), (
        "group lengths of a group that grew are removed"
    )
    before, after = pydicom_reads(source), pydicom_reads(target)
    assert before[0].keys() - {0x00020000} <= after[0].keys()
    assert set(before[1]) <= set(after[1])
    assert after[0][0x00020003] == ("1.2.3.4" if kind == "another UID" else derived_uid(SECRET, SOP_UID))
    if shutil.which("dcmdump"):
        old, new = dcmtk_reads(source, "0002,0010", "0002,0016"), dcmtk_reads(target, "0002,0010", "0002,0016")
        assert old == new


@pytest.mark.parametrize("syntax", [IMPLICIT, "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.2", ""])
def test_second_transfer_syntax_that_differs_is_refused(syntax: str, tmp_path: Path) -> None:
    preamble, meta, dataset = parts(tmp_path / "plain")
    source = put(tmp_path / "in", meta, uid(0x10, syntax) + dataset, len(meta), preamble)
    with pytest.raises(RefusedError, match="TransferSyntaxUID is there more than once"):
        identify(source)
    put(tmp_path / "in", meta + uid(0x10, syntax), dataset, len(meta) + 8 + len(syntax) + len(syntax) % 2, preamble)
    with pytest.raises(
        RefusedError, match=r"TransferSyntaxUID \(0002,0010\) is there more than once with different values"
    ):
        identify(source)


@pytest.mark.parametrize("syntax", [IMPLICIT, DEFLATED])
def test_meta_group_goes_on_in_a_dataset_of_another_encoding(syntax: str, tmp_path: Path) -> None:
    preamble, meta, dataset = parts(tmp_path / "plain", syntax)
    source = put(tmp_path / "in", meta, element(2, 0x16, "AE", b"STATION ") + dataset, len(meta), preamble)
    with pytest.raises(RefusedError, match="is behind the end of the file meta information"):
        identify(source)


def test_second_transfer_syntax_of_a_lossy_file_is_refused(tmp_path: Path) -> None:
    """It is written native, and the second one would say something else."""
    pytest.importorskip("imagecodecs")
    write_compressed(
        tmp_path / "in", dicom_dataset(bits_allocated=8, bits_stored=8), values_in(0, 255, (6, 8), "u1"), JPEG_BASELINE
    )
    content = (tmp_path / "in").read_bytes()
    (length,) = struct.unpack("<I", content[START + 8 : START + HEAD])
    end = START + HEAD + length
    (tmp_path / "in").write_bytes(content[:end] + uid(0x10, JPEG_BASELINE) + content[end:])
    with pytest.raises(RefusedError, match="is there a second time and would contradict it"):
        identify(tmp_path / "in")


@pytest.mark.parametrize("wrong", [None, 0, -8, -2, 8, 30, 1000, 1 << 31], ids=str)
def test_wrong_length_of_the_meta_group_is_corrected(wrong: int | None, tmp_path: Path) -> None:
    """As pydicom and GDCM, which take no notice of it."""
    preamble, meta, dataset = parts(tmp_path / "plain")
    length = None if wrong is None else len(meta) + wrong if wrong else 0
    source = put(tmp_path / "in", meta, dataset, length, preamble)
    header = identify(source)
    assert isinstance(header, ImageHeader)
    assert any("FileMetaInformationGroupLength is wrong" in note for note in header.notes) == (wrong is not None)
    target = changed(source, tmp_path / "out")
    assert disallowed(source, target) == []
    file = read_file(target)
    first = struct.unpack("<I", bytes(file.meta[0].value))[0] if wrong is not None else None
    assert first == (None if wrong is None else sum(len(item.raw) for item in file.meta[1:]))
    assert set(pydicom_reads(source)[1]) <= set(pydicom_reads(target)[1])
    if shutil.which("dcmdump"):
        assert dcmtk_reads(target, "0008,0060") == dcmtk_reads(tmp_path / "plain", "0008,0060")


def test_short_length_that_ends_between_elements_counts(tmp_path: Path) -> None:
    preamble, meta, dataset = parts(tmp_path / "plain")
    last = element(2, 0x16, "AE", b"STATION ")
    source = put(tmp_path / "in", meta + last, dataset, len(meta), preamble)
    target = changed(source, tmp_path / "out")
    assert bytes(read_file(target).elements[0].raw) == last
    assert disallowed(source, target) == []


@pytest.mark.parametrize("padding", [b"", b" ", b"\0\0"], ids=["none", "space", "zeros"])
def test_padding_of_uids_makes_no_difference(padding: bytes, tmp_path: Path) -> None:
    preamble, meta, dataset = parts(tmp_path / "plain")
    at = meta.index(struct.pack("<HH", 2, 2))
    (size,) = struct.unpack("<H", meta[at + 6 : at + 8])
    value = CT.encode() + padding
    value = value + b" " * (len(value) % 2)
    changed_meta = meta[:at] + element(2, 2, "UI", value) + meta[at + 8 + size :]
    source = put(tmp_path / "in", changed_meta, dataset, len(changed_meta), preamble)
    target = changed(source, tmp_path / "out")
    assert disallowed(source, target) == []
    assert element(2, 2, "UI", value) in target.read_bytes(), "byte for byte"


def test_instance_that_the_meta_group_names_otherwise(tmp_path: Path) -> None:
    """All readers go by the dataset: nothing is refused, nothing repaired in silence."""
    preamble, meta, dataset = parts(tmp_path / "plain")
    other = meta.replace(uid(3, SOP_UID), uid(3, "1.2.3.4"))
    source = put(tmp_path / "in", other, dataset, len(other), preamble)
    header = identify(source)
    assert isinstance(header, ImageHeader)
    assert any("names another instance than the dataset" in note for note in header.notes)
    kept = changed(source, tmp_path / "kept", uids="keep", provenance="none")
    assert uid(3, "1.2.3.4") in kept.read_bytes()[: START + HEAD + len(other)]
    assert disallowed(source, kept) == []
    target = changed(source, tmp_path / "out")
    assert pydicom.dcmread(target).file_meta.MediaStorageSOPInstanceUID == derived_uid(SECRET, SOP_UID)
    assert disallowed(source, target) == []


@pytest.mark.parametrize("behind", [False, True], ids=["first", "second"])
def test_class_that_the_meta_group_names_otherwise_is_refused(behind: bool, tmp_path: Path) -> None:
    """GDCM goes by the file meta information, others by the dataset."""
    preamble, meta, dataset = parts(tmp_path / "plain")
    other = uid(2, "1.2.840.10008.5.1.4.1.1.4")
    first = meta if behind else meta.replace(uid(2, CT), other)
    source = put(tmp_path / "in", first, (other if behind else b"") + dataset, len(first), preamble)
    with pytest.raises(RefusedError, match=r"says MR Image Storage .* the dataset CT Image Storage"):
        identify(source)


@pytest.mark.parametrize("where", ["meta", "dataset", "pixels"])
def test_elements_twice_with_the_same_bytes_stay(where: str, tmp_path: Path) -> None:
    preamble, meta, dataset = parts(tmp_path / "plain")
    pixels = dataset[dataset.index(struct.pack("<HH", 0x7FE0, 0x0010)) :]
    twice = {"meta": uid(0x10, EXPLICIT), "dataset": MODALITY, "pixels": pixels}[where]
    meta, dataset = (content.replace(twice, 2 * twice) for content in (meta, dataset))
    source = put(tmp_path / "in", meta, dataset, len(meta), preamble)
    target = changed(source, tmp_path / "out")
    assert disallowed(source, target) == []
    content = target.read_bytes()
    assert content.count(twice) == (0 if where == "pixels" else 2)
    assert len(list(re.finditer(re.escape(twice[:8]), content))) == 2
    assert pydicom_reads(target)[1]
    # Both are compared.
    assert (
        disallowed(
            source,
            put(tmp_path / "less", meta.replace(2 * twice, twice), dataset.replace(2 * twice, twice), None, preamble),
        )
        != []
    )


def _nested(tmp_path: Path, *, same: bool, depth: int) -> Path:
    dataset = dicom_dataset(signed=True, bits_stored=16)
    dataset.SourceImageSequence = reference("1.2.3.4")
    if depth == 2:
        dataset.ReferencedImageSequence = reference("1.2.3.4")
        dataset.ReferencedImageSequence[0].PurposeOfReferenceCodeSequence = dataset.SourceImageSequence
        del dataset.SourceImageSequence
    dataset.SourceImageSequence = reference("1.2.3.4")
    path = write_dicom(tmp_path / "nested", dataset, values_in(-900, 1000, (6, 8), "i2"))
    content = path.read_bytes()
    old = element(8, 0x1155, "UI", b"1.2.3.4")
    at = content.index(old)
    twice = old + (old if same else element(8, 0x1155, "UI", b"1.2.3.5"))
    grown = bytearray(content[:at] + twice + content[at + len(old) :])
    for place in _lengths_around(content, at):
        (length,) = struct.unpack_from("<I", grown, place)
        if length != 0xFFFFFFFF:
            struct.pack_into("<I", grown, place, length + len(old))
    path.write_bytes(grown)
    return path


def _lengths_around(content: bytes, at: int) -> list[int]:
    """Give the places of the lengths of the items and sequences that hold a place."""
    item = struct.pack("<HH", 0xFFFE, 0xE000)
    found = [
        start
        for start in range(at)
        if content[start : start + 4] == item or content[start + 4 : start + 8] == b"SQ\0\0"
    ]
    lengths = [start + (8 if content[start + 4 : start + 6] == b"SQ" else 4) for start in found]
    return [place for place in lengths if place + 4 + struct.unpack_from("<I", content, place)[0] > at]


@pytest.mark.parametrize("depth", [1, 2])
def test_elements_of_items_twice(depth: int, tmp_path: Path) -> None:
    source = _nested(tmp_path, same=True, depth=depth)
    assert disallowed(source, changed(source, tmp_path / "out")) == []
    with pytest.raises(
        RefusedError,
        match=r"\[0\]\.ReferencedSOPInstanceUID \(0008,1155\) is there more than once with different values",
    ):
        identify(_nested(tmp_path, same=False, depth=depth))


def test_comparison_of_meta_groups_is_strict(tmp_path: Path) -> None:
    source = write_dicom(
        tmp_path / "in", dicom_dataset(signed=True, bits_stored=16), values_in(-900, 1000, (6, 8), "i2")
    )
    target = changed(source, tmp_path / "out")
    content = target.read_bytes()
    assert disallowed(source, target) == []

    def names(old: bytes, new: bytes) -> list[str]:
        assert content.count(old) == 1
        (tmp_path / "other").write_bytes(content.replace(old, new))
        return disallowed(source, tmp_path / "other")

    length = content[START : START + HEAD]
    right = struct.unpack("<I", length[8:])[0]
    assert names(length, length[:8] + struct.pack("<I", right + 2)) == ["FileMetaInformationGroupLength"]
    with pytest.raises(RefusedError, match="the file meta information says"):
        names(uid(2, CT), uid(2, CT.replace("1.2.840", "1.2.841")))
    version = element(2, 0x13, "SH", b"MONAI_SALM")
    assert names(version, version.replace(b"MONAI", b"monai")) == ["ImplementationVersionName"]
    new = uid(3, derived_uid(SECRET, SOP_UID))
    assert "MediaStorageSOPInstanceUID" in names(
        content[START : START + HEAD + right], content[START : START + HEAD + right].replace(new, new[:-2] + b"1\0")
    )


def test_written_meta_group_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a writer gets wrong in it is a failure, though the values are right."""
    source = write_dicom(
        tmp_path / "in", dicom_dataset(signed=True, bits_stored=16), values_in(-900, 1000, (6, 8), "i2")
    )
    real = dicom.writing.file_parts  # type: ignore[attr-defined]
    version = element(2, 0x13, "SH", b"MONAI_SALM")
    wrong = version.replace(b"MONAI", b"monai")
    monkeypatch.setattr(
        dicom.writing,
        "file_parts",
        lambda *args, **kwargs: [bytes(part).replace(version, wrong) for part in real(*args, **kwargs)],
    )  # type: ignore[attr-defined]
    with pytest.raises(VerificationError, match="ImplementationVersionName of the written file is SH monai_SALM"):
        changed(source, tmp_path / "out")


@pytest.mark.parametrize("group", [0x0008, 0x0010])
def test_group_lengths_go_where_the_size_changed_alone(group: int, tmp_path: Path) -> None:
    """As the list of changes in the documentation says."""
    preamble, meta, dataset = parts(tmp_path / "plain")
    at = (
        dataset.index(struct.pack("<H", group))
        if group == 0x0008
        else dataset.index(struct.pack("<HH", 0x0010, 0x0010))
    )
    length = element(group, 0, "UL", struct.pack("<I", 7))
    source = put(tmp_path / "in", meta, dataset[:at] + length + dataset[at:], len(meta), preamble)
    target = changed(source, tmp_path / "out")
    assert (length in target.read_bytes()) == (group == 0x0010)
    assert disallowed(source, target) == []
