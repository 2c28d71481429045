# SPDX-License-Identifier: Apache-2.0
"""``monai-salm protect``: protected files, or with ``--dry-run`` what would be done."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from monai_salm.cli.exit_codes import EXIT_FAILED, EXIT_INCOMPLETE
from monai_salm.cli.options import FILE, PLACE, output_options
from monai_salm.cli.printing import print_json, print_labels, print_line, print_notes, print_problems
from monai_salm.cli.run_options import run_options
from monai_salm.pipeline.launching import together

if TYPE_CHECKING:
    from monai_salm.dicomweb import ArchivePlace
    from monai_salm.dicomweb.storing import StoreResult
    from monai_salm.pipeline import ProtectOptions, ProtectResult

_BESIDE_A_PLAN = {"places", "plan_file", "workers", "scheduler", "resume", "dry_run", "as_json", "quiet"}


@click.command()
@click.argument("places", metavar="[INPUT] OUTPUT", type=PLACE, nargs=-1)
@run_options
@click.option("--work-dir", type=FILE, help="Private folder: noise, plan, surrogate, manifest.  [default: OUTPUT.work]")
@click.option("--resume", is_flag=True, help="Go on with a stopped run.")
@click.option(
    "--add",
    is_flag=True,
    help="Add the files of INPUT to the release in OUTPUT, protected as that is; what it has already stays.",
)
@click.option(
    "--plan",
    "plan_file",
    metavar="WORKDIR",
    type=FILE,
    help="Carry out what 'plan' decided there, with its INPUT and its options.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done with each file, and change nothing.")
@output_options
@click.pass_context
def protect(
    context: click.Context,
    /,
    places: tuple[Path | ArchivePlace, ...],
    plan_file: Path | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> int:
    """Protect the images of INPUT (a folder, a zip, a DICOMDIR or a file) and write them to OUTPUT, a folder, or a zip
    for a zip. Both may be a DICOMweb archive: INPUT as dicomweb:URL/studies/UID or .../series/UID (UIDs with commas
    between them), OUTPUT as dicomweb:URL; see docs/pacs.md.

    Example: monai-salm protect EXPORT OUT --labels labels.csv
    """
    from monai_salm.pipeline import protect as run

    done = together(
        lambda ranks: _protect(context, places, plan_file, dry_run, as_json, quiet, choices, partial(run, ranks=ranks))
    )
    return done or 0


def _protect(
    context: click.Context, places: tuple[Path | ArchivePlace, ...], plan_file: Path | None, dry_run: bool,
    as_json: bool, quiet: bool, choices: Mapping[str, Any], run: Callable[..., ProtectResult],
) -> int:  # fmt: skip
    """Do what was asked with what runs it, and print what became of it."""
    from monai_salm.pipeline import ProtectionRun, ProtectOptions

    if plan_file is None:
        if len(places) != 2:
            raise click.UsageError("INPUT and OUTPUT are needed", context)
        source, output, options = *places, ProtectOptions(**choices)
    else:
        source, output, options = _as_planned(context, places, plan_file)
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
        if result["of_release"]:
            print_line(f"{result['of_release']} files of {source} were in the release before")
        if counts["protected"]:
            print_line(
                f"lowest PSNR {result['lowest_psnr']:.1f} dB, at most {result['largest_changed_fraction']:.1%} of "
                "the anatomy's voxels changed"
            )
        if result["rounds"]:
            print_line(f"{result['rounds']} rounds, {result['passes_per_sample']:.0f} surrogate passes per sample")
        if done.stored is not None:
            _tell_stored(done.stored)
        print_labels(result["labels"])
        for line in done.search.lines():
            print_line(line)
        print_line(f"private, not to be handed out: {done.work_dir}")
        print_notes(result["notes"])
        print_problems(result["problems"])
    if not counts["protected"] and not counts["copied"] and (result["problems"] or not result["of_release"]):
        return EXIT_FAILED
    return EXIT_INCOMPLETE if result["problems"] else 0


def _tell_stored(stored: StoreResult) -> None:
    """Say what the archive holds now, and how that is verified."""
    before = f", {stored.stored - stored.sent} of them before" if stored.sent < stored.stored else ""
    print_line(f"{stored.stored} files stored in {stored.place}{before}, and found there again in their series")
    if stored.found is not None:
        print_line(f"to check them: {shlex.join(['monai-salm', 'verify', stored.original, str(stored.found)])}")


def _as_planned(
    context: click.Context, places: tuple[Path | ArchivePlace, ...], plan: Path
) -> tuple[Path | ArchivePlace, Path | ArchivePlace, ProtectOptions]:
    """Give the places and the options of a plan; options of the call would be others, so they are refused."""
    from monai_salm.pipeline.planned_run import planned_options

    said = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if name not in _BESIDE_A_PLAN and context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if said:
        raise click.UsageError(f"a plan has its own options; leave out {', '.join(said)}, or plan again", context)
    if len(places) != 1:
        raise click.UsageError("with --plan OUTPUT alone is needed: the plan has its INPUT", context)
    source, options = planned_options(plan, workers=context.params["workers"], scheduler=context.params["scheduler"])
    return source, places[0], options


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
