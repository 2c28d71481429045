# SPDX-License-Identifier: Apache-2.0
"""Prove that two checkouts of the package write the same bytes.

Run from the root of a checkout, as a module::

    python -m tests.same_bytes make INPUTS --seed 0
    python -m tests.same_bytes run INPUTS OLD_CHECKOUT old.json
    python -m tests.same_bytes run INPUTS NEW_CHECKOUT new.json
    python -m tests.same_bytes compare old.json new.json

``make`` writes small pictures in every format that ``protect`` handles, the same bytes for the same seed and the same
libraries. ``run`` protects them by the package of a checkout, every method and every format, and writes one JSON line
per case as soon as it is done: exit codes, digests of all that is handed out, the noise, digests of the surrogate's
tensors, and what became of each file. ``compare`` says of each case what differs.

Nothing here imports the package, so that any checkout can be measured; a case only uses its command line, its bundle
and its public transforms.

Each step of a case runs in a process of its own. Starting Python with torch takes longer than most cases, so these
processes are forked from one that has already imported third-party libraries, but nothing of the package; ``--cold``
starts a new interpreter for each step instead, which takes three times as long.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.same_bytes.comparing import compare
from tests.same_bytes.inputs import make_inputs
from tests.same_bytes.running import CHANCES, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.same_bytes", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="write the inputs")
    making.add_argument("inputs", type=Path)
    making.add_argument("--seed", type=int, default=0)
    running = commands.add_parser("run", help="protect the inputs by the package of a checkout")
    running.add_argument("inputs", type=Path)
    running.add_argument("checkout", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--cases", default="*", metavar="PATTERN", help="names with * and ?, separated by commas")
    running.add_argument("--jobs", type=int, default=1, help="cases at a time")
    running.add_argument("--cold", action="store_true", help="a new interpreter for each step")
    running.add_argument("--chance", choices=CHANCES, default="own", help="how random numbers are drawn")
    comparing = commands.add_parser("compare", help="say what differs between two runs")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    choices = parser.parse_args(arguments)
    if choices.command == "make":
        make_inputs(choices.inputs, choices.seed)
        return 0
    if choices.command == "compare":
        return compare(choices.first, choices.second)
    if os.environ.get("OMP_NUM_THREADS") != "1":  # read once, when the libraries are loaded
        os.execve(sys.executable, sys.orig_argv, os.environ | {"OMP_NUM_THREADS": "1"})  # noqa: S606
    return run(
        choices.inputs, choices.checkout, choices.out,
        pattern=choices.cases, jobs=choices.jobs, cold=choices.cold, chance=choices.chance,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
