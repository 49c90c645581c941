import jax
import jax.numpy as jnp
import pytest

from frcnn_jax import config
from frcnn_jax.training import optimizer
from frcnn_jax.training.state import create

VARIABLES = {
    "params": {
        "backbone": {"stem": {"kernel": jnp.ones((7, 7))}},
        "rpn": {"conv": {"kernel": jnp.ones((3, 3)), "bias": jnp.zeros(3)}},
    },
    "batch_stats": {"backbone": {"stem": {"mean": jnp.zeros(4)}}},
}


def paths(tree):
    """{parameter path: shape} of the dictionaries inside an optimiser state."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    keys = [([p.key for p in path if hasattr(p, "key")], leaf) for path, leaf in leaves]
    return {key[-1]: leaf.shape for key, leaf in keys if key}


@pytest.mark.parametrize(
    ("freeze", "trainable"),
    [
        ((), {"backbone/stem/kernel", "rpn/conv/kernel", "rpn/conv/bias"}),
        (("backbone/.*",), {"rpn/conv/kernel", "rpn/conv/bias"}),
    ],
)
def test_only_trainable_paths_have_optimiser_state(freeze, trainable):
    tx = optimizer.make(config.Train(), lambda step: 0.1)
    state = create(VARIABLES, tx, freeze)
    assert set(paths(state.opt_state)) == trainable
    assert all(not leaf.any() for leaf in jax.tree.leaves(state.opt_state))


def test_it_begins_at_step_0_with_the_variables_as_they_are():
    tx = optimizer.make(config.Train(), lambda step: 0.1)
    state = create(VARIABLES, tx, ())
    assert state.step == 0 and state.step.dtype == jnp.int32
    assert state.variables is VARIABLES


def test_wrong_patterns_stop_before_the_first_step():
    tx = optimizer.make(config.Train(), lambda step: 0.1)
    with pytest.raises(ValueError, match="train.freeze pattern 'stem'"):
        create(VARIABLES, tx, ("stem",))
