# SPDX-License-Identifier: Apache-2.0
"""Two runs never share an output or a work folder; who died leaves no lock that holds."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from monai_salm.disk import lock_name
from monai_salm.errors import UsageError
from monai_salm.pipeline import ProtectionRun, protect
from monai_salm.pipeline.run_lock import RunLocks
from tests.exports import drawn, mr_export, tree

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from monai_salm.pipeline.run_lock import RunLocks
locks = RunLocks()
locks.take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def _lock(folder: Path) -> Path:
    return folder.parent / lock_name(folder)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A folder that another process holds."""
    folder = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield folder, process
        process.kill()


def test_folder_of_a_live_process_is_refused_and_of_a_killed_one_is_not(
    held: tuple[Path, subprocess.Popen[str]],
) -> None:
    folder, process = held
    with pytest.raises(UsageError, match=rf"out: in use by process {process.pid} on host \S+ since .*; wait until"):
        RunLocks().take(folder)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert _lock(folder).is_file()
    locks = RunLocks()
    locks.take(folder)
    assert json.loads(_lock(folder).read_bytes())["pid"] == os.getpid()
    if os.name == "posix":
        assert _lock(folder).stat().st_mode & 0o077 == 0
    locks.release()
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("shared", ["out", "elsewhere.work"])
def test_second_run_is_refused_while_one_lives(tmp_path: Path, resume: bool, shared: str) -> None:
    mr_export(tmp_path / "in", 2)
    first = ProtectionRun(tmp_path / "in", tmp_path / "out", drawn(work_dir=tmp_path / "elsewhere.work"))
    first.prepare()
    before = tree(tmp_path / "elsewhere.work")
    output = tmp_path / ("out" if shared == "out" else "other")
    work = tmp_path / (shared if shared.endswith(".work") else "other.work")
    with pytest.raises(UsageError, match=f"{shared}: in use by process {os.getpid()}"):
        protect(tmp_path / "in", output, drawn(work_dir=work, resume=resume))
    assert tree(tmp_path / "elsewhere.work") == before
    assert {path.name for path in tmp_path.iterdir()} == {
        "in", "elsewhere.work", lock_name(tmp_path / "out"), lock_name(tmp_path / "elsewhere.work"),
    }  # fmt: skip
    first.write()
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "elsewhere.work"}
    assert not [name for name in [*tree(tmp_path / "out"), *tree(tmp_path / "elsewhere.work")] if "lock" in name]


def test_lock_ends_with_a_run_that_fails_and_with_one_that_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mr_export(tmp_path / "in", 2)
    with monkeypatch.context() as patch:
        patch.setattr(import_module("monai_salm.pipeline.output"), "write_file", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            protect(tmp_path / "in", tmp_path / "out", drawn())
    ProtectionRun(tmp_path / "in", tmp_path / "out", drawn(resume=True)).prepare()
    result = protect(tmp_path / "in", tmp_path / "out", drawn(resume=True))
    assert result.to_json()["counts"]["protected"] == 2


def test_nothing_is_left_of_a_call_that_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        protect(tmp_path / "in", tmp_path / "deep" / "er" / "out", drawn())
    assert list(tmp_path.iterdir()) == []


def _left(folder: Path, **changes: object) -> None:
    holder = {"host": import_module("socket").gethostname(), "pid": os.getpid(), "started": "", "since": "then"}
    _lock(folder).write_text(json.dumps(holder | changes))


def test_lock_of_another_host_is_never_taken_over(tmp_path: Path) -> None:
    _left(tmp_path / "out", host="elsewhere", pid=7)
    with pytest.raises(UsageError, match=r"process 7 on host elsewhere since then; .* delete .*\.lock"):
        RunLocks().take(tmp_path / "out")
    _lock(tmp_path / "out").unlink()
    RunLocks().take(tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": "x"}'], ids=["empty", "cut", "list", "lacking"])
def test_lock_that_says_nothing_is_taken_over(tmp_path: Path, content: bytes) -> None:
    _lock(tmp_path / "out").write_bytes(content)
    RunLocks().take(tmp_path / "out")


def test_names_of_one_folder_are_one_lock(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    locks = RunLocks()
    locks.take(tmp_path / "out")
    with pytest.raises(UsageError, match="in use"):
        RunLocks().take(tmp_path / "link")


def test_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"mine")
    _lock(tmp_path / "out").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        RunLocks().take(tmp_path / "out")
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_folder_that_nothing_can_be_written_beside_is_locked_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, opened = tmp_path / "out", os.open
    folder.mkdir()

    def closed(path: Path, *arguments: int) -> int:
        if Path(path).parent == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", closed)
    locks = RunLocks()
    locks.take(folder)
    assert [path.name for path in folder.iterdir()] == [lock_name(folder)]
    with pytest.raises(UsageError, match="in use"):
        RunLocks().take(folder)
    locks.release()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="start times of processes")
def test_disk_without_locks_goes_by_process_and_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    folder = tmp_path / "out"
    locks = RunLocks()
    locks.take(folder)
    with pytest.raises(UsageError, match="in use"):
        RunLocks().take(folder)
    locks.release()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    _left(folder, pid=gone.pid)
    RunLocks().take(folder)
    _left(folder, started="this process, but of another start")  # its number was given again
    RunLocks().take(folder)
