# SPDX-License-Identifier: Apache-2.0
"""Plots as SVG inside the page; all scores lie between 0 and 1. The tables beside them hold the same figures for who
cannot see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monai_salm.evaluate.report.markup import Markup, element, join, number, spread, to_html

WIDTH = 480
"""Units of the bar chart; on a telephone it shrinks to about three quarters."""

STYLES = 6
"""Styles of lines and bars in the style sheet, ``s0`` to ``s5``; they differ in color and in dashes."""

_RIGHT = 118  # room for the figures behind a bar


@dataclass(frozen=True)
class Bar:
    """One bar: a mean score, its standard deviation over seeds, and the mean of the best epochs."""

    series: str
    value: float
    deviation: float | None
    peak: float | None


def style_of(series: str, all_series: Sequence[str]) -> str:
    """Give the class of a series: the same in all plots."""
    return f"s{all_series.index(series) % STYLES}"


def legend(series: Mapping[str, str], *more: Markup, kind: str = "") -> Markup:
    """Name the series beside a swatch of each; ``series`` maps what is shown to its class."""
    items = [_swatch(style) + to_html(name) for name, style in series.items()]
    return element("p", *(element("span", Markup(item)) for item in [*items, *more]), class_=f"legend {kind}".strip())


def bar_chart(
    groups: Mapping[str, Sequence[Bar]], all_series: Sequence[str], chance: float | None, title: str
) -> Markup:
    """Draw one bar per series under the name of each group."""
    scale = WIDTH - _RIGHT
    top = 24 if chance is not None else 6
    parts, y = [], top
    for name, bars in groups.items():
        parts.append(_text(0, y + 15, name, "name"))
        y += 22
        for bar in bars:
            length = max(0.0, min(bar.value, 1.0)) * scale
            parts.append(
                f'<rect class="{style_of(bar.series, all_series)}" x="0" y="{y}" width="{length:.1f}" height="18"/>'
            )
            if bar.deviation:
                low, high = (max(0.0, min(bar.value + sign * bar.deviation, 1.0)) * scale for sign in (-1, 1))
                parts.append(
                    f'<path class="whisker" d="M{low:.1f} {y + 9}H{high:.1f}M{low:.1f} {y + 5}v8M{high:.1f} '
                    f'{y + 5}v8"/>'
                )
            if bar.peak is not None:
                parts.append(f'<path class="peak" d="M{min(bar.peak, 1.0) * scale:.1f} {y - 1}v20"/>')
            parts.append(_text(scale + 8, y + 14, spread(bar.value, bar.deviation)))
            y += 22
        y += 10
    if chance is not None:
        parts.append(f'<path class="chance" d="M{chance * scale:.1f} {top - 4}V{y - 8}"/>')
        parts.append(_text(chance * scale, top - 10, f"guess {number(chance, 2)}", "middle"))
    return _svg(WIDTH, y, parts, title, "bars")


def line_plot(
    lines: Mapping[str, tuple[str, Sequence[tuple[float, float, float, float]]]],
    chance: float | None,
    title: str,
    ticks: Sequence[tuple[float, str]],
) -> Markup:
    """Draw lines with a band around each.

    Args:
        lines: name -> (class, points); a point is (x, y, lowest y, highest y) and x lies in [0, 1].
        chance: score of a guess; a dashed line.
        title: says what is shown to who cannot see it.
        ticks: (x, text) below the plot.
    """
    left, top, width, height = 34, 8, 290, 150

    def at(x: float, y: float) -> str:
        return f"{left + x * width:.1f} {top + (1 - max(0.0, min(y, 1.0))) * height:.1f}"

    parts = [f'<path class="axis" d="M{left} {top + height * share:.1f}h{width}"/>' for share in (0, 0.5, 1)]
    parts += [_text(left - 6, top + height * share + 4, number(1 - share, 1), "end") for share in (0, 0.5, 1)]
    parts += [
        _text(left + x * width, top + height + 17, text, "end" if x == 1 else "start" if x == 0 else "middle")
        for x, text in ticks
    ]
    if chance is not None:
        parts.append(f'<path class="chance" d="M{at(0, chance)}h{width}"/>')
    for style, points in lines.values():
        if any(high > low for _, _, low, high in points):
            edge = [at(x, high) for x, _, _, high in points] + [at(x, low) for x, _, low, _ in reversed(points)]
            parts.append(f'<path class="band {style}" d="M{"L".join(edge)}z"/>')
        parts.append(f'<path class="line {style}" d="M{"L".join(at(x, y) for x, y, _, _ in points)}"/>')
        if len(points) < 8:
            parts += [
                f'<circle class="{style}" cx="{at(x, y).split()[0]}" cy="{at(x, y).split()[1]}" r="3.5"/>'
                for x, y, _, _ in points
            ]
    return _svg(left + width + 4, top + height + 24, parts, title, "lines")


def heat_style(kept: float) -> str:
    """Give the colors of a cell, from orange (the protection takes nothing away) over white to blue (it takes all)."""
    share = max(0.0, min(kept, 1.0))
    low, middle, high = (214, 96, 38), (247, 240, 230), (44, 110, 173)
    ends, place = ((low, middle), 2 * share) if share < 0.5 else ((middle, high), 2 * share - 1)
    red, green, blue = (round(a + (b - a) * place) for a, b in zip(*ends, strict=True))
    bright = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    return f"background:rgb({red},{green},{blue});color:{'#111' if bright > 125 else '#fff'}"


def _text(x: float, y: float, text: str, kind: str | None = None) -> str:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", class_=kind)


def _swatch(style: str) -> str:
    return f'<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true"><path class="line {style}" d="M0 6h26"/></svg>'


def _svg(width: float, height: float, parts: Sequence[str], title: str, kind: str) -> Markup:
    return element(
        "svg",
        join(map(Markup, parts), ""),
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=title,
        class_=f"plot {kind}",
    )
