# SPDX-License-Identifier: Apache-2.0
"""The parts of the page about releases that grow, and about one large export."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from measured import RESULTS, latest, made_by, read_rows, table

HEAD = """
# Releases that grow

Each data set was protected at once, and in ten steps with `protect --add`, with the same key and, where the method
has one, the same surrogate; files were dealt to the steps by chance. *Same* is how many of the files that are handed
out are the same to the byte. *Rivals* are files that say to be the same image (one SOP Instance UID, or the same
values) and are not the same file: of these the one that came first is handed out. A series that came in pieces keeps
the window that its first slices had, where that is found from the values (MR, PET).

"""
HALVES_HEAD = """
Half of the training images was protected with the defaults of `protect`, the other half was added. Victims were trained
on either half alone, clean and as it was handed out, and scored on clean test images: balanced accuracy, mean of seeds.

"""
CLUSTER_HEAD = """
# A cluster on one machine

`protect --method random` on slices of 64 x 64, by the processes of one machine and by as many Dask workers on the same
two cores, which the command and the scheduler share with them; wall seconds, medians.

"""
ARCHIVE_HEAD = """
# One large export

Slices of 64 x 64, protected with random noise by the processes of this machine; memory is that of all processes at its
highest. What a million would take: [docs/scale.md](../docs/scale.md).

"""


def growing(folder: Path = RESULTS) -> str:
    """What grew, and what victims learn from what was added."""
    rows = latest(read_rows("growing", folder), "what", "data_set", "half", "whole_series")
    if not rows:
        return ""
    lines = [
        [
            row["data_set"], ", ".join(f"`{part}`" for part in row["options"][:1]), row["steps"],
            "whole" if row["whole_series"] else "in pieces", f"{row['same']} of {row['handed_out']}", row["rivals"],
        ]
        for row in rows
        if row["what"] == "grown"
    ]  # fmt: skip
    text = HEAD + table([["data set", "method", "steps", "series came", "same", "rivals"], *lines])
    halves = [row for row in rows if row["what"] == "half"]
    if halves:
        text += HALVES_HEAD + table(
            [
                ["data set", "half", "images", "guess", "victim", "clean", "protected", "what it learned, of clean"],
                *(line for row in halves for line in _half(row)),
            ]
        )
    return text + "\n" + made_by(rows, "benchmarks/growing.py")


def _half(row: dict[str, Any]) -> list[list[object]]:
    """Give a line for each victim of a half."""
    scores: dict[str, dict[str, float]] = {}
    for cell in row["summary"]:
        trained = "clean" if cell["trained_on"] == "clean" else "protected"
        scores.setdefault(cell["victim"], {})[trained] = cell["balanced_accuracy"]
    return [
        [
            row["data_set"], row["half"], row["files"], f"{row['chance']:.2f}", victim, f"{found['clean']:.3f}",
            f"{found['protected']:.3f}",
            f"{(found['protected'] - row['chance']) / (found['clean'] - row['chance']):.0%}",
        ]
        for victim, found in scores.items()
    ]  # fmt: skip


def cluster(folder: Path = RESULTS) -> str:
    """What the workers of a cluster take beside the processes of one machine."""
    rows = latest(read_rows("cluster", folder), "workers", "files")
    if not rows:
        return ""
    seconds = {row["workers"]: row for row in rows}
    lines = [
        [
            row["workers"], f"{row['files']:,}", f"{median(row['pool_seconds']):.0f}",
            f"{median(row['dask_seconds']):.0f}", row["ratio"], "the same" if row["same_bytes"] else "**others**",
        ]
        for row in rows
    ]  # fmt: skip
    text = CLUSTER_HEAD + table(
        [["workers", "files", "seconds, processes", "seconds, Dask", "Dask / processes", "bytes"], *lines]
    )
    if {1, 2} <= seconds.keys():
        ratio = median(seconds[1]["dask_seconds"]) / median(seconds[2]["dask_seconds"])
        text += f"\nTwo Dask workers were {ratio:.2f} times as fast as one (target: 1.6).\n"
    return text + "\n" + made_by(rows, "benchmarks/cluster.py")


def archive(folder: Path = RESULTS) -> str:
    """What a large export takes."""
    rows = latest(read_rows("archive", folder), "what", "files")
    if not rows:
        return ""
    lines = [
        [
            f"`{row['what'] if row['what'] != 'resume' else 'protect --resume'}`", f"{row['files']:,}", row["workers"],
            f"{row['seconds']:,.0f}", f"{row['files'] / row['seconds']:,.0f}", row["MiB"],
            f"{row['work_bytes'] / row['files']:,.0f}" if row["work_bytes"] else "",
        ]
        for row in rows
    ]  # fmt: skip
    head = ["command", "files", "processes", "seconds", "files a second", "MiB", "bytes of a file in the work folder"]
    return ARCHIVE_HEAD + table([head, *lines]) + "\n" + made_by(rows, "benchmarks/archive.py")
