"""Which parameters learn, and how.

Parameter paths are the interface: patterns are regular expressions that must match a
whole path such as "backbone/layer1/block0/conv1/kernel".
"""

import difflib
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import optax
from flax import traverse_util

from frcnn_jax import config

Flat = dict[str, jax.Array]  # {parameter path: array}
BIAS = re.compile(r"(?:.*/)?(?![^/]*norm)[^/]+/bias")  # of a layer that is no norm


def split(params: dict[str, Any], freeze: tuple[str, ...]) -> tuple[Flat, Flat]:
    """Trainable and frozen parameters by path; gradients are taken of the first only.

    Errors: a pattern that matches nothing, or patterns that leave nothing to train.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    chosen = _matching("train.freeze", freeze, flat)
    frozen = {path: value for path, value in flat.items() if path in chosen}
    trainable = {path: value for path, value in flat.items() if path not in chosen}
    if not trainable:
        raise ValueError(f"train.freeze {freeze} leaves nothing to train")
    return trainable, frozen


def _matching(field: str, patterns: tuple[str, ...], paths: Iterable[str]) -> set[str]:
    """Paths that match any pattern; each pattern has to match some."""
    paths, found = list(paths), set()
    for pattern in patterns:
        hits = {path for path in paths if re.fullmatch(pattern, path)}
        if not hits:
            near = difflib.get_close_matches(pattern, paths, 3, cutoff=0.0)
            raise ValueError(
                f"{field} pattern {pattern!r} matches no parameter; the nearest are"
                f" {', '.join(near)}"
            )
        found |= hits
    return found


def join(trainable: Flat, frozen: Flat) -> dict[str, Any]:
    """The nested parameters again."""
    return traverse_util.unflatten_dict({**frozen, **trainable}, sep="/")


def make(
    train: config.Train, rate: Callable[[jax.Array], jax.Array]
) -> optax.GradientTransformation:
    """The optimiser of `train`, for flat parameters, as torch has it.

    "sgd": g += wd * p; v = m * v + g; p -= lr * v.
    "adamw": Adam of g without decay (eps 1e-8), and p -= lr * wd * p beside it.
    Weight decay acts on every trainable parameter, biases and norms too, as in
    mmdetection 3.3.0, but for those that `no_decay` names. Clipping, when on, comes
    first and looks at the whole gradient; `bias_rate` comes last.
    """
    decay = bias_rate = momentum = None
    if train.weight_decay:
        mask = partial(_decayed, train.no_decay) if train.no_decay else None
        decay = optax.add_decayed_weights(train.weight_decay, mask)
    if train.bias_rate != 1.0:
        bias_rate = optax.stateless(partial(_scale_biases, train.bias_rate))
    if train.momentum:
        momentum = optax.trace(train.momentum)
    rules = {
        "sgd": (decay, momentum),
        "adamw": (optax.scale_by_adam(*train.betas, eps=1e-8), decay),
    }
    steps = [
        optax.clip_by_global_norm(train.clip_norm) if train.clip_norm else None,
        *rules[train.optimizer],
        bias_rate,
        optax.scale_by_learning_rate(rate),
    ]
    return optax.chain(*[step for step in steps if step is not None])


def _decayed(no_decay: tuple[str, ...], params: Flat) -> dict[str, bool]:
    """Which of the parameters that learn decay."""
    kept = _matching("train.no_decay", no_decay, params)
    return {path: path not in kept for path in params}


def _scale_biases(factor: float, updates: Flat, params: Flat | None) -> Flat:
    """Multiplies the updates of biases, but not of norms, whose names say so."""
    del params
    biases = {path for path in updates if BIAS.fullmatch(path)}
    return {k: v * factor if k in biases else v for k, v in updates.items()}
