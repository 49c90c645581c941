"""Layers against naive loops: padding is symmetric, as in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.models.layers import Conv, Dense, max_pool


def naive_conv(x, kernel, stride, groups):
    """One output cell at a time, with kernel // 2 zeros on every side."""
    size, _, per_group, features = kernel.shape
    h, w = x.shape[1:3]
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))).astype(np.float64)
    shape = (len(x), (h - 1) // stride + 1, (w - 1) // stride + 1, features)
    out = np.zeros(shape)
    for y in range(shape[1]):
        for column in range(shape[2]):
            at = y * stride, column * stride
            window = x[:, at[0] : at[0] + size, at[1] : at[1] + size]
            for f in range(features):
                first = f // (features // groups) * per_group
                part = window[..., first : first + per_group]
                out[:, y, column, f] = (part * kernel[..., f]).sum((1, 2, 3))
    return out


@pytest.mark.parametrize(
    ("kernel", "stride", "groups"),
    [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 2, 2), (1, 1, 2), (7, 2, 1)],
)
def test_convolution_equals_a_naive_loop(kernel, stride, groups, rng):
    """An odd and an even side, so that uneven padding would show."""
    x = rng.standard_normal((2, 7, 8, 4)).astype(np.float32)
    weight = rng.standard_normal((kernel, kernel, 4 // groups, 6)).astype(np.float32)
    bias = rng.standard_normal(6).astype(np.float32)
    layer = Conv(6, kernel, stride, groups, use_bias=True)
    variables = {"params": {"kernel": jnp.asarray(weight), "bias": jnp.asarray(bias)}}
    ours = layer.apply(variables, jnp.asarray(x))
    theirs = naive_conv(x, weight, stride, groups) + bias
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("stride", (1, 2))
def test_cells_outside_the_image_count_as_padding(stride, rng):
    x = rng.standard_normal((1, 6, 8, 3)).astype(np.float32)
    weight = jnp.asarray(rng.standard_normal((3, 3, 3, 2)), jnp.float32)
    layer = Conv(2, 3, stride)
    inside = np.zeros((1, 6, 8, 1), bool)
    inside[:, :4, :6] = True
    garbage = np.where(inside, x, np.nan)
    variables = {"params": {"kernel": weight}}
    ours = layer.apply(variables, jnp.asarray(garbage), jnp.asarray(inside))
    tight = layer.apply(variables, jnp.asarray(x[:, :4, :6]))
    h, w = tight.shape[1:3]
    np.testing.assert_allclose(ours[:, :h, :w], tight, atol=1e-5)


def test_declared_shapes():
    """A bias only where asked for; values come from elsewhere."""
    x = jnp.zeros((1, 4, 4, 6))
    plain = jax.eval_shape(Conv(8, 3, groups=2).init, jax.random.key(0), x)
    assert {k: v.shape for k, v in plain["params"].items()} == {"kernel": (3, 3, 3, 8)}
    biased = jax.eval_shape(Conv(8, use_bias=True).init, jax.random.key(0), x)
    assert biased["params"]["bias"].shape == (8,)


def test_dense_maps_the_last_axis(rng):
    x = rng.standard_normal((2, 3, 4)).astype(np.float32)
    weight = rng.standard_normal((4, 5)).astype(np.float32)
    bias = rng.standard_normal(5).astype(np.float32)
    variables = {"params": {"kernel": jnp.asarray(weight), "bias": jnp.asarray(bias)}}
    ours = Dense(5).apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(ours, x @ weight + bias, atol=1e-5)


@pytest.mark.parametrize("layer", (Conv(2), Conv(2, 3), Dense(2)))
def test_computing_in_bfloat16_keeps_float32_parameters(layer):
    layer = layer.clone(dtype=jnp.bfloat16)
    x = jnp.ones((1, 4, 4, 3))
    variables = layer.init(jax.random.key(0), x)
    assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(variables))
    assert layer.apply(variables, x).dtype == jnp.bfloat16


def test_max_pool_on_paper():
    """Stride 2 with one cell of -inf around: negative maps stay negative."""
    x = -jnp.arange(16.0).reshape(1, 4, 4, 1) - 1
    assert max_pool(x)[0, :, :, 0].tolist() == [[-1, -2], [-5, -6]]
    assert max_pool(x[:, :3, :3])[0, :, :, 0].tolist() == [[-1, -2], [-5, -6]]
    assert max_pool(x[:, :1, :1])[0, :, :, 0].tolist() == [[-1]]
