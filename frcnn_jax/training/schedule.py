"""Learning rate over steps: linear warm-up, then drops at milestones."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from frcnn_jax import config


def base_rate(train: config.Train) -> float:
    """Learning rate for this batch size, by the linear scaling rule (Goyal 2017)."""
    if not train.lr_batch_size:
        return train.lr
    return train.lr * train.batch_size / train.lr_batch_size


def text(train: config.Train) -> str:
    """For people: "learning rate 0.0025 (0.02 for 16 images, scaled to 2)"."""
    rate, scaled = base_rate(train), ""
    if rate != train.lr:
        of = f"{train.lr:g} for {train.lr_batch_size} images"
        scaled = f" ({of}, scaled to {train.batch_size})"
    return f"learning rate {rate:g}{scaled}"


def learning_rate(
    train: config.Train, milestones: tuple[int, ...]
) -> Callable[[ArrayLike], Array]:
    """Step (0-based) to rate; `milestones` are the steps at which it drops.

    During warm-up the factor goes from warmup_factor at step 0 to 1 at step
    warmup_steps - 1, as mmdetection 3.3.0 does (its divisor is one less than its number
    of warm-up iterations). Warm-up and drops multiply.
    """
    rate, start = base_rate(train), train.warmup_factor
    span = max(train.warmup_steps - 1, 1)

    def at(step: Array) -> Array:
        warmup: Array | float = jnp.minimum(start + (1.0 - start) * step / span, 1.0)
        if train.warmup_steps <= 1:
            warmup = 1.0
        drops = sum((step >= m).astype(jnp.float32) for m in milestones)
        return rate * warmup * train.decay_factor ** jnp.asarray(drops, jnp.float32)

    return lambda step: at(jnp.asarray(step))
