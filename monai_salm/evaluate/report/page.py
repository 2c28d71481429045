# SPDX-License-Identifier: Apache-2.0
"""The page: one HTML file that loads nothing, with the same content as JSON and its trainings as CSV beside it."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

from monai_salm.errors import UsageError
from monai_salm.evaluate.report import figures, sections, wording
from monai_salm.evaluate.report.markup import Markup, element, join
from monai_salm.evaluate.report.pictures import ExamplePair
from monai_salm.io import atomic_target
from monai_salm.progress import in_words

_TITLE = "What networks learn from the protected images"


def write_report(report_json: Mapping[str, Any], examples: Sequence[ExamplePair], target: Path) -> None:
    """Write the evaluation as one HTML page that loads nothing, and beside it as JSON, and its trainings as CSV.

    The JSON has all fields of ``report_json``, and the verdicts on the page (``headlines``) and the figures of the
    examples (``examples``).

    Args:
        report_json: as :meth:`~monai_salm.evaluate.EvaluateReport.to_json` gives it; parts may be missing or None.
        examples: slices to show before and after.
        target: the page, ending in ``.html``.

    Raises:
        UsageError: ``target`` has another suffix.

    Example:
        >>> from pathlib import Path
        >>> from monai_salm.evaluate import EvaluateReport, VictimResult, VictimScores, write_report
        >>> scores = VictimScores({"balanced_accuracy": 0.5, "auc": 0.5, "mcc": 0.0}, peak=0.5, curve=(0.5,), seconds=1)
        >>> results = [VictimResult("ViT", *where, 0, scores) for where in (("clean", "none", 0), ("OUT", "none", 1))]
        >>> report = EvaluateReport(results, counts={"clean": 4}, chance=0.5)
        >>> write_report(report.to_json(), [], Path("report.html"))
        >>> sorted(path.name for path in Path().glob("report.*"))
        ['report.html', 'report.json', 'report.trainings.csv']
    """
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"{target}: the report is a page; give a name that ends in .html (the same content as .json is "
            "written beside it)"
        )
    verdicts = wording.headlines(report_json)
    content = {
        **report_json,
        "headlines": [verdict.to_json() for verdict in verdicts],
        "examples": [pair.numbers() for pair in examples],
    }
    data = json.dumps(content, indent=1, allow_nan=False)
    page = _page(report_json, verdicts, examples)
    # Not plain .csv, which a table of labels beside it may be called.
    twins = [atomic_target(target.with_suffix(suffix)) for suffix in (".json", ".trainings.csv")]
    with atomic_target(target) as html, twins[0] as numbers, twins[1] as sheet:
        html.write_text(page, encoding="utf-8", errors="backslashreplace")  # bytes of a path that are no UTF-8
        numbers.write_text(data + "\n", encoding="utf-8")
        sheet.write_text(_sheet(report_json.get("results") or ()), encoding="utf-8")


def _sheet(results: Sequence[Mapping[str, Any]]) -> str:
    """Give one line a training, under the names of its scores, as a table for spreadsheets."""
    names = list(dict.fromkeys(name for row in results for name in row if name != "curve"))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(results)
    return text.getvalue()


def _page(report: Mapping[str, Any], verdicts: Sequence[wording.Headline], examples: Sequence[ExamplePair]) -> str:
    here = files(__package__)
    style, script = (here.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    # The page may run this script alone, and the browser refuses whatever it would load.
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri "
        "'none'; form-action 'none'"
    )
    data = figures.Measured(report)
    run = report.get("run") or {}
    which = f" ({folder})" if (folder := wording.measured_folder(report)) and len(data.folders) > 1 else ""
    every = [
        ("proof", f"What was protected, and the bounds{which}", sections.proof(report)),
        ("learning", "What networks learn", sections.learning(data)),
        ("countermeasures", "Countermeasures", sections.countermeasures(data)),
        ("mixtures", "Mixed with clean images", sections.mixtures(data)),
        ("utility", f"Clinical utility{which}", sections.utility(report)),
        ("examples", f"Examples{which}", sections.examples(examples)),
        ("limits", "Limits", sections.limits(data)),
        ("reproduce", "How to repeat it", sections.reproduce(data, run)),
        ("citations", "To be cited", sections.citations(run)),
    ]
    shown = [(key, title, content) for key, title, content in every if content]
    links = element("nav", *(element("a", title, href=f"#{key}") for key, title, _ in shown), aria_label="Sections")
    body = [
        element("header", element("h1", _TITLE), _when(run), *map(_banner, verdicts), _used(report), links),
        element("main", *(element("section", element("h2", title), content, id=key) for key, title, content in shown)),
    ]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" '
            'content="light dark">',
            f'<link rel="icon" href="data:,">\n<title>{_TITLE}</title>\n<style>\n{style}</style>\n</head>\n<body>',
            *body,
            f"<script>{script}</script>\n</body>\n</html>\n",
        ]
    )


def _banner(verdict: wording.Headline) -> Markup:
    title = f"{verdict.folder}: {verdict.title}" if verdict.folder not in ("", "protected") else verdict.title
    total = sum(verdict.counts.values())
    parts = [element("h2", title, class_="title")]
    if total:
        shown = [(name, count) for name, count in verdict.counts.items() if count]
        pieces = (
            element("span", f"{wording.SIGNS[name]} {count}", class_=name.replace(" ", "-"), style=f"flex-grow:{count}")
            for name, count in shown
        )
        words = ", ".join(f"{count} {name}" for name, count in shown)
        parts.append(element("div", *pieces, class_="share", role="img", aria_label=words))
    return element(
        "div", *parts, *(element("p", sentence) for sentence in verdict.sentences), class_=f"banner {verdict.level}"
    )


def _when(run: Mapping[str, Any]) -> Markup:
    if not run:
        return Markup("")
    software = (run.get("versions") or {}).get("monai_salm", "of unknown version")
    return element(
        "p",
        f"Measured on {run.get('date')} with monai_salm {software}, in {in_words(run.get('seconds') or 0.0)}.",
        class_="when",
    )


def _used(report: Mapping[str, Any]) -> Markup:
    used = ", ".join(f"{number} {name}" for name, number in (report.get("counts") or {}).items())
    meanings = (
        (element("dt", f"{wording.SIGNS[name]} {name}"), element("dd", text)) for name, text in wording.MEANINGS.items()
    )
    text = element(
        "details",
        element("summary", "What the words mean"),
        element("dl", *chain.from_iterable(meanings)),
        element("p", figures.explain_share()),
    )
    notes = element("ul", *(element("li", note) for note in report.get("notes") or ()))
    return join(
        [
            notes if report.get("notes") else "",
            element("p", f"Images used: {used}. No network was trained on the test images." if used else ""),
            text,
        ]
    )
