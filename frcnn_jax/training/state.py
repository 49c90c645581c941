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
    ema: Variables | None = None  # averaged over steps; None: no average is kept

    @property
    def best(self) -> Variables:
        """The variables to evaluate: the average where there is one."""
        return self.variables if self.ema is None else self.ema


def create(
    variables: Variables,
    tx: optax.GradientTransformation,
    freeze: tuple[str, ...],
    loss_scale: LossScale | None = None,
    *,
    averaged: bool = False,
) -> TrainState:
    """A state before the first step; only trainable parameters get optimiser state.

    With `averaged` the average begins as a copy of the variables.
    """
    trainable, _ = optimizer.split(variables["params"], freeze)
    start, skipped = jnp.int32(0), jnp.int32(0)
    ema = jax.tree.map(jnp.copy, variables) if averaged else None
    return TrainState(start, variables, tx.init(trainable), skipped, loss_scale, ema)


def average(ema: Variables, new: Variables, step: jax.Array, decay: float) -> Variables:
    """The average after a step: ema + (1 - d) (new - ema), also of batch statistics.

    d = min(decay, (1 + step) / (10 + step)), so that the first weights are soon
    forgotten, as TensorFlow's ExponentialMovingAverage does with `num_updates`. What
    does not change keeps its bits.
    """
    step = step.astype(jnp.float32)
    rest = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, now: old + rest * (now - old), ema, new)
