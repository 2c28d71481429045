# SPDX-License-Identifier: Apache-2.0
"""The work folder holds what takes the noise off again, and copies of patients' files: its owner alone may look into
it, at any moment of a run.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from monai_salm.pipeline import protect
from tests.exports import drawn, mr_export, mr_labels, small, zip_file

pytestmark = pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")


class StopError(Exception):
    """The power is gone."""


@pytest.fixture(params=[0o022, 0o000, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def _rights(folder: Path) -> set[tuple[str, str]]:
    """Give the rights of a folder and of all in it, each kind once."""
    places = [folder, *folder.rglob("*")]
    return {("folder" if place.is_dir() else "file", oct(stat.S_IMODE(place.stat().st_mode))) for place in places}


PRIVATE = {("folder", "0o700"), ("file", "0o600")}


def _public(umask: int) -> set[tuple[str, str]]:
    return {("folder", oct(0o777 & ~umask)), ("file", oct(0o666 & ~umask))}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_work_folder_is_private_and_output_is_not(tmp_path: Path, umask: int, workers: int) -> None:
    mr_export(tmp_path / "in", 4)
    (tmp_path / "in" / "notes.txt").write_text("notes")
    (tmp_path / "in" / "raw.bin").write_bytes(b"\0")
    labels = mr_labels(tmp_path / "l.csv", 4)
    protect(
        tmp_path / "in", tmp_path / "out", small(labels=labels, workers=workers, copy_unprotected=True, restore=True)
    )
    assert {path.name for path in (tmp_path / "out.work").iterdir()} == {
        "manifest.jsonl",
        "noise",
        "plan.jsonl",
        "residuals",
        "search.json",
        "surrogate.safetensors",
        "uid.key",
    }
    assert _rights(tmp_path / "out.work") == PRIVATE
    assert _rights(tmp_path / "out") == _public(umask)


@pytest.mark.parametrize("stop_at", ["write_file", "write_documents", "pack"])
def test_zip_is_private_while_it_is_unpacked(
    tmp_path: Path, umask: int, stop_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mr_export(tmp_path / "in", 3)
    (tmp_path / "in" / "notes.txt").write_text("notes")
    zip_file(tmp_path / "in.zip", tmp_path / "in")
    room = import_module(f"monai_salm.pipeline.{'protection' if stop_at == 'pack' else 'output'}")
    real, seen = getattr(room, stop_at), []

    def stopping(*some: Any, **named: Any) -> Any:
        seen.append(1)
        if len(seen) == (2 if stop_at == "write_file" else 1):
            raise StopError
        return real(*some, **named)

    with monkeypatch.context() as patch:
        patch.setattr(room, stop_at, stopping)
        with pytest.raises(StopError):
            protect(tmp_path / "in.zip", tmp_path / "out.zip", drawn())
    work = tmp_path / "out.zip.work"
    assert (work / "input" / "case0" / "image.dcm").is_file()
    assert list((work / "output").rglob("*.dcm"))
    assert _rights(work) == PRIVATE
    protect(tmp_path / "in.zip", tmp_path / "out.zip", drawn(resume=True))
    assert _rights(work) == PRIVATE
    assert _rights(tmp_path / "out.zip") == {("file", oct(0o666 & ~umask))}


def test_open_work_folder_is_closed_on_resume(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 2)
    protect(tmp_path / "in", tmp_path / "out", drawn())
    work = tmp_path / "out.work"
    for place in (work, *work.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    assert _rights(work) == PRIVATE
    (tmp_path / "empty").mkdir(mode=0o755)
    protect(tmp_path / "in", tmp_path / "other", drawn(work_dir=tmp_path / "empty"))
    assert _rights(tmp_path / "empty") == PRIVATE


def test_folders_above_the_work_folder_are_not_touched(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 1)
    (tmp_path / "shared").mkdir(mode=0o755)
    protect(tmp_path / "in", tmp_path / "out", drawn(work_dir=tmp_path / "shared" / "new" / "work"))
    assert oct(stat.S_IMODE((tmp_path / "shared").stat().st_mode)) == "0o755"
    assert oct(stat.S_IMODE((tmp_path / "shared" / "new").stat().st_mode)) == oct(0o777 & ~_umask())
    assert _rights(tmp_path / "shared" / "new" / "work") == PRIVATE


def _umask() -> int:
    now = os.umask(0o022)
    os.umask(now)
    return now


def test_disk_without_rights_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mr_export(tmp_path / "in", 1)
    monkeypatch.setattr(
        import_module("monai_salm.pipeline.protection"), "make_private", lambda folder: folder.mkdir() is not None
    )
    protect(tmp_path / "in", tmp_path / "out", drawn())
    assert (
        "out.work: others may read the private work folder, for its disk knows no rights; give --work-dir on "
        "another disk" in caplog.text
    )
