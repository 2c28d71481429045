# SPDX-License-Identifier: Apache-2.0
"""Whether a second half of a data set, protected later with the surrogate of the first, is protected as well: victims
that train on either half, and on both, are scored on clean test images.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

from classification import DATA_SETS, split_labels
from common import Rows, fresh, parser, remove_run, salm

from monai_salm.evaluate import EvaluateOptions, evaluate


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data-set", choices=DATA_SETS, default="breast")
    arguments.add_argument("--method", default="salm:exchange")
    arguments.add_argument("--victims", default="small-cnn,small-resnet")
    arguments.add_argument("--seeds", type=int, default=1)
    given = arguments.parse_args()
    data, work = DATA_SETS[given.data_set], given.work / given.data_set
    rows = Rows(given.results / "growth.jsonl", keep=True)
    tables = {split: split_labels(given.data_set, given.data / data.folder, work / split, split)
              for split in ("train", "test")}  # fmt: skip
    with tables["train"].open(encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    options = ["--working-size", data.working_size, "--epsilon", "8/255", "--no-estimate"]
    options += [part for pattern in data.pictures for part in ("--pictures", pattern)]
    surrogate: list[object] = ["--method", given.method]
    for half, some in {"first": lines[::2], "second": lines[1::2]}.items():
        clean, table = fresh(work / half), work / f"{half}_labels.csv"
        for path, *_ in some:
            shutil.copyfile(work / "train" / path, clean / path)
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *some])
        output = work / f"protected_{half}"
        remove_run(output)
        salm("protect", clean, output, "--labels", table, *options, *surrogate)
        surrogate = [
            "--method",
            given.method,
            "--surrogate",
            output.with_name(f"{output.name}.work") / "surrogate.safetensors",
        ]
        _score(given, rows, half, {"later" if half == "second" else "search": output}, clean, table)
    grown = fresh(work / "grown")
    for half in ("first", "second"):
        shutil.copytree(work / f"protected_{half}", grown, dirs_exist_ok=True)
    _score(given, rows, "both", {"grown": grown}, work / "train", tables["train"])


def _score(
    given: argparse.Namespace, rows: Rows, part: str, folders: dict[str, Path], clean: Path, table: Path
) -> None:
    """Train victims on a part of the images, clean and protected, and write a row for each."""
    data, work = DATA_SETS[given.data_set], given.work / given.data_set
    chosen = EvaluateOptions(
        victims=given.victims, seeds=given.seeds, labels=table, test_labels=work / "test_labels.csv",
        working_size=data.working_size, epochs=data.epochs, utility=False, pictures=data.pictures,
    )  # fmt: skip
    for result in evaluate(clean, folders, work / "test", chosen, show_progress=True).results:
        rows.add(what="growth", data_set=given.data_set, method=given.method, part=part, **result.to_json())


if __name__ == "__main__":
    main()
