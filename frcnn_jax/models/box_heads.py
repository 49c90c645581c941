"""Second-stage heads: crops in, class logits and box deltas out."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from frcnn_jax.models.layers import Dense


class Predictor(nn.Module):
    """Class logits (background first) and class-specific deltas."""

    num_classes: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "k c"]
    ) -> tuple[
        Float[Array, "k {self.num_classes}+1"], Float[Array, "k {self.num_classes} 4"]
    ]:
        """Features of K RoIs to float32 outputs."""
        logits = Dense(self.num_classes + 1, self.dtype, name="classes")(x)
        deltas = Dense(self.num_classes * 4, self.dtype, name="deltas")(x)
        deltas = deltas.reshape(-1, self.num_classes, 4)
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)


class FCHead(nn.Module):
    """Flattened crop, fully connected layers with relu, predictor."""

    num_classes: int
    hidden: tuple[int, ...] = (1024, 1024)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, crops: Float[Array, "k s s c"]
    ) -> tuple[
        Float[Array, "k {self.num_classes}+1"], Float[Array, "k {self.num_classes} 4"]
    ]:
        """K crops, flattened row by row (s, s, c), to float32 outputs."""
        x = crops.reshape(crops.shape[0], -1)
        for index, features in enumerate(self.hidden, start=1):
            x = nn.relu(Dense(features, self.dtype, name=f"fc{index}")(x))
        return Predictor(self.num_classes, self.dtype, name="predictor")(x)
