"""ResNet 18-152 (He et al. 2016) and ResNeXt (Xie et al. 2017), as the peers have it.

Pytorch style puts a stage's stride on the 3x3 convolution of its first bottleneck,
caffe style on its first 1x1; parameter names and shapes are the same. Basic blocks (18,
34) have it on the first 3x3 in both. A dilated stage 5 (DC5) keeps stride 16 and
dilates every 3x3 by two, its first block's too, as mmdetection and detectron2 do. No
classifier.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from frcnn_jax.models.layers import Conv, max_pool
from frcnn_jax.models.norm import Norm

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
Masks = dict[int, Bool[Array, "b _ _ 1"]] | None  # by stride; None: no masking
STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}  # pixels per cell of each output


class Stem(nn.Module):
    """7x7 convolution of stride 2, norm, relu, 3x3 max-pool of stride 2."""

    width: int
    pool: str
    conv: partial
    norm: partial

    @nn.compact
    def __call__(self, x, inside_1, inside_2, train):
        """Pixels to maps of stride 4; masks are those of strides 1 and 2."""
        x = self.conv(self.width, kernel=7, stride=2, name="conv")(x, inside_1)
        x = nn.relu(self.norm(name="norm")(x, inside_2, train))
        x = x if inside_2 is None else jnp.where(inside_2, x, 0)
        return max_pool(x, padding=(0, 1) if self.pool == "ceil" else (1, 1))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut; `inside` masks are (input cells, output cells).

    In ResNeXt the 3x3 is grouped; `group_width` is per group at 64 planes.
    """

    planes: int
    stride: int
    stride_in_1x1: bool
    groups: int
    group_width: int
    dilation: int
    conv: partial
    norm: partial

    @nn.compact
    def __call__(self, x, inside, train):
        """One block."""
        first, second = (self.stride, 1) if self.stride_in_1x1 else (1, self.stride)
        middle = inside[1] if self.stride_in_1x1 else inside[0]
        inner = self.planes * self.group_width // 64 * self.groups
        y = self.conv(inner, stride=first, name="conv1")(x)
        y = nn.relu(self.norm(name="norm1")(y, middle, train))
        grouped = partial(self.conv, groups=self.groups, dilation=self.dilation)
        y = grouped(inner, kernel=3, stride=second, name="conv2")(y, middle)
        y = nn.relu(self.norm(name="norm2")(y, inside[1], train))
        y = self.conv(self.planes * 4, name="conv3")(y)
        y = self.norm(name="norm3")(y, inside[1], train)
        return _end(y + _shortcut(self, x, y, inside[1], train))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    planes: int
    stride: int
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
        return _end(y + _shortcut(self, x, y, inside[1], train))


def _shortcut(block, x, y, inside, train):
    """The input itself, or projected where the shape changes."""
    if x.shape == y.shape:
        return x
    x = block.conv(y.shape[-1], stride=block.stride, name="shortcut_conv")(x)
    return block.norm(name="shortcut_norm")(x, inside, train)


@jax.custom_jvp
def _end(x):
    """The relu at the end of a block, on CPUs as a choice and not as a maximum.

    There XLA repeats a maximum with a constant wherever it is read, with the sum before
    it. Through the shortcuts the end of every block, and its gradient, would compute
    the ends of all blocks before it once more: kernels that grow with the depth. A
    choice is computed once.
    """
    return jax.lax.platform_dependent(x, cpu=_choice, default=nn.relu)


def _choice(x):
    return jnp.where(x <= 0, 0, x)  # NaN stays NaN, as in a maximum


@_end.defjvp
def _end_jvp(primals, tangents):
    return _end(*primals), jnp.where(primals[0] > 0, tangents[0], 0)


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
    stem_width: int = 0  # 0 = width
    groups: int = 1
    group_width: int = 64
    stride_in_1x1: bool = False
    dilate_c5: bool = False
    stem_pool: str = "padded"
    stages: tuple[str, ...] = ("c2", "c3", "c4", "c5")
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
        """Normalised images to maps by stage name; `masks` mark the images' cells."""
        at = (masks or {}).get
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(
            Norm, self.norm, self.norm_eps, self.dtype, axis_name=self.axis_name
        )
        x = Stem(
            self.stem_width or self.width, self.stem_pool, conv, norm, name="stem"
        )(images, at(1), at(2), train)
        outputs = {}
        deepest = max(int(stage[1]) for stage in self.stages) - 1
        before = 4
        for layer in range(1, deepest + 1):
            dilated = self.dilate_c5 and layer == 4
            stride = 1 if dilated else min(layer, 2)
            stage = self._stage(layer, stride, 2 if dilated else 1, conv, norm)
            x = stage(x, (at(before), at(before * stride)), train)
            before *= stride
            if f"c{layer + 1}" in self.stages:
                outputs[f"c{layer + 1}"] = x
        return outputs

    def _stage(self, layer: int, stride: int, dilation: int, conv, norm) -> Stage:
        planes = self.width * 2 ** (layer - 1)
        block: partial = partial(BasicBlock, planes, conv=conv, norm=norm)
        if self.depth >= 50:
            block = partial(
                Bottleneck,
                planes,
                stride_in_1x1=self.stride_in_1x1,
                groups=self.groups,
                group_width=self.group_width,
                dilation=dilation,
                conv=conv,
                norm=norm,
            )
        return Stage(BLOCKS[self.depth][layer - 1], stride, block, name=f"layer{layer}")
