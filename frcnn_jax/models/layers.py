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
    """Convolution; 1x1 kernels run as matrix products, which is quicker in training."""

    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
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
        if self.kernel == 1 and self.groups == 1:
            y = x[:, :: self.stride, :: self.stride] @ kernel[0, 0]
        else:
            x = x if inside is None else jnp.where(inside, x, 0)
            y = convolve(x, kernel, stride=self.stride, groups=self.groups)
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


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """3x3 maximum, stride 2, padding 1 with -inf: the pool of every ResNet stem."""
    window = (1, 3, 3, 1)
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 2, 2, 1), padding)
