"""Feature pyramid network (Lin et al. 2017), as in mmdetection and torchvision."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from frcnn_jax.models.layers import Conv
from frcnn_jax.models.norm import Norm


class FPN(nn.Module):
    """Lateral 1x1 convolutions, nearest top-down sums, 3x3 outputs.

    With `norm` other than "none" each convolution has a norm instead of a bias and no
    activation, as torchvision's second version. Levels beyond the backbone's subsample
    the last one by two (`P6 = P5[::2, ::2]`).
    """

    channels: int = 256
    levels: int = 5
    norm: str = "none"
    norm_eps: float = 1e-5
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        features: dict[str, Float[Array, "b _ _ _"]],
        inside: Mapping[str, Bool[Array, "b _ _ 1"]] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "b _ _ f"], ...]:
        """Maps P2.. from the backbone's C2.. of the same names, finest first.

        `inside` marks the images' cells of each stage.
        """
        stages = sorted(features)
        at = (inside or {}).get
        merged = {}
        above = None
        for stage in reversed(stages):
            x = self._conv(features[stage], 1, f"lateral{stage[1]}", at(stage), train)
            above = x if above is None else x + _upsample(above, x)
            merged[stage] = above
        outputs = [
            self._conv(merged[stage], 3, f"output{stage[1]}", at(stage), train)
            for stage in stages
        ]
        while len(outputs) < self.levels:
            outputs.append(outputs[-1][:, ::2, ::2])
        return tuple(outputs)

    def _conv(self, x, kernel, name, inside, train):
        plain = self.norm == "none"
        conv = Conv(self.channels, kernel, use_bias=plain, dtype=self.dtype, name=name)
        x = conv(x, inside)
        if plain:
            return x
        norm = Norm(
            self.norm,
            self.norm_eps,
            self.dtype,
            axis_name=self.axis_name,
            name=f"{name}_norm",
        )
        return norm(x, inside, train)


def _upsample(x, like):
    """Nearest neighbour, source index floor(i / 2); equal sizes stay."""
    if x.shape[1:3] == like.shape[1:3]:
        return x
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)[:, : like.shape[1], : like.shape[2]]
