"""The rate finder's rules on made-up losses, and its picture."""

import numpy as np

from tools import find_lr

RATES = np.geomspace(1e-5, 1.0, 101)


def falling_then_rising() -> np.ndarray:
    """Least at rate 1e-1, in steps 80 of 100."""
    return 2.0 + np.abs(np.arange(101) - 80) / 80


def test_the_suggestion_is_a_tenth_of_the_best_rate():
    assert np.isclose(find_lr.suggestion(RATES, falling_then_rising()), 1e-2)
    early = np.r_[0.0, falling_then_rising()[1:]]  # luck in the first steps
    assert np.isclose(find_lr.suggestion(RATES, early), 1e-2)


def test_smoothing_keeps_constants_and_follows_slowly():
    np.testing.assert_allclose(find_lr.smooth([3.0] * 5), 3.0)
    np.testing.assert_allclose(find_lr.smooth([1.0, 2.0]), [1.0, 1.1])


def test_the_picture_marks_the_suggestion():
    losses = list(falling_then_rising())
    drawn = np.asarray(find_lr.picture(RATES, losses, find_lr.smooth(losses), 1e-2))
    orange = (drawn == (213, 94, 0)).all(-1)
    columns = np.flatnonzero(orange[300])
    middle = 70 + 3 / 5 * (900 - 140)
    assert len(columns) and abs(columns.mean() - middle) < 2
    assert (drawn == (0, 114, 178)).all(-1).sum() > 500
