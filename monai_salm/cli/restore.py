# SPDX-License-Identifier: Apache-2.0
"""``monai-salm restore`` and ``rekey``: originals from protected files, and another key for what leads back to them."""

from __future__ import annotations

from pathlib import Path

import click

from monai_salm.cli.exit_codes import EXIT_FAILED, EXIT_INCOMPLETE
from monai_salm.cli.options import FILE, PLACE, output_options, workers_option
from monai_salm.cli.printing import print_json, print_line, print_problems
from monai_salm.dicomweb import ArchivePlace
from monai_salm.errors import UsageError


@click.command()
@click.argument("protected", metavar="PROTECTED", type=PLACE)
@click.argument("output", metavar="OUTPUT", type=FILE)
@click.option("--key-file", type=FILE, required=True, help="The key that 'protect' was given.")
@click.option("--residuals", type=FILE, help="Folder of the residuals.  [default: in the work folder beside PROTECTED]")
@click.option(
    "--only", multiple=True, metavar="PATTERN", help="Files of PROTECTED to restore: patient3/*, *.dcm.  [default: all]"
)
@click.option("--resume", is_flag=True, help="Go on in an OUTPUT that has originals already.")
@workers_option
@output_options
def restore(
    protected: Path | ArchivePlace,
    output: Path,
    key_file: Path,
    residuals: Path | None,
    only: tuple[str, ...],
    resume: bool,
    workers: int,
    scheduler: str,
    as_json: bool,
    quiet: bool,
) -> int:
    """Write the originals of PROTECTED (a folder, a zip or a file; with --residuals also dicomweb:URL/studies/UID) to
    OUTPUT, byte for byte, if it was protected with --key-file.

    Example: monai-salm restore OUT BACK --key-file key.txt
    """
    from monai_salm.dicomweb.fetching import in_folders
    from monai_salm.pipeline import restore as run

    if isinstance(protected, ArchivePlace) and residuals is None:
        raise UsageError(f"{protected}: beside an archive there are no residuals; give --residuals WORKDIR/residuals")
    with in_folders(protected, shared=bool(scheduler), show_progress=not quiet) as (folder,):
        done = run(
            folder, output, key_file, residuals=residuals, only=only, resume=resume, workers=workers,
            scheduler=scheduler, show_progress=not quiet,
        )  # fmt: skip
    result = done.to_json()
    counts = result["counts"]
    if as_json:
        print_json(result)
    else:
        print_line(", ".join(f"{number} {status}" for status, number in counts.items()) + f"; {output}")
        if done.absent:
            print_line(f"{done.absent} more files of this release are not in {protected}")
        print_problems([file for file in result["files"] if file["status"] != "restored"])
    if not counts["restored"]:
        return EXIT_FAILED
    return EXIT_INCOMPLETE if counts["refused"] or counts["failed"] else 0


@click.command()
@click.argument("residuals", metavar="RESIDUALS", type=FILE)
@click.option("--key-file", type=FILE, required=True, help="The key that they have.")
@click.option("--new-key-file", type=FILE, required=True, help="The key that they get; see keygen.")
@click.option("--quiet", is_flag=True, help="No progress bar, only the result.")
def rekey(residuals: Path, key_file: Path, new_key_file: Path, quiet: bool) -> int:
    """Encrypt the files in RESIDUALS, the folder of that name in a work folder, with another key."""
    from monai_salm.pipeline import rekey as run

    done = run(residuals, key_file, new_key_file, show_progress=not quiet)
    more = f", {done.had_it} had it already" if done.had_it else ""
    print_line(f"{done.changed} residuals have the new key{more}; keep {new_key_file}, and a copy")
    print_problems(
        [{"path": name, "status": "refused", "reason": "damaged, or of a third key"} for name in done.refused]
    )
    return EXIT_INCOMPLETE if done.refused else 0
