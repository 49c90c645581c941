"""Curves: the slope of the upper half, and a picture that a browser can read."""

from xml.etree import ElementTree

import pytest

from benchmarks import curves

SIZES = [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(power):
    values = [3 * size**power for size in SIZES]
    assert curves.exponent(SIZES, values) == pytest.approx(power, abs=1e-3)


def test_only_the_upper_half_counts():
    values = [100.0, 100.0, 100.0, 8.0, 16.0, 32.0]
    assert curves.exponent(SIZES, values) == pytest.approx(1)
    assert curves.exponent([1, 2, 4], [9.0, 1.0, 4.0]) == pytest.approx(2)


def test_what_has_no_slope_has_no_exponent():
    assert curves.exponent([], []) is None
    assert curves.exponent([2], [1.0]) is None
    assert curves.exponent([2, 2], [1.0, 2.0]) is None
    assert curves.exponent([1, 2], [0.0, 2.0]) is None


def test_every_panel_is_drawn_within_the_page():
    every = [
        curves.Curve("a < b", ["1", "2", "4"], [1, 2, 4], [3.0, 5.0, 9.0], [2, 4, 8]),
        curves.Curve("flat", ["1", "2"], [1, 2], [7.0, 7.0]),
        curves.Curve("one", ["1"], [1], [7.0]),
        curves.Curve("far", ["1", "9"], [1, 9], [0.001, 9000.0]),
    ]
    page = ElementTree.fromstring(curves.svg([every, every[:1]]))
    panels = [child for child in page if child.tag.endswith("}g")]
    assert len(panels) == 5
    for panel, count in zip(panels, [3, 2, 1, 2, 3], strict=True):
        dots = [child for child in panel if child.get("class") == "dot"]
        assert len(dots) == count
        for dot in dots:
            assert 0 < float(dot.get("cx")) < curves.WIDTH
            assert 0 < float(dot.get("cy")) < curves.HEIGHT - curves.EDGE + 1


def test_a_device_that_counts_gives_the_memory():
    points = [{"device_mb": 7.0, "peak_rss_mb": 900.0}] * 2
    assert curves.memory(points) == "device_mb"
    assert curves.memory([*points, {"device_mb": None}]) == "peak_rss_mb"
