# SPDX-License-Identifier: Apache-2.0
"""What a name, or the manifest, says is there, is on the disk before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monai_salm.disk import write_atomically
from monai_salm.pipeline import protect
from tests.exports import drawn, mr_export


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path]]:
    """What was synced, named, and appended to, in order."""
    seen: list[tuple[str, Path]] = []
    fsync, replace, opened = os.fsync, Path.replace, Path.open

    def noted_sync(file: int) -> None:
        seen.append(("sync", Path(f"/proc/self/fd/{file}").resolve()))
        fsync(file)

    def noted_replace(path: Path, target: Path) -> Path:
        seen.append(("name", target))
        return replace(path, target)

    def noted_open(path: Path, mode: str = "r", *some: object, **named: object) -> object:
        if mode == "ab":
            seen.append(("append", path))
        return opened(path, mode, *some, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    monkeypatch.setattr(Path, "open", noted_open)
    return seen


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files")


def test_file_is_synced_before_its_name_and_its_folder_after(tmp_path: Path, events: list[tuple[str, Path]]) -> None:
    write_atomically(tmp_path / "a", b"1")
    (first, temporary), *others = events
    assert (first, temporary.parent, temporary.suffix) == ("sync", tmp_path, ".tmp")
    assert others == [("name", tmp_path / "a"), ("sync", tmp_path)]


def test_manifest_says_nothing_that_is_not_on_the_disk(tmp_path: Path, events: list[tuple[str, Path]]) -> None:
    mr_export(tmp_path / "in", 3)
    (tmp_path / "in" / "notes.txt").write_text("plain text")
    protect(tmp_path / "in", tmp_path / "out", drawn())
    manifest = tmp_path / "out.work" / "manifest.jsonl"
    written = [tmp_path / "out" / f"case{number}" / "image.dcm" for number in range(3)]
    said = events.index(("append", manifest))
    for place in (place for path in written for place in (path, path.parent)):
        assert events.index(("sync", place)) < said
    final = max(number for number, event in enumerate(events) if event == ("name", manifest))
    assert events.index(("sync", tmp_path / "out" / "notes.txt")) < final
    noise = next((tmp_path / "out.work" / "noise").iterdir())
    done = events.index(("name", tmp_path / "out.work" / "search.json"))
    assert events.index(("sync", noise)) < done
    assert events.index(("sync", noise.parent)) < done
