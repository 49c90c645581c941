"""The proposal head: which output belongs to which anchor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.rpn_head import RPNHead
from frcnn_jax.ops.anchors import cell_index

SIZES = ((3, 4), (2, 2))


def head_and_variables(rng, dtype=jnp.float32):
    head = RPNHead(5, 3, dtype=dtype)
    features = [
        jnp.asarray(rng.standard_normal((2, *hw, 4)), jnp.float32) for hw in SIZES
    ]
    masks = [None] * len(features)
    shapes = jax.eval_shape(head.init, jax.random.key(0), features, masks)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), shapes
    )
    return head, variables, features, masks


def test_outputs_follow_the_order_of_the_anchors(rng):
    """Row, column, anchor; the same weights on every level."""
    head, variables, features, masks = head_and_variables(rng)
    logits, deltas = head.apply(variables, features, masks)
    params = jax.tree.map(np.asarray, variables["params"])
    for level, hw in enumerate(SIZES):
        assert logits[level].shape == (2, hw[0] * hw[1] * 3)
        assert deltas[level].shape == (2, hw[0] * hw[1] * 3, 4)
        padded = np.pad(features[level], ((0, 0), (1, 1), (1, 1), (0, 0)))
        for n, (y, x) in enumerate(cell_index([hw], 3)[0]):
            a = n % 3
            window = padded[:, y : y + 3, x : x + 3]
            hidden = np.einsum("byxc,yxcf->bf", window, params["conv"]["kernel"])
            hidden = np.maximum(hidden + params["conv"]["bias"], 0)
            part = params["objectness"]
            expected = hidden @ part["kernel"][0, 0, :, a] + part["bias"][a]
            np.testing.assert_allclose(logits[level][:, n], expected, atol=1e-4)
            part = params["deltas"]
            rows = slice(4 * a, 4 * a + 4)
            expected = hidden @ part["kernel"][0, 0, :, rows] + part["bias"][rows]
            np.testing.assert_allclose(deltas[level][:, n], expected, atol=1e-4)


def test_parameters_are_shared_by_all_levels(rng):
    _, variables, _, _ = head_and_variables(rng)
    shapes = jax.tree.map(np.shape, variables["params"])
    assert shapes == {
        "conv": {"kernel": (3, 3, 4, 5), "bias": (5,)},
        "objectness": {"kernel": (1, 1, 5, 3), "bias": (3,)},
        "deltas": {"kernel": (1, 1, 5, 12), "bias": (12,)},
    }


def test_cells_outside_the_image_are_zeros_to_their_neighbours(rng):
    head, variables, features, _ = head_and_variables(rng)
    masks = [np.zeros((2, *hw, 1), bool) for hw in SIZES]
    for mask in masks:
        mask[:, :2, :1] = True
    garbage = [jnp.where(m, f, 1e4) for m, f in zip(masks, features, strict=True)]
    ours, _ = head.apply(variables, garbage, [jnp.asarray(m) for m in masks])
    tight = [f[:, :2, :1] for f in features]
    theirs, _ = head.apply(variables, tight, [None, None])
    for logits, expected, hw in zip(ours, theirs, SIZES, strict=True):
        rows = logits.reshape(2, *hw, 3)[:, :2, :1].reshape(2, -1)
        np.testing.assert_allclose(rows, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_outputs_are_float32_when_computing_in_less(rng, dtype):
    head, variables, features, masks = head_and_variables(rng, dtype)
    for output in jax.tree.leaves(head.apply(variables, features, masks)):
        assert output.dtype == jnp.float32


def test_two_logits_count_by_their_difference(rng):
    """Caffe's channels: all backgrounds, then all objects; softmax is the sigmoid."""
    head = RPNHead(5, 3, two_way=True)
    maps = [jnp.asarray(rng.standard_normal((2, 4, 6, 7)), jnp.float32)]
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32),
        jax.eval_shape(head.init, jax.random.key(0), maps, [None]),
    )
    (logits,), _ = head.apply(variables, maps, [None])
    params = variables["params"]
    assert params["objectness"]["kernel"].shape == (1, 1, 5, 6)
    swapped = jax.tree.map(lambda x: jnp.roll(x, 3, -1), params["objectness"])
    (other,), _ = head.apply(
        {"params": {**params, "objectness": swapped}}, maps, [None]
    )
    np.testing.assert_allclose(other, -logits, atol=1e-5)


def test_more_convolutions_have_names_of_their_own():
    maps = [jnp.zeros((1, 4, 6, 7))]
    head = RPNHead(5, 3, convs=2)
    shapes = jax.eval_shape(head.init, jax.random.key(0), maps, [None])["params"]
    assert shapes["conv"]["kernel"].shape == (3, 3, 7, 5)
    assert shapes["conv2"]["kernel"].shape == (3, 3, 5, 5)
