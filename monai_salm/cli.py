# SPDX-License-Identifier: Apache-2.0
"""The command line: parsing, printing and exit codes, nothing else.

Results go to standard output, progress and logs to standard error. Exit codes: 0 done, 1 failed, 2 usage, 3 finished,
but some files were refused, failed, lack or show something to know of, 4 verification found a mismatch. Rooms are
imported inside the commands, because torch and MONAI take seconds to load.
"""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import click

from monai_salm.disk import write_new
from monai_salm.errors import SalmError, UsageError, printable
from monai_salm.progress import say

EXIT_FAILED, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_MISMATCH = 1, 2, 3, 4

PROBLEMS_SHOWN = 20
"""Refused files that are listed on the terminal; the manifest and ``--json`` have all."""

Command = TypeVar("Command", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)


def _options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Apply several options in the order in which they are to be shown."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


_output = _options(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text."),
    click.option("--quiet", is_flag=True, help="No progress bars and no log, only the result."),
)
_labels = _options(
    click.option("--labels", type=_FILE, help="CSV table of labels, or for segmentation a folder of label maps."),
    click.option("--label-column", help="Column of the table that holds the class.  [default: label]"),
    click.option("--labels-from-folders", is_flag=True, help="The folder that a file lies in is its class."),
    click.option(
        "--task", type=click.Choice(["classification", "segmentation"]), default="classification", show_default=True
    ),
)
_grid = _options(
    click.option(
        "--sample",
        type=click.Choice(["auto", "instance", "series"]),
        default="auto",
        show_default=True,
        help="What carries one label and one noise.",
    ),
    click.option(
        "--working-size", type=int, default=128, show_default=True, help="Longest side of the grid that networks see."
    ),
)
_values = _options(
    click.option(
        "--window",
        default="auto",
        show_default=True,
        help="Intensity window: LOW,HIGH in real units, or soft-tissue, brain, lung, bone, wide.",
    ),
    click.option("--modality", default="", help="DICOM Modality code of files that do not say theirs (NIfTI)."),
)
_kinds = _options(
    click.option(
        "--label-maps",
        multiple=True,
        metavar="PATTERN",
        help="Files that are label maps, whatever they look like: labels/*, *_seg.nii.gz.",
    ),
    click.option(
        "--pictures", multiple=True, metavar="PATTERN", help="Files that are pictures, whatever they look like."
    ),
)
_METHODS = (
    "salm; its controls random-mask and random (needs no labels); or a baseline from its authors' formula: em, "
    "em-augmented, aue, for classification tap, "
    "lsp, pil, for segmentation umed, voxshield (volumes)."
)
_VICTIMS = (
    "Networks, separated by commas; NAME+pretrained saw other images first, NAME+frozen did, too, and trains "
    "its last layer alone.  [default: a small one]"
)
_device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("monai_salm"), prog_name="monai-salm")
def cli() -> None:
    """Bounded, error-minimizing noise in DICOM and NIfTI files, for medical images that are to be looked at, but not
    trained on.
    """


@cli.command()
@click.argument("source", metavar="INPUT", type=_FILE)
@click.argument("output", metavar="OUTPUT", type=_FILE)
@_labels
@click.option("--method", default="salm", show_default=True, help=_METHODS)
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
@_values
@click.option(
    "--surrogate",
    default="",
    help="Network by name, or the surrogate.safetensors of a finished run, then frozen.  [default: a small one]",
)
@click.option("--rounds", type=int, help="Rounds of the search at most.  [default: the method's]")
@click.option("--seed", type=int, default=0, show_default=True)
@_device
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that write files.")
@_grid
@click.option(
    "--work-dir", type=_FILE, help="Private folder: noise, plan, surrogate, manifest.  [default: OUTPUT.work]"
)
@click.option("--resume", is_flag=True, help="Go on with a stopped run.")
@click.option("--dry-run", is_flag=True, help="Say what would be done with each file, and change nothing.")
@click.option("--key-file", type=_FILE, help="Secret that new UIDs are made with; see keygen.")
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
@_kinds
@_output
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
        _print_json(result)
    else:
        _say(", ".join(f"{number} {status}" for status, number in counts.items()) + f"; {output}")
        if counts["protected"]:
            click.echo(
                f"lowest PSNR {result['lowest_psnr']:.1f} dB, at most {result['largest_changed_fraction']:.1%} of "
                "the anatomy's voxels changed"
            )
        if result["rounds"]:
            click.echo(f"{result['rounds']} rounds, {result['passes_per_sample']:.0f} surrogate passes per sample")
        _print_labels(result["labels"])
        if result["surrogate"]:
            click.echo(result["surrogate"])
        _say(f"private, not to be handed out: {done.work_dir}")
        _print_notes(result["notes"])
        _print_problems(result["problems"])
    if not counts["protected"] and not counts["copied"]:
        return EXIT_FAILED
    return EXIT_INCOMPLETE if result["problems"] else 0


def _show_plan(result: dict[str, Any], as_json: bool) -> int:
    counts = result["counts"]
    if as_json:
        _print_json(result)
    else:
        click.echo(
            f"would protect {counts['protect']} files in {counts['samples']} samples, copy {counts['copy']} and "
            f"refuse {counts['refuse']}; nothing was written"
        )
        _print_labels(result["labels"])
        _print_problems([file | {"status": "refused"} for file in result["files"] if file["fate"] == "refuse"])
        _print_problems([file | {"status": "copied"} for file in result["files"] if file.get("unprotected")])
        for status, name in (("incomplete", "left_out"), ("unprotected", "still_shows")):
            _print_problems(
                [
                    {"path": file["path"], "status": status, "reason": file[name]}
                    for file in result["files"]
                    if name in file
                ]
            )
    return EXIT_INCOMPLETE if counts["refuse"] or counts.get("unprotected") or counts["incomplete"] else 0


@cli.command()
@click.argument("source", metavar="INPUT", type=_FILE)
@_values
@_kinds
@_output
def scan(source: Path, as_json: bool, quiet: bool, **choices: Any) -> int:
    """List what INPUT holds, what would be protected or refused, and why; reads every picture, as protect does."""
    from monai_salm.pipeline import ProtectOptions, forecast
    from monai_salm.pipeline import scan as run

    options = ProtectOptions(method="random", **choices)
    with TemporaryDirectory() as spare:
        inventory = run(
            source, unpack_into=Path(spare) / "input", choices=options.kind_choices(), show_progress=not quiet
        )
        result = forecast(inventory, options, show_progress=not quiet) | {"input": str(source)}
    if as_json:
        _print_json(result)
        return 0
    groups: dict[tuple[str, str], int] = {}
    for file in result["files"]:
        if file["fate"] != "refuse":
            kind = (
                f"{file['format']} {file['modality'] or 'of unknown modality'}"
                if file["fate"] == "protect"
                else file["reason"]
            )
            group = (kind, "x".join(map(str, file["shape"])))
            groups[group] = groups.get(group, 0) + 1
    for (kind, shape), number in sorted(groups.items()):
        _say(f"{number} {kind}" + (f", {shape}" if shape else ""))
    counts = result["counts"]
    click.echo(
        f"{counts['protect']} files can be protected, {counts['copy']} are copied, {counts['refuse']} are "
        f"refused, {counts['ignored']} ignored"
    )
    _print_notes([file for file in result["files"] if file["notes"]])
    _print_problems([file | {"status": "refused"} for file in result["files"] if file["fate"] == "refuse"])
    return 0


@cli.command()
@click.argument("original", metavar="ORIGINAL", type=_FILE)
@click.argument("protected", metavar="PROTECTED", type=_FILE)
@click.option(
    "--epsilon", help="Budget to hold every file to.  [default: what a DICOM file states itself; none for NIfTI]"
)
@click.option(
    "--labels", type=_FILE, help="Folder of label maps that protect was given, which says which files are pictures."
)
@click.option(
    "--allow-absent", is_flag=True, help="Files of ORIGINAL that PROTECTED lacks were meant not to be handed out."
)
@_values
@_kinds
@_output
def verify(
    original: Path,
    protected: Path,
    epsilon: str | None,
    window: str,
    modality: str,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> int:
    """Check PROTECTED against ORIGINAL from the files alone: bounds, anatomy, headers, references, and that nothing is
    absent without a reason.
    """
    from monai_salm.budget import Epsilon
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
    report = run(
        original, protected, options=options, check_epsilon=bound, choices=kinds, allow_absent=choices["allow_absent"],
        show_progress=not quiet
    )  # fmt: skip
    result = report.to_json()
    if as_json:
        _print_json(result)
    else:
        counts = result["counts"]
        click.echo(", ".join(f"{number} {name}" for name, number in counts.items()))
        largest = max((file.max_change_stored or 0 for file in report.files), default=0)
        psnr = min((file.psnr for file in report.files if file.psnr is not None), default=None)
        if psnr is not None:
            click.echo(f"largest change {largest:g} stored units, lowest PSNR {psnr:.1f} dB")
        if result["dangling_references"]:
            click.echo(
                f"{result['dangling_references']} references are to objects that were not handed out; --json lists them"
            )
        if result["bound_not_stated"]:
            click.echo(
                f"NOT CHECKED: the bound of {result['bound_not_stated']} files, which state none; give --epsilon "
                "as protect was given it"
            )
        if result["manifest"]:
            click.echo(f"note: {result['manifest']}")
        _print_problems(
            [
                {"path": file.path, "status": "absent", "reason": file.absence}
                for file in report.files
                if file.verdict == "absent"
            ]
        )
        _print_problems(
            [
                {"path": file.path, "status": file.verdict, "reason": "; ".join(file.problems)}
                for file in report.mismatches
            ]
        )
        if any(file.absence for file in report.mismatches):
            click.echo(
                "absent files are written by the same protect command with --resume; if they were meant not to be "
                "handed out, give --allow-absent"
            )
    return EXIT_MISMATCH if report.mismatches else 0


@cli.command()
@click.argument("file", metavar="FILE", type=_FILE)
def keygen(file: Path) -> int:
    """Write a new random key to FILE, readable by its owner alone; an existing file is kept."""
    import secrets

    try:
        write_new(file, f"{secrets.token_hex(32)}\n".encode("ascii"))
    except FileExistsError as error:
        raise UsageError(
            f"{file} exists already; a key that was used must not be replaced, so give another name"
        ) from error
    _say(f"wrote {file}; keep it private, and keep a copy")
    return 0


@cli.command()
@click.argument("clean", metavar="CLEAN", type=_FILE)
@click.argument("protected", metavar="PROTECTED", type=_FILE)
@_labels
@click.option("--test", "test_dir", type=_FILE, required=True, help="Clean images that no victim trains on.")
@click.option("--test-labels", type=_FILE, help="Their labels.  [default: those of --labels]")
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
    help="Epochs of each training; more where they make fewer than 300 steps.",
)
@click.option(
    "--protected-shares",
    default="100",
    show_default=True,
    help="Percentages of the training images that are protected, such as 20,60,100.",
)
@click.option(
    "--pretrain",
    type=_FILE,
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
    type=_FILE,
    help="Page to write for people, ending in .html; its figures are written beside it as .json.",
)
@click.option(
    "--state",
    type=_FILE,
    help="File that keeps finished trainings; the same command with it goes on where it was stopped.",
)
@_values
@_kinds
@_grid
@_device
@_output
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
        _print_json(report.to_json())
    else:
        for line in report.table().splitlines():
            _say(line)
    return 0


@cli.command()
@click.argument("output", metavar="[OUTPUT]", type=_FILE, default=Path("monai-salm-demo"))
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
    run_demo(output, echo=_say, show_progress=not quiet)
    return 0


def _say(line: str) -> None:
    """Print one line, whatever characters the name of a file in it has."""
    click.echo(printable(line))


def _print_json(result: Any) -> None:
    click.echo(json.dumps(result, indent=1, allow_nan=False, default=str))


def _print_notes(entries: list[dict[str, Any]]) -> None:
    """Say each note once, with the number of files that it is of."""
    from monai_salm.io.kinds import KNOWN_BY

    files: dict[str, list[str]] = {}
    for entry in entries:
        for note in entry["notes"]:
            if note.startswith(KNOWN_BY):
                continue  # one of its own for each label map; --json and the manifest have them
            files.setdefault(note, []).append(entry["path"])
    for note, paths in sorted(files.items()):
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        _say(f"note: {paths[0]}{more}: {note}")


def _print_labels(labels: dict[str, Any] | None) -> None:
    from monai_salm.pipeline.labels import describe_labels

    for line in describe_labels(labels) if labels else ():
        click.echo(line)


def _print_problems(problems: list[dict[str, Any]]) -> None:
    for problem in problems[:PROBLEMS_SHOWN]:
        _say(f"{problem['status']}: {problem['path']}: {problem['reason']}")
    if len(problems) > PROBLEMS_SHOWN:
        click.echo(f"... and {len(problems) - PROBLEMS_SHOWN} more; --json lists all")


class _BesideProgress(logging.Handler):
    """Write log lines to standard error without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        say(printable(self.format(record)))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit; a user never sees a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--quiet" in arguments:
        logging.getLogger().addHandler(logging.NullHandler())  # without any, Python prints warnings
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"  # the processes that write files, too
    else:
        logging.basicConfig(level=logging.INFO, handlers=[_BesideProgress()], format="%(message)s")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may have letters that the terminal's encoding lacks
    try:
        code = cli.main(arguments, standalone_mode=False, obj=arguments)
    except UsageError as error:
        code = _complain(str(error), EXIT_USAGE)
    except SalmError as error:
        code = _complain(str(error), EXIT_FAILED)
    except click.UsageError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _complain(error.format_message(), EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        hint = (
            "; the same command with --resume goes on"
            if "protect" in arguments[:1]
            else "; the same command goes on"
            if "--state" in arguments
            else ""
        )
        code = _complain(f"stopped{hint}", EXIT_FAILED)
    except OSError as error:
        code = _complain(f"{error.filename or 'a file'}: {error.strerror or error}", EXIT_FAILED)
    except MemoryError:
        code = _complain("out of memory; give a smaller --working-size, or fewer --workers", EXIT_FAILED)
    except Exception as error:  # whatever it is, the user gets one line and can ask for the rest
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        code = _complain(
            f"unexpected {type(error).__name__}: {error}; please report it with the command that you gave", EXIT_FAILED
        )
    sys.exit(code or 0)


def _complain(message: str, code: int) -> int:
    click.echo(f"Error: {printable(' '.join(message.splitlines()))}", err=True)
    return code
