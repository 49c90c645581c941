"""The detectors whose weights go both ways, by name: one row each.

What is a permutation is in their tables. What is more than that is here: torchvision
and jwyang have box deltas for background, which nobody uses; they are dropped, or
written as zeros. jwyang's RPN has two logits for each anchor, which no other peer can
hold.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from frcnn_jax.convert import detectron2, jwyang, mmdet, torchvision
from frcnn_jax.convert.rules import ConversionError, Flat, Rule, convert

_HEAD = "params/box_head/predictor"
CLASSES = f"{_HEAD}/classes/bias"
DELTAS = f"{_HEAD}/deltas/kernel", f"{_HEAD}/deltas/bias"


class Peer(NamedTuple):
    """How one peer's names are read and written, and what its detectors have."""

    table: Callable[..., Sequence[Rule]]  # of a state dict
    to_state_dict: Callable[..., Flat]
    takes_pool_size: bool = True
    background_deltas: bool = False
    two_way: bool = False


PEERS = {
    "mmdet": Peer(mmdet.table, mmdet.to_state_dict),
    "torchvision": Peer(
        torchvision.table, torchvision.to_state_dict, background_deltas=True
    ),
    "detectron2": Peer(detectron2.table, detectron2.to_state_dict),
    "jwyang": Peer(
        jwyang.table,
        jwyang.to_state_dict,
        takes_pool_size=False,
        background_deltas=True,
        two_way=True,
    ),
}


def from_state_dict(
    state_dict: Mapping[str, np.ndarray], model: Any, source: str = "mmdet"
) -> Flat:
    """Turns a peer's state dict into our variables, `{path: array}`.

    `model` is the model section of a configuration. Raises ConversionError for an
    unknown peer, unexplained names, half layers and wrong shapes.
    """
    peer = _peer(source, model)
    table = peer.table(state_dict, **_options(peer, model))
    variables = convert(state_dict, table).variables
    return with_background(variables, model.roi.background_deltas)


def to_state_dict(
    variables: Mapping[str, np.ndarray], model: Any, source: str = "mmdet"
) -> Flat:
    """Turns our variables into a state dict with a peer's names and shapes.

    Raises ConversionError for an unknown peer and for what the peer does not have.
    """
    peer = _peer(source, model)
    variables = with_background(variables, peer.background_deltas)
    return peer.to_state_dict(variables, **_options(peer, model))


def classes(variables: Mapping[str, np.ndarray]) -> int:
    """The number of classes, without background.

    Errors: ConversionError where there is no predictor.
    """
    if CLASSES not in variables:
        raise ConversionError(f"no {CLASSES}: these are no weights of a detector")
    return len(variables[CLASSES]) - 1


def with_background(variables: Mapping[str, np.ndarray], wanted: bool) -> Flat:
    """Adds box deltas of background, zeros before those of label 1, or drops them."""
    variables = dict(variables)
    if not all(path in variables for path in (CLASSES, *DELTAS)):
        return variables
    bare = 4 * classes(variables)
    for path in DELTAS:
        array = variables[path]
        width = array.shape[-1]
        if wanted and width == bare:
            edge = [(0, 0)] * (array.ndim - 1) + [(4, 0)]
            variables[path] = np.pad(array, edge)
        elif not wanted and width == bare + 4:
            variables[path] = np.ascontiguousarray(array[..., 4:])
    return variables


def _peer(name: str, model: Any) -> Peer:
    if name not in PEERS:
        raise ConversionError(f"unknown peer {name!r}; there are {', '.join(PEERS)}")
    peer = PEERS[name]
    if peer.two_way != model.rpn.two_way:
        raise ConversionError(
            f"{name} has {1 + peer.two_way} RPN logits for each anchor, this model"
            f" {1 + model.rpn.two_way} (rpn.two_way): its weights cannot be {name}'s"
        )
    return peer


def _options(peer: Peer, model: Any) -> dict[str, Any]:
    asks = peer.takes_pool_size and model.roi.fc
    return {"pool_size": model.roi.pool_size} if asks else {}
