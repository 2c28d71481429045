# SPDX-License-Identifier: Apache-2.0
"""How results reach standard output: lines that any terminal can show, or one JSON object."""

from __future__ import annotations

import json
from typing import Any

import click

from monai_salm.errors import printable

PROBLEMS_SHOWN = 20
"""Refused files that are listed on the terminal; the manifest and ``--json`` have all."""


def print_line(line: str, *, err: bool = False) -> None:
    """Print one line, whatever characters the name of a file in it has; all lines of all commands go through here."""
    click.echo(printable(line), err=err)


def print_json(result: Any) -> None:
    """Print a result as one JSON object, in characters that any terminal can show."""
    click.echo(json.dumps(result, indent=1, allow_nan=False, default=str).replace("\x7f", "\\u007f"))


def print_notes(entries: list[dict[str, Any]]) -> None:
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
        print_line(f"note: {paths[0]}{more}: {note}")


def print_labels(labels: dict[str, Any] | None) -> None:
    """Say what became of the labels; nothing where a run has none."""
    from monai_salm.pipeline.labels import describe_labels

    for line in describe_labels(labels) if labels else ():
        print_line(line)


def print_problems(problems: list[dict[str, Any]]) -> None:
    """Print the first problems, one a line, and how many more there are."""
    for problem in problems[:PROBLEMS_SHOWN]:
        print_line(f"{problem['status']}: {problem['path']}: {problem['reason']}")
    if len(problems) > PROBLEMS_SHOWN:
        print_line(f"... and {len(problems) - PROBLEMS_SHOWN} more; --json lists all")
