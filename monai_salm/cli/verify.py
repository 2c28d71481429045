# SPDX-License-Identifier: Apache-2.0
"""``monai-salm verify``: protected files held against their originals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from monai_salm.cli.exit_codes import EXIT_MISMATCH
from monai_salm.cli.options import FILE, PLACE, kind_options, output_options, value_options, workers_option
from monai_salm.cli.printing import print_json, print_line, print_problems
from monai_salm.dicomweb import ArchivePlace


@click.command()
@click.argument("original", metavar="ORIGINAL", type=PLACE)
@click.argument("protected", metavar="PROTECTED", type=PLACE)
@click.option(
    "--epsilon", help="Budget to hold every file to.  [default: what a DICOM file states itself; none for NIfTI]"
)
@click.option(
    "--labels", type=FILE, help="Folder of label maps that protect was given, which says which files are images."
)
@click.option(
    "--allow-absent", is_flag=True, help="Files of ORIGINAL that PROTECTED lacks were meant not to be handed out."
)
@value_options
@kind_options
@workers_option
@output_options
def verify(
    original: Path | ArchivePlace,
    protected: Path | ArchivePlace,
    epsilon: str | None,
    window: str,
    modality: str,
    workers: int,
    scheduler: str,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> int:
    """Check PROTECTED against ORIGINAL from the files alone: bounds, anatomy, headers, references, and that nothing is
    absent without a reason. What lies in an archive (dicomweb:URL/studies/UID/series/UID,UID) is fetched for it, and
    not kept.
    """
    from monai_salm.budget import Epsilon
    from monai_salm.dicomweb.fetching import in_folders
    from monai_salm.pipeline import KindChoices
    from monai_salm.pipeline import verify as run
    from monai_salm.pipeline.file_views import BudgetOptions
    from monai_salm.windows import parse_window

    options = BudgetOptions(window=parse_window(window), modality=modality)
    labels, patterns = choices["labels"], (choices["label_maps"], choices["pictures"])
    kinds = (
        KindChoices.with_labels(labels, *patterns) if labels is not None and labels.is_dir() else KindChoices(*patterns)
    )
    bound = Epsilon.parse(epsilon) if epsilon else None
    with in_folders(original, protected, shared=bool(scheduler), show_progress=not quiet) as folders:
        report = run(
            *folders, options=options, check_epsilon=bound, choices=kinds, allow_absent=choices["allow_absent"],
            workers=workers, scheduler=scheduler, show_progress=not quiet,
        )  # fmt: skip
    if as_json:
        print_json(report.to_json())
    else:
        result = report.summary()
        counts = result["counts"]
        print_line(", ".join(f"{number} {name}" for name, number in counts.items()))
        largest = max((file.max_change_stored or 0 for file in report.files), default=0)
        psnr = min((file.psnr for file in report.files if file.psnr is not None), default=None)
        if psnr is not None:
            print_line(f"largest change {largest:g} stored units, lowest PSNR {psnr:.1f} dB")
        for line in report.mean_shift_lines():
            print_line(line)
        if result["dangling_references"]:
            print_line(
                f"{result['dangling_references']} references are to objects that were not handed out; --json lists them"
            )
        if result["bound_not_stated"]:
            print_line(
                f"NOT CHECKED: the bound of {result['bound_not_stated']} files, which state none; give --epsilon "
                "as protect was given it"
            )
        if result["manifest"]:
            print_line(f"note: {result['manifest']}")
        print_problems(
            [
                {"path": file.path, "status": "absent", "reason": file.absence}
                for file in report.files
                if file.verdict == "absent"
            ]
        )
        print_problems(
            [
                {"path": file.path, "status": file.verdict, "reason": "; ".join(file.problems)}
                for file in report.mismatches
            ]
        )
        if any(file.absence for file in report.mismatches):
            print_line(
                "absent files are written by the same protect command with --resume; if they were meant not to be "
                "handed out, give --allow-absent"
            )
    return EXIT_MISMATCH if report.mismatches else 0
