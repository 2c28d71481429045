# SPDX-License-Identifier: Apache-2.0
"""Add next month's files to a release: they get noise of the same kind, and what was handed out stays as it is.

python 03_new_arrivals.py                                  # slices that it makes
python 03_new_arrivals.py DECEMBER december.csv OUT        # new files, their table, and a release that is there
"""

from __future__ import annotations

import argparse
from pathlib import Path

from made_up_data import Arguments, make_slices, start

from monai_salm import ProtectOptions, protect


def first_release(folder: Path) -> Path:
    """Make a release of November's slices."""
    export, labels = make_slices(folder / "november", folder / "november.csv", count=16)
    done = protect(
        export, folder / "out", ProtectOptions(labels=labels, method="salm:texture", surrogate="small-cnn", rounds=1)
    )
    print("November:", done.to_json()["counts"])
    return folder / "out"


def main(arguments: argparse.Namespace, folder: Path) -> None:
    """Make a release, unless one is given, and add to it."""
    new, labels, out = arguments.new, arguments.labels, arguments.out
    if out is None:
        out = first_release(folder)
        new, labels = make_slices(folder / "december", folder / "december.csv", count=6, first=16)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    # Budget, window, classes, secret and surrogate are those of the release, which its work folder has kept.
    done = protect(new, out, ProtectOptions(add=True, labels=labels))
    print("December:", done.to_json()["counts"])
    same = sum(path.read_bytes() == content for path, content in before.items())
    print(f"{same} of the {len(before)} files that were handed out before are as they were")


def parser() -> Arguments:
    """Say which arguments there are."""
    found = Arguments(description="Add files to a release.")
    found.add_argument("new", type=Path, nargs="?", help="folder of new files")
    found.add_argument("labels", type=Path, nargs="?", help="their table")
    found.add_argument("out", type=Path, nargs="?", help="output folder of the release, with its work folder beside it")
    return found


if __name__ == "__main__":
    start(main, parser())
