"""ResNet 18-152 (He et al. 2016), the trunk of torchvision and mmdetection.

Pytorch style puts a stage's stride on the 3x3 convolution of its first bottleneck,
caffe style on its first 1x1; parameter names and shapes are the same. Basic blocks (18,
34) have it on the first 3x3 in both. No classifier.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from frcnn_jax.models.layers import Conv, max_pool
from frcnn_jax.models.norm import Norm
from frcnn_jax.ops import canvas

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}  # pixels per cell of each output


class Stem(nn.Module):
    """7x7 convolution of stride 2, norm, relu, 3x3 max-pool of stride 2."""

    width: int
    conv: partial
    norm: partial

    @nn.compact
    def __call__(self, x, inside_1, inside_2, train):
        """Pixels to maps of stride 4; masks are those of strides 1 and 2."""
        x = self.conv(self.width, kernel=7, stride=2, name="conv")(x, inside_1)
        x = nn.relu(self.norm(name="norm")(x, inside_2, train))
        x = x if inside_2 is None else jnp.where(inside_2, x, 0)
        return max_pool(x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut; `inside` masks are (input cells, output cells)."""

    planes: int
    stride: int
    stride_in_1x1: bool
    conv: partial
    norm: partial

    @nn.compact
    def __call__(self, x, inside, train):
        """One block."""
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        middle = inside[1] if self.stride_in_1x1 else inside[0]
        y = self.conv(self.planes, stride=first, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y, middle, train))
        y = self.conv(self.planes, kernel=3, stride=second, name="conv2")(y, middle)
        y = nn.relu(self.norm(name="norm2")(y, inside[1], train))
        y = self.conv(self.planes * 4, name="conv3")(y)
        y = self.norm(name="norm3")(y, inside[1], train)
        return nn.relu(y + _shortcut(self, x, y, inside[1], train))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    planes: int
    stride: int
    stride_in_1x1: bool
    conv: partial
    norm: partial

    @nn.compact
    def __call__(self, x, inside, train):
        """One block; masks as in `Bottleneck`."""
        y = self.conv(self.planes, kernel=3, stride=self.stride, name="conv1")(
            x, inside[0]
        )
        y = nn.relu(self.norm(name="norm1")(y, inside[1], train))
        y = self.conv(self.planes, kernel=3, name="conv2")(y, inside[1])
        y = self.norm(name="norm2")(y, inside[1], train)
        return nn.relu(y + _shortcut(self, x, y, inside[1], train))


def _shortcut(block, x, y, inside, train):
    """The input itself, or projected where the shape changes."""
    if x.shape == y.shape:
        return x
    x = block.conv(y.shape[-1], stride=block.stride, name="shortcut_conv")(x)
    return block.norm(name="shortcut_norm")(x, inside, train)


class Stage(nn.Module):
    """A row of blocks, the first of which may halve the map."""

    blocks: int
    stride: int
    block: partial

    @nn.compact
    def __call__(self, x, inside, train):
        """All blocks; masks as in `Bottleneck`."""
        for index in range(self.blocks):
            stride = self.stride if index == 0 else 1
            x = self.block(stride=stride, name=f"block{index}")(x, inside, train)
            inside = inside[1], inside[1]
        return x


class ResNet(nn.Module):
    """Trunk up to the deepest stage asked for."""

    depth: int = 50
    width: int = 64
    stride_in_1x1: bool = False
    stages: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    norm: str = "frozen"
    norm_eps: float = 1e-5
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        image_hw: Float[Array, "b 2"] | None = None,
        train: bool = False,
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Normalised images to maps by stage name; `image_hw` turns masking on."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(
            Norm, self.norm, self.norm_eps, self.dtype, axis_name=self.axis_name
        )
        masks = _masks(images.shape[1:3], image_hw)
        x = Stem(self.width, conv, norm, name="stem")(images, masks[1], masks[2], train)
        block = partial(
            Bottleneck if self.depth >= 50 else BasicBlock,
            stride_in_1x1=self.stride_in_1x1,
            conv=conv,
            norm=norm,
        )
        outputs = {}
        deepest = max(int(stage[1]) for stage in self.stages) - 1
        for layer, blocks in enumerate(BLOCKS[self.depth][:deepest], start=1):
            stride, out_stride = min(layer, 2), 2 ** (layer + 1)
            planes = self.width * 2 ** (layer - 1)
            stage = Stage(blocks, stride, partial(block, planes), name=f"layer{layer}")
            x = stage(x, (masks[out_stride // stride], masks[out_stride]), train)
            if f"c{layer + 1}" in self.stages:
                outputs[f"c{layer + 1}"] = x
        return outputs


def _masks(canvas_hw, image_hw):
    """Cells inside the image for strides 1 to 32, or None each without masking."""
    strides = (1, 2, 4, 8, 16, 32)
    if image_hw is None:
        return dict.fromkeys(strides)
    return {
        stride: canvas.inside(
            (canvas_hw[0] // stride, canvas_hw[1] // stride),
            canvas.cells(image_hw, stride),
        )
        for stride in strides
    }
