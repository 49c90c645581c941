"""Convolution against torch's definition, and its quick weight gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import convolution


def naive(x, kernel, stride):
    size, (b, h, w, _) = kernel.shape[0], x.shape
    pad = size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = range(0, h + 2 * pad - size + 1, stride)
    columns = range(0, w + 2 * pad - size + 1, stride)
    out = np.zeros((b, len(rows), len(columns), kernel.shape[-1]))
    for i, y in enumerate(rows):
        for j, z in enumerate(columns):
            window = padded[:, y : y + size, z : z + size]
            out[:, i, j] = np.tensordot(window, kernel, 3)
    return out


def test_symmetric_padding_and_strides(rng):
    cases = (
        (3, 1, (5, 6)),
        (3, 2, (6, 8)),
        (7, 2, (8, 9)),
        (1, 1, (3, 4)),
        (1, 2, (5, 6)),
    )
    for size, stride, hw in cases:
        x = rng.standard_normal((2, *hw, 3)).astype(np.float32)
        kernel = rng.standard_normal((size, size, 3, 4)).astype(np.float32)
        ours = convolution.convolve(jnp.asarray(x), jnp.asarray(kernel), stride=stride)
        np.testing.assert_allclose(ours, naive(x, kernel, stride), atol=1e-4)


def test_groups_see_their_own_channels(rng):
    x = rng.standard_normal((1, 4, 4, 4)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 2, 6)).astype(np.float32)
    both = convolution.convolve(jnp.asarray(x), jnp.asarray(kernel), groups=2)
    halves = [
        naive(x[..., 2 * g : 2 * g + 2], kernel[..., 3 * g : 3 * g + 3], 1)
        for g in (0, 1)
    ]
    np.testing.assert_allclose(both, np.concatenate(halves, -1), atol=1e-4)


SHAPES = [  # images, height, width, kernel, stride, dilation
    (2, 9, 11, 3, 1, 1),
    (1, 40, 50, 3, 1, 1),  # more than one block
    (3, 7, 7, 3, 1, 1),  # blocks of whole images
    (2, 13, 700, 3, 1, 1),  # a row longer than a block
    (2, 9, 12, 3, 2, 1),
    (1, 64, 66, 3, 2, 1),
    (2, 11, 8, 3, 1, 2),
    (1, 20, 30, 7, 2, 1),
    (40, 5, 4, 5, 2, 2),
    (2, 40, 50, 1, 1, 1),
    (3, 9, 7, 1, 2, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_equal_xlas(rng, shape):
    images, height, width, size, stride, dilation = shape
    x = jnp.asarray(rng.standard_normal((images, height, width, 5)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((size, size, 5, 6)), jnp.float32)
    how = {"stride": stride, "dilation": dilation}
    out = jax.eval_shape(lambda *a: convolution.convolve(*a, **how), x, kernel)
    up = jnp.asarray(rng.standard_normal(out.shape), jnp.float32)

    def gradients(function):
        loss = lambda x, kernel: (function(x, kernel, **how) * up).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernel)

    ours = gradients(convolution.convolve)
    xlas = gradients(convolution._convolve)
    for a, b in zip(ours, xlas, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


def test_gradients_of_half_precision_are_summed_in_full(rng):
    x = jnp.asarray(rng.standard_normal((1, 80, 80, 4)), jnp.bfloat16)
    kernel = jnp.zeros((3, 3, 4, 4), jnp.bfloat16)
    up = jnp.asarray(rng.standard_normal((1, 80, 80, 4)), jnp.bfloat16)

    def gradient(x, kernel, up):
        loss = lambda kernel: (convolution.convolve(x, kernel) * up).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(kernel)

    exact = gradient(*(a.astype(jnp.float32) for a in (x, kernel, up)))
    ours = gradient(x, kernel, up)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours, exact.astype(jnp.bfloat16))
