"""Everything that changes during training and is saved."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from frcnn_jax.training import optimizer
from frcnn_jax.training.loss_scale import LossScale
from frcnn_jax.types import Variables


class TrainState(NamedTuple):
    """Parameters, batch statistics, optimiser state, and the number of steps done."""

    step: jax.Array  # int32
    variables: Variables
    opt_state: Any
    loss_scale: LossScale | None = None  # None: the loss is differentiated as it is


def create(
    variables: Variables,
    tx: optax.GradientTransformation,
    freeze: tuple[str, ...],
    loss_scale: LossScale | None = None,
) -> TrainState:
    """A state before the first step; only trainable parameters get optimiser state."""
    trainable, _ = optimizer.split(variables["params"], freeze)
    return TrainState(jnp.int32(0), variables, tx.init(trainable), loss_scale)
