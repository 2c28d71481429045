# SPDX-License-Identifier: Apache-2.0
"""The workers of a Dask cluster do what the processes of one machine do, byte for byte, whatever becomes of them."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monai_salm.cli import main
from monai_salm.errors import DiskError, SalmError, UsageError
from monai_salm.pipeline import protect, restore, verify
from monai_salm.workers import Workers, cluster, workers_of
from monai_salm.workers.cluster import ClusterWorkers
from tests.exports import KEY, drawn, mr_export, tree

dask = pytest.importorskip("dask", reason="an extra is not installed")
distributed = pytest.importorskip("distributed", reason="an extra is not installed")

pytestmark = [
    pytest.mark.slow,
    # What Dask leaves to the garbage collector when processes of a cluster are killed and its loop is closed.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two workers, whose current folder is not that of the test; one killed over a job gives that one more chance."""
    folder, here = tmp_path_factory.mktemp("elsewhere"), Path.cwd()
    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.admin.system-monitor.gil.enabled": False,
        "temporary-directory": str(folder),
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=60
        ) as machines,
        distributed.Client(machines) as client,
    ):
        client.run(os.chdir, folder)
        assert set(client.run(os.getcwd).values()) == {str(folder)} != {str(here)}
        yield machines.scheduler_address


def lost(job: object, why: str) -> str:
    return f"{job}: {why}"


def act(job: Any) -> Any:
    """Do what a bad file may make a library do."""
    if job == "leave":
        os._exit(7)
    if job == "full":
        raise DiskError("full", Path("here"))
    if job == "array":
        return np.zeros(3)
    if job == "slow":
        time.sleep(1.5)
    if job == "process":
        return os.getpid()
    return job


def once(place: str) -> str:
    """End the worker that comes first, as somebody does who kills it."""
    if not Path(place).exists():
        Path(place).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def noted(place: str) -> None:
    time.sleep(1.0)
    Path(place).touch()


@pytest.mark.parametrize("chunk", [1, 4])
def test_results_come_in_order_and_jobs_are_taken_as_needed(address: str, chunk: int) -> None:
    taken = []

    def jobs() -> Iterator[int]:
        for number in range(1, 61):
            taken.append(number)
            yield number

    with ClusterWorkers(address) as workers:
        results = workers.map(act, jobs(), lost=lost, chunk=chunk)
        assert next(results) == 1
        assert len(taken) <= 2 * cluster.AHEAD * chunk
        assert list(results) == list(range(2, 61))
        assert workers.count == 2
        assert workers.fair_chunk(160) == Workers(2).fair_chunk(160)
        (array,) = workers.map(act, ["array"], lost=lost)
    found: NDArray[Any] = array
    found += 1  # as one from a process of this machine


def test_what_a_job_raises_is_raised_and_ends_the_rest(address: str) -> None:
    with ClusterWorkers(address) as workers:
        with pytest.raises(DiskError, match="full") as caught:
            list(workers.map(act, [1, "full", *range(1000)], lost=lost, chunk=2))
        assert isinstance(caught.value, SalmError)
        assert caught.value.full == Path("here")
        assert list(workers.map(act, [1, 2], lost=lost)) == [1, 2]
        assert next(workers.map(act, range(100), lost=lost)) == 0  # and the others are not asked for
        assert list(workers.map(act, ["again"], lost=lost)) == ["again"]


def test_who_stops_waits_for_jobs_in_the_middle(address: str, tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in "abcdefgh"]
    with ClusterWorkers(address) as workers:
        results = workers.map(noted, places, lost=max)
        assert next(results) is None
        workers.close()
        done = set(tmp_path.iterdir())
        time.sleep(1.5)
        assert set(tmp_path.iterdir()) == done


def test_worker_that_somebody_kills_costs_nothing(address: str, tmp_path: Path) -> None:
    with ClusterWorkers(address) as workers:
        jobs = [str(tmp_path / "been")] * 6
        assert list(workers.map(once, jobs, lost=lost, chunk=2)) == ["done"] * 6
        assert workers.ended, "who wrote has to look for what is left"


def test_job_that_ends_its_workers_costs_its_job_alone(address: str) -> None:
    with ClusterWorkers(address) as workers:
        told = list(workers.map(act, [1, "leave", 2, 3, 4, 5], lost=lost, chunk=3))
    assert [told[0], *told[2:]] == [1, 2, 3, 4, 5]
    assert str(told[1]).startswith("leave: 2 Dask workers that worked on it ended, the last at tcp://")


def _manifest(work_dir: Path) -> list[str]:
    return (work_dir / "manifest.jsonl").read_text(encoding="utf-8").splitlines()


def _temporary(folder: Path) -> list[Path]:
    return list(folder.rglob("*.tmp"))


def test_bytes_are_those_of_the_processes(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With relative paths, which mean nothing to workers elsewhere."""
    monkeypatch.chdir(tmp_path)
    mr_export(Path("in"), 12)
    protect(Path("in"), Path("pool"), drawn(restore=True, workers=2))
    done = protect(Path("in"), Path("out"), drawn(restore=True, scheduler=address, work_dir=Path("private")))
    assert done.to_json()["counts"]["failed"] == 0
    assert tree(Path("out")) == tree(Path("pool"))
    assert _manifest(Path("private")) == _manifest(Path("pool.work"))
    assert tree(Path("private/noise")) == tree(Path("pool.work/noise"))
    report = verify(Path("in"), Path("out"), scheduler=address)
    assert report.to_json() == verify(Path("in"), Path("pool"), workers=2).to_json()
    assert not report.mismatches
    back = restore(Path("out"), Path("back"), KEY, residuals=Path("private/residuals"), scheduler=address)
    assert back.to_json()["counts"]["restored"] == len(tree(Path("out")))
    assert tree(Path("back")) == {path: text for path, text in tree(Path("in")).items() if path in tree(Path("back"))}
    assert not _temporary(tmp_path)


def test_workers_killed_while_files_are_written(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mr_export(tmp_path / "in", 40)
    protect(tmp_path / "in", tmp_path / "pool", drawn(restore=True, workers=2))
    send, killed = ClusterWorkers._begin_jobs, {}

    def sent(self: ClusterWorkers, function: Any, jobs: Any) -> Any:
        future = send(self, function, jobs)
        what = function.__name__
        if what in ("write_file", "restore_file") and len(self._begun) == 3 and what not in killed:
            killed[what] = next(iter(self._client.run(os.getpid).values()))
            os.kill(killed[what], signal.SIGKILL)
        return future

    monkeypatch.setattr(ClusterWorkers, "_begin_jobs", sent)
    done = protect(tmp_path / "in", tmp_path / "out", drawn(restore=True, scheduler=address))
    assert done.to_json()["counts"]["failed"] == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "pool")
    assert _manifest(tmp_path / "out.work") == _manifest(tmp_path / "pool.work")
    restore(tmp_path / "out", tmp_path / "back", KEY, scheduler=address)
    assert tree(tmp_path / "back") == tree(tmp_path / "in")
    assert set(killed) == {"write_file", "restore_file"}
    assert not _temporary(tmp_path / "out")
    assert not _temporary(tmp_path / "back")


def ended(arguments: list[str]) -> object:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with pytest.raises(SystemExit) as end:
        main(arguments)
    root.handlers, root.level = handlers, level
    return end.value.code


def test_commands_take_a_scheduler(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mr_export(tmp_path / "in", 3)
    source, work, out, back = (str(tmp_path / name) for name in ("in", "work", "out", "back"))
    asked = ["--scheduler", address, "--quiet"]
    assert ended(["scan", source, "--values", *asked]) == 0
    assert ended(["plan", source, work, "--method", "random", "--key-file", str(KEY), *asked]) == 0
    assert address not in (Path(work) / "plan.jsonl").read_text(encoding="utf-8")
    assert ended(["protect", out, "--plan", work, *asked]) == 0
    capsys.readouterr()
    assert ended(["verify", source, out, "--json", *asked]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["mismatch"] == 0
    where = ["--key-file", str(KEY), "--residuals", str(Path(work) / "residuals")]
    assert ended(["restore", out, back, *where, *asked]) == 0
    capsys.readouterr()
    assert ended(["verify", source, out, "--workers", "2", *asked]) == 2
    assert "leave out --workers" in capsys.readouterr().err


def test_worker_of_another_version_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_own_version", lambda: "9.9")
    with pytest.raises(UsageError, match=r"the Dask worker at tcp://.* has monai_salm .*, this is 9\.9; install"):
        list(ClusterWorkers(address).map(act, [1], lost=lost))


def test_worker_of_another_version_that_comes_later_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ClusterWorkers(address) as workers:
        assert list(workers.map(act, [1], lost=lost)) == [1]
        monkeypatch.setattr(cluster, "_own_version", lambda: "9.9")
        with pytest.raises(UsageError, match=r"the Dask worker at .*, this is 9\.9; install"):
            list(workers.map(act, [1], lost=lost))


def test_scheduler_without_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECTING", 2.0)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=60) as machines,
        pytest.raises(UsageError, match="has no worker; start some with 'dask worker tcp://"),
    ):
        ClusterWorkers(machines.scheduler_address).fair_chunk(3)


@pytest.mark.parametrize("where", ["tcp://127.0.0.1:1", "nonsense://127.0.0.1:1"])
def test_address_without_a_scheduler_is_refused(where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cluster, "CONNECTING", 1.0)
    mr_export(tmp_path / "in", 1)
    began = time.monotonic()
    with pytest.raises(UsageError, match=f"{where}: no Dask scheduler answers there") as caught:
        protect(tmp_path / "in", tmp_path / "out", drawn(scheduler=where))
    assert len(str(caught.value).splitlines()) == 1
    assert time.monotonic() - began < 10


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(cluster, "import_module", absent)
    with pytest.raises(UsageError, match=r"pip install 'distributed>=\d"):
        workers_of(2, "tcp://127.0.0.1:1").fair_chunk(3)
