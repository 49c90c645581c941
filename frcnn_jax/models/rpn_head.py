"""The region proposal head (Ren et al. 2015), shared by all levels."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from frcnn_jax.models.layers import Conv


class RPNHead(nn.Module):
    """3x3 convolutions with relu, then one logit and four deltas per anchor.

    Anchors are in the order of `ops.anchors`: row, column, anchor. `two_way` has
    Caffe's two logits per anchor, all backgrounds before all objects, whose difference
    is the objectness: softmax over the two is its sigmoid.
    """

    channels: int
    anchors_per_cell: int
    convs: int = 1
    two_way: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        features: Sequence[Float[Array, "b _ _ c"]],
        inside: Sequence[Bool[Array, "b _ _ 1"] | None],
    ) -> tuple[tuple[Float[Array, "b _"], ...], tuple[Float[Array, "b _ 4"], ...]]:
        """Objectness logits and deltas per level, float32."""
        conv = partial(Conv, use_bias=True, dtype=self.dtype)
        names = ["conv", *(f"conv{i}" for i in range(2, self.convs + 1))]
        hidden = [conv(self.channels, 3, name=name) for name in names]
        a = self.anchors_per_cell
        objectness = conv(a * (2 if self.two_way else 1), name="objectness")
        deltas = conv(4 * a, name="deltas")
        all_logits, all_deltas = [], []
        for x, mask in zip(features, inside, strict=True):
            for layer in hidden:
                x = nn.relu(layer(x, mask))
            logits = objectness(x).astype(jnp.float32)
            if self.two_way:
                logits = logits[..., a:] - logits[..., :a]
            all_logits.append(logits.reshape(x.shape[0], -1))
            boxes = deltas(x).astype(jnp.float32)
            all_deltas.append(boxes.reshape(x.shape[0], -1, 4))
        return tuple(all_logits), tuple(all_deltas)
