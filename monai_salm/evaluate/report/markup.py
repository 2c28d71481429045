# SPDX-License-Identifier: Apache-2.0
"""HTML from plain values: whatever is not marked as markup is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from monai_salm.errors import printable

MINUS, DASH, TIMES, SPACE = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}", "\N{NO-BREAK SPACE}"
_VOID = ("img", "input")
_BLANKS = (SPACE, "\n")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def to_html(value: Any) -> Markup:
    """Give any value as HTML: markup as it is, None as a dash, fractional numbers with three digits,
    all else escaped.
    """
    if isinstance(value, Markup):
        return value
    return Markup(_escaped(number(value) if value is None or isinstance(value, float) else str(value)))


def _escaped(text: str) -> str:
    """Escape text, without the control characters that a name may have."""
    if not text.isprintable():
        text = "".join(letter if letter in _BLANKS else printable(letter) for letter in text)
    return escape(text)


def element(name: str, *content: Any, **attributes: Any) -> Markup:
    """Give an element; an attribute that is None is left out, and ``class_``, ``for_`` and underscores are written as
    HTML wants them.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    opening = "".join(f' {key}="{_escaped(str(value))}"' for key, value in given.items())
    closing = "" if name in _VOID else f"</{name}>"
    return Markup(f"<{name}{opening}>{''.join(map(to_html, content))}{closing}")


def join(parts: Iterable[Any], separator: str = "\n") -> Markup:
    """Put parts beside each other."""
    return Markup(separator.join(map(to_html, parts)))


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[Any]], *, kind: str = "") -> Markup:
    """Give a table whose first cell in each row is the row's header; a row of one cell heads those below it. It scrolls
    where the screen is narrow.
    """
    titles = element("tr", *(element("th", title, scope="col") for title in head))
    body = element("tbody", join(_row(row, len(head)) for row in rows))
    whole = element("table", element("caption", caption), element("thead", titles), body, class_=kind or None)
    return element(
        "div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption
    )  # focusable, so that the keyboard can scroll it


def _row(cells: Sequence[Any], columns: int) -> Markup:
    first, *rest = cells
    if not rest:
        return element("tr", element("th", first, scope="rowgroup", colspan=columns))
    return element(
        "tr", element("th", first, scope="row"), *(cell if _is_cell(cell) else element("td", cell) for cell in rest)
    )


def _is_cell(value: Any) -> bool:
    return isinstance(value, Markup) and value.startswith("<td")


def number(value: float | None, digits: int = 3) -> str:
    """Give a number for people: a dash where there is none, and a true minus sign."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """Give a change with its sign."""
    return DASH if value is None else f"{value:+.{digits}f}".replace("-", MINUS)


def percent(value: float | None, digits: int = 0) -> str:
    """Give a share in percent."""
    return DASH if value is None else f"{number(100 * value, digits)}{SPACE}%"


def spread(mean: float | None, deviation: float | None) -> str:
    """Give mean ± standard deviation, or the mean alone where there was one seed."""
    return number(mean) if mean is None or deviation is None else f"{number(mean)} ± {number(deviation)}"
