"""Feature pyramid network (Lin et al. 2017), as in mmdetection and torchvision."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from frcnn_jax.models.layers import Conv
from frcnn_jax.models.resnet import STRIDES
from frcnn_jax.ops import canvas


class FPN(nn.Module):
    """Lateral 1x1 convolutions, nearest top-down sums, 3x3 outputs, no norm.

    Levels beyond the backbone's subsample the last one by two (`P6 = P5[::2, ::2]`).
    """

    channels: int = 256
    levels: int = 5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: dict[str, Float[Array, "b _ _ _"]],
        image_hw: Float[Array, "b 2"] | None = None,
    ) -> tuple[Float[Array, "b _ _ f"], ...]:
        """Maps P2.. from the backbone's C2.. of the same names, finest first."""
        stages = sorted(features)
        merged = {}
        above = None
        for stage in reversed(stages):
            lateral = self._conv(1, f"lateral{stage[1]}")(features[stage])
            above = lateral if above is None else lateral + _upsample(above, lateral)
            merged[stage] = above
        outputs = []
        for stage in stages:
            mask = None
            if image_hw is not None:
                cells = canvas.cells(image_hw, STRIDES[stage])
                mask = canvas.inside(merged[stage].shape[1:3], cells)
            outputs.append(self._conv(3, f"output{stage[1]}")(merged[stage], mask))
        while len(outputs) < self.levels:
            outputs.append(outputs[-1][:, ::2, ::2])
        return tuple(outputs)

    def _conv(self, kernel, name):
        return Conv(self.channels, kernel, use_bias=True, dtype=self.dtype, name=name)


def _upsample(x, like):
    """Nearest neighbour, source index floor(i / 2); sizes differ by exactly two."""
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)[:, : like.shape[1], : like.shape[2]]
