# SPDX-License-Identifier: Apache-2.0
"""The process that does the jobs. Started by its path, so that it finds the package where the run found it, wherever
that is.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

WATCH = 0.2
"""Seconds in which a process notices that the run was killed."""


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Do the jobs of each question, and answer each: whether it raised, and the result or what was raised."""
    while True:
        try:
            function, jobs = _read(questions)
        except EOFError:
            return
        for job in jobs:
            try:
                answer = (False, function(job))
            except Exception as error:  # noqa: BLE001 (who asked raises it)
                answer = (True, error)
            try:
                pickle.dump(answer, answers)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                pickle.dump((True, RuntimeError(f"{answer[1]!r} cannot be sent: {error}")), answers)
            answers.flush()
            if answer[0]:
                break  # who asked goes no further


def _read(questions: BinaryIO) -> tuple[Any, Any]:
    """Read what to do with which jobs, once names mean what they mean to the run."""
    surroundings = pickle.load(questions)  # noqa: S301 (of the run that started this)
    sys.path[:] = surroundings["path"]
    os.chdir(surroundings["folder"])
    if surroundings["logs"] != "unknown":
        if surroundings["logs"] == "nothing":
            warnings.simplefilter("ignore")
        progress = import_module("monai_salm.progress")
        if progress.how_logs_are_told() != surroundings["logs"]:
            progress.log_as(surroundings["logs"])
    return pickle.load(questions)  # type: ignore[no-any-return]  # noqa: S301


def _end_with(run: int) -> None:
    """End with the run, also in the middle of a job: what that was writing is swept up by who goes on."""
    while os.getppid() == run:
        time.sleep(WATCH)
    os._exit(1)


def _be_first_to_go() -> None:
    """Where memory runs out, let Linux end this process and not the run."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def main() -> None:
    """Keep standard output for the answers, whatever libraries write there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run gets it too, and says what to do
    _be_first_to_go()
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
