# SPDX-License-Identifier: Apache-2.0
"""``monai-salm scan``: what would become of each file."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from monai_salm.cli.options import FILE, kind_options, output_options, value_options
from monai_salm.cli.printing import print_json, print_line, print_notes, print_problems


@click.command()
@click.argument("source", metavar="INPUT", type=FILE)
@value_options
@kind_options
@output_options
def scan(source: Path, as_json: bool, quiet: bool, **choices: Any) -> int:
    """List what INPUT holds, what would be protected or refused, and why; reads every image, as protect does."""
    from monai_salm.pipeline import ProtectOptions, forecast
    from monai_salm.pipeline import scan as run

    options = ProtectOptions(method="random", **choices)
    with TemporaryDirectory() as spare:
        inventory = run(
            source, unpack_into=Path(spare) / "input", choices=options.kind_choices(), show_progress=not quiet
        )
        result = forecast(inventory, options, show_progress=not quiet) | {"input": str(source)}
    if as_json:
        print_json(result)
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
        print_line(f"{number} {kind}" + (f", {shape}" if shape else ""))
    counts = result["counts"]
    print_line(
        f"{counts['protect']} files can be protected, {counts['copy']} are copied, {counts['refuse']} are "
        f"refused, {counts['ignored']} ignored"
    )
    print_notes([file for file in result["files"] if file["notes"]])
    print_problems([file | {"status": "refused"} for file in result["files"] if file["fate"] == "refuse"])
    return 0
