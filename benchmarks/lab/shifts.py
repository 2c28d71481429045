# SPDX-License-Identifier: Apache-2.0
"""How far the means of regions move in the files that each method writes, as ``monai-salm verify`` measures it.

    python benchmarks/lab/shifts.py --data DATA --work WORK --data-set ct_contrast salm:texture salm:exchange@4 em@4

A method may have a number of rounds behind an ``@``. Some of the training files are protected, at the defaults but for
``--working-size``; rows say how many and on how many cells. Files of ``ct_contrast`` say how far their pixels are
apart; those of the other data sets do not, so their regions are of 5, 10 and 20 pixels.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # what all benchmarks share

from classification import DATA_SETS, split_labels
from common import RESULTS, Rows, fresh, remove_run, salm
from ct_contrast import split_files


def main() -> None:
    """Protect some files by each method, and measure them."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("methods", nargs="+")
    arguments.add_argument("--data", type=Path, required=True, help="folder of the data sets, see benchmarks/README.md")
    arguments.add_argument("--work", type=Path, required=True, help="scratch folder for the files that are made")
    arguments.add_argument("--data-set", choices=["ct_contrast", *DATA_SETS], default="ct_contrast")
    arguments.add_argument("--files", type=int, default=40, help="evenly of the training files")
    arguments.add_argument("--working-size", type=int, default=128)
    arguments.add_argument("--results", type=Path, default=RESULTS / "lab.jsonl", help="file that rows are added to")
    given = arguments.parse_args()
    rows = Rows(given.results, keep=True)
    given.work.mkdir(parents=True, exist_ok=True)
    labels = some_files(given)
    kinds = ["--pictures", "*.jpg"] if given.data_set == "brain_tumor" else []
    for method in given.methods:
        name, _, rounds = method.partition("@")
        target = given.work / "protected"
        remove_run(target)
        chosen = ["--method", name, *(["--rounds", rounds] if rounds else []), "--working-size", given.working_size]
        result, seconds, _ = salm(
            "protect", given.work / "some", target, "--labels", labels, *chosen, "--no-estimate", *kinds
        )
        verdict, checked, _ = salm("verify", given.work / "some", target, "--epsilon", "8/255", *kinds)
        files = [file for file in verdict["files"] if file["mean_shifts"]]
        rows.add(
            what="shift trial", data_set=given.data_set, method=name, epsilon="8/255", files=len(files),
            working_size=given.working_size, rounds=result["rounds"],
            largest_change_real=max(file["max_change_real"] for file in files),
            mean_psnr=round(sum(file["psnr"] for file in files) / len(files), 2),
            shifts=[worst(files, number) for number in range(len(files[0]["mean_shifts"]))],
            seconds=round(seconds), verify_seconds=round(checked, 1),
        )  # fmt: skip


def worst(files: list[dict[str, Any]], number: int) -> dict[str, Any]:
    """Give the figures of one size of region: the largest of all files, and the mean over files of those that 99 % of
    a file's regions stay within.
    """
    shifts = [file["mean_shifts"][number] for file in files if file["mean_shifts"][number]["regions"]]
    kept = {name: files[0]["mean_shifts"][number][name] for name in ("diameter", "unit")}
    if not shifts:
        return kept | {"largest_real": None, "mean_p99_real": None}
    p99 = [shift["p99_real"] for shift in shifts]
    return kept | {
        "largest_real": round(max(shift["largest_real"] for shift in shifts), 3),
        "mean_p99_real": round(sum(p99) / len(p99), 3),
    }


def some_files(given: argparse.Namespace) -> Path:
    """Copy some training files, and give the table of their labels."""
    if given.data_set == "ct_contrast":
        table, folder = split_files(given, "train"), given.work / "train"
    else:
        table = split_labels(
            given.data_set, given.data / DATA_SETS[given.data_set].folder, given.work / "train", "train"
        )
        folder = given.work / "train"
    with table.open(newline="", encoding="utf-8") as file:
        head, *lines = csv.reader(file)
    chosen = lines[:: max(1, len(lines) // given.files)][: given.files]
    target, labels = fresh(given.work / "some"), given.work / "some_labels.csv"
    for name, _ in chosen:
        shutil.copyfile(folder / name, target / name)
    with labels.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *chosen])
    return labels


if __name__ == "__main__":
    main()
