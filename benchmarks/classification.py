# SPDX-License-Identifier: Apache-2.0
"""PneumoniaMNIST, BreastMNIST, RetinaMNIST (color), brain tumor slices by class and by finding, the same in three made
contrasts, and drawn cells (eight classes in color): what victims learn from the files that each method wrote.

Nothing is chosen here: each method runs with the defaults of ``monai-salm protect``. ``--part val`` scores on the
validation images of the data sets that have some, for choosing.
"""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Rows, add_grid, fresh, measure_victims, parser, protect_by_methods
from contrasts import brain_contrasts
from drawn_cells import drawn_cells
from numpy.typing import NDArray
from PIL import Image

from monai_salm.demo.files import write_dicom


@dataclass(frozen=True)
class DataSet:
    """A data set: its folder, what a network sees of its images, the epochs of a victim, and patterns of files that are
    images, whatever they look like.
    """

    folder: str
    working_size: int
    epochs: int
    pictures: tuple[str, ...] = ()


DATA_SETS = {
    "pneumonia": DataSet("pneumonia/pneumoniamnist.npz", 32, 6),
    "breast": DataSet("breast/breastmnist.npz", 32, 30),
    "retina": DataSet("retina/retinamnist.npz", 32, 20),
    "brain_tumor": DataSet("brain_tumor", 64, 12, ("*.jpg",)),  # two of these look like probability maps
    "findings": DataSet("brain_tumor", 64, 12, ("*.jpg",)),
    "contrasts": DataSet("brain_tumor", 128, 12),
    "cells": DataSet("", 32, 14),
}
FINDINGS = {"tumor": ("glioma", "meningioma", "pituitary"), "meninges": ("meningioma",), "sella": ("pituitary",)}
"""The classes of brain tumor slices that have each finding."""


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--data-set", choices=DATA_SETS, default="pneumonia")
    arguments.add_argument("--part", choices=["val", "test"], default="test")
    add_grid(arguments, epsilon="8/255", victims="small-resnet,small-cnn", epochs=0)
    given = arguments.parse_args()
    data = DATA_SETS[given.data_set]
    given.work, given.epochs = given.work / given.data_set, given.epochs or data.epochs
    rows = Rows(given.results / f"{given.data_set}{'_' + given.name if given.name else ''}.jsonl", keep=True)
    labels = {
        split: split_labels(given.data_set, given.data / data.folder, given.work / split, split)
        for split in ("train", given.part)
    }
    clean, test = given.work / "train", given.work / given.part
    folders = protect_by_methods(
        given, rows, given.data_set, clean, "--labels", labels["train"], "--working-size", data.working_size,
        images=data.pictures,
    )  # fmt: skip
    measure_victims(
        given, rows, given.data_set, given.part, clean, folders, test,
        labels=labels["train"], test_labels=labels[given.part], working_size=data.working_size, pictures=data.pictures,
    )  # fmt: skip


def split_labels(name: str, source: Path, folder: Path, split: str) -> Path:
    """Write the files of a split unless they are there, and give the table of their labels."""
    table = folder.parent / f"{folder.name}_labels.csv"
    if table.exists():
        return table
    fresh(folder)
    if name == "cells":
        rows = _write_pictures(*drawn_cells(split), folder, split)
    elif name == "contrasts":
        rows = _write_pictures(*brain_contrasts(source, split), folder, split)
    elif source.is_dir():
        rows = _copy_slices(source, folder, split)
    else:
        arrays = np.load(source)
        rows = _write_pictures(arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel(), folder, split)
    header: tuple[str, ...] = ("path", "label")
    lines: list[tuple[object, ...]] = [*rows]
    if name == "findings":
        header = ("path", *FINDINGS)
        lines = [(path, *(int(label in has) for has in FINDINGS.values())) for path, label in rows]
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])
    return table


def _write_pictures(
    images: NDArray[np.uint8], labels: NDArray[Any], folder: Path, split: str
) -> list[tuple[str, object]]:
    """Write images as DICOM CR files of one patient each, colors as PNG."""
    rows: list[tuple[str, object]] = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        if image.ndim == 3:
            name = f"{index:05d}.png"
            Image.fromarray(image).save(folder / name)
            rows.append((name, int(label)))
            continue
        name = f"cr_{index:05d}.dcm"
        write_dicom(folder / name, image, modality="CR", bits_stored=8, patient=f"{split}-{index:05d}", number=1)
        rows.append((name, int(label)))
    return rows


def _copy_slices(source: Path, folder: Path, split: str) -> list[tuple[str, object]]:
    """Copy the pictures of a folder per class."""
    if split == "val":
        raise SystemExit(f"{source} has no validation images; give --part test")
    rows: list[tuple[str, object]] = []
    for path in sorted((source / split).glob("*/*.jpg")):
        name = f"{path.parent.name}_{path.name}"
        shutil.copyfile(path, folder / name)
        rows.append((name, path.parent.name))
    return rows


if __name__ == "__main__":
    main()
