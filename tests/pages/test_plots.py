import re
from xml.etree import ElementTree

import numpy as np
import pytest

from frcnn_jax.pages import plots


def test_bars_are_as_long_as_their_values():
    svg = plots.bars(["a", "<b> of a long, long name"], [1, 4], ["1", "4 & more"])
    root = ElementTree.fromstring(svg)
    short, long = (float(r.get("width")) for r in root.iter("rect"))
    assert long == pytest.approx(4 * short, rel=0.01)
    assert "<b> of a long, long name" in [t.text for t in root.iter("title")]


@pytest.mark.parametrize("log", [False, True])
def test_histograms_count_everything(log):
    values = np.array([0.01, 1, 1.5, 3, 900])
    svg = plots.histogram(values, (1, 2, 4, 8), (1, 8), log=log)
    counts = [int(c) for c in re.findall(r"<title>[^:]*: (\d+)</title>", svg)]
    assert counts == [3, 1, 1]
    assert len(list(ElementTree.fromstring(svg).iter("text"))) == 2


def test_nothing_to_draw():
    assert "<rect" in plots.histogram(np.zeros(0), (0, 1, 2), (0,), log=False)
    ElementTree.fromstring(plots.bars([], [], []))
