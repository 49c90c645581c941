"""MobileNetV3-Large (Howard et al. 2019), the trunk of torchvision's small detectors.

Fifteen inverted residuals between a 3x3 and a 1x1 convolution: expand by a 1x1, one
3x3 or 5x5 per channel, scale the channels by what the whole image holds, project back.
No classifier. Equals torchvision 0.29 `mobilenet_v3_large` to float32 rounding.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from frcnn_jax.models.layers import Conv
from frcnn_jax.models.norm import Norm
from frcnn_jax.models.resnet import Masks


class Shape(NamedTuple):
    """One inverted residual at width 1."""

    kernel: int
    expanded: int  # channels between the two 1x1
    features: int  # channels of the output
    excite: bool  # with squeeze-and-excitation
    hard: bool  # hard swish; else relu
    stride: int


STEM = 16
BLOCKS = (
    Shape(3, 16, 16, False, False, 1),
    Shape(3, 64, 24, False, False, 2),
    Shape(3, 72, 24, False, False, 1),
    Shape(5, 72, 40, True, False, 2),
    Shape(5, 120, 40, True, False, 1),
    Shape(5, 120, 40, True, False, 1),
    Shape(3, 240, 80, False, True, 2),
    Shape(3, 200, 80, False, True, 1),
    Shape(3, 184, 80, False, True, 1),
    Shape(3, 184, 80, False, True, 1),
    Shape(3, 480, 112, True, True, 1),
    Shape(3, 672, 112, True, True, 1),
    Shape(5, 672, 160, True, True, 2),
    Shape(5, 960, 160, True, True, 1),
    Shape(5, 960, 160, True, True, 1),
)
OUTPUT = 13  # the block, counted from 1, after which "c5" is taken


def channels(count: int | float) -> int:
    """The multiple of 8 next to `count`, but not below nine tenths of it."""
    rounded = max(8, int(count + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count else rounded


class InvertedResidual(nn.Module):
    """Expand, filter each channel, excite, project; plus the input where shapes agree.

    `inside` masks are (input cells, output cells).
    """

    shape: Shape
    conv: partial
    norm: partial

    @nn.compact
    def __call__(self, x, inside, train):
        """One block."""
        kernel, expanded, features, excite, hard, stride = self.shape
        activation = nn.hard_swish if hard else nn.relu
        y = x
        if expanded != x.shape[-1]:
            y = self.conv(expanded, name="expand_conv")(y)
            y = activation(self.norm(name="expand_norm")(y, inside[0], train))
        depthwise = self.conv(
            expanded, kernel, stride, groups=expanded, name="depthwise_conv"
        )
        y = depthwise(y, inside[0])
        y = activation(self.norm(name="depthwise_norm")(y, inside[1], train))
        if excite:
            y = y * self._excitation(y, inside[1])
        y = self.conv(features, name="project_conv")(y)
        y = self.norm(name="project_norm")(y, inside[1], train)
        return x + y if x.shape == y.shape else y

    def _excitation(self, x, inside):
        """A factor 0..1 per image and channel, from the mean over the image's cells."""
        dense = partial(self.conv, use_bias=True)
        squeezed = channels(x.shape[-1] // 4)
        y = nn.relu(dense(squeezed, name="squeeze")(_mean(x, inside)))
        return nn.hard_sigmoid(dense(x.shape[-1], name="excite")(y))


def _mean(x: Float[Array, "b h w c"], inside: Bool[Array, "b h w 1"] | None):
    """Mean over the image's own cells, float32, [b, 1, 1, c]."""
    return x.astype(jnp.float32).mean((1, 2), keepdims=True, where=inside)


class MobileNetV3(nn.Module):
    """Trunk with two outputs of stride 32: "c5" after block 13, "c6" the last 1x1."""

    width: float = 1.0
    norm: str = "frozen"
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
        """Normalised images to maps by name; `masks` mark the images' cells."""
        at = (masks or {}).get
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(
            Norm, self.norm, self.norm_eps, self.dtype, axis_name=self.axis_name
        )
        ends = partial(_Activated, conv=conv, norm=norm)
        stem = ends(channels(STEM * self.width), 3, 2, name="stem")
        x, stride, outputs = stem(images, at(1), at(2), train), 2, {}
        for number, shape in enumerate(self._blocks(), start=1):
            inside = at(stride), at(stride * shape.stride)
            stride *= shape.stride
            x = InvertedResidual(shape, conv, norm, name=f"block{number}")(
                x, inside, train
            )
            if number == OUTPUT:
                outputs["c5"] = x
        last = ends(6 * x.shape[-1], 1, 1, name="last")
        outputs["c6"] = last(x, at(stride), at(stride), train)
        return outputs

    def _blocks(self) -> list[Shape]:
        return [
            shape._replace(
                expanded=channels(shape.expanded * self.width),
                features=channels(shape.features * self.width),
            )
            for shape in BLOCKS
        ]


class _Activated(nn.Module):
    """Convolution, norm, hard swish: the first and the last layer."""

    features: int
    kernel: int
    stride: int
    conv: partial
    norm: partial

    @nn.compact
    def __call__(self, x, inside, inside_after, train):
        x = self.conv(self.features, self.kernel, self.stride, name="conv")(x, inside)
        return nn.hard_swish(self.norm(name="norm")(x, inside_after, train))
