"""Convolution and dense layers, NHWC, with symmetric padding as in torch."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from frcnn_jax.ops.convolution import convolve

# Values come from `initialise.initialise`; see the package docstring.
DECLARED = nn.initializers.zeros


class Conv(nn.Module):
    """Convolution, with a bias or without."""

    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    dilation: int = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], inside: Bool[Array, "b h w 1"] | None = None
    ) -> Float[Array, "b i j f"]:
        """`inside` marks the image's own cells; the rest counts as zero padding."""
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", DECLARED, shape).astype(self.dtype)
        x = x.astype(self.dtype)
        if inside is not None and self.kernel > 1:  # 1x1 kernels see no other cell
            x = jnp.where(inside, x, 0)
        y = convolve(
            x,
            kernel,
            stride=self.stride,
            groups=self.groups,
            dilation=self.dilation,
        )
        if self.use_bias:
            bias = self.param("bias", DECLARED, (self.features,))
            y = y + bias.astype(self.dtype)
        return y


class Dense(nn.Module):
    """Fully connected layer with bias."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b f"]:
        """Maps the last axis."""
        kernel = self.param("kernel", DECLARED, (x.shape[-1], self.features))
        bias = self.param("bias", DECLARED, (self.features,))
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(
            self.dtype
        )


def max_pool(
    x: Float[Array, "b h w c"], *, window: int = 3, padding: tuple[int, int] = (1, 1)
) -> Float[Array, "b i j c"]:
    """Maximum over a window of stride 2; `padding` cells of -inf before and after.

    The defaults are the pool of every ResNet stem; padding (0, 1) is Caffe's, whose
    last window may hang over the edge.
    """
    size, sides = (1, window, window, 1), ((0, 0), padding, padding, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, size, (1, 2, 2, 1), sides)
