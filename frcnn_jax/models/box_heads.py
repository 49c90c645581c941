"""Second-stage heads: crops in, class logits and box deltas out."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from frcnn_jax.models.layers import Conv, Dense
from frcnn_jax.models.resnet import Stage


class Predictor(nn.Module):
    """Class logits (background first) and class-specific deltas.

    `background_deltas` are four more outputs before the others, as torchvision and
    jwyang have them; nothing ever reads them.
    """

    num_classes: int
    background_deltas: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "k c"]
    ) -> tuple[
        Float[Array, "k {self.num_classes}+1"], Float[Array, "k {self.num_classes} 4"]
    ]:
        """Features of K RoIs to float32 outputs."""
        logits = Dense(self.num_classes + 1, self.dtype, name="classes")(x)
        unused = 1 if self.background_deltas else 0
        outputs = 4 * (self.num_classes + unused)
        deltas = Dense(outputs, self.dtype, name="deltas")(x)
        deltas = deltas.reshape(x.shape[0], -1, 4)[:, unused:]
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)


class FCHead(nn.Module):
    """Convolutions with norm, flattened crop, fully connected layers, predictor.

    Relu after each layer. Dropout is in the masks that the caller draws, so that it
    does not depend on how images are spread over devices.
    """

    predictor: partial
    convs: tuple[int, ...] = ()
    hidden: tuple[int, ...] = (1024, 1024)
    norm: partial | None = None  # of the convolutions
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        crops: Float[Array, "k s s c"],
        valid: Bool[Array, "k"] | None = None,
        train: bool = False,
        dropout: Sequence[Float[Array, "k _"]] = (),
    ) -> tuple[Float[Array, "k _"], Float[Array, "k _ 4"]]:
        """K crops, flattened row by row (s, s, c), to float32 outputs.

        `valid` marks the crops that count in batch statistics. `dropout` multiplies the
        output of each fully connected layer.
        """
        x, inside = crops, _cells_of(crops, valid)
        for index, features in enumerate(self.convs, start=1):
            x = Conv(features, 3, dtype=self.dtype, name=f"conv{index}")(x)
            x = nn.relu(self.norm(name=f"norm{index}")(x, inside, train))
        x = x.reshape(x.shape[0], -1)
        for index, features in enumerate(self.hidden, start=1):
            x = nn.relu(Dense(features, self.dtype, name=f"fc{index}")(x))
            x = x * dropout[index - 1].astype(self.dtype) if dropout else x
        return self.predictor(name="predictor")(x)


class Res5Head(nn.Module):
    """The last stage of a ResNet on each crop, its mean, predictor (C4 models)."""

    predictor: partial
    block: partial
    blocks: int

    @nn.compact
    def __call__(
        self,
        crops: Float[Array, "k s s c"],
        valid: Bool[Array, "k"] | None = None,
        train: bool = False,
        dropout: Sequence[Float[Array, "k _"]] = (),
    ) -> tuple[Float[Array, "k _"], Float[Array, "k _ 4"]]:
        """K crops to float32 outputs; arguments as in `FCHead`."""
        del valid, dropout  # norms are frozen, and there is nothing to drop
        stage = Stage(self.blocks, 2, self.block, name="layer4")
        x = stage(crops, (None, None), train)
        return self.predictor(name="predictor")(x.mean((1, 2)))


def _cells_of(crops, valid):
    """All cells of the crops that count, as a mask; None when all do."""
    if valid is None:
        return None
    return jnp.broadcast_to(valid[:, None, None, None], (*crops.shape[:3], 1))
