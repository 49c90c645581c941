"""Greedy non-maximum suppression with fixed shapes, exact for any number of boxes.

Candidates are visited best first in blocks. Inside a block the suppression matrix is
solved as a fixed point (as many parallel rounds as the longest chain of suppressions,
typically 5 to 30), then the survivors are appended; blocks go on until `keep` survivors
are found or no candidate is left. Work therefore follows the answer, not the cap, and
nothing is cut off.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from frcnn_jax.ops import boxes as box_ops

BLOCK = 1000  # candidates per round; 1 to 4 ms on two CPU cores


class Kept(NamedTuple):
    """Survivors, best first."""

    # [keep] int32 into the candidates; 0 where not valid
    index: Array  # type: ignore[assignment]
    valid: Array  # [keep] bool


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    valid: Bool[Array, "n"],
    *,
    iou: float,
    keep: int,
    group: Int[Array, "n"] | None = None,
    block: int = BLOCK,
) -> Kept:
    """The first `keep` boxes that greedy suppression leaves, by descending score.

    A box goes when its IoU with a kept box of the same group is > `iou` (strict; a
    zero-area pair has IoU NaN and both stay). Score ties: lower index first. Order and
    set equal torchvision.ops.nms; grouped suppression compares within the group instead
    of shifting coordinates by group, so it can differ from mmdetection's and
    torchvision's in rare pairs whose IoU rounds across the threshold.
    """
    n = boxes.shape[0]
    block = min(block, n)
    group = jnp.zeros(n, jnp.int32) if group is None else group.astype(jnp.int32)
    score = jnp.where(valid & ~jnp.isnan(scores), scores, -jnp.inf)
    score = score.astype(jnp.float32)

    def unfinished(state):
        _, _, count, score = state
        return (count < keep) & (score.max() > -jnp.inf)

    def visit(state):
        kept, kept_valid, count, score = state
        top, index = jax.lax.top_k(score, block)
        block_boxes, block_group = boxes[index], group[index]
        hit = overlaps(boxes[kept], block_boxes, iou)
        hit &= (group[kept][:, None] == block_group) & kept_valid[:, None]
        alive = (top > -jnp.inf) & ~hit.any(0)
        alive = survivors(block_boxes, block_group, alive, iou)
        slot = jnp.where(alive, count + jnp.cumsum(alive) - 1, keep)
        kept = kept.at[slot].set(index, mode="drop")
        kept_valid = kept_valid.at[slot].set(True, mode="drop")
        count = jnp.minimum(count + alive.sum(dtype=jnp.int32), keep)
        return kept, kept_valid, count, score.at[index].set(-jnp.inf)

    start = (jnp.zeros(keep, jnp.int32), jnp.zeros(keep, bool), jnp.int32(0), score)
    kept, kept_valid, _, _ = jax.lax.while_loop(unfinished, visit, start)
    return Kept(kept, kept_valid)


def survivors(
    boxes: Float[Array, "n 4"],
    group: Int[Array, "n"],
    alive: Bool[Array, "n"],
    iou: float,
) -> Bool[Array, "n"]:
    """Which of N boxes in descending order greedy suppression leaves.

    Iterates keep[j] = alive[j] and no kept i < j suppresses j, which is exact after as
    many rounds as the longest chain.
    """
    earlier = jnp.arange(boxes.shape[0])[:, None] < jnp.arange(boxes.shape[0])
    hit = overlaps(boxes, boxes, iou) & earlier & (group[:, None] == group)

    def step(state):
        keep, _ = state
        new = alive & ~(hit & keep[:, None]).any(0)
        return new, (new != keep).any()

    keep, _ = jax.lax.while_loop(lambda state: state[1], step, (alive, alive.any()))
    return keep


def overlaps(
    a: Float[Array, "n 4"], b: Float[Array, "m 4"], iou: float
) -> Bool[Array, "n m"]:
    """Whether IoU > threshold, without epsilon: 0 / 0 is NaN and compares False."""
    inter = box_ops.intersection(a[:, None], b[None])
    union = box_ops.area(a)[:, None] + box_ops.area(b)[None] - inter
    return inter / union > iou
