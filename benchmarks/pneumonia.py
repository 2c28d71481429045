# SPDX-License-Identifier: Apache-2.0
"""PneumoniaMNIST as DICOM CR files: what victims learn from the files of each method.

Chooses nothing: all settings are the defaults of ``monai-salm protect``. Victims train on the written files with flips and shifts.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from common import Rows, fresh, parser, remove_run, salm

from monai_salm.demo.files import write_dicom
from monai_salm.evaluate import EvaluateOptions, evaluate


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "", "pneumonia")
    arguments.add_argument("--methods", default="salm,em,random")
    arguments.add_argument("--victims", default="small-resnet")
    arguments.add_argument("--epsilon", default="8/255")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--skip-protect", action="store_true", help="train other victims on an earlier run's files, and add to its rows")
    given = arguments.parse_args()
    rows = Rows(given.results / "pneumonia.jsonl", keep=given.skip_protect)
    folders = {method: given.work / f"protected_{method}" for method in given.methods.split(",")}
    labels = {split: given.work / f"{split}_labels.csv" for split in ("train", "test")}
    if not given.skip_protect:
        protect(given, rows, folders)
    began = time.monotonic()
    options = EvaluateOptions(labels=labels["train"], test_labels=labels["test"], victims=given.victims, seeds=given.seeds, epochs=given.epochs)
    report = evaluate(
        given.work / "train", folders, given.work / "test", options, show_progress=True,
        after_training=lambda one: rows.add(what="victim", epochs=given.epochs, **one.to_json()),
    )  # fmt: skip
    rows.add(what="summary", seconds=round(time.monotonic() - began), counts=report.counts, summary=report.summary())
    print(report.table())


def protect(given: argparse.Namespace, rows: Rows, folders: dict[str, Path]) -> None:
    """Write the images as DICOM files, protect them by each method, and check the results."""
    images = np.load(given.data / "pneumoniamnist.npz")
    labels = {split: write_split(given.work / split, images[f"{split}_images"], images[f"{split}_labels"].ravel()) for split in ("train", "test")}
    for method, folder in folders.items():
        remove_run(folder)
        result, seconds, memory = salm("protect", given.work / "train", folder, "--labels", labels["train"], "--method", method, "--epsilon", given.epsilon)
        verdict, _, _ = salm("verify", given.work / "train", folder, "--epsilon", given.epsilon)
        shares = [file["changed_fraction"] for file in verdict["files"]]
        psnr = [file["psnr"] for file in verdict["files"]]
        rows.add(
            what="protect", method=method, epsilon=given.epsilon, counts=result["counts"], verified=verdict["counts"], seconds=round(seconds),
            peak_gib=round(memory, 2), rounds=result["rounds"], passes_per_sample=round(result["passes_per_sample"], 1),
            lowest_psnr=round(min(psnr), 2), mean_psnr=round(sum(psnr) / len(psnr), 2), mean_changed_fraction=round(sum(shares) / len(shares), 3),
        )  # fmt: skip


def write_split(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """Write 28 x 28 images as DICOM CR files of one patient each, and give the table of their labels."""
    fresh(folder)
    rows = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = f"cr_{index:05d}.dcm"
        write_dicom(folder / name, image, modality="CR", bits_stored=8, patient=f"{folder.name}-{index:05d}", number=1)
        rows.append((name, int(label)))
    table = folder.parent / f"{folder.name}_labels.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    return table


if __name__ == "__main__":
    main()
