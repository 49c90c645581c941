"""Which parameters learn, and how.

Parameter paths are the interface: patterns are regular expressions that must match a
whole path such as "backbone/layer1/block0/conv1/kernel".
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import traverse_util

from frcnn_jax import config

Flat = dict[str, jax.Array]  # {parameter path: array}


def split(params: dict[str, Any], freeze: tuple[str, ...]) -> tuple[Flat, Flat]:
    """Trainable and frozen parameters by path; gradients are taken of the first only.

    Errors: a pattern that matches nothing, or patterns that leave nothing to train.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    for pattern in freeze:
        if not any(re.fullmatch(pattern, path) for path in flat):
            some = ", ".join(sorted(flat)[:3])
            raise ValueError(
                f"train.freeze pattern {pattern!r} matches no parameter; paths look"
                f" like {some}"
            )
    frozen = {k: v for k, v in flat.items() if any(re.fullmatch(p, k) for p in freeze)}
    trainable = {k: v for k, v in flat.items() if k not in frozen}
    if not trainable:
        raise ValueError(f"train.freeze {freeze} leaves nothing to train")
    return trainable, frozen


def join(trainable: Flat, frozen: Flat) -> dict[str, Any]:
    """The nested parameters again."""
    return traverse_util.unflatten_dict({**frozen, **trainable}, sep="/")


def sgd(
    train: config.Train, rate: Callable[[jax.Array], jax.Array]
) -> optax.GradientTransformation:
    """SGD with momentum as in torch: g += wd * p; v = m * v + g; p -= lr * v.

    Weight decay acts on every trainable parameter, biases and norms too, as in
    mmdetection 3.3.0. Clipping, when on, comes first and looks at the whole gradient.
    """
    clip = optax.clip_by_global_norm(train.clip_norm) if train.clip_norm else None
    steps = [
        clip,
        optax.add_decayed_weights(train.weight_decay) if train.weight_decay else None,
        optax.trace(train.momentum) if train.momentum else None,
        optax.scale_by_learning_rate(rate),
    ]
    return optax.chain(*[step for step in steps if step is not None])
