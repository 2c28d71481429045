# SPDX-License-Identifier: Apache-2.0
"""The targets, and how far they are reached: figures and verdicts come from the rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_sets import common_victims, mean_score
from estimates import all_told
from measured import DATA_SETS, RESULTS, Measured, latest, read_rows, table

CLAIMED = ("jpeg-75", "jpeg-50", "median-3", "gaussian-1", "down-up", "6-bit", "clahe")
"""Countermeasures that the protection is to stand."""

_PICTURES = ("pneumonia", "breast", "brain_tumor")
_CLASSES = (*_PICTURES, "retina", "cells", "findings", "contrasts")
_SEEDS = 3
_LEAST_ESTIMATES = 12
_WORST_MISTAKE = ("protected", "not protected")
_LEAST_PSNR = {"4/255": 48.0, "8/255": 34.0}
_LEAST_AUC = 0.6
"""Of who learned something from clean images."""


class Finding(NamedTuple):
    """What was found of a target.

    Args:
        figure: in words.
        misses: what is missed, by how much.
        gaps: what was not measured of it.
    """

    figure: str
    misses: list[str]
    gaps: list[str]

    def verdict(self) -> str:
        """Say whether the target is met."""
        rest = "; ".join(self.gaps)
        if self.misses:
            return f"**missed**: {', '.join(self.misses)}" + (f"; {rest}" if rest else "")
        return f"met as far as measured; {rest}" if rest else "met"


def targets(sets: list[Measured], folder: Path = RESULTS) -> str:
    """Give the table of all targets."""
    body = []
    for target, where, finding in _findings(sets, folder):
        body.append(
            [
                target,
                where,
                "-" if finding is None else finding.figure,
                "**not measured**" if finding is None else finding.verdict(),
            ]
        )
    return "\n# Targets\n\n" + table([["target", "where", "found", "verdict"], *body])


def _findings(sets: list[Measured], folder: Path) -> Iterator[tuple[str, str, Finding | None]]:
    """Give each target, where it was measured, and what was found."""
    judges = [
        ("balanced accuracy within 0.10 of chance, peak within 0.15, every victim, 3 seeds", _CLASSES, learned),
        ("epsilon 8/255, at most 40 % of the anatomy, PSNR at least 34 dB", _PICTURES, bounds),
        ("AUC at most 0.60 on the clean test split", ("ct_contrast",), auc),
        (
            "strictly better than every baseline on the mean over victims, with fewer changed voxels",
            _PICTURES,
            baselines,
        ),
        (f"keeps half of the gap after {', '.join(CLAIMED)}", _PICTURES, countermeasures),
        ("epsilon 4/255, PSNR at least 48 dB, mean Dice at most 0.15", ("hippocampus",), dice),
        ("epsilon 8/255, PSNR at least 34 dB, mean Dice at most 0.15", ("hippocampus_slices",), dice),
        ("a clean-trained network's AUC or Dice changes by at most 0.005", tuple(DATA_SETS), utility),
        ("passes per sample to dense EM's protection at most a tenth of `em`'s", _PICTURES, passes),
    ]
    for target, names, judge in judges:
        for name in names:
            chosen = [found for found in sets if found.data.name == name and found.epsilon == found.data.epsilon]
            findings = [(found, finding) for found in chosen if (finding := judge(found)) is not None]
            for found, finding in findings:
                yield (
                    target,
                    name + (f", {found.fraction:.0%} of the anatomy" if found.fraction != 0.4 else ""),
                    finding,
                )
            if not findings:
                yield target, name, None
    yield "the estimate of `protect` is right in 90 %, and never says protected of what is not", "all", told(sets)
    yield "`protect` with choice and estimate takes at most 2.2 times the chosen method alone", "cost", choice(folder)
    yield "one noise step at most 1.10 x a bare forward and backward pass", "cost", step(folder)
    yield "one noise step at most 1.05 x that", "cost", step(folder, limit=1.05)
    yield "one step of the surrogate at most 1.10 x that", "cost", step(folder, "surrogate_ratio")
    yield "`--help` and `scan` of one file start in at most 1.5 x bare imports", "cost", start(folder)
    yield "noise store at 10 %: at most 1/17 of dense float32, at least 500 MB/s", "cost", store(folder)


def _above(value: float, limit: float, what: str, digits: int = 3) -> list[str]:
    """Say by how much a value is above its limit, if it is."""
    return [f"{what} by {value - limit:.{digits}f}"] if value > limit + 1e-9 else []


def _victims(found: Measured, score: str, least: float) -> tuple[list[str], list[str]]:
    """Name the victims that were trained on clean and on SALM's images, and say what is missing; none if all learn less
    from clean images than this.
    """
    chosen = [victim for victim in found.victims() if found.cell(victim, "salm") and found.cell(victim)]
    absent = [victim for victim in found.data.victims if victim not in chosen]
    dull = [victim for victim in chosen if (found.cells[victim, "clean", "none", 1.0].get(score) or 0.0) < least - 1e-9]
    few = [
        victim
        for victim in chosen
        if min(found.cells[victim, name, "none", 1.0]["seeds"] for name in ("salm", "clean")) < _SEEDS
    ]
    gaps = [
        f"{text} {', '.join(names)}"
        for text, names in (("not run:", absent), ("clean images teach nothing:", dull), ("too few seeds:", few))
        if names
    ]
    return chosen if len(dull) < len(chosen) else [], gaps


def learned(found: Measured) -> Finding | None:
    """Judge every victim's score and peak."""
    victims, gaps = _victims(found, found.score, found.least)
    if not victims:
        return None
    worst, peak = (
        max((found.cells[victim, "salm", "none", 1.0][name], victim) for victim in victims)
        for name in (found.score, "peak")
    )
    figure = (
        f"worst {worst[0]:.3f} ({worst[1]}), worst peak {peak[0]:.3f} ({peak[1]}), mean over {len(victims)} "
        f"victims {mean_score(found, 'salm', victims):.3f}"
    )
    ranked = [auc for victim in victims if (auc := found.cells[victim, "salm", "none", 1.0].get("auc")) is not None]
    figure += f", mean AUC {sum(ranked) / len(ranked):.3f}" if ranked else ""
    misses = _above(worst[0], found.highest, "worst victim") + _above(peak[0], found.chance + 0.15, "worst peak")
    return Finding(f"{figure}; a guess {found.chance:.3f}", misses, gaps)


def told(sets: list[Measured]) -> Finding | None:
    """Judge what the tool said of its own files."""
    cells = all_told(sets)
    if not cells:
        return None
    right = sum(one.said == one.came for one in cells)
    wrong = [f"{one.found.data.name} {one.method}" for one in cells if (one.said, one.came) == _WORST_MISTAKE]
    misses = _above(0.9, right / len(cells), "right in too few:") if right < 0.9 * len(cells) else []
    misses += [f"protected where it is not: {name}" for name in wrong]
    gaps = [f"fewer than {_LEAST_ESTIMATES} cells"] if len(cells) < _LEAST_ESTIMATES else []
    return Finding(f"{right} of {len(cells)} verdicts are those of the test images", misses, gaps)


def bounds(found: Measured) -> Finding | None:
    """Judge PSNR and changed share."""
    made = found.protects.get("salm")
    if made is None:
        return None
    share = made["largest_changed_fraction"] if "largest_changed_fraction" in made else made["mean_changed_fraction"]
    psnr, verified = made["lowest_psnr"], made["verified"]
    misses = _above(share, 0.4, "changed share") + _above(-psnr, -34.0, "PSNR (dB)", 2)
    misses += [f"verify: {verified[fate]} {fate}" for fate in ("absent", "mismatch") if verified.get(fate)]
    return Finding(f"largest changed share {share:.1%}, lowest PSNR {psnr:.2f} dB", misses, [])


def auc(found: Measured) -> Finding | None:
    """Judge every victim's AUC."""
    victims, gaps = _victims(found, "auc", _LEAST_AUC)
    scored = [
        (cell["auc"], victim)
        for victim in victims
        if (cell := found.cells[victim, "salm", "none", 1.0]).get("auc") is not None
    ]
    if not scored:
        return None
    worst = max(scored)
    mean = sum(value for value, _ in scored) / len(scored)
    return Finding(
        f"worst {worst[0]:.3f} ({worst[1]}), mean over {len(scored)} victims {mean:.3f}",
        _above(worst[0], 0.60, "worst AUC"),
        gaps,
    )


def baselines(found: Measured) -> Finding | None:
    """Compare SALM to each other method on the victims that both have."""
    others = [method for method in found.data.methods if not method.startswith("salm")]  # its parts are no baselines
    figures, misses, gaps, absent = [], [], [], []
    for method in others:
        victims = common_victims(found, ["salm", method])
        if not victims:
            absent.append(method)
            continue
        ours, theirs = (mean_score(found, name, victims) for name in ("salm", method))
        figures.append(f"{method} {theirs:.3f} (SALM {ours:.3f}, {len(victims)} victims)")
        misses += (
            [f"{method} is {ours - theirs:.3f} lower" if ours - theirs >= 0.0005 else f"{method} is as low"]
            if ours >= theirs
            else []
        )
        if "salm" in found.protects and method in found.protects:
            ours, theirs = (found.protects[name]["mean_changed_fraction"] for name in ("salm", method))
            misses += [f"{method} changes {theirs:.1%}, SALM {ours:.1%}"] if ours >= theirs else []
        else:
            gaps.append(f"changed share of {method} not known")
        lacking = [victim for victim in found.data.victims if victim not in victims]
        gaps += [f"{method} without {', '.join(lacking)}"] if lacking else []
    gaps += [f"not run: {', '.join(absent)}"] if absent else []
    return Finding("; ".join(figures), misses, gaps) if figures else None


def countermeasures(found: Measured) -> Finding | None:
    """Judge what is kept from every victim after the countermeasures of the claim."""
    kept = [
        (value, f"{victim}, {name}")
        for victim in found.victims()
        for name in CLAIMED
        if (value := found.kept(victim, "salm", name)) is not None
    ]
    if not kept:
        return None
    half = [value >= 0.5 - 1e-9 for value, _ in kept]
    lowest = min(kept)
    absent = len(found.data.victims) * len(CLAIMED) - sum(
        victim in found.data.victims for _, where in kept for victim in [where.partition(",")[0]]
    )
    misses = _above(0.5, lowest[0], f"{len(half) - sum(half)} of {len(half)} cells, the worst") if not all(half) else []
    gaps = (
        [
            f"{absent} of {len(found.data.victims) * len(CLAIMED)} cells not measured, or clean images teach "
            "nothing there"
        ]
        if absent
        else []
    )
    return Finding(f"{sum(half)} of {len(half)} cells keep half; lowest {lowest[0]:.0%} ({lowest[1]})", misses, gaps)


def dice(found: Measured) -> Finding | None:
    """Judge every victim's Dice, and the PSNR."""
    victims, gaps = _victims(found, "dice", found.least)
    if not victims:
        return None
    worst, peak = (
        max((found.cells[victim, "salm", "none", 1.0][name], victim) for victim in victims) for name in ("dice", "peak")
    )
    psnr = found.protects.get("salm", {}).get("lowest_psnr")
    least = _LEAST_PSNR[found.epsilon]
    misses = _above(worst[0], found.highest, "Dice") + (
        _above(-psnr, -least, "PSNR (dB)", 2) if psnr is not None else []
    )
    gaps += ["PSNR not known"] if psnr is None else []
    figure = (
        f"worst {worst[0]:.3f} ({worst[1]}), worst peak {peak[0]:.3f} ({peak[1]}), mean over {len(victims)} victims "
        f"{mean_score(found, 'salm', victims):.3f}"
    )
    return Finding(f"{figure}, clean {mean_score(found, 'clean', victims):.3f}, lowest PSNR {psnr} dB", misses, gaps)


def utility(found: Measured) -> Finding | None:
    """Judge how far the scores of a clean-trained network move."""
    name, least = ("dice", found.least) if found.score == "dice" else ("auc", _LEAST_AUC)
    known = {
        victim: row
        for (method, victim), row in found.utilities.items()
        if method == "salm" and row["change"].get(name) is not None
    }
    known = {
        victim: row for victim, row in known.items() if row["clean"][name] >= least
    }  # who learned nothing loses nothing
    if not known:
        return None
    worst = max(known, key=lambda victim: abs(known[victim]["change"][name]))
    change = known[worst]["change"][name]
    return Finding(
        f"{change:+.4f} {name.upper() if name == 'auc' else 'Dice'} ({worst})",
        _above(abs(change), 0.005, "change", 4),
        [],
    )


def passes(found: Measured) -> Finding | None:
    """Compare the passes of SALM and of dense EM, if SALM protects as well."""
    dense = found.protects.get("em")
    findings = []
    for name, made in found.protects.items():
        victims = common_victims(found, [name, "em"])
        if name.partition("@")[0] not in ("salm", "salm:texture") or made is None or dense is None or not victims:
            continue
        ours, theirs = made["passes_per_sample"], dense["passes_per_sample"]
        scores = [mean_score(found, method, victims) for method in (name, "em")]
        misses = _above(scores[0], scores[1], "EM's protection") + _above(
            ours / theirs, 0.1, f"{ours / theirs:.2f} of them, the share"
        )
        findings.append(
            Finding(f"{name}: {ours} against {theirs}, mean {scores[0]:.3f} against {scores[1]:.3f}", misses, [])
        )
    return min(findings, key=lambda finding: len(finding.misses), default=None)


def choice(folder: Path) -> Finding | None:
    """Judge what the choice and the estimate cost."""
    rows = latest(read_rows("choice_cost", folder), "data_set")
    if not rows:
        return None
    figure = "; ".join(
        f"{row['data_set']} ({row['chosen']}): {row['ratio']:.2f} x, {row['cpu_seconds']:.0f} s of CPU time"
        for row in rows
    )
    return Finding(figure, _above(max(row["ratio"] for row in rows), 2.2, "the limit", 2), [])


def step(folder: Path, name: str = "ratio", *, limit: float = 1.10) -> Finding | None:
    """Judge the ratio of every network."""
    steps = [row for row in read_rows("cost", folder) if row["what"] == "step" and name in row]
    rows = latest(steps, "network", "shape", "batch")
    if not rows:
        return None
    ratios = [(row[name], f"{row['network']} {' x '.join(map(str, row['shape']))}") for row in rows]
    fine, worst = sum(ratio <= limit for ratio, _ in ratios), max(ratios)
    return Finding(
        f"{min(ratios)[0]} to {worst[0]}; {fine} of {len(ratios)} within", _above(worst[0], limit, worst[1]), []
    )


def start(folder: Path) -> Finding | None:
    """Judge how long each command takes to start."""
    rows = latest([row for row in read_rows("cost", folder) if row["what"] == "start"], "command")
    ratios = [(row["ratio"], row["command"]) for row in rows if row["command"] != "bare imports"]
    if not ratios:
        return None
    misses = [miss for ratio, command in ratios for miss in _above(ratio, 1.5, command, 2)]
    return Finding(", ".join(f"{command} {ratio}" for ratio, command in ratios), misses, [])


def store(folder: Path) -> Finding | None:
    """Judge size and speed of every shape."""
    rows = latest([row for row in read_rows("cost", folder) if row["what"] == "store"], "shape", "levels")
    if not rows:
        return None
    sizes = [
        (row["smaller_than_float32"], f"{' x '.join(map(str, row['shape']))}, {row['levels']} levels") for row in rows
    ]
    slowest, wall = (min(row[name] for row in rows) for name in ("mb_per_s", "mb_per_s_wall"))
    fine, worst = sum(size >= 17 for size, _ in sizes), min(sizes)
    figure = (
        f"1/{worst[0]} to 1/{max(sizes)[0]}, {fine} of {len(sizes)} small enough; at least {slowest} MB/s of CPU "
        f"time, {wall} of wall time"
    )
    misses = [f"1/{worst[0]} ({worst[1]}) is {17 / worst[0]:.2f} x too large"] if worst[0] < 17 else []
    return Finding(figure, misses + _above(-slowest, -500.0, "MB/s", 0), [])
