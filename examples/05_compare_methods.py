# SPDX-License-Identifier: Apache-2.0
"""Compare methods: protect the same files with each, and train the same network on each result.

python 05_compare_methods.py                                            # slices that it makes
python 05_compare_methods.py --methods salm:texture,tap,random --steps 300
python 05_compare_methods.py --export EXPORT --labels labels.csv --test TEST --test-labels test.csv --steps 1000
"""

from __future__ import annotations

import argparse
from pathlib import Path

from made_up_data import Arguments, make_slices, start

import monai_salm
from monai_salm import EvaluateOptions, ProtectOptions, protect


def main(arguments: argparse.Namespace, folder: Path) -> None:
    """Protect with each method, evaluate all, and print the table."""
    export, labels, test, test_labels = arguments.export, arguments.labels, arguments.test, arguments.test_labels
    window = arguments.window
    if export is None:
        window = "0,1000"  # what the values of these slices mean
        export, labels = make_slices(folder / "export", folder / "labels.csv", count=32)
        test, test_labels = make_slices(folder / "test", folder / "test.csv", count=16, first=100)
    outputs = {}
    for method in arguments.methods.split(","):
        outputs[method] = folder / method.replace(":", "-")
        options = ProtectOptions(labels=labels, method=method, rounds=arguments.rounds, window=window, estimate=False)
        done = protect(export, outputs[method], options).to_json()
        print(f"{method}: {done['counts']['protected']} protected, lowest PSNR {done['lowest_psnr']:.1f} dB")
    report = monai_salm.evaluate(
        export, outputs, test,
        EvaluateOptions(
            labels=labels, test_labels=test_labels, victims="small-cnn", epochs=1, least_steps=arguments.steps,
            utility=False, window=window, report=arguments.report,
        ),
    )  # fmt: skip
    print(report.table())
    print("Few images and steps make figures that say little: measure with yours, --steps 1000 and several --victims.")


def parser() -> Arguments:
    """Say which arguments there are."""
    found = Arguments(description="Compare methods by what a network learns from their files.")
    found.add_argument("--methods", default="textures,random", help="names, separated by commas")
    found.add_argument("--export", type=Path, help="folder of originals")
    found.add_argument("--labels", type=Path, help="their table")
    found.add_argument("--test", type=Path, help="folder of clean test images")
    found.add_argument("--test-labels", type=Path, help="their table")
    found.add_argument("--window", default="auto", help="intensity window, LOW,HIGH or auto")
    found.add_argument("--rounds", type=int, help="rounds of each search; none takes the method's own")
    found.add_argument("--steps", type=int, default=60, help="optimizer steps of each training")
    found.add_argument("--report", type=Path, help="page to write, ending in .html")
    return found


if __name__ == "__main__":
    start(main, parser())
