"""2-D convolution, NHWC and HWIO, padded symmetrically as in torch.

1x1 convolutions are matrix products, which are quicker in training. XLA's own gradient
is used everywhere but in one place: on CPUs its weight gradient of a KxK convolution of
stride 1, a convolution with a kernel as large as the map, takes two to twelve times as
long as forward, and that of a product over many cells up to twice what it could. Here
it is a sum over blocks of rows, of one matrix product each. Side by side lie on the
left the block of the input moved by each of K columns, on the right the gradient moved
by each of K rows, so that the product, of K * C_in by K * C_out, holds every pair of
moves: all of the kernel. A block of some hundred cells stays in the cache; K * K moved
copies of a whole map would not.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

BLOCK = 640  # cells: long enough for a product, short enough for the cache


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c//{groups} f"],
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "b i j f"]:
    """Convolution with k // 2 * dilation zeros on every side; k is odd."""
    if kernel.shape[0] == groups == 1:
        x, stride = x[:, ::stride, ::stride], 1
    if stride == groups == 1:
        return _dense(x, kernel, dilation)
    return _convolve(x, kernel, stride, dilation, groups)


def _convolve(x, kernel, stride=1, dilation=1, groups=1):
    if kernel.shape[0] == stride == groups == 1:
        return x @ kernel[0, 0]
    padding = kernel.shape[0] // 2 * dilation
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dense(x, kernel, dilation):
    return _convolve(x, kernel, 1, dilation)


def _forward(x, kernel, dilation):
    return _dense(x, kernel, dilation), (x, kernel)


def _backward(dilation, saved, grad):
    x, kernel = saved
    pull = jax.linear_transpose(lambda x: _convolve(x, kernel, 1, dilation), x)
    gradients = (_kernel_gradient_in_blocks, _kernel_gradient)
    on_cpu, elsewhere = (partial(f, kernel.shape[0], dilation) for f in gradients)
    found = lax.platform_dependent(x, grad, cpu=on_cpu, default=elsewhere)
    return *pull(grad), found.astype(kernel.dtype)


_dense.defvjp(_forward, _backward)


def _kernel_gradient(size, dilation, x, grad):
    """XLA's own: the convolution is linear in its kernel."""
    kernel = jnp.zeros((size, size, x.shape[-1], grad.shape[-1]), x.dtype)
    pull = jax.linear_transpose(lambda k: _convolve(x, k, 1, dilation), kernel)
    return pull(grad)[0]


def _kernel_gradient_in_blocks(size, dilation, x, grad):
    """The same by matrix products, summed in float32; see the module's description."""
    (images, height, width, channels), features = x.shape, grad.shape[-1]
    rows = _divisor(height, BLOCK // width)
    some = 1 if rows < height else _divisor(images, BLOCK // (height * width))
    moves = [dilation * step for step in range(size)]
    border = moves[-1] // 2
    x = jnp.pad(x, ((0, 0), (0, 0), (border, border), (0, 0)))
    grad = jnp.pad(grad, ((0, 0), (border, border), (0, 0), (0, 0)))

    def add(block, total):
        image, row = block // (height // rows) * some, block % (height // rows) * rows
        start = image, row, 0, 0
        left = lax.dynamic_slice(x, start, (some, rows, *x.shape[2:]))
        right = lax.dynamic_slice(
            grad, start, (some, rows + moves[-1], *grad.shape[2:])
        )
        # Row i of the input meets row i + border - move of the gradient.
        left = [left[:, :, move : move + width] for move in moves]
        right = [right[:, move : move + rows] for move in reversed(moves)]
        left = jnp.concatenate(left, -1).reshape(-1, size * channels)
        right = jnp.concatenate(right, -1).reshape(-1, size * features)
        return total + jnp.dot(left.T, right, preferred_element_type=jnp.float32)

    blocks = images // some * (height // rows)
    total = jnp.zeros((size * channels, size * features), jnp.float32)
    total = lax.fori_loop(0, blocks, add, total)
    total = total.reshape(size, channels, size, features)  # column, row of the kernel
    return total.transpose(2, 0, 1, 3).astype(x.dtype)


def _divisor(number: int, limit: int) -> int:
    """The largest divisor up to a limit; 1 where the limit is smaller."""
    return max(
        n for n in range(1, number + 1) if number % n == 0 and n <= max(limit, 1)
    )
