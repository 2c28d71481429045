# SPDX-License-Identifier: Apache-2.0
"""``monai-salm plan``: the decision about each file, to read, to keep, and to carry out later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from monai_salm.cli.exit_codes import EXIT_INCOMPLETE
from monai_salm.cli.options import FILE, PLACE, output_options
from monai_salm.cli.printing import print_json, print_labels, print_line, print_problems
from monai_salm.cli.run_options import run_options
from monai_salm.dicomweb import ArchivePlace


@click.command()
@click.argument("source", metavar="INPUT", type=PLACE)
@click.argument("work_dir", metavar="WORKDIR", type=FILE)
@run_options
@output_options
def plan(source: Path | ArchivePlace, work_dir: Path, as_json: bool, quiet: bool, **choices: Any) -> int:
    """Decide what will be done with each file of INPUT, and freeze that with all options in WORKDIR, a private folder.

    Example: monai-salm plan EXPORT WORK --labels labels.csv; then monai-salm protect OUT --plan WORK
    """
    from monai_salm.pipeline.options import ProtectOptions
    from monai_salm.pipeline.planned_run import plan_run

    planned = plan_run(source, work_dir, ProtectOptions(**choices), show_progress=not quiet)
    result = planned.to_json()
    counts = result["counts"]
    if as_json:
        print_json(result)
    else:
        print_line(
            f"protects {counts['protect']} files in {counts['samples']} samples, copies {counts['copy']} and refuses "
            f"{counts['refuse']}"
        )
        for volume in result["volumes"]:
            print_line(_of_volume(volume))
        print_labels(result["labels"])
        for line in planned.effort.lines():
            print_line(line)
        print_problems([file | {"status": "refused"} for file in result["files"] if file["fate"] == "refuse"])
        print_line(f"private, not to be handed out: {planned.path}")
        print_line(f"to carry it out: monai-salm protect OUTPUT --plan {work_dir}")
    return EXIT_INCOMPLETE if counts["refuse"] else 0


def _of_volume(volume: dict[str, Any]) -> str:
    name = f"series {volume['series']}" if volume["series"] else "files that are no volume"
    kind = volume["modality"] or "unknown modality"
    words = [f"{name} ({kind}): {volume['files']} files in {volume['samples']} samples"]
    if "window" in volume:
        low, high = volume["window"]
        words.append(f"window {low:.6g} to {high:.6g}")
    if "epsilon_real" in volume:
        words.append(f"at most {volume['epsilon_real']:.4g} real units, {volume['epsilon_stored']:.4g} stored")
    words += [f"{number} refused: {reason}" for reason, number in volume.get("refused", {}).items()]
    return "; ".join(words)
