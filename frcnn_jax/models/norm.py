"""Batch normalisation with frozen statistics, or over the global batch.

Parameters `scale` and `bias` are in "params", `mean` and `var` in "batch_stats".
Whether scale and bias learn is decided by the optimiser's freeze patterns, not here.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

MOMENTUM = 0.1  # weight of the new batch in the running statistics, torch's default


class Norm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias over the channel axis.

    `statistics="frozen"` always uses the running statistics (mmdetection's norm_eval,
    detectron2's FrozenBN). `"batch"` uses those of the cells inside the images of the
    global batch while training and updates the running ones, as torch's SyncBatchNorm.
    """

    statistics: str = "frozen"
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        inside: Bool[Array, "b h w 1"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b h w c"]:
        """Normalises; `inside` marks the cells that count in batch statistics."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        used = mean.value, var.value
        if train and self.statistics == "batch":
            moments = self._moments(x.astype(jnp.float32), inside)
            used = moments[:2]
            if not self.is_initializing():
                self._update(mean, var, *moments)
        factor = scale * jax.lax.rsqrt(used[1] + self.eps)
        offset = bias - used[0] * factor
        return x.astype(self.dtype) * factor.astype(self.dtype) + offset.astype(
            self.dtype
        )

    def _moments(self, x, inside):
        """Mean, biased variance and number of cells over every device's batch."""
        weight = jnp.ones((*x.shape[:3], 1)) if inside is None else inside
        weight = weight.astype(jnp.float32)
        count = self._total(weight.sum())
        mean = self._total((x * weight).sum((0, 1, 2))) / count
        spread = (x - mean) ** 2 * weight
        return mean, self._total(spread.sum((0, 1, 2))) / count, count

    def _total(self, x):
        return x if self.axis_name is None else jax.lax.psum(x, self.axis_name)

    def _update(self, mean, var, new_mean, new_var, count):
        unbiased = new_var * count / jnp.maximum(count - 1.0, 1.0)
        mean.value += MOMENTUM * (new_mean - mean.value)
        var.value += MOMENTUM * (unbiased - var.value)
