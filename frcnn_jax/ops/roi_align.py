"""RoIAlign over one map or a pyramid, in the peers' exact semantics.

RoIAlign is linear in the features and separable: a bin is a weighted sum of the cells
under it, the weight being the product of one row and one column weight. So each RoI
gathers the window of integer cells it touches (flattened row by row with the RoI's own
row length) and multiplies it by one [bins, cells] matrix. The number of samples per bin
only changes that small matrix, which makes adaptive sampling (`sampling_ratio=0`) exact
in static shapes. RoIs are sorted by the size of their window and taken in chunks, whose
windows are visited in pieces of `WINDOW` cells until the largest of the chunk is done:
work follows the area of the RoIs, and none is too large. Under `vmap` the RoIs of all
images are taken together.

The gradient flows to the features only, as in mmcv, detectron2 and torchvision; it is
the transpose of the same product, written out below because a loop whose length depends
on data has no automatic transpose.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

WINDOW = 256  # cells per piece
# RoIs at a time: CHUNK, or so many that CHUNKS chunks hold all of them. A chunk takes
# chunk * WINDOW * C numbers of memory.
CHUNK = 64
CHUNKS = 16


class Pooling(NamedTuple):
    """How crops are cut."""

    size: int  # bins per side
    sampling_ratio: int  # samples per bin and axis; 0 = adaptive, ceil(side / size)
    aligned: bool  # half-pixel shift; False also makes RoIs at least one cell wide
    strides: tuple[int, ...]  # pixels per cell of each level
    finest_scale: float = 56.0  # see assign_levels; unused with one level
    points: bool = False  # jwyang's operator instead, see _point_weights


def assign_levels(
    boxes: Float[Array, "k 4"], finest_scale: float, levels: int
) -> Int[Array, "k"]:
    """Pyramid level of each box: floor(log2(sqrt(area) / finest_scale + 1e-6)).

    Limited to the levels there are. FPN eq. 1 (Lin et al. 2017) as mmdetection 3.3.0
    writes it, exact; with scale 56 a
    side of 112 goes to level 1, 224 to level 2. Empty boxes go to level 0.
    """
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    side = jnp.sqrt(jnp.maximum(w * h, 0.0))
    level = jnp.floor(jnp.log2(side / finest_scale + 1e-6))
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)


def roi_align(
    features: Sequence[Float[Array, "_ _ c"]],
    boxes: Float[Array, "k 4"],
    pooling: Pooling,
    valid_hw: Float[Array, "l 2"] | None = None,
) -> Float[Array, "k s s c"]:
    """Crops of every box from the level it belongs to, float32.

    `features` holds one map per level (one map: no level choice); `boxes` are pixels of
    the network input. `valid_hw` gives the cells of each level that belong to the image
    (default: the whole map); the rest of the canvas is treated as not there. Zero-size
    RoIs give zeros with adaptive sampling. Equals mmcv 2.1.0 `RoIAlign` and torchvision
    `roi_align` to float32 rounding, forward and gradient, for any RoI size; with
    `pooling.points` jwyang's (f9d984d2) `RoIAlignAvg`, for boxes that name their last
    pixel.
    """
    shapes = tuple(f.shape[:2] for f in features)
    if valid_hw is None:
        valid_hw = jnp.asarray(shapes, jnp.float32)
    level = assign_levels(boxes, pooling.finest_scale, len(features))
    rois = _geometry(boxes, level, jnp.asarray(valid_hw), shapes, pooling)
    flat = jnp.concatenate([f.reshape(-1, f.shape[-1]) for f in features])
    crops = _pool(flat, jax.lax.stop_gradient(rois), pooling)
    return crops.reshape(boxes.shape[0], pooling.size, pooling.size, -1)


class _Rois(NamedTuple):
    """Each RoI in cells of its level; y before x on the last axis."""

    start: Array  # [K, 2] first corner
    bin: Array  # [K, 2] side of a bin
    samples: Array  # [K, 2] per bin
    spacing: Array  # [K, 2] between samples
    limit: Array  # [K, 2] cells of the image on this level
    origin: Array  # [K, 2] int32 first cell of the window
    extent: Array  # [K, 2] int32 cells of the window
    base: Array  # [K] int32 first row of the level in the flat features
    row: Array  # [K] int32 cells per row of the level's map


def _geometry(boxes, level, valid_hw, shapes, pooling: Pooling) -> _Rois:
    stride = jnp.asarray(pooling.strides, jnp.float32)[level]
    offset = 0.5 if pooling.aligned and not pooling.points else 0.0
    corners = boxes.astype(jnp.float32) * (1.0 / stride)[:, None] - offset
    start, size = corners[:, 1::-1], corners[:, 3:1:-1] - corners[:, 1::-1]
    if pooling.points:
        size = jnp.maximum(size + 1.0, 0.0)
    elif not pooling.aligned:
        size = jnp.maximum(size, 1.0)
    side = divide(size, float(pooling.size))
    adaptive = jnp.maximum(jnp.ceil(side), 0.0)
    ratio = float(pooling.sampling_ratio)
    samples = jnp.full_like(size, ratio) if pooling.sampling_ratio else adaptive
    limit = valid_hw[level]
    # From the last but one cell on: points beyond the last extrapolate from both.
    border = jnp.maximum(limit - 2, 0.0) if pooling.points else limit - 1
    first = jnp.clip(jnp.floor(start), 0.0, border)
    last = jnp.clip(jnp.floor(start + size) + 1, first, limit - 1)
    starts = np.cumsum([0] + [h * w for h, w in shapes[:-1]])
    widths = np.asarray([w for _, w in shapes])
    return _Rois(
        start,
        side,
        samples,
        side / jnp.maximum(samples, 1.0),
        limit,
        first.astype(jnp.int32),
        (last - first + 1).astype(jnp.int32),
        jnp.asarray(starts, jnp.int32)[level],
        jnp.asarray(widths, jnp.int32)[level],
    )


def divide(x: Array, divisor: float) -> Array:
    """Correctly rounded x / divisor.

    XLA turns division by a constant into multiplication by its reciprocal, and 175 / 7
    into 25.000002: one sample more than the peers take. So a select hides the divisor.
    """
    return x / jnp.where(jnp.isnan(x), 1.0, divisor)


def _axis_weights(rois: _Rois, axis: int, cell, pooling: Pooling):
    """Weight of integer `cell` [K, T] in each bin along one axis, [K, size, T].

    Sample t of bin i lies at start + i * bin + (t + 0.5) * bin / samples. It counts
    nothing beyond one cell outside the map, is moved onto the map otherwise, and gives
    its neighbours linear weights: a cell's weight is the sum of hat functions. With
    adaptive sampling the spacing is above half a cell unless there is one sample, so at
    most five samples reach a cell; only those are evaluated.
    """
    start, side = rois.start[:, axis, None, None], rois.bin[:, axis, None, None]
    samples = rois.samples[:, axis, None, None]
    limit = rois.limit[:, axis, None, None]
    bins = jnp.arange(pooling.size, dtype=jnp.float32)[:, None]
    cell = cell.astype(jnp.float32)[:, None, :]
    spacing = rois.spacing[:, axis, None, None]
    near: Array | float = 0.0
    if pooling.sampling_ratio == 0:
        near = (cell - 1.0 - start - bins * side) / jnp.maximum(spacing, 1e-9)
        near = jnp.clip(jnp.ceil(near - 0.5), 0.0, samples)
    weight: Array | float = 0.0
    for step in range(pooling.sampling_ratio or 5):
        sample = near + step
        position = start + bins * side + (sample + 0.5) * spacing
        counts = (sample < samples) & (position >= -1.0) & (position <= limit)
        position = jnp.clip(position, 0.0, limit - 1.0)
        hat = jnp.maximum(1.0 - jnp.abs(position - cell), 0.0)
        weight = weight + jnp.where(counts, hat, 0.0)
    return weight / jnp.maximum(samples, 1.0)


def _point_weights(rois: _Rois, axis: int, cell, pooling: Pooling):
    """As `_axis_weights`, for jwyang's sampling.

    A RoI is one cell longer than its corners are apart. Points lie on the borders of
    bins, size + 1 of them, and a bin is the mean of its two. A point outside the map
    counts nothing; behind the centre of the last cell it extrapolates from the last
    two.
    """
    start, side = rois.start[:, axis, None, None], rois.bin[:, axis, None, None]
    limit = rois.limit[:, axis, None, None]
    points = jnp.arange(pooling.size + 1, dtype=jnp.float32)[:, None]
    position = start + points * side
    base = jnp.minimum(jnp.floor(position), jnp.maximum(limit - 2.0, 0.0))
    ahead = position - base
    step = cell.astype(jnp.float32)[:, None, :] - base
    weight = jnp.where(step == 0, 1.0 - ahead, jnp.where(step == 1, ahead, 0.0))
    weight = jnp.where((position >= 0) & (position < limit), weight, 0.0)
    return (weight[:, :-1] + weight[:, 1:]) * 0.5


def _piece(rois: _Rois, piece, pooling: Pooling):
    """One piece of each window: flat indices [K, WINDOW], weights [K, bins, WINDOW]."""
    slot = jnp.arange(WINDOW) + piece * WINDOW
    columns = rois.extent[:, 1, None]
    row, column = slot // columns, slot % columns
    inside = row < rois.extent[:, 0, None]
    y, x = row + rois.origin[:, 0, None], column + rois.origin[:, 1, None]
    index = rois.base[:, None] + jnp.where(inside, y * rois.row[:, None] + x, 0)
    weights = _point_weights if pooling.points else _axis_weights
    weight_y = weights(rois, 0, y, pooling) * inside[:, None]
    weight_x = weights(rois, 1, x, pooling)
    weight = weight_y[:, :, None] * weight_x[:, None]
    return index, weight.reshape(index.shape[0], pooling.size**2, WINDOW)


def _window_cells(rois: _Rois):
    return rois.extent[:, 0] * rois.extent[:, 1]


def _largest_first(rois: _Rois):
    """RoIs in order of falling window size, so that chunks hold similar ones."""
    return jnp.argsort(-_window_cells(rois))


def _pieces(chunk: _Rois):
    return (_window_cells(chunk).max() + WINDOW - 1) // WINDOW


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _pool(flat: Array, rois: _Rois, pooling: Pooling) -> Array:
    """[cells, C] and K RoIs -> [K, bins, C]."""
    return _cut(flat, rois, pooling)


def _pool_forward(flat, rois, pooling):
    return _pool(flat, rois, pooling), (flat, rois)


def _pool_backward(pooling, saved, crops):
    flat, rois = saved
    grad = _spread(crops, rois, pooling, flat.shape[0])
    return grad.astype(flat.dtype), jax.tree.map(_no_gradient, rois)


_pool.defvjp(_pool_forward, _pool_backward)


def _cut(flat: Array, rois: _Rois, pooling: Pooling) -> Array:
    """Crops, of all images at once under `vmap` (see `_joined`)."""

    @jax.custom_batching.custom_vmap
    def of_image(flat, rois):
        def pool_chunk(chunk: _Rois):
            def add_piece(piece, crops):
                index, weight = _piece(chunk, piece, pooling)
                cells = flat[index].astype(jnp.float32)
                return crops + jnp.einsum(
                    "kbt,ktc->kbc", weight, cells, precision="highest"
                )

            shape = (chunk.base.shape[0], pooling.size**2, flat.shape[1])
            return jax.lax.fori_loop(0, _pieces(chunk), add_piece, jnp.zeros(shape))

        order = _largest_first(rois)
        crops = jax.lax.map(pool_chunk, in_chunks(rois, order))
        crops = crops.reshape(-1, *crops.shape[2:])
        return crops[jnp.argsort(order)]

    @of_image.def_vmap
    def of_images(count, batched, flat, rois):
        own_map, own_rois = batched
        rois = _joined(rois, own_rois, count, flat.shape[1] if own_map else 0)
        flat = flat.reshape(-1, flat.shape[-1])
        crops = _cut(flat, rois, pooling)
        return crops.reshape(count, -1, *crops.shape[1:]), True

    return of_image(flat, rois)


def _spread(crops: Array, rois: _Rois, pooling: Pooling, cells: int) -> Array:
    """The transpose of `_cut`: gradient of crops [K, bins, C] -> of `cells` cells."""

    @jax.custom_batching.custom_vmap
    def of_image(crops, rois):
        def spread_chunk(grad, chunk_and_crops):
            chunk, crops = chunk_and_crops

            def add_piece(piece, grad):
                index, weight = _piece(chunk, piece, pooling)
                spread = jnp.einsum("kbt,kbc->ktc", weight, crops, precision="highest")
                return grad.at[index].add(spread)

            return jax.lax.fori_loop(0, _pieces(chunk), add_piece, grad), None

        order = _largest_first(rois)
        start = jnp.zeros((cells, crops.shape[-1]), jnp.float32)
        parts = in_chunks(rois, order), in_chunks(crops, order)
        return jax.lax.scan(spread_chunk, start, parts)[0]

    @of_image.def_vmap
    def of_images(count, batched, crops, rois):
        own_crops, own_rois = batched
        if not own_crops:
            crops = jnp.broadcast_to(crops, (count, *crops.shape))
        rois = _joined(rois, own_rois, count, cells)
        grad = _spread(
            crops.reshape(-1, *crops.shape[2:]), rois, pooling, count * cells
        )
        return grad.reshape(count, cells, -1), True

    return of_image(crops, rois)


def _joined(rois: _Rois, own: _Rois, count: int, cells: int) -> _Rois:
    """RoIs of `count` images in one row, `cells` being how far their maps are apart.

    A loop whose length depends on data must not be left to `vmap`: that would choose
    between old and new state for each image at each turn, which for the gradient of a
    whole map takes longer than all the rest.
    """
    rois = jax.tree.map(
        lambda x, has: x if has else jnp.broadcast_to(x, (count, *x.shape)), rois, own
    )
    base = rois.base + cells * jnp.arange(count, dtype=jnp.int32)[:, None]
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rois._replace(base=base))


def _no_gradient(x: Array):
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)


def in_chunks(tree: Any, order: Int[Array, "k"]) -> Any:
    """The leading axis of every array in `order`, as rows of one chunk each.

    The last row is padded with zeros.
    """
    count = order.shape[0]
    size = min(max(CHUNK, -(-count // CHUNKS)), count)
    rows = -(-count // size)

    def split(x):
        padding = [(0, rows * size - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x[order], padding).reshape(rows, size, *x.shape[1:])

    return jax.tree.map(split, tree)
