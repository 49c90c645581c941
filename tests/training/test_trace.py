import jax
import jax.numpy as jnp

from frcnn_jax.training.trace import FIRST, traced


def test_the_steps_asked_for_are_in_a_trace(tmp_path, capsys):
    calls = []

    def step(x):
        calls.append(float(x))
        return jax.jit(jnp.sin)(x)

    take = traced(step, 2, tmp_path / "profile")
    for number in range(FIRST + 4):
        assert take(jnp.float32(number)) == jnp.sin(jnp.float32(number))
        said = capsys.readouterr().out
        assert bool(said) == (number == FIRST)
    assert len(calls) == FIRST + 4
    files = [file.name for file in (tmp_path / "profile").rglob("*") if file.is_file()]
    assert any("trace" in name for name in files), files
    assert any(name.endswith(".xplane.pb") for name in files), files


def test_without_one_the_step_is_as_it_was(tmp_path):
    assert traced(test_the_steps_asked_for_are_in_a_trace, 0, tmp_path) is (
        test_the_steps_asked_for_are_in_a_trace
    )
