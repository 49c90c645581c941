"""What is said of sound and of spoiled weights."""

import numpy as np
import pytest

from frcnn_jax.convert import health

STD = (58.4, 57.1, 57.4)
KERNEL = "params/backbone/stem/conv/kernel"
VAR = "batch_stats/backbone/stem/norm/var"


@pytest.fixture
def sound(rng):
    kernel = rng.standard_normal((3, 3, 3, 8)).astype(np.float32) / 5
    spread = rng.uniform(0.5, 1.5, 8).astype(np.float32)
    return {KERNEL: kernel, VAR: spread, "params/rpn/conv/bias": np.zeros(4)}


def test_sound_weights(sound):
    assert health.oddities(sound, STD) == []
    head, stem, rpn = health.table(sound)
    assert head.split() == ["module", "arrays", "numbers", "min", "max", "mean", "std"]
    assert stem.split()[:3] == ["backbone/stem", "2", "224"]
    assert rpn.split() == ["rpn/conv", "1", "4", "0", "0", "0", "0"]


FAULTS = {
    "NaN or infinity": (KERNEL, np.float32([[np.nan]])),
    "kernel of zeros": (KERNEL, np.zeros((1, 1, 3, 2), np.float32)),
    "kernel of one value": (KERNEL, np.full((1, 1, 3, 2), 0.1, np.float32)),
    "kernel with values above 100": ("params/a/b/kernel", np.float32([[1, -101]])),
    "running variance of 0 or less": ("batch_stats/a/b/var", np.float32([1, 0])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_spoiled_weights(fault, sound):
    path, array = FAULTS[fault]
    lines = health.oddities({**sound, VAR: np.ones(2, "f4"), path: array}, STD)
    assert lines == [f"{fault}: 1 ({path})"]
    health.table({path: array})


def test_pixels_of_another_style(sound):
    """A norm after raw pixels sees thousands of times the variance."""
    raw = {**sound, VAR: sound[VAR] * 3000}
    assert health.pixel_scheme(sound, STD) == health.pixel_scheme(raw, (1, 1, 1)) == ""
    assert "seen raw pixels, but" in health.pixel_scheme(raw, STD)
    assert "divided by their dev" in health.pixel_scheme(sound, (1, 1, 1))
    assert health.pixel_scheme({}, STD) == ""
    assert health.pixel_scheme({**raw, VAR: np.ones(8)}, STD) == ""  # not trained yet
