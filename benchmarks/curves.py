"""Curves over a size: the exponent of their growth, and a picture as SVG.

Both axes are logarithmic, so that a cost of c * x ** k is a line of slope k. Constant
costs bend a curve upward: it is flat at first and steep at the end. The exponent is
therefore fitted to the upper half of the points only.

Not here: measuring (see `growth.py`). The standard library does.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

STEEP = 1.15  # an exponent above it is called superlinear; noise stays below
WIDTH, HEIGHT, EDGE, RIGHT = 330, 230, 46, 34  # of a panel, and around its curve
SPAN = 5  # least ratio of a panel's ends, so that noise does not look like growth
STYLE = (
    "text{font:11px sans-serif;fill:#333}.title{font-weight:bold}"
    ".grid{stroke:#e1e1e1}.line{stroke:#0072b2;stroke-width:2;fill:none}"
    ".span{stroke:#0072b2}.dot{fill:#0072b2}.even{stroke:#d55e00;stroke-dasharray:4 3}"
    "@media(prefers-color-scheme:dark){text{fill:#ccc}.grid{stroke:#444}}"
)


class Curve(NamedTuple):
    """Values over sizes, all above zero; the least and most of each where known."""

    title: str
    labels: Sequence[str]  # of the sizes, as a reader knows them
    sizes: Sequence[float]
    values: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Least squares' slope of log value over log size in the upper half.

    At least two points count; None where there are no two sizes among them, or a value
    that is not above zero.
    """
    half = max(math.ceil(len(sizes) / 2), 2)
    pairs = list(zip(sizes, values, strict=True))[-half:]
    if len({x for x, _ in pairs}) < 2 or min(v for _, v in pairs) <= 0:
        return None
    points = [(math.log(x), math.log(v)) for x, v in pairs]
    middle = [sum(side) / len(points) for side in zip(*points, strict=True)]
    spread = sum((x - middle[0]) ** 2 for x, _ in points)
    common = sum((x - middle[0]) * (v - middle[1]) for x, v in points)
    return round(common / spread, 3)


def svg(rows: Sequence[Sequence[Curve]]) -> str:
    """A page of panels, one row after the other; a dashed line grows as its size."""
    wide = WIDTH * max(map(len, rows))
    parts = [
        f'<g transform="translate({WIDTH * column} {HEIGHT * row})">{_panel(curve)}</g>'
        for row, curves in enumerate(rows)
        for column, curve in enumerate(curves)
    ]
    box = f'viewBox="0 0 {wide} {HEIGHT * len(rows)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} width="{wide}" role="img">'
    return "\n".join([f"{head}<style>{STYLE}</style>", *parts, "</svg>", ""])


def _panel(curve: Curve) -> str:
    lows, highs = curve.lows or curve.values, curve.highs or curve.values
    across = _scale(curve.sizes, EDGE, WIDTH - RIGHT)
    ends = _ends([*lows, *highs])
    up = _scale(ends, HEIGHT - EDGE, 34)
    points = [
        (across(x), up(v)) for x, v in zip(curve.sizes, curve.values, strict=True)
    ]
    title = escape(curve.title)
    parts = [f'<text class="title" x="{EDGE}" y="18">{title}</text>']
    for value in _ticks(*ends):
        y = up(value)
        parts.append(f'<path class="grid" d="M{EDGE} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text x="{EDGE - 5}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        )
    named = zip(points, curve.labels, lows, highs, strict=True)
    for k, ((x, y), label, low, high) in enumerate(named):
        below = HEIGHT - EDGE + 16 + 13 * (k % 2)  # neighbours may be long and near
        parts += [
            f'<text x="{x:.1f}" y="{below}" text-anchor="middle">'
            f"{escape(label)}</text>",
            f'<path class="span" d="M{x:.1f} {up(low):.1f}V{up(high):.1f}"/>',
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>',
        ]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    parts.append(f'<path class="line" d="M{line}"/>')
    return "".join([*parts, _even(curve, ends[0], across, up)])


def _even(curve: Curve, bottom: float, across, up) -> str:
    """The line that ends in the last point and has exponent 1, as far as it is seen."""
    size, value = curve.sizes[-1], curve.values[-1]
    start = max(min(curve.sizes), size * bottom / value)
    if start >= size:
        return ""
    return (
        f'<path class="even" d="M{across(start):.1f} {up(value * start / size):.1f}'
        f'L{across(size):.1f} {up(value):.1f}"/>'
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The least and most that a panel shows."""
    low, high = min(values), max(values)
    wider = max(math.sqrt(SPAN * low / high), 1.0)
    return low / wider, high * wider


def _scale(values: Sequence[float], first: float, last: float):
    """A function from a value to its place; the middle where all are the same."""
    low, high = math.log(min(values)), math.log(max(values))
    if high == low:
        return lambda value: (first + last) / 2
    return lambda value: first + (last - first) * (math.log(value) - low) / (high - low)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within; the ends where these are fewer than 2."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if high > 1000 * low else (1, 2, 5)
    found = [s * 10.0**p for p in powers for s in steps if low <= s * 10.0**p <= high]
    return found if len(found) > 1 else sorted({low, high})


def panels(axes: Sequence[dict[str, Any]]) -> list[list[Curve]]:
    """For each axis of a line of `growth.py`: time, memory, seconds to compile."""
    return [
        [
            _curve(axis, "time", "ms", "median_ms", "min_ms", "max_ms"),
            _curve(axis, "memory", "peak MiB", memory(axis["points"])),
            _curve(axis, "compile", "s to compile", "compile_s"),
        ]
        for axis in axes
        if axis["points"]
    ]


def memory(points: Sequence[dict[str, Any]]) -> str:
    """The field that tells a point's memory: the device's where it keeps count."""
    counts = all(point["device_mb"] for point in points)
    return "device_mb" if counts else "peak_rss_mb"


def _curve(axis: dict[str, Any], kind: str, title: str, *fields: str) -> Curve:
    points, slope = axis["points"], axis["exponents"].get(kind)
    said = "" if slope is None else f", exponent {slope:.2f}"
    labels, sizes = [str(p["value"]) for p in points], [p["units"] for p in points]
    columns = ([point[name] for point in points] for name in fields)
    return Curve(f"{axis['axis']}: {title}{said}", labels, sizes, *columns)
