"""3x3 convolutions by Winograd's way against the definition in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.ops import convolution, winograd

SHAPES = [  # images, height, width, channels, features
    (2, 8, 8, 3, 5),  # whole tiles
    (1, 1, 1, 4, 2),  # less than a tile
    (3, 7, 10, 5, 4),  # tiles beyond the edge
    (1, 120, 130, 3, 2),  # blocks of rows, the last of which is short
    (1, 3, 1700, 2, 3),  # a row longer than a block
]


def exact(x, kernel):
    """The definition, as a sum over the nine cells."""
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )


def exact_kernel_gradient(x, grad):
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    moved = [
        np.tensordot(padded[:, i : i + height, j : j + width], grad, ((0, 1, 2),) * 2)
        for i in range(3)
        for j in range(3)
    ]
    return np.stack(moved).reshape(3, 3, x.shape[-1], grad.shape[-1])


def error(found, right):
    """Root mean square, as a share of what is right."""
    return np.sqrt(np.square(found - right).mean() / np.square(right).mean())


def test_matrices_give_a_convolution_of_numbers():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal(6), rng.standard_normal(3)
    points = (winograd.OF_INPUT @ x) * (winograd.OF_KERNEL @ kernel)
    right = [x[i : i + 3] @ kernel for i in range(4)]
    np.testing.assert_allclose(winograd.OF_OUTPUT.T @ points, right, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_and_gradients_are_exact_to_rounding(rng, shape):
    images, height, width, channels, features = shape
    x = rng.standard_normal((images, height, width, channels)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, channels, features)).astype(np.float32)
    grad = rng.standard_normal((images, height, width, features)).astype(np.float32)
    wide = [a.astype(np.float64) for a in (x, kernel, grad)]
    found = winograd.convolve(jnp.asarray(x), jnp.asarray(kernel))
    assert error(found, exact(*wide[:2])) < 4e-6
    found = winograd.input_gradient(jnp.asarray(grad), jnp.asarray(kernel))
    flipped = wide[1][::-1, ::-1].swapaxes(2, 3)
    assert error(found, exact(wide[2], flipped)) < 4e-6
    found = winograd.kernel_gradient(jnp.asarray(x), jnp.asarray(grad))
    assert error(found, exact_kernel_gradient(wide[0], wide[2])) < 4e-6


def test_rounding_is_near_that_of_the_definition(rng):
    x = np.maximum(rng.standard_normal((1, 40, 40, 256)), 0).astype(np.float32)
    kernel = (rng.standard_normal((3, 3, 256, 64)) * 0.02).astype(np.float32)
    right = exact(x.astype(np.float64), kernel.astype(np.float64))
    plain = error(convolution._convolve(jnp.asarray(x), jnp.asarray(kernel)), right)
    quick = error(winograd.convolve(jnp.asarray(x), jnp.asarray(kernel)), right)
    # XLA's own is half as far off with AVX-512 as without, ours is not.
    assert plain < 1e-6 and quick < 2e-6


def test_zeros_stay_zeros(rng):
    x = rng.standard_normal((1, 16, 16, 8)).astype(np.float32)
    x[:, 8:] = 0
    kernel = jnp.asarray(rng.standard_normal((3, 3, 8, 8)), jnp.float32)
    out = winograd.convolve(jnp.asarray(x), kernel)
    assert np.abs(out[:, 12:]).max() == 0 and np.abs(out[:, 8]).min() > 0


def test_a_larger_canvas_gives_the_same_numbers(rng):
    x = rng.standard_normal((1, 21, 30, 8)).astype(np.float32)
    kernel = jnp.asarray(rng.standard_normal((3, 3, 8, 8)), jnp.float32)
    larger = np.pad(x, ((0, 0), (0, 11), (0, 34), (0, 0)))
    ours = winograd.convolve(jnp.asarray(x), kernel)
    theirs = winograd.convolve(jnp.asarray(larger), kernel)[:, :21, :30]
    assert error(np.asarray(ours), np.asarray(theirs)) < 4e-6


def taken(height, width, channels, features, dtype=jnp.float32, **how) -> bool:
    """Whether a convolution on CPUs loops over blocks of tiles."""
    x = jax.ShapeDtypeStruct((1, height, width, channels), dtype)
    kernel = jax.ShapeDtypeStruct((3, 3, channels, features), dtype)
    convolve = jax.jit(lambda x, k: convolution.convolve(x, k, **how))
    return "stablehlo.while" in convolve.lower(x, kernel).as_text()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only on CPUs")
def test_it_is_taken_for_long_wide_maps_in_float32():
    assert taken(56, 60, 128, 128)
    assert not taken(52, 56, 128, 128)  # short
    assert not taken(56, 60, 64, 128) and not taken(56, 60, 128, 64)  # narrow
    assert not taken(56, 60, 128, 128, jnp.bfloat16)
    assert not taken(56, 60, 128, 128, stride=2)
    assert not taken(56, 60, 128, 128, dilation=2)


def test_a_network_takes_it_with_both_gradients(rng):
    x, kernel, up = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((1, 56, 60, 128), (3, 3, 128, 128), (1, 56, 60, 128))
    )
    both = []
    for function in (convolution.convolve, convolution._convolve):
        out, pull = jax.vjp(function, x, kernel)
        both.append((out, *pull(up)))
    for ours, theirs in zip(*both, strict=True):
        assert error(np.asarray(ours), np.asarray(theirs)) < 4e-6
