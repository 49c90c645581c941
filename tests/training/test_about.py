"""Checkpoints that other versions wrote: read, or refused in a sentence."""

import importlib.util
import json
import shutil
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.training import optimizer
from frcnn_jax.training.about import FORMAT, TooNew, versions
from frcnn_jax.training.checkpoint import BEST, Checkpoints
from frcnn_jax.training.state import create


@pytest.fixture(scope="module")
def recipe(golden):
    path = golden / "checkpoints" / "make.py"
    spec = importlib.util.spec_from_file_location("make", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def like():
    """A state of the same shapes; its numbers are others."""

    def make(recipe, **more):
        variables = jax.tree.map(jnp.zeros_like, recipe.variables())
        tx = optimizer.make(config.Train(**recipe.TRAIN), lambda step: 0.1)
        return create(variables, tx, (), **more)

    return make


def assert_same(found, expected):
    leaves = jax.tree.leaves(found), jax.tree.leaves(expected)
    assert len(leaves[0]) == len(leaves[1])
    for pair in zip(*leaves, strict=True):
        np.testing.assert_array_equal(*pair)


@pytest.mark.parametrize("number", [1, 2])
def test_older_formats_are_continued(golden, recipe, like, tmp_path, number):
    with zipfile.ZipFile(golden / "checkpoints" / f"format_{number}.zip") as file:
        file.extractall(tmp_path)
    with Checkpoints(tmp_path, keep=2) as saved:
        found = saved.restore(like(recipe))
        assert_same(found.variables, recipe.variables())
        assert_same(found.opt_state, recipe.optimiser_state())
        assert found.step == recipe.STEP and saved.rollbacks == 0
        assert found.skipped == (0 if number == 1 else recipe.SKIPPED)
        assert found.step.dtype == found.skipped.dtype == jnp.int32
        # Averaging may begin here, and what is saved next is of this version.
        averaged = saved.restore(like(recipe, averaged=True))
        assert_same(averaged.ema, recipe.variables())
        saved.save(found._replace(step=found.step + 1))
    assert about(tmp_path / "checkpoints" / str(recipe.STEP + 1))["format"] == 3
    with Checkpoints(tmp_path, keep=None) as saved:
        variables, step = saved.restore_variables(like(recipe).variables)
    assert step == recipe.STEP + 1
    assert_same(variables, recipe.variables())


def about(folder):
    return json.loads((folder / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]


def change(folder, **fields):
    file = folder / "_CHECKPOINT_METADATA"
    content = json.loads(file.read_text())
    content["custom_metadata"] |= fields
    file.write_text(json.dumps(content))


@pytest.fixture
def saved_state(recipe, like, tmp_path):
    """A folder with checkpoints of steps 1 and 2 and a best one."""
    state = like(recipe)
    with Checkpoints(tmp_path, keep=2) as saved:
        for number in (1, 2):
            saved.save(state._replace(step=jnp.int32(number)))
        saved.save_best(state._replace(step=jnp.int32(2)), 0.5)
    return state


def test_a_checkpoint_tells_what_it_is(saved_state, tmp_path):
    told = about(tmp_path / "checkpoints" / "2")
    parts = ["counts", "optimizer", "variables"]
    assert told == {
        **{"format": FORMAT, "parts": parts, "rollbacks": 0},
        **versions(),
    }
    assert about(tmp_path / "best" / "2")["format"] == FORMAT


def test_a_later_format_is_refused_and_left_alone(saved_state, tmp_path):
    for folder in ("checkpoints", "best"):
        change(tmp_path / folder / "2", format=99, frcnn_jax="9.8.7")
    message = (
        "checkpoints/2 has format 99, and this version reads formats up to 3: it was"
        " written by frcnn_jax 9.8.7, here is .* choose another --workdir"
    )
    with Checkpoints(tmp_path, keep=2) as saved:
        with pytest.raises(TooNew, match=message):
            saved.restore(saved_state)
        with pytest.raises(TooNew, match=message):
            saved.restore_variables(saved_state.variables)
        with pytest.raises(TooNew, match="best/2 has format 99"):
            saved.restore_variables(saved_state.variables, BEST)
    assert (tmp_path / "checkpoints" / "2").is_dir()
    assert not (tmp_path / "damaged").exists()


def test_versions_are_told_where_reading_fails(saved_state, tmp_path):
    for number in (1, 2):
        folder = tmp_path / "checkpoints" / str(number)
        change(folder, **{"orbax-checkpoint": "0.0.1"})
        shutil.rmtree(folder / "optimizer")
    now = versions()["orbax-checkpoint"]
    expected = rf"written with orbax-checkpoint 0.0.1, here {now}\); step 1: "
    with (
        Checkpoints(tmp_path, keep=2) as saved,
        pytest.raises(FileNotFoundError, match=expected),
    ):
        saved.restore(saved_state)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"custom_metadata": [1]}', None])
def test_metadata_that_cannot_be_read_are_damage(
    saved_state, tmp_path, content, capsys
):
    file = tmp_path / "checkpoints" / "2" / "_CHECKPOINT_METADATA"
    if content is None:  # one bit
        content = file.read_text().replace('"metrics"', '"metricr"')
    file.write_text(content)
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.restore(saved_state).step == 1
        assert "be used and is set aside, step 2: " in capsys.readouterr().out
        assert (tmp_path / "damaged" / "2").is_dir()
        saved.save(saved_state._replace(step=jnp.int32(2)))
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.restore(saved_state).step == 2
