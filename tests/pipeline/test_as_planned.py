# SPDX-License-Identifier: Apache-2.0
"""What is written is made of the bytes that were planned, and what the manifest says is there is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from monai_salm.cli.entry import main
from monai_salm.pipeline import ProtectionRun, protect
from monai_salm.pipeline.fates import load_fates
from monai_salm.pipeline.inventory import file_digest
from tests.exports import drawn, mr_export, mr_slice, tree

CHANGED = "it is not the file any more that was looked at; run again"


def _replace(path: Path) -> None:
    mr_slice(path.parent / "new", 0, values=(import_module("pydicom").dcmread(path).pixel_array + 1))
    (path.parent / "new").rename(path)


@pytest.mark.parametrize(
    ("change", "searched"),
    [
        (_replace, True),
        (_replace, False),
        (lambda path: path.write_bytes(b"junk"), True),
        (lambda path: path.unlink(), True),
    ],
    ids=["another slice", "another slice before the search", "junk", "gone"],
)
def test_file_that_changed_since_the_plan_fails_alone(
    tmp_path: Path, change: Callable[[Path], Any], searched: bool
) -> None:
    mr_export(tmp_path / "in", 3)
    run = ProtectionRun(tmp_path / "in", tmp_path / "out", drawn())
    run.prepare()
    if searched:
        run.search()
    change(tmp_path / "in" / "case0" / "image.dcm")
    fates = run.write().fates
    assert (fates["case0/image.dcm"].status, fates["case0/image.dcm"].reason) == ("failed", CHANGED)
    assert {path for path, fate in fates.items() if fate.status == "protected"} == {
        "case1/image.dcm", "case2/image.dcm",
    }  # fmt: skip
    assert set(tree(tmp_path / "out")) == {"case1/image.dcm", "case2/image.dcm"}


def test_file_that_is_another_only_while_it_is_read_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its digest before and after is the planned one, and so is its time."""
    mr_export(tmp_path / "in", 2)
    write, place = import_module("monai_salm.pipeline.write"), tmp_path / "in" / "case0" / "image.dcm"
    real, whole, stamp = write.read_source, place.read_bytes(), place.stat()

    def read(path: Path, **known: str) -> Any:
        if path != place:
            return real(path, **known)
        mr_slice(place, 1)
        try:
            return real(path, **known)
        finally:
            place.write_bytes(whole)
            os.utime(place, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    monkeypatch.setattr(write, "read_source", read)
    fates = protect(tmp_path / "in", tmp_path / "out", drawn()).fates
    assert (fates["case0/image.dcm"].status, fates["case0/image.dcm"].reason) == ("failed", CHANGED)
    assert fates["case1/image.dcm"].status == "protected"


def test_documents_and_copies_that_changed_fail_alone(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    (tmp_path / "in" / "notes.txt").write_text("plain text")
    shutil.copyfile(tmp_path / "in" / "case0" / "image.dcm", tmp_path / "in" / "copy.dcm")
    run = ProtectionRun(tmp_path / "in", tmp_path / "out", drawn())
    run.search()
    (tmp_path / "in" / "notes.txt").write_text("other text")
    _replace(tmp_path / "in" / "copy.dcm")
    fates = run.write().fates
    assert {path: fate.reason for path, fate in fates.items() if fate.status == "failed"} == {
        "notes.txt": CHANGED, "copy.dcm": CHANGED,
    }  # fmt: skip
    assert set(tree(tmp_path / "out")) == {"case0/image.dcm", "case1/image.dcm"}


def test_manifest_has_the_digests_of_what_was_read_and_written(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    for path, fate in load_fates(tmp_path / "out.work" / "manifest.jsonl").items():
        assert fate.sha256_in == file_digest(tmp_path / "in" / path)
        assert fate.sha256_out == file_digest(tmp_path / "out" / path)


def test_output_that_is_removed_meanwhile_is_told_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mr_export(tmp_path / "in", 4)
    shutil.copyfile(tmp_path / "in" / "case0" / "image.dcm", tmp_path / "in" / "copy.dcm")
    output = import_module("monai_salm.pipeline.output")
    real, done = output.write_file, []

    def write(job: Any) -> Any:
        if len(done) == 2:
            shutil.rmtree(tmp_path / "out")
        done.append(job)
        return real(job)

    command = [
        "protect",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--method",
        "random",
        "--working-size",
        "24",
        "--workers",
        "0",
    ]
    with monkeypatch.context() as patch:
        patch.setattr(output, "write_file", write)
        with pytest.raises(SystemExit) as ended:
            main(command)
    assert ended.value.code == 3
    fates = load_fates(tmp_path / "out.work" / "manifest.jsonl")
    there = {path for path, fate in fates.items() if fate.status == "protected"}
    assert set(tree(tmp_path / "out")) == there
    assert len(there) == 2
    assert "is not in the output any more; run again with --resume" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main([*command, "--resume"])
    assert ended.value.code == 0
    assert len(tree(tmp_path / "out")) == 5
