"""Classification losses."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def binary_cross_entropy(
    logits: Float[Array, "*b"], targets: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """-log likelihood of 0/1 targets under sigmoid(logits), stable for any logit."""
    logits = logits.astype(jnp.float32)
    return jax.nn.softplus(logits) - logits * targets


def cross_entropy(
    logits: Float[Array, "*b c"], labels: Int[Array, "*b"]
) -> Float[Array, "*b"]:
    """-log likelihood of the labels under softmax(logits)."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(log_probs, labels[..., None], -1)[..., 0]
