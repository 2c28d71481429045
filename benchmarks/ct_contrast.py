# SPDX-License-Identifier: Apache-2.0
"""One hundred real CT files: fates, repeatability, and what dcmtk and dicom3tools say of the output.

With ``--victims LIST`` also what victims learn from the training patients' files, at 64 x 64, scored on the test
patients'. Needs ``dciodvfy`` (dicom3tools) and ``dcmicmp`` (dcmtk) on the path; says so and goes on where they are
missing.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from common import Rows, add_grid, fresh, measure_victims, parser, protect_by_methods, remove_run, salm, same_tree

WORKING_SIZE = 64
"""What surrogates and victims see of an image."""


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    add_grid(arguments, epsilon="8/255", victims="", epochs=30)
    arguments.add_argument("--skip-files", action="store_true", help="only measure victims")
    given = arguments.parse_args()
    rows = Rows(given.results / f"ct_contrast{'_' + given.name if given.name else ''}.jsonl", keep=True)
    given.work.mkdir(parents=True, exist_ok=True)
    if not given.skip_files:
        check_files(given, rows)
    if given.victims:
        labels = {split: split_files(given, split) for split in ("train", "test")}
        clean, test = given.work / "train", given.work / "test"
        folders = protect_by_methods(
            given, rows, "ct_contrast", clean, "--labels", labels["train"], "--working-size", WORKING_SIZE
        )
        measure_victims(
            given,
            rows,
            "ct_contrast",
            "test",
            clean,
            folders,
            test,
            labels=labels["train"],
            test_labels=labels["test"],
            working_size=WORKING_SIZE,
        )


def check_files(given: argparse.Namespace, rows: Rows) -> None:
    """Protect all files twice at the defaults, and let other tools judge the result."""
    source, labels = given.data / "ct_contrast" / "dicom", given.data / "ct_contrast" / "index.csv"
    outputs = [given.work / "protected_1", given.work / "protected_2"]
    for output in outputs:
        remove_run(output)
        result, seconds, memory = salm(
            "protect", source, output, "--labels", labels, "--label-column", "contrast", accept=(0, 3)
        )
        rows.add(
            what="files", counts=result["counts"], problems=result["problems"], seconds=round(seconds),
            peak_gib=round(memory, 2), rounds=result["rounds"],
            passes_per_sample=round(result["passes_per_sample"], 1), lowest_psnr=round(result["lowest_psnr"], 2),
        )  # fmt: skip
    rows.add(what="repeat", byte_identical=same_tree(*outputs))
    verdict, seconds, _ = salm("verify", source, outputs[0], accept=(0, 4))
    rows.add(what="verify", counts=verdict["counts"], seconds=round(seconds))
    pairs = [(source / file["path"], outputs[0] / file["path"]) for file in verdict["files"]]
    if shutil.which("dciodvfy"):
        worse = [after.name for before, after in pairs if iod_errors(after) - iod_errors(before)]
        rows.add(what="dciodvfy", files=len(pairs), with_new_errors=worse)
    else:
        rows.add(what="dciodvfy", skipped="dicom3tools is not installed")
    if shutil.which("dcmicmp"):
        manifest = [
            json.loads(line)
            for line in (given.work / "protected_1.work" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        steps = {
            record["path"]: math.floor(record["epsilon_stored"])
            for record in manifest
            if record["status"] == "protected"
        }
        codes = {
            offset: Counter(compare_pixels(before, after, steps[after.name] + offset) for before, after in pairs)
            for offset in (0, -1)
        }
        rows.add(
            what="dcmicmp",
            steps=sorted(set(steps.values())),
            exit_codes_at_steps=codes[0],
            exit_codes_one_below=codes[-1],
        )
    else:
        rows.add(what="dcmicmp", skipped="dcmtk is not installed")


def split_files(given: argparse.Namespace, split: str) -> Path:
    """Copy the files of the patients of a split, and give the table of their labels."""
    source = given.data / "ct_contrast"
    with (source / "index.csv").open(newline="", encoding="utf-8") as file:
        chosen = [row for row in csv.DictReader(file) if row["split"] == split]
    work: Path = given.work
    folder, table = fresh(work / split), work / f"{split}_labels.csv"
    for row in chosen:
        shutil.copyfile(source / row["file"], folder / Path(row["file"]).name)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *((Path(row["file"]).name, row["contrast"]) for row in chosen)])
    return table


def iod_errors(path: Path) -> Counter[str]:
    """Give the errors that dciodvfy reports of a file."""
    report = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    return Counter(line for line in report.stderr.splitlines() if line.startswith("Error"))


def compare_pixels(before: Path, after: Path, limit: int) -> int:
    """Give the exit code of dcmicmp: 0 if no pixel differs by more than the limit, 90 if one does."""
    return subprocess.run(
        ["dcmicmp", "-q", "+ce", str(limit), str(before), str(after)], capture_output=True, check=False
    ).returncode


if __name__ == "__main__":
    main()
