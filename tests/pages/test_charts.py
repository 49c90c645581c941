"""Charts of lines: axes, breaks, and SVG that is well formed whatever the names."""

import re
from xml.etree import ElementTree

import pytest

from frcnn_jax.pages import charts

NONE = float("nan")


def drawn(chart):
    text = charts.svg(chart)
    return ElementTree.fromstring(f"<div>{text}</div>"), text


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 90000, [0, 20000, 40000, 60000, 80000]),
        (0, 2.6, [0, 0.5, 1, 1.5, 2, 2.5]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 3e-4, [0, 5e-5, 1e-4, 1.5e-4, 2e-4, 2.5e-4, 3e-4]),
    ],
)
def test_ticks_are_round_and_few(low, high, found):
    assert charts.ticks(low, high) == pytest.approx(found)


def test_large_and_small_ticks_stay_short():
    values = (0, 0.015, 20000, 250000, 0.00015, 2e-4, 1.0)
    shown = [charts.told(value) for value in values]
    assert shown == ["0", "0.015", "20k", "250k", "1.5e-4", "2e-4", "1"]


def test_a_missing_number_breaks_the_line():
    line = charts.Line("a", range(6), [1, None, 3, 4, NONE, float("inf")])
    assert charts.runs(line) == [[(0, 1)], [(2, 3), (3, 4)]]
    root, _ = drawn(charts.Chart("t", "x", "y", [line]))
    (path,) = [p.get("d") for p in root.iter("path") if p.get("stroke")]
    assert len(re.findall("M", path)) == 2 and len(list(root.iter("circle"))) == 1


def test_places_follow_the_axes():
    line = charts.Line("a", [0, 10], [0, 2])
    axes = charts.frame(charts.Chart("t", "x", "y", [line], (0, 10, 0, 2)))
    assert axes.place(0, 0) == (charts.LEFT, charts.HEIGHT - charts.BOTTOM)
    assert axes.place(10, 2) == (charts.WIDTH - charts.RIGHT, charts.TOP)


def test_names_are_escaped_and_the_legend_lists_what_it_should():
    lines = [
        charts.Line("<b>&", [0, 1], [0, 1], charts.COLORS[1]),
        charts.Line("two", [0, 1], [0, 1]),
        charts.Line("faint", [0, 1], [0, 1], listed=False),
    ]
    root, text = drawn(charts.Chart('"<i>', "<x>", "<y>", lines))
    assert "<b>" not in text and "<i>" not in text and "<x>" not in text
    assert [span.text or "" for span in root.iter("span")] == ["", ""]
    assert text.count("<span>") == 2 and charts.COLORS[1] in text


@pytest.mark.parametrize("lines", [[], [charts.Line("a", [3], [None])]])
def test_nothing_to_draw(lines):
    drawn(charts.Chart("t", "x", "y", lines))
