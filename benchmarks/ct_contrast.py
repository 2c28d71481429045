# SPDX-License-Identifier: Apache-2.0
"""One hundred real CT files: fates, repeatability, and what dcmtk and dicom3tools say of the output.

With ``--victims`` also what victims learn from the training patients' files. Needs ``dciodvfy`` (dicom3tools) and ``dcmicmp`` (dcmtk) on the path; says so
and goes on where they are missing.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from common import Rows, fresh, parser, remove_run, salm, same_tree


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "", "ct_contrast")
    arguments.add_argument("--victims", action="store_true", help="train victims, too (half an hour more on one core)")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=30)
    given = arguments.parse_args()
    rows = Rows(given.results / "ct_contrast.jsonl")
    source, labels = given.data / "dicom", given.data / "index.csv"
    outputs = [given.work / "protected_1", given.work / "protected_2"]
    for output in outputs:
        remove_run(output)
        result, seconds, memory = salm("protect", source, output, "--labels", labels, "--label-column", "contrast", accept=(0, 3))
        rows.add(
            what="protect", counts=result["counts"], problems=result["problems"], seconds=round(seconds), peak_gib=round(memory, 2), rounds=result["rounds"],
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
        manifest = [json.loads(line) for line in (given.work / "protected_1.work" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
        steps = {record["path"]: math.floor(record["epsilon_stored"]) for record in manifest if record["status"] == "protected"}
        codes = {offset: Counter(compare_pixels(before, after, steps[after.name] + offset) for before, after in pairs) for offset in (0, -1)}
        rows.add(what="dcmicmp", steps=sorted(set(steps.values())), exit_codes_at_steps=codes[0], exit_codes_one_below=codes[-1])
    else:
        rows.add(what="dcmicmp", skipped="dcmtk is not installed")
    if given.victims:
        measure_victims(given.data, given.work, labels, given.seeds, given.epochs, rows)


def measure_victims(data: Path, work: Path, labels: Path, seeds: int, epochs: int, rows: Rows) -> None:
    """Protect the training patients' files, and score victims on the test patients'."""
    with labels.open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    for split in ("train", "test"):
        folder = fresh(work / split)
        for row in (row for row in table if row["split"] == split):
            shutil.copyfile(data / row["file"], folder / Path(row["file"]).name)
        with (work / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label"), *((Path(row["file"]).name, row["contrast"]) for row in table if row["split"] == split)])
    output = work / "protected_train"
    remove_run(output)
    salm("protect", work / "train", output, "--labels", work / "train.csv")
    scores, seconds, _ = salm(
        "evaluate", work / "train", output, "--labels", work / "train.csv", "--test", work / "test", "--test-labels", work / "test.csv",
        "--seeds", seeds, "--epochs", epochs,
    )  # fmt: skip
    for row in scores["results"]:
        rows.add(what="victim", epochs=epochs, **row)
    rows.add(what="summary", seconds=round(seconds), counts=scores["counts"], summary=scores["summary"])


def iod_errors(path: Path) -> Counter[str]:
    """Give the errors that dciodvfy reports of a file."""
    report = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace", check=False)
    return Counter(line for line in report.stderr.splitlines() if line.startswith("Error"))


def compare_pixels(before: Path, after: Path, limit: int) -> int:
    """Give the exit code of dcmicmp: 0 if no pixel differs by more than the limit, 90 if one does."""
    return subprocess.run(["dcmicmp", "-q", "+ce", str(limit), str(before), str(after)], capture_output=True, check=False).returncode


if __name__ == "__main__":
    main()
