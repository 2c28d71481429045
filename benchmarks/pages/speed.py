# SPDX-License-Identifier: Apache-2.0
"""The part of the page about time, memory and bytes read, and about runs that were disturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from measured import RESULTS, Row, latest, made_by, read_rows, table

SPEED_HEAD = """
# Speed, growth and memory

Each figure is that of whole processes, one thread in each, and was made side by side with the others of its line,
where there is one also by version 8add299 (*before*). What is held against loops is the time of the processor. Bytes
are those that the system gave out of each input, by its own account, second readers included. Memory is the sum over
all processes at its highest.

"""
FAULTS_HEAD = """
# Runs that are disturbed

Runs of 100 files by two processes, killed (SIGKILL; every fifth time SIGTERM, and every fifth time one of its processes
alone) at moments drawn from a stage, and gone on with `--resume`: *right* is the very output of an undisturbed run, no
process and no temporary file left.

"""
DISKS_HEAD = """
The same runs on a disk that fills at such a moment; *ran out* is how often the run still needed room. *Right* is one
line that names the path and the want of space, nothing left, and the very output after `--resume` once there is room.

"""

_FIELDS = {
    "loops": ("kind",), "bytes": ("kind",), "processes": ("files",), "growth": ("command",), "resume": (),
    "memory": ("input",),
}  # fmt: skip
_NAMES = {
    "nifti": "NIfTI 512 x 512 x 300", "cine": "cine 2000 x 240 x 320", "mammogram": "mammogram 3000 x 4000",
    "series": "CT series of 300",
}  # fmt: skip


def speed(folder: Path = RESULTS) -> str:
    """What runs take, beside plain loops and an earlier version."""
    rows = latest(
        read_rows("speed", folder), "what", "version", *{name for names in _FIELDS.values() for name in names}
    )
    if not rows:
        return ""
    now = [row for row in rows if row["version"] == "now"]
    before = {_key(row): row for row in rows if row["version"] == "before"}
    lines = [
        [name, target, figure(row), figure(before[_key(row)]) if _key(row) in before else "-", _met(met(row))]
        for row in now
        for name, target, figure, met in _measures(row)
    ]
    scans = [row for row in read_rows("scanning", folder) if row["what"] in ("scan", "command")]
    lines += [
        [
            f"`scan` of {row['files']:,} small files", ">= 1,000 a second, <= 200 MiB",
            f"{row['files'] / row['seconds']:,.0f} a second, {row['MiB']} MiB", "-",
            _met(row["files"] / row["seconds"] >= 1000 and row["MiB"] <= 200),
        ]
        for row in latest([row for row in scans if row["what"] == "command"], "files")[-1:]
    ]  # fmt: skip
    head = ["measure", "target", "now", "before", "met"]
    return SPEED_HEAD + table([head, *lines]) + "\n" + made_by(now, "benchmarks/speed.py")


def _key(row: Row) -> tuple[Any, ...]:
    return row["what"], *(row.get(name) for name in _FIELDS[row["what"]])


def _met(met: bool) -> str:
    return "yes" if met else "**no**"


_Measure = tuple[str, str, Callable[[Row], str], Callable[[Row], bool]]


def _measures(row: Row) -> Iterator[_Measure]:
    """Give the measures of a row: name, target, figure, and whether the target is met."""
    what = row["what"]
    if what == "loops":
        loop = f"{row['files']} {row['kind']} files"
        yield (
            f"writing {loop}, beside a loop that reads, writes, reads back, compares and digests twice", ">= 0.5",
            lambda it: f"{it['write_ratio']:.2f}", lambda it: it["write_ratio"] >= 0.5,
        )  # fmt: skip
        yield (
            f"`protect --method random` of {loop}, beside a loop that reads and writes", ">= 0.2",
            lambda it: f"{it['whole_ratio']:.2f}", lambda it: it["whole_ratio"] >= 0.2,
        )  # fmt: skip
    elif what == "bytes":
        header = row["kind"] if row["kind"] == "small" else f"{row['kind']} files"
        yield (
            f"bytes read of each input, {header}: scan, protect, verify", "header, 2 x, 2 x",
            lambda it: ", ".join(f"{it[name]:.2f}" for name in ("scan", "protect", "verify")),
            lambda it: it["scan"] * it["file_bytes"] < 16384 and it["protect"] <= 2.2 and it["verify"] <= 2.2,
        )  # fmt: skip
    elif what == "processes":
        for name in ("protect", "verify"):
            if f"{name}_ratio" in row:
                yield (
                    f"`{name}` of {row['files']:,} files by two processes, times as fast as by one", ">= 1.6",
                    lambda it, name=name: f"{it[f'{name}_ratio']:.2f}" if f"{name}_ratio" in it else "-",
                    lambda it, name=name: it[f"{name}_ratio"] >= 1.6,
                )  # fmt: skip
    elif what == "growth":
        few, many = row["files"]
        yield (
            f"`{row['command']}` of {many:,} files instead of {few:,}: time, memory a file",
            "<= 10.5 x, <= 2 KiB",
            lambda it: f"{it['time_ratio']:.1f} x, {it['KiB_per_file']:.1f} KiB",
            lambda it: it["time_ratio"] <= 10.5 and it["KiB_per_file"] <= 2,
        )
    elif what == "resume":
        yield (
            f"resuming a finished run of {row['files']:,} files, share of its time", "<= 10 %",
            lambda it: f"{it['share']:.0%}", lambda it: it["share"] <= 0.1,
        )  # fmt: skip
    elif what == "memory":
        yield (
            f"{_NAMES[row['input']]}: protect, verify", "<= 1536 MiB",
            lambda it: ", ".join(str(it["MiB"][name]) for name in ("protect", "verify")),
            lambda it: max(it["MiB"].values()) <= 1536,
        )  # fmt: skip


def faults(folder: Path = RESULTS) -> str:
    """What became of runs that were disturbed."""
    rows = read_rows("faults", folder)
    kills = latest([row for row in rows if row["what"] == "kills"], "stage")
    if not rows:
        return ""
    lines = [[row["stage"], row["times"], row.get("right", 0), row.get("wrong", 0)] for row in kills]
    text = FAULTS_HEAD + table([["stage", "times", "right", "wrong"], *lines])
    filled = latest([row for row in rows if row["what"] == "disks"], "stage")
    if filled:
        lines = [[row["stage"], row["times"], row["met"], row.get("right", 0), row.get("wrong", 0)] for row in filled]
        text += DISKS_HEAD + table([["stage", "times", "ran out", "right", "wrong"], *lines])
    for row in latest([row for row in rows if row["what"] == "hostile"], "what"):
        touched = "nothing" if row["untouched"] and not row["beside"] else "**something**"
        text += (
            f"\nA tree of {row['files']:,} hostile names, modes and links: exit code {row['code']}, {row['written']:,} "
            f"files written, {touched} touched outside OUTPUT and the work folder, {row['control_characters']} control "
            "characters printed.\n"
        )
    return text + "\n" + made_by(rows, "benchmarks/faults.py")
