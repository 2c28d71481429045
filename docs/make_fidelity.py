# SPDX-License-Identifier: Apache-2.0
"""Write the tables of ``docs/fidelity.md`` from a run over all cases: ``python docs/make_fidelity.py``. A test holds
the page to it.

It needs the development data beside the repository, and pydicom's own test files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))  # the cases are those of the tests

from tests.fidelity.cases import DISAGREEMENTS, PROTECTED, Case, run_shared, run_shipped

PAGE = Path(__file__).parent / "fidelity.md"
START = "<!-- made by docs/make_fidelity.py -->"


def page(text: str, shared: list[Case], shipped: list[Case]) -> str:
    """Give the text of the page with new tables behind its mark."""
    parts = [
        text[: text.index(START)] + START,
        "### The development cases",
        _counts(shared),
        _table(shared),
        "### pydicom's own test files",
        _counts(shipped),
        _table(shipped),
        "### Where this differs from what the table of cases expects",
        "\n".join(
            f"- `{name}`: {fate}. {why[0].upper()}{why[1:]}." for name, (fate, why) in sorted(DISAGREEMENTS.items())
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _counts(cases: list[Case]) -> str:
    fates = sorted({case.fate for case in cases})
    return (
        f"{len(cases)} files: "
        + ", ".join(f"{sum(case.fate == fate for case in cases)} {fate}" for fate in fates)
        + "."
    )


def _table(cases: Iterable[Case]) -> str:
    rows = [
        "| file | what is special | fate | change / limit, stored units | why, or what to know |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in sorted(cases, key=lambda case: case.name):
        change = (
            f"{case.line.max_change_stored:g} / {case.line.epsilon_stored:g}"
            if case.fate == PROTECTED and case.line is not None
            else ""
        )
        rows.append(
            "| " + " | ".join(_cell(text) for text in (case.name, case.what, case.fate, change, _told(case))) + " |"
        )
    return "\n".join(rows)


def _told(case: Case) -> str:
    """Give the reason, and what the written file lacks or may still show."""
    more = () if case.line is None else (case.line.left_out, case.line.unprotected)
    return "; ".join(filter(None, (case.reason, *more)))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def main() -> None:
    """Run all cases and write the page."""
    with TemporaryDirectory() as folder:
        shared, _ = run_shared(Path(folder) / "shared")
        shipped, _ = run_shipped(Path(folder) / "shipped")
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), shared, shipped), encoding="utf-8")


if __name__ == "__main__":
    main()
