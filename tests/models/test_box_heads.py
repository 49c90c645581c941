"""The second-stage head: order of inputs and outputs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.box_heads import FCHead, Predictor


def head_and_variables(rng, num_classes, dtype=jnp.float32, **fields):
    predictor = partial(Predictor, num_classes, dtype=dtype)
    head = FCHead(predictor, dtype=dtype, **fields)
    crops = jnp.asarray(rng.standard_normal((6, 3, 3, 2)), jnp.float32)
    shapes = jax.eval_shape(head.init, jax.random.key(0), crops)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes
    )
    return head, variables, crops


def test_equals_matrix_products(rng):
    """Crops are flattened row, column, channel; deltas are class by class."""
    head, variables, crops = head_and_variables(rng, num_classes=5, hidden=(7, 4))
    logits, deltas = head.apply(variables, crops)
    params = jax.tree.map(np.asarray, variables["params"])
    x = np.asarray(crops).reshape(6, 18)
    for name in ("fc1", "fc2"):
        x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
    predictor = params["predictor"]
    expected = x @ predictor["classes"]["kernel"] + predictor["classes"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)
    expected = x @ predictor["deltas"]["kernel"] + predictor["deltas"]["bias"]
    assert deltas.shape == (6, 5, 4)
    for c in range(5):
        own = expected[:, 4 * c : 4 * c + 4]
        np.testing.assert_allclose(deltas[:, c], own, rtol=1e-4, atol=1e-3)


def test_shapes_of_the_parameters(rng):
    _, variables, _ = head_and_variables(rng, num_classes=1, hidden=(7,))
    assert jax.tree.map(np.shape, variables["params"]) == {
        "fc1": {"kernel": (18, 7), "bias": (7,)},
        "predictor": {
            "classes": {"kernel": (7, 2), "bias": (2,)},
            "deltas": {"kernel": (7, 4), "bias": (4,)},
        },
    }


def test_crops_do_not_meet(rng):
    head, variables, crops = head_and_variables(rng, num_classes=2, hidden=(4,))
    changed = crops.at[3].set(99.0)
    for ours, theirs in zip(
        head.apply(variables, changed), head.apply(variables, crops), strict=True
    ):
        rest = np.arange(6) != 3
        np.testing.assert_array_equal(ours[rest], theirs[rest])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_outputs_are_float32_when_computing_in_less(rng, dtype):
    head, variables, crops = head_and_variables(
        rng, num_classes=3, hidden=(4,), dtype=dtype
    )
    for output in head.apply(variables, crops):
        assert output.dtype == jnp.float32
