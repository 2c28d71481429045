# SPDX-License-Identifier: Apache-2.0
"""What ``protect`` said of its own files, beside what victims learned from them."""

from __future__ import annotations

from typing import NamedTuple

from measured import Measured, made_by, table

from monai_salm.learning.verdicts import VERDICTS, usable, verdict

_ASKED = ("small-cnn", "small-resnet", "small-cnn/2", "small-resnet/2")
"""Victims of the kinds that an estimate asks, at the full size and at half of it."""


class Told(NamedTuple):
    """What was said of a folder, and what came.

    Args:
        found: the data set.
        method: that made it.
        said, came: verdicts.
        scores: of the victims that it came from, in words.
    """

    found: Measured
    method: str
    said: str
    came: str
    scores: str


def all_told(sets: list[Measured]) -> list[Told]:
    """Give all folders of which something was said, and whose victims were trained."""
    told = []
    for found in sets:
        commits = {
            (row["victim"], row["trained_on"]): row["commit"]
            for row in found.rows
            if row.get("countermeasure", "none") == "none" and row.get("protected_share", 1.0) == 1
        }
        for method, row in found.protects.items():
            estimate = row.get("estimate")
            if not estimate or not estimate["networks"]:
                continue
            outcomes, scores = [], []
            for victim in _ASKED:
                clean, protected = found.cell(victim), found.cell(victim, method)
                if clean is None or protected is None or commits.get((victim, method)) != row["commit"]:
                    continue
                chance = None if found.score == "dice" else found.chance
                score, peak = usable(protected[found.score], chance), protected["peak"]
                outcomes.append(verdict(usable(clean[found.score], chance), score, peak, chance))
                scores.append(f"{victim} {score:.2f} (peak {peak:.2f}) of {clean[found.score]:.2f}")
            known = [outcome for outcome in outcomes if outcome != "not learned"]
            if known:
                came = max(known, key=VERDICTS.index)
                told.append(Told(found, method, estimate["verdict"], came, ", ".join(scores)))
    return told


def estimates(sets: list[Measured]) -> str:
    """Give the table of all folders."""
    told = all_told(sets)
    if not told:
        return ""
    rows = [one.found.protects[one.method] for one in told]
    lines = [["data set", "method", "`protect` said", "came on test images", "victims"]]
    lines += [[one.found.data.name, one.method, one.said, one.came, one.scores] for one in told]
    text = (
        "\n# What the tool said of its files\n\nThe estimate of `protect` looks at training images that it holds out,"
    )
    text += " victims are scored on clean test images; means over seeds.\n\n"
    return text + table(lines) + "\n" + made_by(rows, "benchmarks/classification.py")
