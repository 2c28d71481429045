# SPDX-License-Identifier: Apache-2.0
"""``torchrun`` with the command line: one process that ends takes the job with it, and what is left goes on alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from monai_salm.cli import main
from monai_salm.errors import UsageError
from monai_salm.learning.ranks import Ranks
from monai_salm.learning.tasks import ClassificationTask
from monai_salm.methods.registry import find_method
from monai_salm.pipeline import protect
from monai_salm.pipeline.launching import together
from monai_salm.pipeline.together import SharedSearch
from tests.builders import disk_set
from tests.exports import KEY, mr_export, mr_labels, small, tree
from tests.methods.test_ranks import environments, in_threads

COUNT = 36
"""Images: more than one batch of noise steps, so that the second process has one."""

FAILS = """
import sys
from monai_salm.cli import main
from monai_salm.pipeline import together

def fails(ranks):
    ranks.shared(int)
    {fails}

together.follow = fails
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    mr_export(folder / "in", COUNT)
    mr_labels(folder / "labels.csv", COUNT)
    return folder


def _arguments(folder: Path, output: Path) -> list[str]:
    return [
        *("protect", str(folder / "in"), str(output), "--labels", str(folder / "labels.csv"), "--method", "em"),
        *("--surrogate", "small-cnn", "--rounds", "3", "--working-size", "24", "--key-file", str(KEY)),
        *("--no-restore", "--workers", "0"),
    ]


def _child(process: int, rank: int) -> int:
    """Find the process of a rank among those that torchrun started."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in variables:
            return int(child)
    raise AssertionError(f"torchrun has no process {rank}")


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_one_goes_on(folder: Path, tmp_path: Path) -> None:
    command = ["-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "monai_salm"]
    job = subprocess.Popen(
        [sys.executable, *command, *_arguments(folder, tmp_path / "out")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    kept, limit = tmp_path / "out.work" / "search.safetensors", time.monotonic() + 300
    while not kept.is_file() and job.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    os.kill(_child(job.pid, 1), signal.SIGKILL)
    killed = time.monotonic()
    output, told = job.communicate(timeout=60)
    assert job.returncode != 0
    assert time.monotonic() - killed < 30
    assert output == ""
    (line,) = [line for line in told.splitlines() if line.startswith("Error:")]
    assert "--resume goes on" in line
    assert told.count("scanning") == 1, "one process tells all"
    protect(folder / "in", tmp_path / "whole", small(labels=folder / "labels.csv", method="em", rounds=3))
    with pytest.raises(SystemExit) as ended:
        main([*_arguments(folder, tmp_path / "out"), "--resume", "--quiet"])
    assert ended.value.code == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert tree(tmp_path / "out.work" / "noise") == tree(tmp_path / "whole.work" / "noise")


def _job(program: list[str], arguments: list[str]) -> list[tuple[int, list[str]]]:
    """Give exit codes and lines of two processes."""
    started = [
        subprocess.Popen(
            [sys.executable, *program, *arguments, "--quiet"],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for environment in environments(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=120)[1] for process in started]
    return [
        (process.returncode, [line for line in text.splitlines() if line.startswith("Error")])
        for process, text in zip(started, told, strict=True)
    ]


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(folder: Path, tmp_path: Path) -> None:
    program = ["-c", FAILS.format(fails="raise MemoryError")]
    (code, told), (other_code, other) = _job(program, _arguments(folder, tmp_path / "out"))
    assert (code, other_code) == (1, 1)
    assert told == [
        "Error: another of the 2 processes of this search ended, see what was said of it; the same command with "
        "--resume goes on, with any number of processes"
    ]
    assert other == ["Error: out of memory; give a smaller --working-size, or fewer --workers"]


def test_processes_that_compute_in_other_ways_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise would not be that of one; and what the first process says the others do not say again."""
    ways = {"cpu": "torch 2 on cpu, 1 threads", "meta": "torch 2 on cpu, 2 threads"}
    monkeypatch.setattr("monai_salm.pipeline.together.computing_on", lambda device: ways[device.type])
    samples, method = disk_set(4), find_method("salm:texture")
    search = SharedSearch(method, ClassificationTask(2), small(), seed=0, groups=None, padded_shape=None)

    def work(ranks: Ranks) -> str:
        if ranks.first:
            with pytest.raises(UsageError) as refused:
                search.tell(samples, torch.device("cpu"), ranks)
            return str(refused.value)
        told = ranks.shared(lambda: None)
        assert told == search
        assert [sample.sample_id for sample in ranks.shared_one_by_one(list)] == samples.ids
        ranks.in_order([ways["cpu" if ranks.number == 1 else "meta"]], ranks.count)
        return ""

    assert in_threads(3, work) == [
        "process 0 computes with torch 2 on cpu, 1 threads, process 2 with torch 2 on cpu, 2 threads; give all the "
        "same (OMP_NUM_THREADS, --device, one environment)",
        "",
        "",
    ]


def test_other_commands_are_done_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environments(2)[0].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(["scan", str(tmp_path)])
    assert ended.value.code == 2
    assert "scan is done by one process, and 2 were started; give it without torchrun" in capsys.readouterr().err


def test_one_that_is_alone_leads() -> None:
    assert together(lambda ranks: ranks) is None
    assert together(lambda _: "done") == "done"
