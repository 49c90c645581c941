import jax
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.training import schedule


def train(**fields):
    return config.Train(**{"warmup_steps": 500, "warmup_factor": 0.001, **fields})


# Rates that stepping mmdetection 3.3.0's own schedulers gave: lr 0.02, 500 iterations.
MMDETECTION = {
    0: 2e-05,
    1: 6.004008016032065e-05,
    2: 0.0001000801603206413,
    100: 0.0040240080160320645,
    250: 0.010030020040080153,
    498: 0.01995995991983963,
    499: 0.019999999999999952,
    500: 0.019999999999999952,
    501: 0.019999999999999952,
}


@pytest.mark.parametrize(("step", "rate"), MMDETECTION.items())
def test_warmup_equals_mmdetections(step, rate):
    at = schedule.learning_rate(train(), (80_000, 110_000))
    np.testing.assert_allclose(at(step), rate, rtol=1e-6)


def test_warmup_formula_at_every_step():
    at = jax.vmap(schedule.learning_rate(train(lr=1.0), ()))
    steps = np.arange(600)
    expected = np.minimum(0.001 + 0.999 * steps / 499, 1.0)
    np.testing.assert_allclose(at(steps), expected, rtol=2e-6)


def test_drops_begin_with_their_step():
    at = schedule.learning_rate(train(), (1000, 2000))
    rates = [float(at(step)) for step in (999, 1000, 1999, 2000, 9999)]
    np.testing.assert_allclose(rates, [0.02, 0.002, 0.002, 0.0002, 0.0002], rtol=1e-6)


def test_a_drop_inside_warmup_multiplies():
    at = schedule.learning_rate(train(decay_factor=0.5), (250,))
    np.testing.assert_allclose(at(250), 0.5 * MMDETECTION[250], rtol=1e-6)


@pytest.mark.parametrize("steps", [0, 1])
def test_without_warmup_the_first_step_has_the_full_rate(steps):
    at = schedule.learning_rate(train(warmup_steps=steps), ())
    np.testing.assert_allclose([at(0), at(1)], 0.02, rtol=1e-6)


def test_two_warmup_steps():
    at = schedule.learning_rate(train(warmup_steps=2, warmup_factor=0.25), ())
    np.testing.assert_allclose([at(0), at(1), at(2)], [0.005, 0.02, 0.02], rtol=1e-6)


@pytest.mark.parametrize(
    ("batch_size", "reference", "rate"),
    [(16, 16, 0.02), (4, 16, 0.005), (64, 16, 0.08), (4, 0, 0.02)],
)
def test_linear_scaling(batch_size, reference, rate):
    section = train(batch_size=batch_size, lr_batch_size=reference)
    assert schedule.base_rate(section) == pytest.approx(rate)
    np.testing.assert_allclose(schedule.learning_rate(section, ())(600), rate)


def test_it_compiles():
    at = schedule.learning_rate(train(), (1000,))
    steps = np.array([0, 250, 1000])
    found = jax.jit(jax.vmap(at))(steps)
    np.testing.assert_allclose(found, [at(s) for s in steps], rtol=1e-6)


@pytest.mark.parametrize(
    ("batch", "of", "text"),
    [
        (2, 16, "learning rate 0.0025 (0.02 for 16 images, scaled to 2)"),
        (16, 16, "learning rate 0.02"),
        (2, 0, "learning rate 0.02"),
    ],
)
def test_scaling_is_told(batch, of, text):
    train = config.Train(batch_size=batch, lr_batch_size=of, lr=0.02)
    assert schedule.text(train) == text
