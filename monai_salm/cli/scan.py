# SPDX-License-Identifier: Apache-2.0
"""``monai-salm scan``: what would become of each file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from monai_salm.cli.options import PLACE, kind_options, output_options, value_options, workers_option
from monai_salm.cli.printing import print_json, print_line, print_notes, print_problems
from monai_salm.dicomweb import ArchivePlace
from monai_salm.workers import workers_of

_FATES = ("protect", "copy", "refuse")


@click.command()
@click.argument("source", metavar="INPUT", type=PLACE)
@click.option(
    "--values",
    is_flag=True,
    help="Read every image too, as protect does, and say what its values forbid; slow, and it takes more memory.",
)
@workers_option
@value_options
@kind_options
@output_options
def scan(
    source: Path | ArchivePlace, values: bool, workers: int, scheduler: str, as_json: bool, quiet: bool, **choices: Any
) -> int:
    """List what INPUT holds, what would be protected or refused, and why, by the headers of the files.

    Without --values the pixels of DICOM are not read, so that a file in which nothing can carry noise is still counted
    as one that can be protected. --window and --modality say how values are seen, and count with --values alone. Files
    of an archive (dicomweb:URL/studies/UID) are fetched for it, and not kept.
    """
    from monai_salm.dicomweb.fetching import in_folders
    from monai_salm.pipeline import KindChoices, first_look
    from monai_salm.pipeline import scan as run

    options = None
    if values:
        from monai_salm.pipeline import ProtectOptions, forecast

        options = ProtectOptions(method="random", **choices)  # refuses a bad window before anything is read
    kinds = KindChoices(choices["label_maps"], choices["pictures"])
    with (
        TemporaryDirectory() as spare,
        in_folders(source, shared=bool(scheduler), show_progress=not quiet) as (folder,),
        workers_of(workers, scheduler) as processes,
    ):
        inventory = run(
            folder.absolute() if scheduler else folder,
            unpack_into=Path(spare) / "input",
            choices=kinds,
            workers=processes,
            show_progress=not quiet,
        )
        if options is None:
            files = first_look(inventory)
        else:
            files = iter(forecast(inventory, options, workers=processes, show_progress=not quiet)["files"])
        if as_json:
            print_json(_result(source, list(files), inventory.ignored))
        else:
            _print(files, len(inventory.ignored))
    return 0


def _result(source: Path | ArchivePlace, files: list[dict[str, Any]], ignored: list[str]) -> dict[str, Any]:
    counts = {fate: sum(file["fate"] == fate for file in files) for fate in _FATES}
    return {"input": str(source), "counts": counts | {"ignored": len(ignored)}, "files": files, "ignored": ignored}


def _print(files: Iterable[dict[str, Any]], ignored: int) -> None:
    """Print files in groups of what they are; only what is to be said of single ones is kept."""
    groups: Counter[tuple[str, str]] = Counter()
    counts: Counter[str] = Counter()
    noted, refused = [], []
    for file in files:
        counts[file["fate"]] += 1
        if file["notes"]:
            noted.append(file)
        if file["fate"] == "refuse":
            refused.append(file | {"status": "refused"})
            continue
        kind = (
            f"{file['format']} {file['modality'] or 'of unknown modality'}"
            if file["fate"] == "protect"
            else file["reason"]
        )
        groups[kind, "x".join(map(str, file["shape"]))] += 1
    for (kind, shape), number in sorted(groups.items()):
        print_line(f"{number} {kind}" + (f", {shape}" if shape else ""))
    print_line(
        f"{counts['protect']} files can be protected, {counts['copy']} are copied, {counts['refuse']} are "
        f"refused, {ignored} ignored"
    )
    print_notes(noted)
    print_problems(refused)
