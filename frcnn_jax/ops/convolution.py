"""2-D convolution, NHWC and HWIO, padded symmetrically as in torch.

XLA's own gradient is used everywhere but in one place: on CPUs its weight gradient of
3x3 convolutions over wide maps with many channels runs some five times slower than nine
matrix products over the pixels (200x336 cells, 256 channels, two cores: 3.7 s against
0.75 s), and the pyramid and the RPN have exactly these shapes.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

WIDE_PIXELS, WIDE_CHANNELS = 2**13, 2**16  # H * W and C_in * C_out from which it pays


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k c//{groups} f"],
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> Float[Array, "b i j f"]:
    """Convolution with k // 2 * dilation zeros on every side."""
    size, _, channels, features = kernel.shape
    wide = x.shape[1] * x.shape[2] >= WIDE_PIXELS
    wide = wide and channels * features >= WIDE_CHANNELS
    if wide and size == 3 and stride == groups == dilation == 1:
        return _wide_convolve(x, kernel)
    return _convolve(x, kernel, stride, groups, dilation)


def _convolve(x, kernel, stride=1, groups=1, dilation=1):
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


@jax.custom_vjp
def _wide_convolve(x, kernel):
    return _convolve(x, kernel)


def _forward(x, kernel):
    return _convolve(x, kernel), (x, kernel)


def _backward(saved, grad):
    x, kernel = saved
    _, pull_x = jax.vjp(lambda x: _convolve(x, kernel), x)
    grad_kernel = lax.platform_dependent(
        x, grad, cpu=_nine_products, default=_kernel_gradient
    )
    return *pull_x(grad), grad_kernel.astype(kernel.dtype)


_wide_convolve.defvjp(_forward, _backward)


def _kernel_gradient(x, grad):
    """XLA's own: the convolution is linear in its kernel, so any kernel will do."""
    shape = (3, 3, x.shape[-1], grad.shape[-1])
    _, pull = jax.vjp(lambda kernel: _convolve(x, kernel), jnp.zeros(shape, x.dtype))
    return pull(grad)[0]


def _nine_products(x, grad):
    """For each of the nine offsets the product of shifted input and gradient."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def product(row, column):
        shifted = padded[:, row : row + height, column : column + width]
        return jnp.einsum("bhwc,bhwf->cf", shifted, grad)

    return jnp.stack(
        [jnp.stack([product(row, column) for column in range(3)]) for row in range(3)]
    ).astype(x.dtype)
