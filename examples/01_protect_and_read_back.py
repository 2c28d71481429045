# SPDX-License-Identifier: Apache-2.0
"""Protect a DICOM series, verify it, and read it back with MONAI and with SimpleITK: both see the same values, none of
them farther from the original than the limit.

    python 01_protect_and_read_back.py                  # a series that it makes
    python 01_protect_and_read_back.py SERIES OUT       # a folder of yours, and a new folder
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from made_up_data import Arguments, make_series, start
from monai.transforms import LoadImage
from numpy.typing import NDArray

from monai_salm import Epsilon, ProtectOptions, protect, verify

try:
    import SimpleITK
except ImportError:
    SimpleITK = None


def as_monai_reads(folder: Path) -> NDArray[np.float32]:
    """Read a series as MONAI does: (columns, rows, slices), real units."""
    return np.asarray(LoadImage(image_only=True, reader="PydicomReader")(folder))


def as_simpleitk_reads(folder: Path) -> NDArray[np.float32]:
    """Read a series as SimpleITK does, in the same order of axes."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return SimpleITK.GetArrayFromImage(reader.Execute()).transpose(2, 1, 0).astype(np.float32)


def main(arguments: argparse.Namespace, folder: Path) -> None:
    """Protect, verify, read, compare."""
    series = arguments.series or make_series(folder / "series")
    out = arguments.out or folder / "out"
    done = protect(series, out, ProtectOptions(method=arguments.method))
    print(f"{len(done.fates)} files:", done.to_json()["counts"])
    report = verify(series, out, check_epsilon=Epsilon.parse("8/255"))
    print(f"verified: {len(report.mismatches)} mismatches")

    before, after = as_monai_reads(series), as_monai_reads(out)
    changed = before != after
    print(f"MONAI reads {after.shape}; {changed.mean():.0%} of the values differ, by at most", end=" ")
    print(f"{np.abs(after - before).max():g} of {before.max():g}")
    if SimpleITK is None:
        print("SimpleITK is not installed, so it was not asked")
    else:
        print("SimpleITK reads the same values:", np.array_equal(as_simpleitk_reads(out), after))


def parser() -> Arguments:
    """Say which arguments there are."""
    found = Arguments(description="Protect a DICOM series and read it back.")
    found.add_argument("series", type=Path, nargs="?", help="folder of one series")
    found.add_argument("out", type=Path, nargs="?", help="folder to make")
    found.add_argument("--method", default="random", help="how noise is made; random needs no labels")
    return found


if __name__ == "__main__":
    start(main, parser())
