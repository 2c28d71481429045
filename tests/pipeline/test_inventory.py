# SPDX-License-Identifier: Apache-2.0
"""What a scan finds, and what it says of files that it cannot use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_salm.errors import UsageError
from monai_salm.pipeline import KindChoices, protect, scan
from monai_salm.pipeline.inventory import Stamp
from tests.exports import block, body, drawn, mr_slice, nifti_file, tree


def test_folder_and_file(tmp_path: Path) -> None:
    mr_slice(tmp_path / "b" / "one.dcm", 0)
    nifti_file(tmp_path / "a.nii", block(0)[0])
    inventory = scan(tmp_path)
    assert [record.path for record in inventory.files] == ["a.nii", "b/one.dcm"]
    assert inventory.pictures["b/one.dcm"].shape == (24, 24)
    assert not inventory.refused
    assert [record.path for record in scan(tmp_path / "a.nii").files] == ["a.nii"]


def test_every_regular_file_has_a_stamp(tmp_path: Path) -> None:
    """Also one that is refused for what another is: it need not be read again either."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "a.jpg", "b.jpg"):
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(tmp_path / name)
    (tmp_path / "c").symlink_to("b.jpg")
    (tmp_path / "none").symlink_to("nowhere")
    inventory = scan(tmp_path, choices=KindChoices(pictures=("*",)))
    assert "rename one of the two" in inventory.refused["a.jpg"]
    assert inventory.stamps == {"none": None} | {
        name: Stamp.of(tmp_path / name) for name in ("a.png", "a.jpg", "b.jpg", "c")
    }


def _broken_dicom(path: Path) -> None:
    path.write_bytes(mr_slice(path, 0).read_bytes()[:300])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"\0raw\1"), "unknown binary format"),
        (_broken_dicom, "truncated"),
        (lambda path: path.write_bytes(nifti_file(path, block(0)[0]).read_bytes()[:2000]), "truncated"),
        (lambda path: path.symlink_to("nowhere"), "not a regular file"),
        (os.mkfifo, "not a regular file"),
    ],
    ids=["empty", "binary", "cut DICOM", "cut NIfTI", "broken link", "pipe"],
)
def test_unusable_file_is_refused_with_its_reason(tmp_path: Path, make: object, reason: str) -> None:
    mr_slice(tmp_path / "good.dcm", 1)
    make(tmp_path / "strange")  # type: ignore[operator]
    inventory = scan(tmp_path)
    assert list(inventory.pictures) == ["good.dcm"]
    assert reason in inventory.refused["strange"]


def test_links_are_not_followed_out_of_the_input(tmp_path: Path) -> None:
    mr_slice(tmp_path / "in" / "good.dcm", 1)
    secret = mr_slice(tmp_path / "elsewhere" / "secret.dcm", 2)
    (tmp_path / "in" / "link.dcm").symlink_to(secret)
    (tmp_path / "in" / "folder").symlink_to(secret.parent)
    inventory = scan(tmp_path / "in")
    assert "a link that leads out of the input" in inventory.refused["link.dcm"]
    assert "a link that leads out of the input" in inventory.refused["folder"]
    result = protect(tmp_path / "in", tmp_path / "out", drawn(copy_unprotected=True))
    assert sorted(tree(tmp_path / "out")) == ["good.dcm"]
    assert result.to_json()["counts"] == {"protected": 1, "copied": 0, "refused": 2, "failed": 0}


def test_linked_folder_within_the_input_is_reported(tmp_path: Path) -> None:
    mr_slice(tmp_path / "a" / "good.dcm", 1)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert "not entered" in scan(tmp_path).refused["b"]


def test_folder_that_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_slice(tmp_path / "good.dcm", 1)
    mr_slice(tmp_path / "locked" / "lost.dcm", 2)
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    inventory = scan(tmp_path)
    assert list(inventory.pictures) == ["good.dcm"]
    assert "cannot be read" in inventory.refused["locked"]


def test_one_uid_with_two_pictures(tmp_path: Path) -> None:
    mr_slice(tmp_path / "a.dcm", 0)
    mr_slice(tmp_path / "b.dcm", 0, values=body(5))
    assert "it is another image" in scan(tmp_path).refused["b.dcm"]


def test_copies_share_the_fate_of_the_first(tmp_path: Path) -> None:
    mr_slice(tmp_path / "in" / "a.dcm", 0)
    (tmp_path / "in" / "b.dcm").write_bytes((tmp_path / "in" / "a.dcm").read_bytes())
    inventory = scan(tmp_path / "in")
    assert inventory.copies == {"b.dcm": "a.dcm"}
    assert list(inventory.pictures) == ["a.dcm"]
    result = protect(tmp_path / "in", tmp_path / "out", drawn())
    assert (tmp_path / "out" / "a.dcm").read_bytes() == (tmp_path / "out" / "b.dcm").read_bytes()
    assert result.fates["b.dcm"].status == "protected"
    assert result.fates["b.dcm"].sha256_out == result.fates["a.dcm"].sha256_out


def test_copy_of_any_earlier_file_of_its_size_is_found(tmp_path: Path) -> None:
    for name, number in (("a", 0), ("b", 1), ("c", 1), ("d", 2), ("e", 2)):
        nifti_file(tmp_path / f"{name}.nii", block(number)[0])
    assert scan(tmp_path).copies == {"c.nii": "b.nii", "e.nii": "d.nii"}


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("none", None, "no such file or folder; give"),
        ("empty", Path.mkdir, "there is no file in it; give"),
    ],
    ids=["missing", "empty"],
)
def test_input_that_is_not_read(tmp_path: Path, name: str, make: object, message: str) -> None:
    if make is not None:
        make(tmp_path / name)  # type: ignore[operator]
    with pytest.raises(UsageError, match=message):
        scan(tmp_path / name)


def test_scan_json(tmp_path: Path) -> None:
    mr_slice(tmp_path / "a.dcm", 0)
    (tmp_path / "b.dcm").write_bytes((tmp_path / "a.dcm").read_bytes())
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "raw.bin").write_bytes(b"\0raw\1")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    nifti_file(tmp_path / "v.nii", block(0)[0].astype(np.float32))
    result = json.loads(json.dumps(scan(tmp_path).to_json()))
    assert set(result) == {"input", "counts", "files", "ignored"}
    assert result["counts"] == {"protect": 3, "copy": 1, "refuse": 1, "ignored": 1}
    assert [file["path"] for file in result["files"]] == ["a.dcm", "b.dcm", "notes.txt", "raw.bin", "v.nii"]
    assert result["ignored"] == [".DS_Store"]
    assert result["files"][0] == {
        "path": "a.dcm",
        "fate": "protect",
        "reason": "",
        "format": "dicom",
        "modality": "MR",
        "shape": [24, 24],
        "notes": [],
    }
    assert result["files"][1]["reason"] == "copy of a.dcm"
    assert (result["files"][2]["fate"], result["files"][2]["reason"]) == ("copy", "no image (text)")
    assert result["files"][3]["fate"] == "refuse"
    assert result["files"][4]["format"] == "nifti"
