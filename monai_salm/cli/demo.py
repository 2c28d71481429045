# SPDX-License-Identifier: Apache-2.0
"""``monai-salm demo``: the main job on a real brain."""

from __future__ import annotations

from pathlib import Path

import click

from monai_salm.cli.options import FILE
from monai_salm.cli.printing import print_line


@click.command()
@click.argument("output", metavar="[OUTPUT]", type=FILE, default=Path("monai-salm-demo"))
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="CPU threads; one is fastest for networks this small.",
)
@click.option("--quiet", is_flag=True, help="No progress bars, only the story.")
def demo(output: Path, threads: int, quiet: bool) -> int:
    """Protect a real brain that comes with an installed package, verify it, train on it, and write a report: the main
    job in a few minutes, offline.
    """
    import torch

    from monai_salm.demo import run_demo

    torch.set_num_threads(threads)  # two on a busy machine wait for each other
    run_demo(output, echo=print_line, show_progress=not quiet)
    return 0
