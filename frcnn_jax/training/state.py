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
    skipped: jax.Array  # int32, steps without effect: something was not finite
    loss_scale: LossScale | None = None  # None: the loss is differentiated as it is


def create(
    variables: Variables,
    tx: optax.GradientTransformation,
    freeze: tuple[str, ...],
    loss_scale: LossScale | None = None,
) -> TrainState:
    """A state before the first step; only trainable parameters get optimiser state."""
    trainable, _ = optimizer.split(variables["params"], freeze)
    start, skipped = jnp.int32(0), jnp.int32(0)
    return TrainState(start, variables, tx.init(trainable), skipped, loss_scale)
