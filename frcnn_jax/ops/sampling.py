"""Drawing a fixed number of positives and negatives without replacement.

Randomness comes in as one priority per candidate: the highest win. `random_priority`
gives uniform sampling; `first_priority` takes the lowest indices, which is how recorded
targets of a peer are compared.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from frcnn_jax.ops.matching import NEGATIVE, POSITIVE


class Sample(NamedTuple):
    """`count` slots: positives first, then negatives, then empty ones."""

    # [S] int32 into the candidates; 0 where not valid
    index: Array  # type: ignore[assignment]
    valid: Array  # [S] bool
    positive: Array  # [S] bool


def sample(
    label: Int[Array, "n"],
    priority: Float[Array, "n"],
    *,
    count: int,
    positive_fraction: float,
) -> Sample:
    """Up to `count` candidates, at most int(count * fraction) of them positive.

    `label` is 1 positive, 0 negative, -1 never taken; `priority` must be >= 0 and
    decides who is taken when there are too many (ties: lower index). Slots are
    min(count, N); fewer candidates leave slots invalid.
    Counts equal mmdetection 3.3.0 `RandomSampler` (no negative limit) exactly.
    """
    n = label.shape[0]
    slots = min(count, n)
    positives = min(int(count * positive_fraction), n)
    pos_index, pos_count = _best(label == POSITIVE, priority, positives)
    neg_index, neg_count = _best(label == NEGATIVE, priority, slots)
    neg_count = jnp.minimum(neg_count, slots - pos_count)
    slot = jnp.arange(slots)
    positive = slot < pos_count
    valid = slot < pos_count + neg_count
    from_pos = pos_index[jnp.minimum(slot, max(positives - 1, 0))] if positives else 0
    from_neg = neg_index[jnp.clip(slot - pos_count, 0, slots - 1)]
    index = jnp.where(positive, from_pos, from_neg)
    return Sample(jnp.where(valid, index, 0), valid, positive)


def random_priority(key: Array, n: int) -> Float[Array, "{n}"]:
    """Uniform priorities with 30 random bits each.

    The bits are read as a positive float32 (its order is that of the integer), because
    top-k of float32 is many times faster than of int32 on CPU and `uniform` would leave
    only 23 bits, hence ties.
    """
    bits = jax.random.bits(key, (n,), jnp.uint32)
    return jax.lax.bitcast_convert_type(
        (bits >> 2) + jnp.uint32(0x00800000), jnp.float32
    )


def first_priority(key: Array, n: int) -> Float[Array, "{n}"]:
    """Priorities that take the lowest indices first; `key` is not used."""
    del key
    return jnp.arange(n, 0, -1, dtype=jnp.float32)


def _best(eligible: Array, priority: Array, k: int) -> tuple[Array, Array]:
    """Indices of the k eligible candidates of highest priority, and how many exist."""
    if k == 0:
        return jnp.zeros(0, jnp.int32), jnp.int32(0)
    value, index = jax.lax.top_k(jnp.where(eligible, priority, -1.0), k)
    return index, (value >= 0).sum()
