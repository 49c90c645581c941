"""The region proposal head (Ren et al. 2015), shared by all levels."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from frcnn_jax.models.layers import Conv


class RPNHead(nn.Module):
    """3x3 convolution and relu, then one logit and four deltas per anchor.

    Anchors are in the order of `ops.anchors`: row, column, anchor.
    """

    channels: int
    anchors_per_cell: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Sequence[Float[Array, "b _ _ c"]],
        inside: Sequence[Bool[Array, "b _ _ 1"] | None],
    ) -> tuple[tuple[Float[Array, "b _"], ...], tuple[Float[Array, "b _ 4"], ...]]:
        """Objectness logits and deltas per level, float32."""
        conv = Conv(self.channels, 3, use_bias=True, dtype=self.dtype, name="conv")
        a = self.anchors_per_cell
        objectness = Conv(a, use_bias=True, dtype=self.dtype, name="objectness")
        deltas = Conv(4 * a, use_bias=True, dtype=self.dtype, name="deltas")
        all_logits, all_deltas = [], []
        for feature, mask in zip(features, inside, strict=True):
            hidden = nn.relu(conv(feature, mask))
            batch = feature.shape[0]
            logits = objectness(hidden).astype(jnp.float32)
            all_logits.append(logits.reshape(batch, -1))
            boxes = deltas(hidden).astype(jnp.float32)
            all_deltas.append(boxes.reshape(batch, -1, 4))
        return tuple(all_logits), tuple(all_deltas)
