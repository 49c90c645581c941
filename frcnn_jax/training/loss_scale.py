"""Dynamic loss scaling: gradients too small for float16 (Micikevicius 2018).

As torch's GradScaler with its defaults, which mmdetection uses: the loss is multiplied
by a factor and the gradient divided by it. A gradient that is not finite halves the
factor and its step has no effect; after 2000 good steps in a row the factor doubles.
bfloat16 has the range of float32 and needs none of it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

GOOD_STEPS = 2000  # in a row, before the factor doubles


class LossScale(NamedTuple):
    """The factor, and what it depends on."""

    value: jax.Array  # float32
    good_steps: jax.Array  # int32, since the factor last changed


def start(value: float) -> LossScale:
    """Before the first step."""
    return LossScale(jnp.float32(value), jnp.int32(0))


def scaled(loss: jax.Array, scale: LossScale | None) -> jax.Array:
    """The loss to differentiate; itself without a scale."""
    return loss if scale is None else loss * scale.value


def unscaled(grads: Any, scale: LossScale | None) -> Any:
    """The gradient of the loss itself."""
    return grads if scale is None else jax.tree.map(lambda g: g / scale.value, grads)


def adjusted(scale: LossScale, finite: jax.Array) -> LossScale:
    """The scale after a step whose gradient was finite, or was not."""
    good = jnp.where(finite, scale.good_steps + 1, 0)
    grow = good == GOOD_STEPS
    value = scale.value * jnp.where(finite, jnp.where(grow, 2.0, 1.0), 0.5)
    return LossScale(value, jnp.where(grow, 0, good))
