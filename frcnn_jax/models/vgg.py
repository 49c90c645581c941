"""VGG-16 (Simonyan & Zisserman 2015, configuration D) up to conv5_3."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from frcnn_jax.models.layers import Conv, max_pool
from frcnn_jax.models.norm import Norm
from frcnn_jax.models.resnet import Masks

STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))  # convolutions, widths of the first
STRIDE = 16  # pixels per cell of the output


class VGG16(nn.Module):
    """Five stages of 3x3 convolutions with bias and relu, 2x2 max-pools in between.

    Equals `features[:30]` of torchvision 0.29's vgg16, which jwyang's and
    py-faster-rcnn's detectors share, to float32 rounding; with a norm after each
    convolution ("frozen" or "batch") `features[:43]` of its vgg16_bn. A pool drops an
    odd last row or column, so an image owns floor(side / stride) cells: rule "floor"
    of `ops.canvas.cells`.
    """

    width: int = 64
    norm: str = "none"
    norm_eps: float = 1e-5
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        masks: Masks = None,
        train: bool = False,
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Normalised images to {"c5": map of stride 16}; `masks` as in `ResNet`."""
        norm = None
        if self.norm != "none":
            shared = self.norm, self.norm_eps, self.dtype
            norm = partial(Norm, *shared, axis_name=self.axis_name)
        at, x, stride = (masks or {}).get, images, 1
        for number, (convs, factor) in enumerate(STAGES, start=1):
            if number > 1:
                x, stride = max_pool(x, window=2, padding=(0, 0)), stride * 2
            stage = _Stage(
                *(convs, self.width * factor, norm, self.dtype), name=f"stage{number}"
            )
            x = stage(x, at(stride), train)
        return {"c5": x}


class _Stage(nn.Module):
    convs: int
    features: int
    norm: Callable[..., nn.Module] | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x, inside, train):
        for number in range(1, self.convs + 1):
            conv = Conv(
                self.features, 3, use_bias=True, dtype=self.dtype, name=f"conv{number}"
            )
            x = conv(x, inside)
            if self.norm is not None:
                x = self.norm(name=f"norm{number}")(x, inside, train)
            x = nn.relu(x)
        return x
