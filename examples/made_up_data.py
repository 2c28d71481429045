# SPDX-License-Identifier: Apache-2.0
"""What the examples share: small images that they make, and an end in one line where something is wrong."""

from __future__ import annotations

import argparse
import csv
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from monai_salm import SalmError
from monai_salm.demo.files import write_dicom


class Arguments(argparse.ArgumentParser):
    """Arguments whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help says more\n")


def start(
    main: Callable[[argparse.Namespace, Path], object], parser: Arguments, words: Sequence[str] | None = None
) -> None:
    """Run an example in a temporary folder; what is wrong for the user ends it with one line and exit code 2.

    Args:
        main: the example; it gets its arguments and the folder.
        parser: of its arguments.
        words: of the command line; None takes those of this process.
    """
    warnings.filterwarnings("ignore", "NvImgCodec")  # MONAI says so on every machine without a GPU
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        try:
            main(arguments, Path(folder))
        except (SalmError, OSError) as error:
            parser.exit(2, f"{parser.prog}: {error}\n")


def make_slices(export: Path, table: Path, count: int = 24, first: int = 0) -> tuple[Path, Path]:
    """Write MR slices as DICOM, 32 x 32, one patient each; every second one has a brighter spot, and is called ill.

    Args:
        export: folder to write to.
        table: CSV of their labels to write.
        count: how many.
        first: number of the first one; who goes on writes others.
    """
    rows, columns = np.ogrid[:32, :32]
    head = (rows - 16) ** 2 + (columns - 16) ** 2 < 14**2
    labels = []
    for number in range(first, first + count):
        generator = np.random.default_rng(number)
        row, column = generator.integers(10, 22, 2)
        spot = (rows - row) ** 2 + (columns - column) ** 2 < 4**2
        pixels = head * generator.integers(320, 560, (32, 32)) + (number % 2) * spot * 120
        patient = f"patient{number:03d}"
        write_dicom(export / f"{patient}.dcm", pixels, modality="MR", bits_stored=12, patient=patient, number=1)
        labels.append((f"{patient}.dcm", ("healthy", "ill")[number % 2]))
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *labels])
    return export, table


def make_series(export: Path, slices: int = 8) -> Path:
    """Write one MR series, 32 x 32 pixels of 1 mm, and give its folder."""
    generator = np.random.default_rng(0)
    rows, columns = np.ogrid[:32, :32]
    for number in range(slices):
        radius = 13 - abs(number - slices / 2)
        head = (rows - 16) ** 2 + (columns - 16) ** 2 < radius**2
        pixels = head * generator.integers(300, 600, (32, 32))
        write_dicom(
            export / f"slice{number:02d}.dcm", pixels, modality="MR", bits_stored=12, patient="volunteer",
            number=number + 1, position=float(number),
        )  # fmt: skip
    return export
