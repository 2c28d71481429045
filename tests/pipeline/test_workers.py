# SPDX-License-Identifier: Apache-2.0
"""The processes that write end with the run that started them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import builtins
import monai_salm.pipeline.output as output

if __name__ == "__main__":
    output.write_sample = builtins.exec
    list(output.write_samples(["import os, time; print(os.getpid(), flush=True); time.sleep(60)"] * 2, 2))
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="it looks for processes in /proc")
def test_workers_end_with_a_killed_run(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with subprocess.Popen([sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        workers = [Path("/proc") / run.stdout.readline().strip() / "cmdline" for _ in range(2)]
        run.kill()
        patience = time.monotonic() + 20
        while any(_lives(worker) for worker in workers) and time.monotonic() < patience:
            time.sleep(0.05)
        assert not any(_lives(worker) for worker in workers)


def _lives(process: Path) -> bool:
    """Say whether a process goes on; one that ended and waits for its parent has no command line any more."""
    try:
        return bool(process.read_bytes())
    except OSError:
        return False
