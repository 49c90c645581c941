"""Initial values by parameter path: a table per peer, the first match wins.

"mmdet" has mmdetection 3.3.0's distributions: He normal (fan out) for the trunk, Xavier
uniform for the pyramid and the fully connected layers, narrow normals for the heads.
"torchvision" has torchvision 0.29's: uniform by fan in for the pyramid, torch's default
for the fully connected layers and the predictor, whose values are less than half as
wide before and several times as wide after. The difference shows where training is
short: see the fine-tuning results in `benchmarks/results`.

Each value depends only on the key and the path, so a model with one more layer keeps
the others' values. Values are drawn by numpy: the same on every device, and without the
many seconds that compiling JAX's generator for each shape takes.
"""

import math
import re
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator, Shape], np.ndarray]


def _fans(shape: Shape) -> tuple[int, int]:
    """Inputs and outputs of one unit of a kernel [..., in, out]."""
    cells = math.prod(shape[:-2])
    return cells * shape[-2], cells * shape[-1]


def _normal(std: float) -> Draw:
    return lambda rng, shape: std * rng.standard_normal(shape)


def _he(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return math.sqrt(2.0 / _fans(shape)[1]) * rng.standard_normal(shape)


def _xavier(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    limit = math.sqrt(6.0 / sum(_fans(shape)))
    return rng.uniform(-limit, limit, shape)


def _uniform(gain: float) -> Draw:
    """Limits gain / sqrt(fan in): 1 is torch's default, sqrt(3) deviation 1."""

    def draw(rng, shape):
        limit = gain / math.sqrt(_fans(shape)[0])
        return rng.uniform(-limit, limit, shape)

    return draw


Table = tuple[tuple[str, Draw], ...]

MMDET: Table = (
    (r".*/(bias|mean)", lambda rng, shape: np.zeros(shape)),
    (r".*/(scale|var)", lambda rng, shape: np.ones(shape)),
    (r"params/backbone/.*/kernel", _he),
    (r"params/fpn/.*/kernel", _xavier),
    (r"params/rpn/.*/kernel", _normal(0.01)),
    (r"params/box_head/fc\d+/kernel", _xavier),
    (r"params/box_head/(conv\d+|layer4/.*)/kernel", _he),
    (r"params/box_head/predictor/classes/kernel", _normal(0.01)),
    (r"params/box_head/predictor/deltas/kernel", _normal(0.001)),
)
INITIALISERS: dict[str, Table] = {
    "mmdet": MMDET,
    "torchvision": (
        (r"params/fpn/.*/kernel", _uniform(math.sqrt(3.0))),
        (r"params/box_head/(fc\d+|predictor/.*)/kernel", _uniform(1.0)),
        *MMDET,
    ),
}


def initialise(key: jax.Array, shapes: dict, style: str) -> dict:
    """Fresh float32 variables for a tree of shapes (from `jax.eval_shape`).

    `style` names a table of `INITIALISERS`.

    Errors: a path without a pattern, so that no parameter starts from a default that
    nobody chose.
    """

    paths, tree = jax.tree_util.tree_flatten_with_path(shapes)
    names = ["/".join(entry.key for entry in path) for path, _ in paths]
    sizes = [leaf.shape for _, leaf in paths]
    draws = [_draw_of(name, INITIALISERS[style]) for name in names]

    def values(key_data):
        seed = np.asarray(key_data).tolist()
        seeds = ([*seed, zlib.crc32(name.encode())] for name in names)
        return [
            draw(np.random.default_rng(own), size).astype(np.float32)
            for draw, own, size in zip(draws, seeds, sizes, strict=True)
        ]

    like = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
    # A callback, so that shapes can still be had by `jax.eval_shape`.
    leaves = jax.pure_callback(values, like, jax.random.key_data(key))
    return jax.tree.unflatten(tree, leaves)


def _draw_of(name: str, table: Table) -> Draw:
    for pattern, draw in table:
        if re.fullmatch(pattern, name):
            return draw
    raise ValueError(f"no initial value is defined for {name}; add it to {__file__}")
