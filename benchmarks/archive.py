# SPDX-License-Identifier: Apache-2.0
"""One large export, 100,000 small slices unless told otherwise: what scanning, protecting, resuming and verifying it
take with the processes of this machine, and what lies on the disk afterwards. The point that docs/scale.md rests on.
"""

from __future__ import annotations

from pathlib import Path

from common import Rows, fresh, parser, remove_run
from speed import Version, make_export


def on_disk(folder: Path) -> int:
    """Give the bytes of the files below a folder."""
    return sum(place.stat().st_size for place in folder.rglob("*") if place.is_file())


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "", data=False)
    arguments.add_argument("--files", type=int, default=100_000)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--only", default="scan,protect,resume,verify")
    given = arguments.parse_args()
    rows = Rows(given.results / "archive.jsonl", keep=True)
    source, output = given.work / "in", given.work / "out"
    if not source.is_dir():
        make_export(fresh(source), "small", given.files)
    version = Version("now", Path(__file__).resolve().parent.parent)
    many = ("--quiet", "--workers", given.workers)
    stages = {
        "scan": lambda: version.run("scan", source, *many),
        "protect": lambda: (remove_run(output), version.protect(source, output, "--workers", given.workers))[1],
        "resume": lambda: version.protect(source, output, "--workers", given.workers, "--resume"),
        "verify": lambda: version.run("verify", source, output, *many),
    }
    for name in given.only.split(","):
        cost = stages[name]()
        rows.add(
            what=name, files=given.files, workers=given.workers, input_bytes=on_disk(source),
            seconds=round(cost.seconds, 1), cpu_seconds=round(cost.cpu_seconds, 1), MiB=round(cost.mib),
            work_bytes=on_disk(output.with_name(f"{output.name}.work")) if output.is_dir() else 0,
        )  # fmt: skip


if __name__ == "__main__":
    main()
