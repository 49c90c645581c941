import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.training import distributed, optimizer, step
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.state import TrainState, create

TRAIN = config.Train(lr=0.05, lr_batch_size=0, warmup_steps=0)


@pytest.fixture
def start(linear):
    """devices -> (state before the first step, step function)."""

    def make(devices: int = 1):
        mesh = distributed.make_mesh(devices)
        tx = optimizer.make(TRAIN, lambda step: 0.05)
        variables = linear.init(jax.random.key(0), None)
        state = create(variables, tx, ("trunk/bias",))
        take = step.make_train_step(linear, tx, ("trunk/bias",), mesh)

        def advance(state, arrays):
            batch = distributed.to_batch(arrays, mesh)
            return take(state, batch, jax.random.key(0))[0]

        return distributed.replicate(state, mesh), advance

    return make


def host(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: np.array(x, copy=True), state)


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_what_is_restored_is_bit_equal_and_on_the_same_devices(
    tmp_path, start, arrays_of
):
    state, advance = start(2)
    for number in range(3):
        state = advance(state, arrays_of(number))
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.latest is None
        saved.save(state)
    fresh, _ = start(2)
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.latest == 3
        found = saved.restore(fresh)
    assert found.step == 3 and found.step.dtype == jnp.int32
    assert_same(host(found), host(state))
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, found, fresh)
    assert all(jax.tree.leaves(same))


def test_a_save_is_of_its_moment(tmp_path, start, arrays_of):
    """Steps that follow at once reuse the buffers that are still being written."""
    state, advance = start()
    state = advance(state, arrays_of(0))
    before = host(state)
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(state)
        for number in range(1, 20):
            state = advance(state, arrays_of(number))
    fresh, _ = start()
    with Checkpoints(tmp_path, keep=1) as saved:
        assert_same(host(saved.restore(fresh)), before)


def test_continuing_equals_never_having_stopped(tmp_path, start, arrays_of):
    state, advance = start()
    for number in range(6):
        state = advance(state, arrays_of(number))
        if number == 2:
            with Checkpoints(tmp_path, keep=1) as saved:
                saved.save(state)
    fresh, again = start()
    with Checkpoints(tmp_path, keep=1) as saved:
        resumed = saved.restore(fresh)
    for number in range(3, 6):
        resumed = again(resumed, arrays_of(number))
    assert_same(host(resumed), host(state))


@pytest.mark.parametrize(("saving", "restoring"), [(1, 8), (8, 1), (2, 4)])
def test_another_number_of_devices(tmp_path, start, arrays_of, saving, restoring):
    state, advance = start(saving)
    state = advance(state, arrays_of(0))
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(state)
    fresh, again = start(restoring)
    with Checkpoints(tmp_path, keep=1) as saved:
        found = saved.restore(fresh)
    assert_same(host(found), host(state))
    assert len(found.step.sharding.device_set) == restoring
    assert again(found, arrays_of(1)).step == 2


def test_the_last_few_are_kept_and_the_newest_is_taken(tmp_path, start):
    state, _ = start()
    with Checkpoints(tmp_path, keep=2) as saved:
        for number in (2, 5, 9):
            saved.save(state._replace(step=jnp.int32(number)))
        saved.save(state._replace(step=jnp.int32(9)))  # again: nothing happens
    folders = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()}
    assert folders == {"5", "9"}
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.latest == 9
        assert saved.restore(state).step == 9


def test_an_unfinished_checkpoint_does_not_count(tmp_path, start):
    """A killed save leaves a folder under a temporary name."""
    state, _ = start()
    with Checkpoints(tmp_path, keep=2) as saved:
        saved.save(state._replace(step=jnp.int32(4)))
    unfinished = tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp"
    (unfinished / "variables").mkdir(parents=True)
    with Checkpoints(tmp_path, keep=2) as saved:
        assert saved.latest == 4
        assert saved.restore(state).step == 4


def test_variables_alone_need_no_optimiser(tmp_path, start, arrays_of):
    state, advance = start()
    state = advance(state, arrays_of(0))
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(state)
    fresh, _ = start(8)
    with Checkpoints(tmp_path, keep=1) as saved:
        found, number = saved.restore_variables(fresh.variables)
    assert number == 1
    assert_same(host(found), host(state.variables))
    assert found["params"]["head"]["bias"].is_fully_replicated


def test_a_folder_without_checkpoints_is_named(tmp_path, start):
    state, _ = start()
    with (
        Checkpoints(tmp_path, keep=1) as saved,
        pytest.raises(FileNotFoundError, match="no checkpoint in .*train first") as why,
    ):
        saved.restore_variables(state.variables)
    assert str(tmp_path) in str(why.value)


def test_another_model_is_refused_and_nothing_is_set_aside(tmp_path, start):
    state, _ = start()
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(state)
    params = {**state.variables["params"], "head": {"kernel": jnp.zeros(5)}}
    with (
        Checkpoints(tmp_path, keep=1) as saved,
        pytest.raises(FileNotFoundError, match="for another model"),
    ):
        saved.restore_variables({**state.variables, "params": params})
    assert (tmp_path / "checkpoints" / "0").is_dir()


# ---- damage


def largest(folder):
    return max(
        (p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )


def truncate(folder):
    file = largest(folder)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_bits(folder):
    for file in folder.rglob("d/*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def without_metadata(folder):
    for file in folder.rglob("_METADATA"):
        file.unlink()


def without_a_part(folder):
    shutil.rmtree(folder / "optimizer")


@pytest.mark.parametrize(
    "damage", [truncate, flip_bits, empty, without_metadata, without_a_part]
)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(
    tmp_path, start, arrays_of, damage, capsys
):
    state, advance = start()
    states = []
    with Checkpoints(tmp_path, keep=3) as saved:
        for number in range(3):
            state = advance(state, arrays_of(number))
            states.append(host(state))
            saved.save(state)
    damage(tmp_path / "checkpoints" / "3")
    fresh, again = start()
    with Checkpoints(tmp_path, keep=3) as saved:
        found = saved.restore(fresh)
        told = capsys.readouterr().out.splitlines()
        assert told[0].startswith(
            "checkpoint cannot be used and is set aside, step 3: "
        )
        assert told[1] == "the checkpoint of step 2 is used instead"
        assert_same(host(found), states[1])
        assert (tmp_path / "damaged" / "3").is_dir() and saved.latest == 2
        saved.save(again(found, arrays_of(2)))  # the step is saved again
    with Checkpoints(tmp_path, keep=3) as saved:
        assert_same(host(saved.restore(start()[0])), states[2])


def test_a_reader_leaves_everything_as_it_is(tmp_path, start, capsys):
    """Scoring a run while it trains must not clear away what is being written."""
    state, _ = start()
    with Checkpoints(tmp_path, keep=3) as saved:
        for number in (1, 2):
            saved.save(state._replace(step=jnp.int32(number)))
    truncate(tmp_path / "checkpoints" / "2")
    unfinished = tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp"
    (unfinished / "variables").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path, keep=None) as saved:
        assert saved.restore_variables(state.variables)[1] == 1
    assert "checkpoint cannot be used, step 2: " in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    with Checkpoints(tmp_path / "none", keep=None) as saved:
        assert saved.latest is None
    assert not (tmp_path / "none").exists()


def test_nothing_is_left_when_all_are_damaged(tmp_path, start):
    state, _ = start()
    with Checkpoints(tmp_path, keep=2) as saved:
        for number in (1, 2):
            saved.save(state._replace(step=jnp.int32(number)))
    for number in (1, 2):
        truncate(tmp_path / "checkpoints" / str(number))
    with (
        Checkpoints(tmp_path, keep=2) as saved,
        pytest.raises(FileNotFoundError, match=r"can be read \(step 2: .*; step 1: "),
    ):
        saved.restore(state)


# ---- the best


def test_the_best_is_variables_alone_and_one_of_a_kind(tmp_path, start, arrays_of):
    state, advance = start()
    with Checkpoints(tmp_path, keep=1) as saved:
        for number in range(3):
            state = advance(state, arrays_of(number))
            saved.save_best(state, number / 4)
    assert [p.name for p in (tmp_path / "best").iterdir() if p.is_dir()] == ["3"]
    with Checkpoints(tmp_path, keep=None) as saved:
        found, step = saved.restore_variables(start()[0].variables, "best")
        assert step == 3
        assert_same(host(found), host(state.variables))
        metadata = tmp_path / "best" / "3" / "_CHECKPOINT_METADATA"
        assert json.loads(metadata.read_text())["custom_metadata"]["AP"] == 0.5
        truncate(tmp_path / "best" / "3")
        with pytest.raises(FileNotFoundError, match="take the newest: --checkpoint="):
            saved.restore_variables(start()[0].variables, "best")


def test_a_run_that_was_never_evaluated_has_no_best(tmp_path, start):
    with (
        Checkpoints(tmp_path, keep=1) as saved,
        pytest.raises(FileNotFoundError, match="no best checkpoint"),
    ):
        saved.restore_variables(start()[0].variables, "best")


def test_the_average_is_kept_and_is_what_prediction_reads(tmp_path, start, arrays_of):
    state, advance = start(1)
    state = advance(state, arrays_of(0))
    average = jax.tree.map(lambda x: x + 1, state.variables)
    averaged = state._replace(ema=average)
    for name, made in (("plain", state), ("averaged", averaged)):
        with Checkpoints(tmp_path / name, keep=2) as saved:
            saved.save(made)
    with Checkpoints(tmp_path / "plain", keep=2) as saved:
        assert_same(saved.restore_variables(state.variables)[0], state.variables)
        # A run that turns averaging on begins with what was saved.
        assert_same(saved.restore(averaged).ema, state.variables)
    with Checkpoints(tmp_path / "averaged", keep=2) as saved:
        assert_same(saved.restore(averaged), averaged)
        assert_same(saved.restore(state), state)  # turned off again
        assert_same(saved.restore_variables(state.variables)[0], average)


def test_an_average_turned_on_beside_a_damaged_checkpoint(tmp_path, start, capsys):
    """The newest has an average and cannot be read, the one before never had one."""
    state, _ = start()
    one, two = jnp.int32(1), jnp.int32(2)
    average = jax.tree.map(lambda x: x + 1, state.variables)
    with Checkpoints(tmp_path, keep=2) as saved:
        saved.save(state._replace(step=one))
        saved.save(state._replace(step=two, ema=average))
    truncate(tmp_path / "checkpoints" / "2" / "variables")
    truncate(tmp_path / "checkpoints" / "2" / "ema")
    with Checkpoints(tmp_path, keep=None) as saved:
        found, step = saved.restore_variables(state.variables)
        assert step == 1
        assert_same(host(found), host(state.variables))
    with Checkpoints(tmp_path, keep=2) as saved:
        found = saved.restore(state._replace(ema=average))
    assert found.step == 1 and (tmp_path / "damaged" / "2").is_dir()
    assert_same(host(found.ema), host(state.variables))
    assert "step 1 is used instead" in capsys.readouterr().out


def test_an_average_that_is_missing_is_damage(tmp_path, start):
    """A folder that lost it must not pass for a run that never had one."""
    state, _ = start()
    average = jax.tree.map(lambda x: x + 1, state.variables)
    averaged = state._replace(ema=average)
    with Checkpoints(tmp_path, keep=2) as saved:
        for number in (1, 2):
            saved.save(averaged._replace(step=jnp.int32(number)))
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "ema")
    with Checkpoints(tmp_path, keep=2) as saved:
        found = saved.restore(averaged)
    assert found.step == 1
    assert_same(host(found.ema), host(average))
