# SPDX-License-Identifier: Apache-2.0
"""Originals come back byte for byte from what was handed out, to whoever has the key, and to nobody else."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from monai_salm.cli import main
from monai_salm.errors import UsageError
from monai_salm.pipeline import protect, rekey, restore
from tests.exports import (
    KEY,
    block,
    body,
    dicom_object,
    drawn,
    file_set,
    mr_export,
    mr_labels,
    mr_series,
    mr_slice,
    nifti_export,
    nifti_file,
    small,
    tree,
    zip_file,
)
from tests.io.builders import RLE, dicom_dataset, nifti_bytes, write_compressed

OTHER_KEY = b"another key, which is long enough\n"


def _mixed(folder: Path) -> Path:
    """Make an export of all that there is: every format, pairs, copies, documents, what is compressed."""
    mr_export(folder / "mr", 2)
    mr_series(folder / "series", 3)
    shutil.copyfile(folder / "mr" / "case0" / "image.dcm", folder / "copy.dcm")
    write_compressed(folder / "rle.dcm", dicom_dataset(shape=(24, 24), bits_stored=16, extra={
        "SOPInstanceUID": "1.2.3.4"}), body(4).astype(np.uint16), RLE)  # fmt: skip
    dicom_object(folder / "report.dcm", "1.2.840.10008.5.1.4.1.1.88.11", 1, ["1.2.826.0.1.3680043.8.498.10.1"])
    file_set(folder / "disc", [mr_slice(folder.parent / "spare.dcm", 7)])
    nifti_export(folder / "nifti", 2)
    image = block(5)[0]
    nifti_file(folder / "plain.nii", image)
    (folder / "fast.nii.gz").write_bytes(gzip.compress(nifti_bytes(image + 1), 1, mtime=5))
    (folder / "many.nii.gz").write_bytes(b"".join(gzip.compress(nifti_bytes(image + 2)[at : at + 9999])
                                                  for at in range(0, 9999 * 9, 9999)))  # fmt: skip
    raw = image.tobytes(order="F")
    head = "NRRD0004\ntype: short\ndimension: 3\nsizes: 16 16 12\nendian: little\nencoding: "
    (folder / "a.nrrd").write_bytes(f"{head}raw\n\n".encode() + raw)
    (folder / "b.nrrd").write_bytes(f"{head}gzip\n\n".encode() + gzip.compress(raw, 6, mtime=1))
    (folder / "c.nhdr").write_bytes(f"{head}raw\ndata file: c.raw\n".encode())
    (folder / "c.raw").write_bytes(raw)
    (folder / "notes.txt").write_text("hello")
    return folder


def _protected(
    tmp_path: Path, make: Callable[[Path], Path] = lambda folder: mr_export(folder, 3), **options: Any
) -> Path:
    make(tmp_path / "in")
    protect(tmp_path / "in", tmp_path / "out", drawn(**{"restore": True} | options))
    return tmp_path / "out"


def _residuals(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "out.work" / "residuals").rglob("*.residual"))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_everything_comes_back(tmp_path: Path, workers: int) -> None:
    pytest.importorskip("PIL", reason="an extra is not installed")
    from PIL import Image

    _mixed(tmp_path / "in")
    for name, how in {"a.png": {}, "b.jpg": {"quality": 90}, "c.tif": {}}.items():
        Image.fromarray((body(8, 64) // 4).astype(np.uint8)).save(tmp_path / "in" / name, **how)
    done = protect(tmp_path / "in", tmp_path / "out", drawn(restore=True, workers=workers, copy_unprotected=True))
    handed_out = {path for path, fate in done.fates.items() if fate.status in ("protected", "copied")}
    assert handed_out == set(tree(tmp_path / "in"))
    assert sum(fate.status == "protected" for fate in done.fates.values()) >= 16
    before = tree(tmp_path / "out")
    result = restore(tmp_path / "out", tmp_path / "back", KEY, workers=workers)
    assert result.to_json()["counts"] == {"restored": len(handed_out), "refused": 0, "failed": 0}
    assert result.absent == 0
    assert tree(tmp_path / "back") == tree(tmp_path / "in")
    assert tree(tmp_path / "out") == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_images_and_documents_come_back(tmp_path: Path) -> None:
    out = _protected(tmp_path, _mixed)
    result = restore(out, tmp_path / "back", KEY)
    assert {file.status for file in result.files} == {"restored"}
    assert result.absent == 0
    back = tree(tmp_path / "back")
    assert len(back) == len(tree(out))
    assert back == {path: content for path, content in tree(tmp_path / "in").items() if path in back}


def test_noise_of_a_search_comes_off(tmp_path: Path) -> None:
    mr_export(tmp_path / "in")
    labels = mr_labels(tmp_path / "labels.csv")
    protect(tmp_path / "in", tmp_path / "out", small(restore=True, labels=labels, method="salm:texture"))
    restore(tmp_path / "out", tmp_path / "back", KEY)
    assert tree(tmp_path / "back") == tree(tmp_path / "in")


def test_zip_comes_back_as_a_zip_or_a_folder(tmp_path: Path) -> None:
    zip_file(tmp_path / "in.zip", mr_export(tmp_path / "in", 2))
    protect(tmp_path / "in.zip", tmp_path / "out.zip", drawn(restore=True))
    restore(tmp_path / "out.zip", tmp_path / "back", KEY)
    assert tree(tmp_path / "back") == tree(tmp_path / "in")
    restore(tmp_path / "out.zip", tmp_path / "back.zip", KEY)
    shutil.unpack_archive(tmp_path / "back.zip", tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "in")
    with pytest.raises(UsageError, match="a zip is written only where PROTECTED is one"):
        restore(tmp_path / "back", tmp_path / "b.zip", KEY, residuals=tmp_path / "out.zip.work" / "residuals")


def test_file_from_an_archive_is_found_by_its_uid(tmp_path: Path) -> None:
    """Attributes coerced, another transfer syntax, another name (PS3.4 C.4.1.1.3: an archive may coerce)."""
    out = _protected(tmp_path)
    returned = tmp_path / "returned"
    returned.mkdir()
    for number, path in enumerate(sorted(out.rglob("*.dcm"))):
        dataset = pydicom.dcmread(path)
        dataset.PatientID, dataset.PatientName, dataset.InstitutionName = "NEW", "NEW^NAME", "elsewhere"
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        del dataset.ImageType
        dataset.save_as(returned / f"IM{number}", implicit_vr=True, little_endian=True)
    result = restore(returned, tmp_path / "back", KEY, residuals=tmp_path / "out.work" / "residuals")
    assert result.absent == 0
    assert tree(tmp_path / "back") == tree(tmp_path / "in")


def test_renamed_nifti_is_found_by_its_bytes_and_an_edited_one_by_its_path(tmp_path: Path) -> None:
    out = _protected(tmp_path, lambda folder: nifti_export(folder, 2, suffix=".nii"))
    shutil.move(out / "v0.nii", out / "else.nii")
    edited = bytearray((out / "v1.nii").read_bytes())
    edited[148:160] = b"other words "  # descrip
    (out / "v1.nii").write_bytes(edited)
    restore(out, tmp_path / "back", KEY)
    assert tree(tmp_path / "back") == tree(tmp_path / "in")


def test_copies_that_were_renamed_all_come_back(tmp_path: Path) -> None:
    def twice(folder: Path) -> Path:
        mr_export(folder, 1)
        shutil.copyfile(folder / "case0" / "image.dcm", folder / "copy.dcm")
        return folder

    out = _protected(tmp_path, twice)
    (tmp_path / "other").mkdir()
    shutil.copyfile(out / "copy.dcm", tmp_path / "other" / "x")
    result = restore(tmp_path / "other", tmp_path / "back", KEY, residuals=tmp_path / "out.work" / "residuals")
    assert sorted(result.files[0].originals) == ["case0/image.dcm", "copy.dcm"]
    assert tree(tmp_path / "back") == tree(tmp_path / "in")


def test_some_files_and_a_single_one(tmp_path: Path) -> None:
    out = _protected(tmp_path)
    result = restore(out, tmp_path / "some", KEY, only=["case1/*", "case2"])
    assert sorted(tree(tmp_path / "some")) == ["case1/image.dcm", "case2/image.dcm"]
    assert result.absent is None
    result = restore(out / "case0" / "image.dcm", tmp_path / "one", KEY)
    assert tree(tmp_path / "one") == {"case0/image.dcm": (tmp_path / "in" / "case0" / "image.dcm").read_bytes()}
    assert result.absent == 2
    with pytest.raises(UsageError, match=r"no file of it matches nothing\*; such as case0/image\.dcm are there"):
        restore(out, tmp_path / "none", KEY, only=["nothing*"])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda content: content[:-1], "damaged, another file's, or of another key"),
        (lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:], "damaged, another file's"),
        (lambda content: b"", "damaged, another file's"),
        (None, "there is no residual of it"),
    ],
)
def test_damaged_residual_costs_its_file(tmp_path: Path, spoil: Any, reason: str) -> None:
    out = _protected(tmp_path)
    place = _residuals(tmp_path)[1]
    if spoil is None:
        place.unlink()
    else:
        place.write_bytes(spoil(place.read_bytes()))
    files = restore(out, tmp_path / "back", KEY).files
    assert sorted(file.status for file in files) == ["refused", "restored", "restored"]
    refused = next(file for file in files if file.status == "refused")
    assert reason in refused.reason
    assert refused.path not in tree(tmp_path / "back")
    assert len(tree(tmp_path / "back")) == 2


def test_exchanged_residuals_are_refused(tmp_path: Path) -> None:
    out = _protected(tmp_path)
    first, second, third = _residuals(tmp_path)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    result = restore(out, tmp_path / "back", KEY)
    assert result.to_json()["counts"] == {"restored": 1, "refused": 2, "failed": 0}
    assert len(tree(tmp_path / "back")) == 1
    del third


def test_residual_of_another_release_with_the_same_key_is_refused(tmp_path: Path) -> None:
    """UIDs follow from the key, so both releases have the same; the noise of another seed is another."""
    out = _protected(tmp_path)
    protect(tmp_path / "in", tmp_path / "second", drawn(restore=True, seed=1))
    result = restore(out, tmp_path / "back", KEY, residuals=tmp_path / "second.work" / "residuals")
    assert result.to_json()["counts"] == {"restored": 0, "refused": 3, "failed": 0}
    assert "its original does not come back" in result.files[0].reason
    assert tree(tmp_path / "back") == {}


def test_wrong_key_is_told_before_anything_is_written(tmp_path: Path) -> None:
    out = _protected(tmp_path)
    (tmp_path / "other").write_bytes(OTHER_KEY)
    with pytest.raises(UsageError, match="not the key of the residuals"):
        restore(out, tmp_path / "back", tmp_path / "other")
    assert not (tmp_path / "back").exists()


def test_key_that_is_replaced_under_its_name_is_the_new_one(tmp_path: Path) -> None:
    """A process of a cluster, and a script, may outlive it."""
    key = tmp_path / "key"
    key.write_bytes(KEY.read_bytes())
    out = _protected(tmp_path, key_file=key)
    key.write_bytes(OTHER_KEY)
    with pytest.raises(UsageError, match="not the key of the residuals"):
        restore(out, tmp_path / "back", key)
    key.write_bytes(KEY.read_bytes() + b"\n")
    with pytest.raises(UsageError, match="not the key of the residuals"):
        restore(out, tmp_path / "back", key)
    key.write_bytes(KEY.read_bytes())
    restore(out, tmp_path / "back", key)
    assert tree(tmp_path / "back") == tree(tmp_path / "in")


def test_changed_values_are_told(tmp_path: Path) -> None:
    out = _protected(tmp_path)
    place = out / "case1" / "image.dcm"
    content = bytearray(place.read_bytes())
    content[-400] ^= 1
    place.write_bytes(content)
    result = restore(out, tmp_path / "back", KEY)
    assert [file.path for file in result.files if file.status == "refused"] == ["case1/image.dcm"]
    assert len(tree(tmp_path / "back")) == 2


def test_file_of_no_release_is_told(tmp_path: Path) -> None:
    out = _protected(tmp_path)
    (out / "strange.txt").write_text("x")
    mr_slice(out / "strange.dcm", 99)
    result = restore(out, tmp_path / "back", KEY)
    assert [file.path for file in result.files if file.status == "refused"] == ["strange.dcm", "strange.txt"]
    assert tree(tmp_path / "back") == tree(tmp_path / "in")


def test_restore_goes_on_and_overwrites_nothing(tmp_path: Path) -> None:
    out = _protected(tmp_path)
    restore(out, tmp_path / "back", KEY, only=["case0"])
    with pytest.raises(UsageError, match="is not empty; give --resume"):
        restore(out, tmp_path / "back", KEY)
    (tmp_path / "back" / "case1").mkdir()
    (tmp_path / "back" / "case1" / "image.dcm").write_text("mine")
    result = restore(out, tmp_path / "back", KEY, resume=True)
    assert [file.status for file in result.files] == ["restored", "refused", "restored"]
    assert "is there already, and is another file" in result.files[1].reason
    assert (tmp_path / "back" / "case1" / "image.dcm").read_text() == "mine"


def test_link_in_the_output_leads_nowhere(tmp_path: Path) -> None:
    out = _protected(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "case1").symlink_to(tmp_path / "elsewhere")
    result = restore(out, tmp_path / "back", KEY, resume=True)
    assert [file.status for file in result.files] == ["restored", "refused", "restored"]
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("output", "message"),
    [("out/back", "lie in each other"), ("out", "lie in each other"), ("in/case0/image.dcm", "is a file already")],
)
def test_places_are_checked(tmp_path: Path, output: str, message: str) -> None:
    out = _protected(tmp_path)
    with pytest.raises(UsageError, match=message):
        restore(out, tmp_path / output, KEY)


def test_without_a_key_there_is_no_way_back(tmp_path: Path) -> None:
    out = _protected(tmp_path, key_file=None)
    assert not _residuals(tmp_path)
    with pytest.raises(UsageError, match="Only what was protected with --key-file can be restored"):
        restore(out, tmp_path / "back", KEY)
    protect(tmp_path / "in", tmp_path / "second", drawn(restore=False))
    assert not (tmp_path / "second.work" / "residuals").exists()
    with pytest.raises(UsageError, match="--residuals needs a key"):
        protect(tmp_path / "in", tmp_path / "third", drawn(restore=False, residuals=tmp_path / "r"))


def test_residuals_lie_where_the_user_wants_them_but_not_in_what_is_handed_out(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    for place, message in (("out/r", "lies in the output"), ("in/r", "lies in the input")):
        with pytest.raises(UsageError, match=f"the folder of residuals .* {message}"):
            protect(tmp_path / "in", tmp_path / "out", drawn(restore=True, residuals=tmp_path / place))
    protect(tmp_path / "in", tmp_path / "out", drawn(restore=True, residuals=tmp_path / "elsewhere"))
    assert not (tmp_path / "out.work" / "residuals").exists()
    shutil.rmtree(tmp_path / "out.work")
    restore(tmp_path / "out", tmp_path / "back", KEY, residuals=tmp_path / "elsewhere")
    assert tree(tmp_path / "back") == tree(tmp_path / "in")
    assert (tmp_path / "elsewhere").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_resume_makes_lost_residuals_again(tmp_path: Path, damage: str) -> None:
    out = _protected(tmp_path, _mixed)
    places = _residuals(tmp_path)
    before = {place: place.read_bytes() for place in places}
    for place in places[::3]:
        if damage == "gone":
            place.unlink()
        else:
            place.write_bytes(before[place][:100])
    protect(tmp_path / "in", out, drawn(restore=True, resume=True))
    assert {place: place.read_bytes() for place in _residuals(tmp_path)} == before


def test_same_run_gives_the_same_residuals(tmp_path: Path) -> None:
    _protected(tmp_path)
    first = {place.name: place.read_bytes() for place in _residuals(tmp_path)}
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(tmp_path / "out.work")
    protect(tmp_path / "in", tmp_path / "out", drawn(restore=True, workers=1))
    assert {place.name: place.read_bytes() for place in _residuals(tmp_path)} == first


def test_residuals_tell_nothing_of_the_noise(tmp_path: Path) -> None:
    """Neither their size, where shares of the voxels differ a little, nor their bytes, nor names."""

    def one(folder: Path) -> Path:
        mr_slice(folder / "a.dcm", 0, body(0, 96))
        return folder

    out = _protected(tmp_path, one)
    content = _residuals(tmp_path)[0].read_bytes()
    for seed in range(1, 4):
        protect(tmp_path / "in", tmp_path / f"out{seed}", drawn(restore=True, seed=seed))
        other = next((tmp_path / f"out{seed}.work" / "residuals").rglob("*.residual"))
        assert other.stat().st_size == len(content)
    counts = np.bincount(np.frombuffer(content[20:], np.uint8), minlength=256)
    expected = (len(content) - 20) / 256
    assert np.sum((counts - expected) ** 2 / expected) < 255 + 4 * np.sqrt(2 * 255)
    before, after = (pydicom.dcmread(folder / "a.dcm").pixel_array.ravel() for folder in (tmp_path / "in", out))
    bits = np.unpackbits(np.frombuffer(content[20:], np.uint8))
    changed = (before != after)[: len(bits)]
    bits = bits[: len(changed)].astype(float)
    assert abs(np.corrcoef(bits, changed)[0, 1]) < 4 / np.sqrt(len(bits))
    for told in (b"a.dcm", b"1.2.826", b"SOPInstance", b"monai_salm"):
        assert told not in content


def test_another_key(tmp_path: Path) -> None:
    out = _protected(tmp_path)
    new = tmp_path / "new.txt"
    new.write_bytes(OTHER_KEY)
    folder = tmp_path / "out.work" / "residuals"
    spoiled = _residuals(tmp_path)[0]
    whole = spoiled.read_bytes()
    spoiled.write_bytes(b"x")
    done = rekey(folder, KEY, new)
    assert (done.changed, done.had_it, len(done.refused)) == (2, 0, 1)
    spoiled.write_bytes(whole)
    done = rekey(folder, KEY, new)
    assert (done.changed, done.had_it, done.refused) == (1, 2, ())
    with pytest.raises(UsageError, match="not the key"):
        restore(out, tmp_path / "back", KEY)
    restore(out, tmp_path / "back", new)
    assert tree(tmp_path / "back") == tree(tmp_path / "in")
    with pytest.raises(UsageError, match="opens none of the 3"):
        rekey(folder, KEY, KEY)


def test_commands_say_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = _protected(tmp_path)
    (out / "strange.txt").write_text("x")
    command = ["restore", str(out), str(tmp_path / "back"), "--key-file", str(KEY), "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 3
    assert "3 restored, 1 refused, 0 failed" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([*command[:2], str(tmp_path / "json"), *command[3:], "--json", "--only", "case0"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["files"][0]["originals"] == ["case0/image.dcm"]
    (tmp_path / "new").write_bytes(OTHER_KEY)
    with pytest.raises(SystemExit) as ended:
        main(["rekey", str(tmp_path / "out.work" / "residuals"), "--key-file", str(KEY), "--new-key-file",
              str(tmp_path / "new")])  # fmt: skip
    assert ended.value.code == 0
    assert "3 residuals have the new key" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([*command[:2], str(tmp_path / "no"), *command[3:]])
    assert ended.value.code == 2
    assert "not the key of the residuals" in capsys.readouterr().err
