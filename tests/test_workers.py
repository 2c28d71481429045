# SPDX-License-Identifier: Apache-2.0
"""A job that ends its process, hangs or raises is told from the others, which are done; and no process is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from monai_salm.errors import DiskError, SalmError
from monai_salm.progress import log_as
from monai_salm.workers import Workers
from monai_salm.workers import executor as room

PROGRAM = """
import os, signal, time
from monai_salm.workers import Workers

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
processes = Workers(2)
JOB = "import os, time; print(os.getpid(), file=open({place!r}, 'a')); time.sleep(60)"
list(processes.map(exec, [JOB] * 2, lost=max))
"""


def lost(job: object, why: str) -> str:
    return f"{job}: {why}"


def act(job: int | str) -> object:
    """Do what a bad file may make a library do."""
    if job == "abort":
        os.abort()
    if job == "hang":
        time.sleep(60)
    if job == "leave":
        os._exit(7)
    if job == "full":
        raise DiskError("full", Path("here"))
    if job == "print":
        print("a library's own words")
        os.write(1, b"and some of its C")
    if job == "warn":
        warnings.warn("nobody wants to know", UserWarning, stacklevel=1)
    if job == "folder":
        return str(Path.cwd())
    if job == "process":
        return os.getpid()
    return job


def once(place: str) -> str:
    """End the process that comes first, as somebody does who kills it."""
    if not Path(place).exists():
        Path(place).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("chunk", [1, 4])
def test_results_come_in_order(count: int, chunk: int) -> None:
    with Workers(count) as workers:
        assert list(workers.map(act, iter(range(50)), lost=lost, chunk=chunk)) == list(range(50))
        assert list(workers.map(act, ["again", "print"], lost=lost)) == ["again", "print"]
    assert workers.ended == 0


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_crash_costs_its_job_alone(chunk: int) -> None:
    with Workers(2) as workers:
        told = list(workers.map(act, [1, "abort", 2, "leave", 3], lost=lost, chunk=chunk))
    assert told[::2] == [1, 2, 3]
    assert str(told[1]).startswith("abort: the process that worked on it ended by signal 6")
    assert str(told[3]).startswith("leave: the process that worked on it ended with exit status 7")
    assert workers.ended == 2 * room.TRIES


def test_job_whose_process_somebody_kills_is_done_all_the_same(tmp_path: Path) -> None:
    with Workers(1) as workers:
        assert list(workers.map(once, [str(tmp_path / "been")], lost=lost)) == ["done"]
    assert workers.ended == 1


def test_hanging_job_is_ended() -> None:
    began = time.monotonic()
    with Workers(1, time_limit=3) as workers:  # a start counts, on a machine that is busy
        told = list(workers.map(act, [1, "hang", 2], lost=lost))
    assert told == [1, "hang: it took longer than any file should, so the process that worked on it was ended", 2]
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("count", [0, 2])
def test_what_a_job_raises_is_raised_and_ends_the_rest(count: int) -> None:
    with Workers(count) as workers:
        with pytest.raises(DiskError, match="full") as caught:
            list(workers.map(act, [1, "full", *range(1000)], lost=lost, chunk=2))
        assert isinstance(caught.value, SalmError)
        assert caught.value.full == Path("here")
        assert list(workers.map(act, [1, 2], lost=lost)) == [1, 2], "answers of the rest are not taken for new ones"


def test_result_that_cannot_be_sent_is_told() -> None:
    with Workers(1) as workers, pytest.raises(RuntimeError, match="cannot be sent"):
        list(workers.map(open, [os.devnull], lost=lost))


def test_processes_share_folder_and_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Workers(1) as workers:
        (first,) = workers.map(act, ["process"], lost=lost)
        monkeypatch.chdir(tmp_path)
        assert list(workers.map(act, ["folder", "process"], lost=lost)) == [str(tmp_path), first]


def test_quiet_run_has_quiet_processes(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with Workers(1) as workers:
        list(workers.map(act, ["warn"], lost=lost))
    assert "nobody wants to know" in capfd.readouterr().err
    log_as("nothing")
    with Workers(1) as workers:
        list(workers.map(act, ["warn"], lost=lost))
    assert not capfd.readouterr().err


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="it looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_run(tmp_path: Path, how: signal.Signals) -> None:
    """Also of a script without a guard for its main module."""
    place = tmp_path / "processes"
    (tmp_path / "program.py").write_text(PROGRAM.format(place=str(place)))
    with subprocess.Popen([sys.executable, tmp_path / "program.py"], stderr=subprocess.DEVNULL) as run:
        patience = time.monotonic() + 30
        while not (place.exists() and len(place.read_text().split()) == 2) and time.monotonic() < patience:
            time.sleep(0.05)
        processes = [Path("/proc") / number / "cmdline" for number in place.read_text().split()]
        run.send_signal(how)
        while any(_lives(process) for process in processes) and time.monotonic() < patience:
            time.sleep(0.05)
        assert len(processes) == 2
        assert not any(_lives(process) for process in processes)


def _lives(process: Path) -> bool:
    """Say whether a process goes on; one that ended and waits for its parent has no command line any more."""
    try:
        return bool(process.read_bytes())
    except OSError:
        return False
