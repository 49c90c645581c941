"""2-D convolution, NHWC and HWIO, padded symmetrically as in torch.

XLA's own gradient is used everywhere but in one place: on CPUs its weight gradient of a
KxK convolution, a convolution with a kernel as large as the map, takes two to twelve
times as long as forward. Here it is a sum over blocks of some hundred output cells, of
one matrix product each: the windows of those cells, K * K * C_in numbers in a row,
transposed, times their gradients. The windows of a block stay in the cache; those of a
whole map (3x3: nine times its size) do not.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

BLOCK = (
    640  # output cells: products long enough, windows (6 MB of 3x3x256) not too long
)


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c//{groups} f"],
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "b i j f"]:
    """Convolution with k // 2 * dilation zeros on every side."""
    if groups == 1:
        return _dense(x, kernel, stride, dilation)
    return _convolve(x, kernel, stride, dilation, groups)


def _convolve(x, kernel, stride=1, dilation=1, groups=1):
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


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _dense(x, kernel, stride, dilation):
    return _convolve(x, kernel, stride, dilation)


def _forward(x, kernel, stride, dilation):
    return _convolve(x, kernel, stride, dilation), (x, kernel)


def _backward(stride, dilation, saved, grad):
    x, kernel = saved
    pull = jax.linear_transpose(lambda x: _convolve(x, kernel, stride, dilation), x)
    size, how = kernel.shape[0], (stride, dilation)
    grad_kernel = lax.platform_dependent(
        x,
        grad,
        cpu=partial(_kernel_gradient_in_blocks, size, *how),
        default=partial(_kernel_gradient, size, *how),
    )
    return *pull(grad), grad_kernel.astype(kernel.dtype)


_dense.defvjp(_forward, _backward)


def _kernel_gradient(size, stride, dilation, x, grad):
    """XLA's own: the convolution is linear in its kernel."""
    kernel = jnp.zeros((size, size, x.shape[-1], grad.shape[-1]), x.dtype)
    pull = jax.linear_transpose(lambda k: _convolve(x, k, stride, dilation), kernel)
    return pull(grad)[0]


def _kernel_gradient_in_blocks(size, stride, dilation, x, grad):
    """The sum of one matrix product for each block of output cells, in float32."""
    (_, _, width, channels), (images, rows, columns, features) = x.shape, grad.shape
    some_rows = _divisor(rows, BLOCK // columns)
    some = 1 if some_rows < rows else _divisor(images, BLOCK // (rows * columns))
    reach, border = (size - 1) * dilation, size // 2 * dilation
    x = jnp.pad(x, ((0, 0), (border, border), (border, border), (0, 0)))
    block = some, (some_rows - 1) * stride + reach + 1, width + 2 * border, channels
    cells = some, some_rows, columns, features
    starts = [dilation * step for step in range(size)]
    ends = [(n - 1) * stride + 1 for n in (some_rows, columns)]

    def add(step, total):
        image, row = step // (rows // some_rows), step % (rows // some_rows)
        image, row = image * some, row * some_rows
        part = lax.dynamic_slice(x, (image, row * stride, 0, 0), block)
        windows = [
            part[:, y : y + ends[0] : stride, z : z + ends[1] : stride]
            for y in starts
            for z in starts
        ]
        windows = jnp.concatenate(windows, -1).reshape(-1, size * size * channels)
        grads = lax.dynamic_slice(grad, (image, row, 0, 0), cells)
        return total + jnp.dot(
            windows.T, grads.reshape(-1, features), preferred_element_type=jnp.float32
        )

    blocks = images // some * (rows // some_rows)
    total = jnp.zeros((size * size * channels, features), jnp.float32)
    total = lax.fori_loop(0, blocks, add, total)
    return total.reshape(size, size, channels, features).astype(x.dtype)


def _divisor(number: int, limit: int) -> int:
    """The largest divisor up to a limit; 1 where the limit is smaller."""
    return max(
        n for n in range(1, number + 1) if number % n == 0 and n <= max(limit, 1)
    )
