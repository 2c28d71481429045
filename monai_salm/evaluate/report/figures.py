# SPDX-License-Identifier: Apache-2.0
"""The measured part of the page: tables and plots of how well victims learn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

from monai_salm.evaluate.report.markup import DASH, MINUS, Markup, element, join, number, percent, spread, table
from monai_salm.evaluate.report.plots import Bar, bar_chart, heat_style, legend, line_plot, style_of
from monai_salm.evaluate.report.wording import (
    NONE,
    SIGNS,
    Row,
    describe,
    is_whole,
    protected_folders,
    score_name,
    verdict_of,
)
from monai_salm.evaluate.results import CLEAN, CLEAN_PART, FLIPS, victim_name

_KEYS = ("victim", "trained_on", "countermeasure", "protected_share", "augmentation", "seed", "seeds", "curve")
"""Fields of a row that are no scores."""


class Measured:
    """The rows of a report, and what to look up in them; a network with an augmentation that is not the usual one
    counts as a victim of its own.

    Args:
        report: as JSON.
    """

    def __init__(self, report: Row) -> None:
        """Collect what several figures need."""
        self.report = report
        self.score = report.get("main_score") or "balanced_accuracy"
        self.chance: float | None = report.get("chance")
        self.results, self.summary, self.verdicts = (
            [{**row, "victim": victim_name(row), "augmentation": FLIPS} for row in report.get(kind) or ()]
            for kind in ("results", "summary", "verdicts")
        )
        self.ranked = any(row.get("auc") is not None for row in self.summary)
        self.folders = protected_folders(report)
        self.series = [CLEAN, *self.folders]
        self.networks = _distinct(row["victim"] for kind in ("summary", "verdicts") for row in report.get(kind) or ())
        self.victims = _distinct(row["victim"] for row in [*self.summary, *self.verdicts])
        self.countermeasures = _distinct(row["countermeasure"] for row in [*self.summary, *self.verdicts])

    def row(self, victim: str, folder: str, countermeasure: str, share: float | None = None) -> Row:
        """Give the summary of one cell; an empty row where it was not run. Victims of clean images have no share."""
        for row in self.summary:
            here = (row["victim"], row["trained_on"], row["countermeasure"]) == (victim, folder, countermeasure)
            if here and (folder == CLEAN or (is_whole(row) if share is None else row.get("protected_share") == share)):
                return row
        return {}

    def score_of(self, row: Row) -> str:
        """Give the main score of a summary with its spread."""
        return spread(row.get(self.score), row.get(f"{self.score}_sd"))

    def all_of(self, row: Row) -> str:
        """Give main score, AUC where there is one, and peak of a summary."""
        names = ["auc", "peak"] if self.ranked else ["peak"]
        return " / ".join([self.score_of(row), *(number(row.get(name)) for name in names)])

    @property
    def all_names(self) -> str:
        """Say what :meth:`all_of` gives."""
        return " / ".join(map(score_name, [self.score, *(["auc"] if self.ranked else []), "peak"]))


def clean_and_protected(data: Measured) -> Markup:
    """Plot each victim's score without a countermeasure, trained on the originals and on each protected folder."""
    groups = {}
    for victim in data.victims:
        rows = [(folder, data.row(victim, folder, NONE)) for folder in [CLEAN, *data.folders]]
        bars = [
            Bar(name, row[data.score], row.get(f"{data.score}_sd"), row.get("peak"))
            for name, row in rows
            if row.get(data.score) is not None
        ]
        if bars:
            groups[victim] = bars
    if not groups:
        return element("p", "No training without a countermeasure was made.")
    names = {_trained_on(name): style_of(name, data.series) for name in [CLEAN, *data.folders]}
    extra = [
        Markup('<span class="mark"></span>best epoch'),
        Markup('<span class="mark cross"></span>± one standard deviation over seeds'),
    ]
    title = (
        f"{score_name(data.score)} of each network on clean test images, trained on the originals and on the "
        "protected images"
    )
    return join([legend(names, *extra, kind="bars"), bar_chart(groups, data.series, data.chance, title)])


def plain_table(data: Measured) -> Markup:
    """List the victims without a countermeasure: verdict, clean ceiling, what a guess and the largest class give."""
    rows = [
        [row["victim"], *_cells(data, row), data.chance, data.report.get("majority_share")]
        for row in _whole(data, [NONE])
    ]
    return table(_caption(data), ["network", *_heads(data), "a guess", "largest class"], rows) if rows else Markup("")


def countermeasure_table(data: Measured, countermeasures: Sequence[str]) -> Markup:
    """List the same for each countermeasure, under the name of each victim."""
    rows: list[list[Any]] = []
    share = data.report.get("majority_share")
    known = [("a guess", data.chance), ("the largest class", share)]
    beside = ", ".join(f"{name} {number(value)}" for name, value in known if value is not None)
    for victim in data.victims:
        found = [
            [row["countermeasure"], *_cells(data, row)]
            for row in _whole(data, countermeasures)
            if row["victim"] == victim
        ]
        rows += [[join([victim, element("small", beside)], " ")], *found] if found else []
    return table(_caption(data), ["countermeasure", *_heads(data)], rows) if rows else Markup("")


def _whole(data: Measured, countermeasures: Sequence[str]) -> list[Row]:
    return [row for row in data.verdicts if is_whole(row) and row["countermeasure"] in countermeasures]


def _caption(data: Measured) -> str:
    return f"{score_name(data.score)} on clean test images; mean ± standard deviation over seeds"


def _heads(data: Measured) -> list[str]:
    folder = ["trained on"] if len(data.folders) > 1 else []
    heads = [*folder, "verdict"]
    for name in ("originals (ceiling)", "protected, last epoch"):
        heads += [name, f"{name.partition(' ')[0].strip(',')}, AUC"] if data.ranked else [name]
    return [*heads, "protected, best epoch", "taken away", "reliance", "reliance on originals"]


def _cells(data: Measured, row: Row) -> list[Any]:
    """Give what a row of either table says of one verdict, in the order of :func:`_heads`."""
    clean = data.row(row["victim"], CLEAN, row["countermeasure"]) or {data.score: row.get("clean")}
    own = data.row(row["victim"], row["trained_on"], row["countermeasure"]) or {
        data.score: row.get("protected"),
        "peak": row.get("peak"),
    }
    folder = [row["trained_on"]] if len(data.folders) > 1 else []
    verdict = verdict_of(row)
    kept = DASH if verdict == "not learned" else percent(row.get("kept"))
    cells: list[Any] = [*folder, verdict_cell(verdict)]
    for found in (clean, own):
        cells.append(data.score_of(found))
        cells += [spread(found.get("auc"), found.get("auc_sd"))] if data.ranked else []
    reliance = [spread(found.get("reliance"), found.get("reliance_sd")) for found in (own, clean)]
    return [*cells, spread(own.get("peak"), own.get("peak_sd")), kept, *reliance]


def verdict_cell(verdict: str) -> Markup:
    """Give a verdict as a table's cell: a sign, the word and a color."""
    return element("td", element("span", f"{SIGNS[verdict]} {verdict}", class_=f"verdict {verdict.replace(' ', '-')}"))


def heat_map(data: Measured, folder: str) -> Markup:
    """Show the share that the protection takes away, victims beside countermeasures; a table, so that all devices can
    read it.
    """
    cells = {
        (row["countermeasure"], row["victim"]): row
        for row in data.verdicts
        if row["trained_on"] == folder and is_whole(row)
    }
    rows = []
    for name in data.countermeasures:
        found = [cells.get((name, victim)) for victim in data.victims]
        if any(found):
            rows.append([name, *map(_heat_cell, found)])
    return table(f"Taken away by the protection ({folder})", ["countermeasure", *data.victims], rows, kind="heat")


def _heat_cell(row: Row | None) -> Markup:
    if row is None:
        return element("td", DASH, title="not run", class_="blank")
    verdict, kept = verdict_of(row), row.get("kept")
    title = f"{describe(row)}: {verdict}"
    if verdict == "not learned" or kept is None:
        return element("td", f"{SIGNS[verdict]} {DASH}", title=title, class_="blank")
    return element("td", f"{SIGNS[verdict]} {percent(kept)}", title=title, style=heat_style(kept))


def learning_curves(data: Measured, countermeasures: Iterable[str]) -> Markup:
    """Plot the score after each epoch, one plot for each victim and countermeasure."""
    plots = []
    for countermeasure in countermeasures:
        for victim in data.victims:
            lines = {
                folder: (style_of(folder, data.series), _curve(data, victim, folder, countermeasure))
                for folder in [CLEAN, *data.folders]
            }
            lines = {name: line for name, line in lines.items() if line[1]}
            if lines:
                name = describe({"victim": victim, "countermeasure": countermeasure})
                last = max(len(points) for _, points in lines.values())
                ticks = [(0.0, "epoch 1"), (1.0, str(last))] if last > 1 else [(0.0, "epoch 1")]
                plot = line_plot(lines, data.chance, f"{score_name(data.score)} after each epoch: {name}", ticks)
                plots.append(element("figure", plot, element("figcaption", name)))
    return element("div", join(plots), class_="plots") if plots else Markup("")


def _curve(data: Measured, victim: str, folder: str, countermeasure: str) -> list[tuple[float, float, float, float]]:
    """Give (share of the epochs, mean, lowest, highest) over the seeds."""
    wanted = (victim, folder, countermeasure)
    rows = [
        row
        for row in data.results
        if (row["victim"], row["trained_on"], row["countermeasure"]) == wanted and (folder == CLEAN or is_whole(row))
    ]
    curves = [row["curve"] for row in rows if row.get("curve")]
    epochs = min(map(len, curves), default=0)
    columns = [[curve[epoch] for curve in curves if curve[epoch] is not None] for epoch in range(epochs)]
    return [
        (epoch / max(epochs - 1, 1), mean(values), min(values), max(values))
        for epoch, values in enumerate(columns)
        if values
    ]


def curve_legend(data: Measured) -> Markup:
    """Name the lines of the learning curves."""
    return legend(
        {_trained_on(name): style_of(name, data.series) for name in [CLEAN, *data.folders]},
        Markup('<span class="mark dash"></span>a guess'),
    )


def protected_shares(data: Measured) -> Markup:
    """Plot what protected images add to clean ones against training on those clean images alone; empty where no
    mixtures were run.
    """
    shares = sorted({row["protected_share"] for row in data.summary if not is_whole(row)})
    if not shares:
        return Markup("")
    style = {name: style_of(name, data.series) for name in data.folders} | {CLEAN_PART: "part"}
    plots: list[Markup] = []
    rows: list[list[Any]] = []
    for victim, countermeasure in dict.fromkeys(
        (row["victim"], row["countermeasure"]) for row in data.summary if not is_whole(row)
    ):
        clean = data.row(victim, CLEAN, countermeasure)
        lines = {
            name: (style[name], _share_points(data, victim, name, countermeasure, shares, clean))
            for name in [CLEAN_PART, *data.folders]
        }
        name = describe({"victim": victim, "countermeasure": countermeasure})
        ticks = [(0.0, "0 % protected"), (0.5, "50 %"), (1.0, "100 %")]
        title = f"{score_name(data.score)} against the share of protected images: {name}"
        plot = line_plot({key: line for key, line in lines.items() if line[1]}, data.chance, title, ticks)
        plots.append(element("figure", plot, element("figcaption", name)))
        found = [
            [data.row(victim, folder, countermeasure, share) for folder in [CLEAN_PART, *data.folders]]
            for share in shares
        ]
        rows += [
            [name],
            *([percent(share), *map(data.all_of, cells)] for share, cells in zip(shares, found, strict=True)),
        ]
    names = {"the clean part alone": style[CLEAN_PART]} | {
        f"the clean part and {name}": style[name] for name in data.folders
    }
    head = ["protected share", *names]
    caption = f"{data.all_names} of networks trained on mixtures"
    return join(
        [
            legend(names, Markup('<span class="mark dash"></span>a guess')),
            element("div", join(plots), class_="plots"),
            table(caption, head, rows),
        ]
    )


def _share_points(
    data: Measured, victim: str, folder: str, countermeasure: str, shares: Sequence[float], clean: Row
) -> list[tuple[float, float, float, float]]:
    ends = [1.0] if folder != CLEAN_PART else []
    found = [(0.0, clean)] + [(share, data.row(victim, folder, countermeasure, share)) for share in [*shares, *ends]]
    points = []
    for share, row in found:
        value, deviation = row.get(data.score), row.get(f"{data.score}_sd") or 0.0
        if value is not None:
            points.append((share, value, value - deviation, value + deviation))
    return points


def all_scores(data: Measured) -> Markup:
    """List every score of every summary."""
    names = [
        name
        for name in _distinct(name for row in data.summary for name in row)
        if name not in _KEYS and not name.endswith("_sd")
    ]
    head = ["network", "trained on", "countermeasure", "protected share", "seeds", *map(score_name, names)]
    rows = []
    for row in data.summary:
        share = DASH if row["trained_on"] == CLEAN else percent(row.get("protected_share"))
        first = [row["victim"], row["trained_on"], row["countermeasure"], share, row.get("seeds", DASH)]
        rows.append([*first, *(spread(row.get(name), row.get(f"{name}_sd")) for name in names)])
    return table("All scores, mean ± standard deviation over seeds", head, rows)


def all_trainings(data: Measured) -> Markup:
    """List every training."""
    names = [
        name for name in _distinct(name for row in data.results for name in row) if name not in (*_KEYS, "seconds")
    ]
    head = ["network", "trained on", "countermeasure", "protected share", "seed", *map(score_name, names), "seconds"]
    rows = []
    for row in data.results:
        share = DASH if row["trained_on"] == CLEAN else percent(row.get("protected_share"))
        scores = (number(row.get(name)) for name in names)
        rows.append(
            [
                row["victim"],
                row["trained_on"],
                row["countermeasure"],
                share,
                row.get("seed"),
                *scores,
                number(row.get("seconds"), 1),
            ]
        )
    return table("All trainings", head, rows)


def explain_share() -> str:
    """Say what is taken away."""
    return (
        f"“Taken away” is (originals {MINUS} protected) / (originals {MINUS} guess), both under the same "
        "countermeasure: 100 % means that a network learned no "
        "more than a guess, 0 % that the protection does nothing; values beyond both ends are chance."
    )


def explain_reliance() -> str:
    """Say what reliance is."""
    return (
        f"“Reliance” is the score on a part of the images that a network trained on {MINUS} that on clean test images, "
        "after the last epoch: on the protected images it says how much of what was learned is the noise, 0 if "
        "nothing; on the originals, how much is memory alone."
    )


def _trained_on(folder: str) -> str:
    return "trained on the originals" if folder == CLEAN else f"trained on {folder}"


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
