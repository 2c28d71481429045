# SPDX-License-Identifier: Apache-2.0
"""The part of the page about processes that share a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from measured import RESULTS, latest, made_by, read_rows, table

HEAD = """
# Processes that share a search

One process and two (`torchrun`, gloo) of one thread each searched the noise of some images, by
[whole batches](../docs/ranks.md). Operations and bytes are those of one round, but for the first, in which there is no
noise yet; a training step and a noise step exchange nothing. *Exchange* is the time of these operations where nobody
has to be waited for, as a share of a round; *waits* is the share of a round that the second process waits, mostly for
the first to have trained the surrogate. CPU seconds are those of training and of noise steps, over all rounds: what two
processes can gain. Wall seconds are of a machine that others used as well.

"""
ROUNDING_HEAD = """
Why no gradients are averaged: the same search, whose weights began with a relative error of 1e-7, as sums in another
order have one. *Another* is the share of the cells with noise whose noise is another at the end.

"""


def sharing(folder: Path = RESULTS) -> str:
    """What is exchanged, and how much of the noise a rounding error changes."""
    rows = read_rows("ranks", folder)
    costs = latest([row for row in rows if row["what"] == "cost"], "method")
    if not costs:
        return ""
    head = ["method", "images", "noise", "operations", "bytes sent by the first", "by the second", "exchange", "waits"]
    head += ["CPU s, training", "CPU s, noise, of one", "CPU s, noise, of two", "wall s, one", "wall s, two"]
    text = HEAD + table([head, *map(_cost, costs)])
    errors = [row for row in rows if row["what"] == "rounding"]
    if errors:
        lines = [[f"`{row['method']}`", row["rounds"], row["images"], f"{row['other']:.1%}"] for row in errors]
        text += ROUNDING_HEAD + table([["method", "rounds", "images", "another"], *lines])
    return text + "\n" + made_by(rows, "benchmarks/ranks.py")


def _cost(row: dict[str, Any]) -> list[object]:
    first, second = row["of_two"]
    wall = first["round"]["wall"]
    noise = " and ".join(f"{part['cpu']['move_noise']:.1f}" for part in (first, second))
    return [
        f"`{row['method']}`", f"{row['images']} of {row['side']} x {row['side']}",
        "the same" if row["same"] else "**another**", first["round"]["operations"], f"{first['round']['sent']:,}",
        f"{second['round']['sent']:,}", f"{first['exchange_alone'] / wall:.2%}",
        f"{second['round']['seconds'] / wall:.0%}", f"{row['cpu_seconds']['train_surrogate']:.1f}",
        f"{row['cpu_seconds']['move_noise']:.1f}", noise, f"{row['wall_seconds']:.0f}", f"{first['wall']:.0f}",
    ]  # fmt: skip
