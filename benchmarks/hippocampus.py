# SPDX-License-Identifier: Apache-2.0
"""Hippocampus, 3D segmentation from NIfTI files: bounds, headers, anatomy, and what victims learn from the files of
each method.

160 volumes are protected; victims are scored on 50 others (``--part test``: the last 50; ``val``: the 50 before them,
for choosing settings).
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

from common import Rows, add_grid, fresh, measure_victims, parser, protect_by_methods


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    add_grid(arguments, epsilon="4/255", victims="small-unet", epochs=20)
    arguments.add_argument("--part", choices=["val", "test"], default="test")
    given = arguments.parse_args()
    rows = Rows(given.results / f"hippocampus{'_' + given.name if given.name else ''}.jsonl", keep=True)
    source = given.data / "hippocampus"
    names = sorted(path.name for path in (source / "imagesTr").glob("hippocampus_*.nii.gz"))
    chosen = {"train": names[:160], "val": names[-100:-50], "test": names[-50:]}
    for split in ("train", given.part):
        for kind in ("images", "labels"):
            folder = fresh(given.work / split / kind)
            for name in chosen[split]:
                shutil.copyfile(source / f"{kind}Tr" / name, folder / name)
    train, test = given.work / "train", given.work / given.part
    folders = protect_by_methods(
        given, rows, "hippocampus", train / "images", "--labels", train / "labels", "--task", "segmentation"
    )
    for method, folder in folders.items():
        same = sum(_same_header(train / "images" / name, folder / name) for name in chosen["train"])
        rows.add(what="headers", data_set="hippocampus", method=method, files=len(chosen["train"]), byte_identical=same)
    measure_victims(
        given, rows, "hippocampus", given.part, train / "images", folders, test / "images",
        labels=train / "labels", test_labels=test / "labels", task="segmentation",
    )  # fmt: skip


def _same_header(first: Path, second: Path) -> bool:
    """Say whether all bytes before the voxels are the same in two NIfTI-1 files."""
    heads = [gzip.decompress(path.read_bytes())[:352] for path in (first, second)]
    return heads[0] == heads[1]


if __name__ == "__main__":
    main()
