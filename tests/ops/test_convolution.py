"""Convolution against torch's definition, and its quick forms on CPUs."""

from functools import partial

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


def gradients(function, x, kernel, up):
    loss = lambda x, kernel: (function(x, kernel) * up).sum()  # noqa: E731
    return jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernel)


def check_against_xla(rng, x, kernel, **how):
    """Ours gives XLA's numbers, forward and both gradients."""
    x, kernel = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in (x, kernel))
    ours, xlas = (
        partial(f, **how) for f in (convolution.convolve, convolution._convolve)
    )
    out = xlas(x, kernel)
    up = jnp.asarray(rng.standard_normal(out.shape), jnp.float32)
    found = ours(x, kernel), *gradients(ours, x, kernel, up)
    wanted = out, *gradients(xlas, x, kernel, up)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_equal_xlas(rng, shape):
    images, height, width, size, stride, dilation = shape
    how = {"stride": stride, "dilation": dilation}
    check_against_xla(rng, (images, height, width, 5), (size, size, 5, 6), **how)


GROUPS = [  # channels, features, groups, kernel, stride, dilation
    (64, 64, 32, 3, 1, 1),  # ResNeXt: some groups at a time
    (96, 96, 3, 3, 2, 1),  # wide groups: each by itself
    (8, 12, 4, 3, 2, 2),  # all groups at once
    (6, 6, 3, 1, 2, 1),
    (5, 5, 5, 3, 1, 1),  # depthwise
    (5, 5, 5, 5, 2, 1),
    (4, 4, 4, 3, 2, 2),
    (3, 6, 3, 3, 1, 1),  # two features of each channel
]


@pytest.mark.parametrize("case", GROUPS, ids=str)
def test_groups_equal_xlas(rng, case):
    channels, features, groups, size, stride, dilation = case
    how = {"stride": stride, "dilation": dilation, "groups": groups}
    kernel = (size, size, channels // groups, features)
    check_against_xla(rng, (2, 7, 9, channels), kernel, **how)


def test_depthwise_sums_of_half_precision_are_full(rng):
    x = jnp.asarray(rng.standard_normal((1, 9, 9, 4)), jnp.bfloat16)
    kernel = jnp.asarray(rng.standard_normal((5, 5, 1, 4)), jnp.bfloat16)
    ours = convolution.convolve(x, kernel, groups=4)
    exact = convolution.convolve(
        *(a.astype(jnp.float32) for a in (x, kernel)), groups=4
    )
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_array_equal(ours, exact.astype(jnp.bfloat16))


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
