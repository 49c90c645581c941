"""RoI max-pooling (Girshick 2015, Fast R-CNN) over one map, forward and gradient.

A bin is a rectangle of whole cells, neighbours may share a row or column. All bins of a
chunk of RoIs are walked at once, cell by cell in reading order, as far as the largest
bin of the chunk goes; RoIs are sorted by the size of their bins, so work follows their
area. The winning cell of each bin and channel is kept for the gradient, which is a
scatter: a loop whose length depends on data has no automatic transpose.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from frcnn_jax.ops.roi_align import divide, in_chunks


def roi_pool(
    features: Float[Array, "h w c"],
    boxes: Float[Array, "k 4"],
    stride: int,
    size: int,
    valid_hw: Float[Array, "2"] | None = None,
) -> Float[Array, "k s s c"]:
    """Largest value of each of size x size bins of every box, float32; 0 if empty.

    `boxes` are pixels of the network input whose corners are both inside (Caffe's last
    pixel, not the edge behind it); corners are rounded to cells, half away from zero.
    `valid_hw` gives the cells that belong to the image (default: the whole map). Of
    equal cells the first in reading order takes the gradient. Equals torchvision 0.29
    `roi_pool` and jwyang's (f9d984d2) exactly, the gradient to float32 rounding.
    """
    if valid_hw is None:
        valid_hw = jnp.asarray(features.shape[:2], jnp.float32)
    bins = _bins(boxes, stride, size, jnp.asarray(valid_hw, jnp.float32))
    flat = features.reshape(-1, features.shape[-1])
    crops = _pool(flat, jax.lax.stop_gradient(bins), features.shape[1])
    return crops.reshape(boxes.shape[0], size, size, -1)


class _Bins(NamedTuple):
    """Cells of each RoI's bins, [K, bins] int32; ends are exclusive."""

    top: Array
    left: Array
    height: Array
    width: Array


def _bins(boxes, stride: int, size: int, valid_hw) -> _Bins:
    cells = jax.lax.stop_gradient(boxes.astype(jnp.float32)) * (1.0 / stride)
    cells = jnp.sign(cells) * jnp.floor(jnp.abs(cells) + 0.5)
    start, last = cells[:, 1::-1], cells[:, :1:-1]  # y before x
    side = divide(jnp.maximum(last - start + 1.0, 1.0), float(size))[..., None]
    number = jnp.arange(size, dtype=jnp.float32)
    limit = valid_hw[:, None]
    first = jnp.clip(jnp.floor(number * side) + start[..., None], 0.0, limit)
    end = jnp.clip(jnp.ceil((number + 1.0) * side) + start[..., None], 0.0, limit)
    first, extent = (x.astype(jnp.int32) for x in (first, jnp.maximum(end - first, 0)))
    rows, columns = np.divmod(np.arange(size**2), size)
    return _Bins(
        first[:, 0, rows],
        first[:, 1, columns],
        extent[:, 0, rows],
        extent[:, 1, columns],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pool(flat: Array, bins: _Bins, row: int) -> Array:
    """[cells, C] and bins of K RoIs -> [K, bins, C]."""
    return _largest(flat, bins, row)[0]


def _largest(flat, bins: _Bins, row: int):
    """Value and flat index (-1: empty bin) of the largest cell of each bin."""

    def walk_chunk(chunk: _Bins):
        columns = jnp.maximum(chunk.width.max(), 1)

        def visit(step, state):
            best, winner = state
            y, x = step // columns, step % columns
            inside = (y < chunk.height) & (x < chunk.width)
            index = jnp.where(inside, (chunk.top + y) * row + chunk.left + x, 0)
            value = flat[index].astype(jnp.float32)
            better = inside[..., None] & (value > best)
            return (
                jnp.where(better, value, best),
                jnp.where(better, index[..., None], winner),
            )

        shape = (*chunk.top.shape, flat.shape[1])
        start = jnp.full(shape, -jnp.inf), jnp.full(shape, -1, jnp.int32)
        steps = chunk.height.max() * columns
        best, winner = jax.lax.fori_loop(0, steps, visit, start)
        return jnp.where(winner >= 0, best, 0.0), winner

    order = jnp.argsort(-(bins.height.max(1) * bins.width.max(1)))
    found = jax.lax.map(walk_chunk, in_chunks(bins, order))
    back = jnp.argsort(order)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[back], found)


def _pool_forward(flat, bins, row):
    crops, winner = _largest(flat, bins, row)
    return crops, (flat, bins, winner)


def _pool_backward(row, saved, crops):
    flat, bins, winner = saved
    # An empty bin has no winner: it aims behind the map and is dropped.
    target = jnp.where(winner >= 0, winner, flat.shape[0])
    channel = jnp.arange(flat.shape[1])
    grad = jnp.zeros(flat.shape, jnp.float32)
    grad = grad.at[target, channel].add(crops, mode="drop")
    none = jax.tree.map(lambda x: np.zeros(x.shape, jax.dtypes.float0), bins)
    return grad.astype(flat.dtype), none


_pool.defvjp(_pool_forward, _pool_backward)
