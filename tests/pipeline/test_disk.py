# SPDX-License-Identifier: Apache-2.0
"""A disk that is full or closed ends a run at its first file, or before it, in one line; the run goes on to the same
bytes once there is room.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monai_salm.cli import main
from monai_salm.errors import DiskError
from monai_salm.evaluate.state import EvaluationState
from monai_salm.pipeline import protect, scan
from tests.exports import drawn, mr_export, mr_labels, mr_slice, small, tree, zip_file

LINE = (
    r": No space left on device: (about|more than) ([\d,]+) bytes are needed, ([\d,]+) are free; free some space, "
    r"or give a folder on another disk"
)


def _numbers(error: DiskError) -> tuple[int, int]:
    found = re.search(LINE, str(error))
    assert found is not None, error
    return int(found[2].replace(",", "")), int(found[3].replace(",", ""))


def _pictures(folder: Path, count: int = 4, size: int = 256) -> int:
    generator = np.random.default_rng(0)
    for number in range(count):
        mr_slice(folder / f"{number}.dcm", number, generator.integers(100, 900, (size, size)).astype(np.int16))
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a disk of some KiB; skip where that is not allowed."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        program = shutil.which("mount")
        if (
            program is None
            or subprocess.run(
                [program, "-t", "tmpfs", "-o", f"size={size}k", "none", str(place)], capture_output=True, check=False
            ).returncode
        ):
            pytest.skip("no disk can be mounted here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def _fill(disk: Path, leave: int) -> Path:
    """Fill a disk but for some bytes."""
    file = disk / "somebody's"
    with file.open("wb") as stream:
        stream.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return file


# Before anything is written ------------------------------------------------------------------------------------------


def test_output_that_cannot_fit_is_told_before_anything_is_written(
    tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    size, disk = _pictures(tmp_path / "in"), small_disk(300)
    with pytest.raises(DiskError, match=LINE) as caught:
        protect(tmp_path / "in", disk / "out", drawn())
    needed, free = _numbers(caught.value)
    assert 300 * 1024 - 2 * 4096 <= free <= 300 * 1024  # two locks are there while it looks
    assert size <= needed < size + 100_000
    with pytest.raises(DiskError, match=LINE) as caught:
        protect(tmp_path / "in", disk / "out", drawn(restore=True))
    assert needed + size // 4 <= _numbers(caught.value)[0] < needed + size // 2, "residuals take room too"
    assert not list(disk.iterdir())
    # Half of it would be enough for each, but both are on one disk.
    disk = small_disk(size * 3 // 2 // 1024)
    zip_file(tmp_path / "in.zip", tmp_path / "in")
    with pytest.raises(DiskError, match=LINE) as caught:
        protect(tmp_path / "in.zip", disk / "out.zip", drawn())
    assert _numbers(caught.value)[0] >= 2 * size + (tmp_path / "in.zip").stat().st_size
    assert not list(disk.iterdir())


def test_zip_for_a_look_needs_room_too(tmp_path: Path, small_disk: Callable[[int], Path]) -> None:
    size, disk = _pictures(tmp_path / "in"), small_disk(100)
    zip_file(tmp_path / "in.zip", tmp_path / "in")
    with pytest.raises(DiskError, match=LINE) as caught:
        scan(tmp_path / "in.zip", unpack_into=disk / "unpacked")
    assert _numbers(caught.value) == (size, 100 * 1024)
    assert not list(disk.iterdir())


def test_closed_folders_are_told_before_anything_is_written(tmp_path: Path, small_disk: Callable[[int], Path]) -> None:
    _pictures(tmp_path / "in", 1, 24)
    disk = small_disk(300)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for out, work in ((disk / "out", tmp_path / "work"), (tmp_path / "out", disk / "work")):
        with pytest.raises(
            DiskError,
            match=r"disk0/(out|work(/residuals)?): cannot be written, for the disk or the folder .*disk0 is read-only; "
            r"give another folder",
        ):
            protect(tmp_path / "in", out, drawn(work_dir=work))
        assert not out.exists()
        assert not work.exists()


# In the middle -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_run_stops_at_the_first_file_and_goes_on(
    tmp_path: Path, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _pictures(tmp_path / "in")
    protect(tmp_path / "in", tmp_path / "whole", drawn())
    disk = small_disk(1000)
    room = import_module("monai_salm.pipeline.output")
    write, seen = room.write_file, []

    def write_until_full(job: Any) -> Any:
        seen.append(job)
        if len(seen) == 2:
            _fill(disk, 50_000)
        return write(job)

    with monkeypatch.context() as patch:
        patch.setattr(room, "write_file", write_until_full)
        with pytest.raises(DiskError, match=LINE) as caught:
            protect(tmp_path / "in", disk / "out", drawn())
    assert len(seen) == 2, "the others were not tried"
    needed, free = _numbers(caught.value)
    assert 3 * 131_072 < needed < 4 * 131_072 + 50_000, "what is left of the run"
    assert free < 60_000
    assert len(tree(disk / "out")) == 1
    with pytest.raises(DiskError, match=LINE) as again:
        protect(tmp_path / "in", disk / "out", drawn(restore=False, resume=True))
    assert abs(_numbers(again.value)[0] - needed) < 10_000
    (disk / "somebody's").unlink()
    protect(tmp_path / "in", disk / "out", drawn(restore=False, resume=True))
    assert tree(disk / "out") == tree(tmp_path / "whole")


class _Disk:
    """A disk that is full for some files: every write to them fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, full_for: str) -> None:
        self._write, self._open = Path.write_bytes, Path.open
        self.full_for = full_for

        def write_bytes(path: Path, data: bytes) -> int:
            self._check(path)
            return self._write(path, data)

        def opened(path: Path, mode: str = "r", *others: Any, **named: Any) -> Any:
            if set(mode) & set("wa+"):
                self._check(path)
            return self._open(path, mode, *others, **named)

        monkeypatch.setattr(Path, "write_bytes", write_bytes)
        monkeypatch.setattr(Path, "open", opened)

    def _check(self, path: Path) -> None:
        if path.match(self.full_for) or (
            path.name.startswith(".salm-") and _of(path.parent / Path(self.full_for).name, path)
        ):
            raise OSError(errno.ENOSPC, "No space left on device")


def _of(target: Path, temporary: Path) -> bool:
    from monai_salm.disk import _mark

    return _mark(target.name) in temporary.name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "plan.jsonl",
        "search.json",
        "search.safetensors",
        "surrogate.safetensors",
        "uid.key",
        "manifest.jsonl",
        "image.dcm",
        "n.txt",
    ],
)
def test_every_file_of_a_run_may_meet_a_full_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_export(tmp_path / "in", 4)
    (tmp_path / "in" / "n.txt").write_text("notes")
    options: dict[str, Any] = {"labels": mr_labels(tmp_path / "l.csv", 4)}
    with monkeypatch.context() as patch:
        _Disk(patch, name)
        if name == "n.txt":
            patch.setattr(shutil, "copyfile", _full_copy)
        with pytest.raises(DiskError, match=LINE) as caught:
            protect(tmp_path / "in", tmp_path / "out", small(**options))
    assert name in str(caught.value)
    assert not list(tmp_path.rglob("*.tmp"))
    result = protect(tmp_path / "in", tmp_path / "out", small(**options, resume=True))
    assert result.to_json()["counts"] == {"protected": 4, "copied": 1, "refused": 0, "failed": 0}


def _full_copy(source: Path, target: Path) -> None:
    target.write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_noise_state_and_report_may_meet_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monai_salm.evaluate.report import write_report
    from monai_salm.noise import NoiseStore, SparseNoise

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskError, match=LINE):
        NoiseStore(tmp_path / "noise").write("a", SparseNoise.from_dense(np.ones((2, 2), np.int8), 1))
    with pytest.raises(DiskError, match=LINE):
        write_report({}, (), tmp_path / "report.html")
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskError, match=LINE):
        EvaluationState(tmp_path / "state").put("a", {"b": 1})
    assert {path.name for path in tmp_path.iterdir()} == {"noise"}


@pytest.mark.slow
def test_packing_may_meet_a_full_disk(
    tmp_path: Path, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _pictures(tmp_path / "in")
    zip_file(tmp_path / "in.zip", tmp_path / "in")
    protect(tmp_path / "in.zip", tmp_path / "whole.zip", drawn())
    disk = small_disk(1000)
    room = import_module("monai_salm.pipeline.protection")
    pack = room.pack
    with monkeypatch.context() as patch:
        patch.setattr(room, "pack", lambda *some, **named: (_fill(disk, 50_000), pack(*some, **named)))
        with pytest.raises(DiskError, match=f"out.zip{LINE}"):
            protect(tmp_path / "in.zip", disk / "out.zip", drawn(work_dir=tmp_path / "work"))
    assert [path.name for path in disk.iterdir()] == ["somebody's"]
    with pytest.raises(DiskError, match=LINE):
        protect(tmp_path / "in.zip", disk / "out.zip", drawn(work_dir=tmp_path / "work", resume=True))
    (disk / "somebody's").unlink()
    protect(tmp_path / "in.zip", disk / "out.zip", drawn(work_dir=tmp_path / "work", resume=True))
    assert (disk / "out.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


@pytest.mark.slow
def test_files_written_by_workers_end_the_run_too(
    tmp_path: Path, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _pictures(tmp_path / "in")
    disk = small_disk(1000)
    room = import_module("monai_salm.pipeline.output")
    secret = room.run_secret
    monkeypatch.setattr(room, "run_secret", lambda *some: (_fill(disk, 200_000), secret(*some))[1])
    with pytest.raises(DiskError, match=LINE):
        protect(tmp_path / "in", disk / "out", drawn(workers=2))


def test_command_ends_with_one_line(
    tmp_path: Path, small_disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _pictures(tmp_path / "in")
    disk = small_disk(200)
    for command in (
        ["protect", str(tmp_path / "in"), str(disk / "out"), "--method", "random", "--quiet"],
        ["keygen", str(disk / "key")],
    ):
        if command[0] == "keygen":
            _fill(disk, 0)
        with pytest.raises(SystemExit) as stopped:
            main(command)
        assert stopped.value.code == 1
        out, lines = capsys.readouterr()
        assert not out
        assert re.fullmatch(rf"Error: .*{LINE}.*\n", lines), lines
    assert not (disk / "key").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_result_that_cannot_be_printed_is_told(tmp_path: Path) -> None:
    mr_export(tmp_path / "in", 1)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "monai_salm", "scan", "in", "--json", "--quiet"], cwd=tmp_path, stdout=full,
            stderr=subprocess.PIPE, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.decode() == "Error: a file: No space left on device\n"
