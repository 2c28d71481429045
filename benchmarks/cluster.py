# SPDX-License-Identifier: Apache-2.0
"""What the workers of a Dask cluster cost beside the processes of one machine, on small files, where it is most: wall
seconds of ``protect --method random``, with 1 and 2 of either on this machine, in turns, and whether the bytes are the
same. Dask's workers are there before, as those of a cluster are.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from common import KEY, REPOSITORY, Rows, fresh, parser, remove_run, same_tree
from distributed import LocalCluster
from speed import Version, make_export


def compare(source: Path, work: Path, count: int, files: int, turns: int, rows: Rows) -> None:
    """Hold so many Dask workers against so many processes."""
    seconds: dict[str, list[float]] = {"pool": [], "dask": []}
    with LocalCluster(n_workers=count, threads_per_worker=1, processes=True, dashboard_address=":0") as machines:
        ways = {"pool": ("--workers", count), "dask": ("--scheduler", machines.scheduler_address)}
        for turn in range(turns + 1):
            for name, how in ways.items():
                remove_run(work / name)
                cost = Version("now", REPOSITORY).protect(source, work / name, "--key-file", KEY, *how)
                if turn:  # the first one loads what workers keep
                    seconds[name].append(cost.seconds)
    ratios = sorted(dask / pool for dask, pool in zip(seconds["dask"], seconds["pool"], strict=True))
    rows.add(
        workers=count, files=files, pool_seconds=[round(value, 2) for value in seconds["pool"]],
        dask_seconds=[round(value, 2) for value in seconds["dask"]], ratio=round(statistics.median(ratios), 3),
        ratios=[round(value, 3) for value in ratios], same_bytes=same_tree(work / "dask", work / "pool"),
    )  # fmt: skip


def main() -> None:
    arguments = parser(__doc__, data=False)
    arguments.add_argument("--files", type=int, default=1500)
    arguments.add_argument("--turns", type=int, default=5)
    given = arguments.parse_args()
    rows = Rows(given.results / "cluster.jsonl")
    source = make_export(fresh(given.work / "in"), "small", given.files)
    for count in (1, 2):
        compare(source, given.work, count, given.files, given.turns, rows)


if __name__ == "__main__":
    main()
