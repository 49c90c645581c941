"""Small plots as SVG text: bars with labels, and histograms. No script, no library.

Texts are escaped here; colours come from the page's style, so that they follow a dark
screen and a printed sheet.
"""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH = 360  # units of the drawing; the page scales it
EDGE = 18  # left and right of a histogram


def bars(
    labels: Sequence[str], values: Sequence[float] | np.ndarray, texts: Sequence[str]
) -> str:
    """Draw horizontal bars, one line each: label, bar, text behind it."""
    row, left, right = 20, 110, 60
    height = row * len(labels) + 4
    top = max([*values, 1e-9])
    parts = []
    for k, (label, value, text) in enumerate(zip(labels, values, texts, strict=True)):
        y = k * row + 3
        long = max((WIDTH - left - right) * value / top, 0.5)
        shown = label if len(label) <= 16 else label[:15] + "…"
        parts += [
            f'<text class="label" x="{left - 6}" y="{y + 11}" text-anchor="end">'
            f"{escape(shown)}<title>{escape(label)}</title></text>",
            f'<rect x="{left}" y="{y}" width="{long:.1f}" height="{row - 6}" rx="2"/>',
            f'<text x="{left + long + 5:.1f}" y="{y + 11}">{escape(text)}</text>',
        ]
    return _svg(height, parts, "bars: " + ", ".join(labels[:5]))


def histogram(
    values: np.ndarray,
    edges: Sequence[float] | np.ndarray,
    ticks: Sequence[float],
    *,
    log: bool,
) -> str:
    """Draw how many values ([N]) lie between neighbouring edges, upright.

    Values beyond the outer edges are counted in the outer bins. `ticks` are written
    below; `log` spaces edges by their logarithm.
    """
    at = np.log(edges) if log else np.asarray(edges, float)
    inside = np.clip(values, edges[0], np.nextafter(edges[-1], edges[0]))
    counts, _ = np.histogram(inside, edges)
    high, base, top = 120, 128, max(int(counts.max(initial=0)), 1)

    def x(place: float) -> float:
        return EDGE + (WIDTH - 2 * EDGE) * (place - at[0]) / (at[-1] - at[0])

    parts = []
    for k, count in enumerate(counts):
        tall = high * count / top
        parts.append(
            f'<rect x="{x(at[k]) + 0.5:.1f}" y="{base - tall:.1f}" height="{tall:.1f}"'
            f' width="{x(at[k + 1]) - x(at[k]) - 1:.1f}"><title>'
            f"{edges[k]:.4g} to {edges[k + 1]:.4g}: {count}</title></rect>"
        )
    parts.append(f'<path class="axis" d="M{EDGE} {base}.5H{WIDTH - EDGE}"/>')
    for tick in ticks:
        place = x(math.log(tick) if log else tick)
        parts.append(
            f'<text class="label" x="{place:.1f}" y="{base + 15}"'
            f' text-anchor="middle">{tick:g}</text>'
        )
    return _svg(base + 20, parts, "histogram")


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )
