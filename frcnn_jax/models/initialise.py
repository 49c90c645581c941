"""Initial values by parameter path: one table, the first pattern that matches wins.

The distributions are mmdetection 3.3.0's: He normal (fan out) for the trunk, Xavier
uniform for the pyramid and the fully connected layers, narrow normals for the heads.
Each value depends only on the key and the path, so a model with one more layer keeps
the others' values.
"""

import re
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp

Initialiser = Callable[..., jax.Array]
_he = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_xavier = jax.nn.initializers.xavier_uniform()
_normal = jax.nn.initializers.normal

INITIALISERS: tuple[tuple[str, Initialiser], ...] = (
    (r".*/(bias|mean)", jax.nn.initializers.zeros),
    (r".*/(scale|var)", jax.nn.initializers.ones),
    (r"params/backbone/.*/kernel", _he),
    (r"params/fpn/.*/kernel", _xavier),
    (r"params/rpn/.*/kernel", _normal(0.01)),
    (r"params/box_head/fc\d+/kernel", _xavier),
    (r"params/box_head/predictor/classes/kernel", _normal(0.01)),
    (r"params/box_head/predictor/deltas/kernel", _normal(0.001)),
)


def initialise(key: jax.Array, shapes: dict) -> dict:
    """Fresh float32 variables for a tree of shapes (from `jax.eval_shape`).

    Errors: a path without a pattern, so that no parameter starts from a default that
    nobody chose.
    """

    def fresh(path, leaf):
        name = "/".join(entry.key for entry in path)
        for pattern, initialiser in INITIALISERS:
            if re.fullmatch(pattern, name):
                leaf_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
                return initialiser(leaf_key, leaf.shape, jnp.float32)
        raise ValueError(
            f"no initial value is defined for {name}; add it to {__file__}"
        )

    return jax.tree_util.tree_map_with_path(fresh, shapes)
