# SPDX-License-Identifier: Apache-2.0
"""``monai-salm protect``: protected files, or with ``--dry-run`` what would be done."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click

from monai_salm.cli.exit_codes import EXIT_FAILED, EXIT_INCOMPLETE
from monai_salm.cli.options import (
    FILE,
    device_option,
    grid_options,
    kind_options,
    label_options,
    output_options,
    value_options,
    workers_option,
)
from monai_salm.cli.printing import print_json, print_labels, print_line, print_notes, print_problems
from monai_salm.methods.names import METHOD_KINDS, TASKS

_CONTROLS = ("random-mask", "textures", "random")


def _parts(task: str) -> list[str]:
    """Name the parts that SALM chooses among for a task."""
    parts = {name: kind for name, kind in METHOD_KINDS.items() if name.startswith("salm:") and kind.chosen}
    return [name for name, kind in parts.items() if task in kind.tasks]


def _methods() -> str:
    """Name the methods for a help text, by what they are for."""

    def names(*tasks: str) -> str:
        found = {name: kind for name, kind in METHOD_KINDS.items() if kind.tasks == tasks}
        volumes = {name for name, kind in found.items() if kind.spatial_dims == (3,)}
        others = [name for name in found if not name.startswith("salm") and name not in _CONTROLS]
        shown = [f"{name} (volumes)" if name in volumes else name for name in others]
        return ", ".join(shown)

    return (
        f"salm, which chooses among its parts {', '.join(_parts('classification'))}, for segmentation "
        f"{', '.join(_parts('segmentation'))}, by what small networks learn from each; one of these, or "
        f"salm:targeted (adversarial); "
        f"its controls {', '.join(_CONTROLS[:-1])} and {_CONTROLS[-1]} (needs no labels); or a baseline from its "
        f"authors' formula: {names(*TASKS)}, for classification {names('classification')}, for segmentation "
        f"{names('segmentation')}."
    )


@click.command()
@click.argument("source", metavar="INPUT", type=FILE)
@click.argument("output", metavar="OUTPUT", type=FILE)
@label_options
@click.option("--method", default="salm", show_default=True, help=_methods())
@click.option(
    "--epsilon",
    default="8/255",
    show_default=True,
    help="Largest change: a fraction of the window, or real units such as '12 HU'.",
)
@click.option(
    "--perturbed-fraction",
    type=float,
    default=0.4,
    show_default=True,
    help="Largest share of the anatomy that sparse methods change.",
)
@value_options
@click.option(
    "--surrogate",
    default="",
    help="Network by name, or the surrogate.safetensors of a finished run, then frozen.  [default: a small one]",
)
@click.option("--rounds", type=int, help="Rounds of the search at most.  [default: the method's]")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Of chance; gives the same output with the same --key-file."
)
@device_option
@workers_option
@grid_options
@click.option(
    "--estimate/--no-estimate",
    default=True,
    show_default=True,
    help="Measure what a stranger would learn from the protected images.",
)
@click.option(
    "--gentle",
    is_flag=True,
    help="Of the parts of salm take none that moves the AUC of a network of clean images by more than 0.01.",
)
@click.option("--work-dir", type=FILE, help="Private folder: noise, plan, surrogate, manifest.  [default: OUTPUT.work]")
@click.option("--resume", is_flag=True, help="Go on with a stopped run.")
@click.option("--dry-run", is_flag=True, help="Say what would be done with each file, and change nothing.")
@click.option(
    "--key-file",
    type=FILE,
    help="Secret that new UIDs are made and noise is drawn with; see keygen.  [default: a random one]",
)
@click.option("--copy-unprotected", is_flag=True, help="Copy files that cannot be protected to OUTPUT as they are.")
@click.option(
    "--uids",
    type=click.Choice(["new", "keep"]),
    default="new",
    show_default=True,
    help="DICOM: new SOP and Series Instance UIDs, or the old ones.",
)
@click.option(
    "--image-type",
    type=click.Choice(["derived", "keep"]),
    default="derived",
    show_default=True,
    help="DICOM: Image Type of changed images.",
)
@click.option(
    "--provenance",
    type=click.Choice(["full", "minimal", "none"]),
    default="full",
    show_default=True,
    help="DICOM: how much a file says of the change.",
)
@click.option(
    "--source-reference/--no-source-reference",
    default=True,
    show_default=True,
    help="DICOM: name the original in a changed image.",
)
@kind_options
@output_options
def protect(source: Path, output: Path, dry_run: bool, as_json: bool, quiet: bool, **choices: Any) -> int:
    """Protect the images of INPUT (a folder, a zip, a DICOMDIR or a file) and write them to OUTPUT, a folder, or a zip
    for a zip.

    Example: monai-salm protect EXPORT OUT --labels labels.csv
    """
    from monai_salm.pipeline import ProtectionRun, ProtectOptions
    from monai_salm.pipeline import protect as run

    options = ProtectOptions(**choices)
    if dry_run:
        return _show_plan(ProtectionRun(source, output, options, show_progress=not quiet).preview(), as_json)
    if options.uids == "keep" and not quiet:
        logging.getLogger(__name__).warning(
            "UIDs are kept: an archive that has the originals will ignore the protected files; use this for "
            "folders only"
        )
    done = run(source, output, options, show_progress=not quiet)
    result = done.to_json()
    counts = result["counts"]
    if as_json:
        print_json(result)
    else:
        print_line(", ".join(f"{number} {status}" for status, number in counts.items()) + f"; {output}")
        if counts["protected"]:
            print_line(
                f"lowest PSNR {result['lowest_psnr']:.1f} dB, at most {result['largest_changed_fraction']:.1%} of "
                "the anatomy's voxels changed"
            )
        if result["rounds"]:
            print_line(f"{result['rounds']} rounds, {result['passes_per_sample']:.0f} surrogate passes per sample")
        print_labels(result["labels"])
        for line in done.search.lines():
            print_line(line)
        print_line(f"private, not to be handed out: {done.work_dir}")
        print_notes(result["notes"])
        print_problems(result["problems"])
    if not counts["protected"] and not counts["copied"]:
        return EXIT_FAILED
    return EXIT_INCOMPLETE if result["problems"] else 0


def _show_plan(result: dict[str, Any], as_json: bool) -> int:
    counts = result["counts"]
    if as_json:
        print_json(result)
    else:
        print_line(
            f"would protect {counts['protect']} files in {counts['samples']} samples, copy {counts['copy']} and "
            f"refuse {counts['refuse']}; nothing was written"
        )
        print_labels(result["labels"])
        print_problems([file | {"status": "refused"} for file in result["files"] if file["fate"] == "refuse"])
        print_problems([file | {"status": "copied"} for file in result["files"] if file.get("unprotected")])
        for status, name in (("incomplete", "left_out"), ("unprotected", "still_shows")):
            print_problems(
                [
                    {"path": file["path"], "status": status, "reason": file[name]}
                    for file in result["files"]
                    if name in file
                ]
            )
    return EXIT_INCOMPLETE if counts["refuse"] or counts.get("unprotected") or counts["incomplete"] else 0
