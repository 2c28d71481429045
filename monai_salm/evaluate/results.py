# SPDX-License-Identifier: Apache-2.0
"""What came out of an evaluation: every victim's scores, their means over seeds, and what these say of
the protection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from monai_salm.learning.verdicts import VERDICTS, usable, verdict
from monai_salm.learning.victims import VictimScores
from monai_salm.pipeline.region_means import MeanShift, shifts_in_words

EVALUATION_FORMAT = "monai_salm.evaluation/1"

CLEAN, CLEAN_PART = "clean", "clean part"
"""What victims train on besides protected images: all clean ones, or those that are left beside a share of protected
ones.
"""

FLIPS = "flips"
"""Name of the augmentation that victims train with unless they are told otherwise."""

_GROUP = ("victim", "trained_on", "countermeasure", "protected_share", "augmentation")


@dataclass(frozen=True)
class VictimResult:
    """Scores of one victim.

    Args:
        victim: name of the network.
        trained_on: name of the folder, or ``clean part``.
        countermeasure: name of what was done to its images.
        protected_share: share of its training images that were protected; beside ``clean part`` the share that was left
            out.
        seed: of its training.
        scores: on the clean test images.
        augmentation: name of what it did to its images; a countermeasure that is an augmentation takes its place.
    """

    victim: str
    trained_on: str
    countermeasure: str
    protected_share: float
    seed: int
    scores: VictimScores
    augmentation: str = FLIPS

    def to_json(self) -> dict[str, Any]:
        """Give plain types that :meth:`from_json` reads back."""
        row = {name: getattr(self, name) for name in (*_GROUP, "seed")}
        final = {name: rounded(value) for name, value in self.scores.final.items()}
        curve = [rounded(value) for value in self.scores.curve]
        return row | final | {
            "peak": rounded(self.scores.peak), "reliance": rounded(self.scores.reliance), "curve": curve,
            "seconds": round(self.scores.seconds, 1),
        }  # fmt: skip

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> VictimResult:
        """Read what :meth:`to_json` gave, also after a trip through JSON text."""
        other = (*_GROUP, "seed", "peak", "reliance", "curve", "seconds")
        final = {name: _defined(value) for name, value in row.items() if name not in other}
        peak, reliance, *curve = map(_defined, (row["peak"], row["reliance"], *row["curve"]))
        scores = VictimScores(final, peak, tuple(curve), row["seconds"], reliance)
        return cls(**{name: row[name] for name in (*_GROUP, "seed")}, scores=scores)


@dataclass(frozen=True)
class EvaluateReport:
    """All that was measured.

    Args:
        results: one a training.
        counts: images of each folder that were used.
        chance: main score of a guess; None for segmentation, where it is 0.
        majority_share: share of the commonest class of the test images; None where images have no single class.
        utility: what the protected images are worth to an honest network; None if that was not measured.
        verification: figures of the files themselves, by modality.
        notes: what a reader has to know beside the figures.
        options: how it was measured; plain types.
        labels: what is known of the labels of the clean and the test images; plain types.
        run: when, where, with what and on what it was measured, see :func:`~monai_salm.evaluate.facts.run_facts`.
    """

    results: list[VictimResult]
    counts: dict[str, int]
    chance: float | None
    majority_share: float | None = None
    utility: dict[str, Any] | None = None
    verification: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def main_score(self) -> str:
        """Name of the score that decides."""
        return "dice" if self.chance is None else "balanced_accuracy"

    def to_json(self) -> dict[str, Any]:
        """Give what ``monai-salm evaluate --json`` prints."""
        return {
            "format": EVALUATION_FORMAT, "main_score": self.main_score, "chance": self.chance,
            "majority_share": self.majority_share,
            "counts": self.counts, "results": [result.to_json() for result in self.results], "summary": self.summary(),
            "verdicts": self.verdicts(), "utility": self.utility, "verification": self.verification,
            "notes": self.notes,
            "options": self.options, "labels": self.labels, "run": self.run,
        }  # fmt: skip

    def summary(self) -> list[dict[str, Any]]:
        """Give mean and standard deviation over seeds, for each victim and what was done to its images."""
        groups: dict[tuple[Any, ...], list[VictimResult]] = {}
        for result in self.results:
            groups.setdefault(tuple(getattr(result, name) for name in _GROUP), []).append(result)
        rows = []
        for group, results in groups.items():
            row: dict[str, Any] = dict(zip(_GROUP, group, strict=True)) | {"seeds": len(results)}
            scores = [
                result.scores.final | {"peak": result.scores.peak, "reliance": result.scores.reliance}
                for result in results
            ]
            for name in scores[0]:
                values = [score[name] for score in scores]
                defined = all(value == value for value in values)  # no AUC without both classes
                row[name] = rounded(mean(values))
                row[f"{name}_sd"] = rounded(stdev(values)) if len(values) > 1 and defined else None
            rows.append(row)
        return rows

    def verdicts(self) -> list[dict[str, Any]]:
        """Say of each victim on protected images, beside the one on clean images after the same countermeasure, what it
        could learn.

        ``kept`` is the share of what a clean victim learns, beyond a guess, that the protection keeps from this one;
        ``auc`` is None for segmentation.
        """
        rows = []
        summary = self.summary()
        alike = ("victim", "countermeasure", "augmentation")
        clean = {
            tuple(row[name] for name in alike): row[self.main_score] for row in summary if row["trained_on"] == CLEAN
        }
        for row in summary:
            best, score, peak = clean.get(tuple(row[name] for name in alike)), row[self.main_score], row["peak"]
            if row["trained_on"] in (CLEAN, CLEAN_PART) or best is None or score is None:
                continue
            learned, known = best - (self.chance or 0.0), usable(score, self.chance)
            kept = rounded((best - known) / learned) if learned > 0 else None
            figures = {"clean": best, "protected": score, "auc": row.get("auc"), "peak": peak}
            figures |= {"reliance": row["reliance"], "kept": kept}
            rows.append(
                {name: row[name] for name in _GROUP} | figures | {"verdict": verdict(best, known, peak, self.chance)}
            )
        return rows

    def table(self) -> str:
        """Give summary and verdicts as text for people."""
        verdicts = self.verdicts()
        found = Counter(row["verdict"] for row in verdicts)
        tally = ", ".join(f"{found[name]} {name}" for name in VERDICTS)
        lines = [*_columns(self.summary()), self._footnote(), *map(_sentence, verdicts), f"verdicts: {tally}"]
        return "\n".join(lines + self._other_lines())

    def _footnote(self) -> str:
        used = ", ".join(f"{number} {name}" for name, number in self.counts.items())
        guess = "" if self.chance is None else f"; a guess scores {self.chance:.3f} balanced accuracy"
        part = (
            "; share is that of protected images, 'clean part' are the others alone"
            if any(r.protected_share < 1 for r in self.results)
            else ""
        )
        relies = "; reliance is the score on images that it trained on (the protected ones) minus that on test images"
        return f"scores on clean test images; images used: {used}{guess}; peak is the best epoch{relies}{part}"

    def _other_lines(self) -> list[str]:
        lines = []
        if self.utility is not None:
            changes = ", ".join(
                f"{name.replace('_', ' ')} {change:+.3f}"
                for name, change in self.utility["change"].items()
                if change is not None
            )
            worst = min(
                (feature["icc"] for feature in self.utility["features"] if feature["icc"] is not None), default=None
            )
            agreement = "" if worst is None else f"; lowest agreement (ICC) of a feature {worst:.3f}"
            lines.append(
                f"utility: a {self.utility['victim']} trained on clean images scores protected ones, compared to "
                f"clean ones, {changes}{agreement}"
            )
        if self.verification is not None:
            lines.append(
                "verification: " + ", ".join(f"{number} {name}" for name, number in self.verification["counts"].items())
            )
            lines += [
                f"shift of a region's mean in {row['modality']}, real units: "
                f"{shifts_in_words([MeanShift(**shift) for shift in row['mean_shifts']])}"
                for row in self.verification["modalities"]
            ]
        return lines + [f"note: {note}" for note in self.notes]


def victim_name(row: Mapping[str, Any]) -> str:
    """Name the victim of a row, with its augmentation where that is not the usual one."""
    augmentation = row.get("augmentation", FLIPS)
    name = "no augmentation" if augmentation == "none" else augmentation
    return str(row["victim"]) if augmentation == FLIPS else f"{row['victim']} ({name})"


def _defined(value: float | None) -> float:
    return float("nan") if value is None else value


def rounded(value: float) -> float | None:
    """Give a figure as JSON has it: six decimals, None for what is not defined."""
    return None if value != value else round(value, 6)


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Set rows as a table."""
    names = [name for name in rows[0] if name not in (*_GROUP, "seeds") and not name.endswith("_sd")]
    several = any(row["augmentation"] != FLIPS for row in rows)
    heads = ["victim", *(["augmentation"] if several else []), "trained on", "countermeasure", "share"]
    lines = [[*heads, *(name.replace("_", " ") for name in names)]]
    for row in rows:
        share = "-" if row["trained_on"] == CLEAN else f"{row['protected_share']:.0%}"
        cells = [_cell(row[name], row[f"{name}_sd"]) for name in names]
        who = [row["victim"], *([row["augmentation"]] if several else [])]
        lines.append([*who, row["trained_on"], row["countermeasure"], share, *cells])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _sentence(row: dict[str, Any]) -> str:
    """Say one verdict in a line."""
    where = f"{victim_name(row)} on {row['trained_on']}"
    where += f" ({row['protected_share']:.0%} of the images)" if row["protected_share"] < 1 else ""
    where += f" after {row['countermeasure']}" if row["countermeasure"] != "none" else ""
    lost = (
        ""
        if row["kept"] is None or row["verdict"] == "not learned"
        else f"; {max(0.0, row['kept']):.0%} of what clean images teach is kept from it"
    )
    auc = "" if row["auc"] is None else f", AUC {row['auc']:.3f}"
    return (
        f"{row['verdict'].upper()}: {where}: {row['protected']:.3f}{auc}, peak {row['peak']:.3f}, trained on clean "
        f"{row['clean']:.3f}{lost}"
    )


def _cell(value: float | None, spread: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"
