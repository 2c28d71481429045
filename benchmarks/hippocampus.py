# SPDX-License-Identifier: Apache-2.0
"""Hippocampus, 3D segmentation from NIfTI files: time, memory, headers, anatomy, and what victims learn.

160 volumes are protected; victims are scored on 50 others (``--split test``: the last 50; ``val``: the 50 before them, for choosing settings).
"""

from __future__ import annotations

import argparse
import gzip
import shutil
from pathlib import Path

from common import Rows, fresh, parser, remove_run, salm


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "", "hippocampus")
    arguments.add_argument("--split", choices=["val", "test"], default="test")
    arguments.add_argument("--method", default="salm")
    arguments.add_argument("--epsilon", default="8/255")
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--rounds", type=int)
    arguments.add_argument("--skip-protect", action="store_true", help="measure the victims of an earlier run's files, and add to its rows")
    given = arguments.parse_args()
    rows = Rows(given.results / f"hippocampus_{given.method}_{given.split}.jsonl", keep=given.skip_protect)
    names = sorted(path.name for path in (given.data / "imagesTr").glob("hippocampus_*.nii.gz"))
    chosen = {"train": names[:160], "val": names[-100:-50], "test": names[-50:]}
    for split in ("train", given.split):
        for kind in ("images", "labels"):
            folder = fresh(given.work / split / kind)
            for name in chosen[split]:
                shutil.copyfile(given.data / f"{kind}Tr" / name, folder / name)
    clean, labels, output = given.work / "train" / "images", given.work / "train" / "labels", given.work / f"protected_{given.method}"
    if not given.skip_protect:
        protect(given, rows, clean, labels, output, chosen["train"])
    test = given.work / given.split
    scores, seconds, _ = salm(
        "evaluate", clean, output, "--labels", labels, "--task", "segmentation", "--test", test / "images", "--test-labels", test / "labels",
        "--seeds", given.seeds, "--epochs", given.epochs,
    )  # fmt: skip
    for row in scores["results"]:
        rows.add(what="victim", split=given.split, epochs=given.epochs, **row)
    rows.add(what="summary", seconds=round(seconds), counts=scores["counts"], summary=scores["summary"])


def protect(given: argparse.Namespace, rows: Rows, clean: Path, labels: Path, output: Path, names: list[str]) -> None:
    """Protect the training volumes, and check them."""
    remove_run(output)
    rounds = [] if given.rounds is None else ["--rounds", given.rounds]
    result, seconds, memory = salm(
        "protect", clean, output, "--labels", labels, "--task", "segmentation", "--method", given.method, "--epsilon", given.epsilon, *rounds
    )
    rows.add(
        what="protect", method=given.method, epsilon=given.epsilon, counts=result["counts"], seconds=round(seconds), peak_gib=round(memory, 2),
        rounds=result["rounds"], passes_per_sample=round(result["passes_per_sample"], 1), lowest_psnr=round(result["lowest_psnr"], 2),
    )  # fmt: skip
    verdict, seconds, _ = salm("verify", clean, output, "--epsilon", given.epsilon)
    outside = sum(file["changed_outside"] or 0 for file in verdict["files"])
    shares = [file["changed_fraction"] for file in verdict["files"] if file["changed_fraction"]]
    same_headers = sum(_same_header(clean / name, output / name) for name in names)
    rows.add(
        what="verify", counts=verdict["counts"], changed_outside_anatomy=outside, header_bytes_identical=same_headers,
        mean_changed_fraction=round(sum(shares) / len(shares), 3), seconds=round(seconds),
    )  # fmt: skip


def _same_header(first: Path, second: Path) -> bool:
    """Say whether all bytes before the voxels are the same in two NIfTI-1 files."""
    heads = [gzip.decompress(path.read_bytes())[:352] for path in (first, second)]
    return heads[0] == heads[1]


if __name__ == "__main__":
    main()
