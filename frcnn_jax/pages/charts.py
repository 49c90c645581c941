"""Charts of lines: described once, drawn as SVG for a page and as a picture.

Colours are fixed and read on light and dark paper; the rest of the SVG takes the
colours of the page. Points without a number break a line.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

# Okabe and Ito (2008) without the yellow, which is lost on white paper.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
FAINT = "#8a93a0"
WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 38  # around the frame of a chart

Numbers = Sequence[float | None]


class Line(NamedTuple):
    """One line of a chart."""

    name: str
    x: Numbers
    y: Numbers
    color: str = COLORS[0]
    width: float = 1.8
    dashed: bool = False
    listed: bool = True  # in the legend


class Chart(NamedTuple):
    """Lines on common axes; `span` is (x low, x high, y low, y high), None = all
    data, both axes from 0 or below."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    span: tuple[float, float, float, float] | None = None


class Frame(NamedTuple):
    """Where numbers of a chart lie on WIDTH x HEIGHT units."""

    span: tuple[float, float, float, float]
    x_ticks: list[float]
    y_ticks: list[float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return the units from the left and from the top."""
        x0, x1, y0, y1 = self.span
        across = (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        up = (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
        return LEFT + across, HEIGHT - BOTTOM - up


def frame(chart: Chart) -> Frame:
    """Choose the axes: the span given, or that of the data and 0."""
    span = chart.span
    if span is None:
        points = [p for line in chart.lines for run in runs(line) for p in run]
        xs, ys = zip(*points, strict=True) if points else ((0.0,), (0.0,))
        span = (min(0.0, *xs), max(xs), min(0.0, *ys), max(ys) * 1.05)
    x0, x1, y0, y1 = span
    x1, y1 = x1 if x1 > x0 else x0 + 1.0, y1 if y1 > y0 else y0 + 1.0
    return Frame((x0, x1, y0, y1), ticks(x0, x1), ticks(y0, y1))


def runs(line: Line) -> list[list[tuple[float, float]]]:
    """Return the points of a line, parted where a number is missing or not finite."""
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y, strict=True):
        if x is None or y is None or not math.isfinite(x) or not math.isfinite(y):
            parts.append([])
        else:
            parts[-1].append((float(x), float(y)))
    return [part for part in parts if part]


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Return at most so many round numbers (1, 2 or 5 times a power of ten) between."""
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 5) if m * power >= raw * 0.999), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def told(value: float) -> str:
    """Return a tick as text: 40000 is "40k", 0.00015 is "1.5e-4"."""
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 0.001:
        digits, _, power = f"{value:.1e}".partition("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:g}"


def svg(chart: Chart) -> str:
    """Return the chart as SVG, without its title, the legend below as HTML."""
    axes = frame(chart)
    x0, x1, y0, _ = axes.span
    parts = []
    for tick in axes.y_ticks:
        (left, y), (right, _) = axes.place(x0, tick), axes.place(x1, tick)
        parts.append(f'<path class="grid-line" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
        parts.append(_text(left - 5, y + 4, told(tick), "end"))
    for tick in axes.x_ticks:
        x, y = axes.place(tick, y0)
        parts.append(f'<path class="axis" d="M{x:.1f} {y:.1f}v4"/>')
        parts.append(_text(x, y + 16, told(tick), "middle"))
    parts += [_path(line, axes) for line in chart.lines]
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 5, chart.x_label, "middle"))
    height = HEIGHT - TOP - BOTTOM
    parts.append(
        f'<text class="label" text-anchor="middle" transform="translate(11 '
        f'{TOP + height / 2}) rotate(-90)">{escape(chart.y_label)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{escape(chart.title)}">' + "".join(parts) + "</svg>"
    ) + _legend(chart)


def _path(line: Line, axes: Frame) -> str:
    dash = ' stroke-dasharray="5 4"' if line.dashed else ""
    pen = f'stroke="{line.color}" stroke-width="{line.width}" fill="none"{dash}'
    drawn, dots = [], []
    for part in runs(line):
        places = [axes.place(x, y) for x, y in part]
        if len(places) == 1:  # a line of one point would not be seen
            x, y = places[0]
            dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        drawn.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places))
    marks = f'<g stroke="none" fill="{line.color}">{"".join(dots)}</g>' if dots else ""
    return (
        f'<g><title>{escape(line.name)}</title><path {pen} d="{"".join(drawn)}"/>'
        f"{marks}</g>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _legend(chart: Chart) -> str:
    names = [
        f'<span><i style="background:{line.color}"></i>{escape(line.name)}</span>'
        for line in chart.lines
        if line.listed
    ]
    return f'<p class="legend">{"".join(names)}</p>' if len(names) > 1 else ""
