# SPDX-License-Identifier: Apache-2.0
"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from monai_salm.dicomweb import SCHEME, ArchivePlace, place_of

Command = TypeVar("Command", bound=Callable[..., Any])


class _FileType(click.Path):
    """A path, and no place in an archive, of which a path would lose the slashes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.startswith(SCHEME):
            self.fail(
                "a file or a folder of this machine is needed, not an archive: scan, plan, protect, verify and restore "
                "take one as what they read, protect also as OUTPUT; export the studies from the archive into a folder",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class _PlaceType(click.Path):
    """A path, or a place in an archive."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        place = place_of(value) if isinstance(value, str) else value
        return place if isinstance(place, ArchivePlace) else super().convert(value, param, ctx)


FILE = _FileType(path_type=Path)
PLACE = _PlaceType(path_type=Path)


def in_order(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Apply several options in the order in which they are to be shown."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


output_options = in_order(
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text."),
    click.option("--quiet", is_flag=True, help="No progress bars and no log, only the result."),
)
label_options = in_order(
    click.option("--labels", type=FILE, help="CSV table of labels, or for segmentation a folder of label maps."),
    click.option("--label-column", help="Column of the table that holds the class.  [default: label]"),
    click.option("--labels-from-folders", is_flag=True, help="The folder that a file lies in is its class."),
    click.option(
        "--task", type=click.Choice(["classification", "segmentation"]), default="classification", show_default=True
    ),
)
grid_options = in_order(
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
_SAID = ParameterSource.COMMANDLINE
MOST_BY_DEFAULT = 4
"""Processes beyond which a disk gives no more, and memory may not hold their files."""


def _processors() -> int:
    """Count the processors that this process may use."""
    return min(
        MOST_BY_DEFAULT, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


def _one_of_both(context: click.Context, _: click.Parameter, value: Any) -> Any:
    """Refuse processes of this machine beside those of a cluster."""
    said = {name for name in ("workers", "scheduler") if context.get_parameter_source(name) is _SAID}
    if len(said) == 2:
        raise click.UsageError("--scheduler has workers of its own; leave out --workers", context)
    return value


workers_option = in_order(
    click.option(
        "--workers",
        type=click.IntRange(min=0),
        default=_processors,
        show_default=f"as many as there are processors, at most {MOST_BY_DEFAULT}",
        help="Processes that read and write files; one that a file crashes costs that file. 0 does all in one.",
        callback=_one_of_both,
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        default="",
        help="Dask scheduler whose workers read and write the files instead: tcp://10.0.0.1:8786; see docs/cluster.md.",
        callback=_one_of_both,
    ),
)

value_options = in_order(
    click.option(
        "--window",
        default="auto",
        show_default=True,
        help="Intensity window: LOW,HIGH in real units, or soft-tissue, brain, lung, bone, wide.",
    ),
    click.option("--modality", default="", help="DICOM Modality code of files that do not say theirs (NIfTI)."),
)
kind_options = in_order(
    click.option(
        "--label-maps",
        multiple=True,
        metavar="PATTERN",
        help="Files that are label maps, whatever they look like: labels/*, *_seg.nii.gz.",
    ),
    click.option(
        "--pictures", multiple=True, metavar="PATTERN", help="Files that are images, whatever they look like."
    ),
)
device_option = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
