# SPDX-License-Identifier: Apache-2.0
"""``monai-salm evaluate``: what networks learn from protected files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from monai_salm.cli.options import (
    FILE,
    device_option,
    grid_options,
    kind_options,
    label_options,
    output_options,
    value_options,
)
from monai_salm.cli.printing import print_json, print_line

_VICTIMS = (
    "Networks, separated by commas; NAME+pretrained saw other images first, NAME+frozen did, too, and trains "
    "its last layer alone.  [default: a small one]"
)


@click.command()
@click.argument("clean", metavar="CLEAN", type=FILE)
@click.argument("protected", metavar="PROTECTED", type=FILE)
@label_options
@click.option("--test", "test_dir", type=FILE, required=True, help="Clean images that no victim trains on.")
@click.option("--test-labels", type=FILE, help="Their labels.  [default: those of --labels]")
@click.option(
    "--countermeasures",
    default="none",
    show_default=True,
    help="What is done against the noise: names, separated by commas, or all.",
)
@click.option("--victims", default="", help=_VICTIMS)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Trainings per network.")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Epochs of each training; more where they make fewer steps than --least-steps.",
)
@click.option(
    "--least-steps",
    type=click.IntRange(min=1),
    help="Optimizer steps of each training at least.  [default: 1000, of volumes 800]",
)
@click.option(
    "--augmentation",
    default="flips",
    show_default=True,
    help="What victims do to their images: none, flips (and shifts) or nnunet; of several, separated by commas, each "
    "in turn.",
)
@click.option(
    "--protected-shares",
    default="100",
    show_default=True,
    help="Percentages of the training images that are protected, such as 20,60,100.",
)
@click.option(
    "--pretrain",
    type=FILE,
    help="Clean images that +pretrained and +frozen victims see first, without labels.  [default: those of --test]",
)
@click.option(
    "--utility/--no-utility",
    default=True,
    show_default=True,
    help="Score protected images with a clean network, and measure how features drift.",
)
@click.option(
    "--verification/--no-verification",
    default=True,
    show_default=True,
    help="Check the protected files against their originals first.",
)
@click.option(
    "--epsilon",
    default="",
    help="Bound to hold the protected files to.  [default: what DICOM files state; for others that of their run, if "
    "known]",
)
@click.option(
    "--report",
    type=FILE,
    help="Page to write for people, ending in .html; its figures are written beside it as .json, its trainings as "
    ".trainings.csv.",
)
@click.option(
    "--state",
    type=FILE,
    help="File that keeps finished trainings; the same command with it goes on where it was stopped.",
)
@value_options
@kind_options
@grid_options
@device_option
@output_options
@click.pass_context
def evaluate(
    context: click.Context, /, clean: Path, protected: Path, test_dir: Path, as_json: bool, quiet: bool, **choices: Any
) -> int:
    """Train victims on CLEAN and on PROTECTED, from the files, and score both on clean test images.

    Folders may be zips. Example: monai-salm evaluate EXPORT OUT --labels labels.csv --test TEST --countermeasures
    none,jpeg-50 --report report.html
    """
    from monai_salm.evaluate import EvaluateOptions
    from monai_salm.evaluate import evaluate as run

    command = shlex.join(["monai-salm", *context.obj]) if context.obj else ""
    report = run(clean, protected, test_dir, EvaluateOptions(**choices), command=command, show_progress=not quiet)
    if as_json:
        print_json(report.to_json())
    else:
        for line in report.table().splitlines():
            print_line(line)
    return 0
