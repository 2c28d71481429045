# SPDX-License-Identifier: Apache-2.0
"""PneumoniaMNIST, BreastMNIST and brain tumor slices: what victims learn from the files that each method wrote.

Nothing is chosen here: each method runs with the defaults of ``monai-salm protect``. ``--part val`` scores on validation images instead, for choosing.

"""

from __future__ import annotations

import argparse
import csv
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import Rows, fresh, parser, remove_run, salm

from monai_salm.demo.files import write_dicom
from monai_salm.evaluate import EvaluateOptions, evaluate


@dataclass(frozen=True)
class DataSet:
    """A data set: its folder, what a network sees of its images, and the epochs of a victim."""

    folder: str
    working_size: int
    epochs: int


DATA_SETS = {
    "pneumonia": DataSet("pneumonia/pneumoniamnist.npz", 32, 6),
    "breast": DataSet("breast/breastmnist.npz", 32, 30),
    "brain_tumor": DataSet("brain_tumor", 64, 12),
}


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "", "")
    arguments.add_argument("--data-set", choices=DATA_SETS, default="pneumonia")
    arguments.add_argument("--part", choices=["val", "test"], default="test")
    arguments.add_argument("--methods", default="salm")
    arguments.add_argument("--victims", default="small-resnet,small-cnn")
    arguments.add_argument("--countermeasures", default="none")
    arguments.add_argument("--shares", default="100")
    arguments.add_argument("--epsilon", default="8/255")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, help="of each victim, instead of the data set's")
    arguments.add_argument("--report", action="store_true", help="write a page with the figures into the work folder")
    arguments.add_argument("--name", default="", help="ending of the rows' file, so that runs beside each other do not share one")
    given = arguments.parse_args()
    data = DATA_SETS[given.data_set]
    work = given.work / given.data_set
    rows = Rows(given.results / f"{given.data_set}{'_' + given.name if given.name else ''}.jsonl", keep=True)
    labels = {split: split_labels(given.data / data.folder, work / split, split) for split in ("train", given.part)}
    methods = given.methods.split(",")
    folders = {method: work / f"protected_{method}" for method in methods}
    for method, folder in folders.items():
        if not folder.exists():
            protect(given, data, rows, method, work / "train", labels["train"], folder)
    began = time.monotonic()
    epochs = given.epochs or data.epochs
    options = EvaluateOptions(
        labels=labels["train"], test_labels=labels[given.part], victims=given.victims, countermeasures=given.countermeasures, protected_shares=given.shares,
        seeds=given.seeds, epochs=epochs, working_size=data.working_size, utility=given.report, state=work / f"state_{given.part}{given.name}.jsonl",
        report=work / f"report_{given.name}.html" if given.report else None,
    )  # fmt: skip
    report = evaluate(work / "train", folders, work / given.part, options, show_progress=True)
    for result in report.results:
        rows.add(what="victim", data_set=given.data_set, part=given.part, epochs=epochs, **result.to_json())
    rows.add(
        what="summary", data_set=given.data_set, part=given.part, seconds=round(time.monotonic() - began), counts=report.counts, chance=report.chance,
        summary=report.summary(), verdicts=report.verdicts(), utility=report.utility,
    )  # fmt: skip
    print(report.table())


def protect(given: argparse.Namespace, data: DataSet, rows: Rows, method: str, clean: Path, labels: Path, folder: Path) -> None:
    """Protect the training files by a method, and check the result."""
    remove_run(folder)
    result, seconds, memory = salm(
        "protect", clean, folder, "--labels", labels, "--method", method, "--epsilon", given.epsilon, "--working-size", data.working_size
    )
    verdict, _, _ = salm("verify", clean, folder, "--epsilon", given.epsilon)
    shares = [file["changed_fraction"] for file in verdict["files"]]
    psnr = [file["psnr"] for file in verdict["files"]]
    rows.add(
        what="protect", data_set=given.data_set, method=method, epsilon=given.epsilon, counts=result["counts"], verified=verdict["counts"],
        seconds=round(seconds), peak_gib=round(memory, 2), rounds=result["rounds"], passes_per_sample=round(result["passes_per_sample"], 1),
        lowest_psnr=round(min(psnr), 2), mean_psnr=round(sum(psnr) / len(psnr), 2), mean_changed_fraction=round(sum(shares) / len(shares), 3),
        largest_changed_fraction=round(max(shares), 3),
    )  # fmt: skip


def split_labels(source: Path, folder: Path, split: str) -> Path:
    """Write the files of a split unless they are there, and give the table of their labels."""
    table = folder.parent / f"{folder.name}_labels.csv"
    if table.exists():
        return table
    fresh(folder)
    rows = _copy_slices(source, folder, split) if source.is_dir() else _write_pictures(source, folder, split)
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return table


def _write_pictures(source: Path, folder: Path, split: str) -> list[tuple[str, object]]:
    """Write 28 x 28 images as DICOM CR files of one patient each."""
    arrays = np.load(source)
    rows: list[tuple[str, object]] = []
    for index, (image, label) in enumerate(zip(arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel(), strict=True)):
        name = f"cr_{index:05d}.dcm"
        write_dicom(folder / name, image, modality="CR", bits_stored=8, patient=f"{split}-{index:05d}", number=1)
        rows.append((name, int(label)))
    return rows


def _copy_slices(source: Path, folder: Path, split: str) -> list[tuple[str, object]]:
    """Copy the pictures of a folder per class; its validation images are every fifth of the training images, which then lack them."""
    rows: list[tuple[str, object]] = []
    for path in sorted((source / ("test" if split == "test" else "train")).glob("*/*.jpg")):
        held_out = sum(path.name.encode()) % 5 == 0
        if split == "val" and not held_out:
            continue
        name = f"{path.parent.name}_{path.name}"
        shutil.copyfile(path, folder / name)
        rows.append((name, path.parent.name))
    return rows


if __name__ == "__main__":
    main()
