"""torchvision Faster R-CNN, to and from our variables.

Names of torchvision 0.29: `backbone.body.*` (its ResNet, or the features of its
MobileNetV3-Large), `backbone.fpn.*`, `rpn.head.*`, `roi_heads.*`. Covered:
fasterrcnn_resnet50_fpn, _v2 (norms in pyramid and box head, two RPN convolutions),
fasterrcnn_mobilenet_v3_large_fpn and _320_fpn. Files written before 0.13, as those
published for all but _v2, call the convolutions of pyramid and RPN otherwise; both are
read, the names of today are written.

What differs: kernel axes; a flattened crop is (C, pool, pool) there. Background is the
first class on both sides, and the rows of its deltas, never used, are kept
(`roi.background_deltas`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from frcnn_jax.convert.imagenet import mobilenet_rules, resnet_rules
from frcnn_jax.convert.layouts import STEP_COUNTER, dense_after_pool
from frcnn_jax.convert.rules import (
    Conversion,
    Flat,
    Rule,
    batch_norm,
    conv,
    convert,
    dense,
    invert,
    pool_side,
)

_HEAD = "roi_heads.box_head"
_PLAIN_FC, _CONV_FC = f"{_HEAD}.fc6", f"{_HEAD}.5"


def rules(pool_size: int, *, mobile: bool, v2: bool, counters: bool) -> list[Rule]:
    """Returns the table, both directions.

    `pool_size` is the side of the RoI crop in cells. With `mobile` the trunk is a
    MobileNet, whose outputs are our c5 and c6, with `v2` the layers between and after
    have norms. `counters` is whether norms count steps, as all but frozen ones do.
    """
    trunk = mobilenet_rules if mobile else resnet_rules
    table = trunk("backbone.body.", "backbone/")
    for i in range(2 if mobile else 4):
        level = i + (5 if mobile else 2)
        table += _pyramid(f"backbone.fpn.inner_blocks.{i}", f"lateral{level}", v2)
        table += _pyramid(f"backbone.fpn.layer_blocks.{i}", f"output{level}", v2)
    table += conv("rpn.head.conv.0.0", "rpn/conv", bias=True)
    table += conv("rpn.head.conv.1.0", "rpn/conv2", bias=True)
    table += conv("rpn.head.conv", "rpn/conv", bias=True)  # before 0.13
    table += conv("rpn.head.cls_logits", "rpn/objectness", bias=True)
    table += conv("rpn.head.bbox_pred", "rpn/deltas", bias=True)
    table += _conv_head(pool_size) if v2 else _fc_head(pool_size)
    predictor = "roi_heads.box_predictor", "box_head/predictor"
    table += dense(f"{predictor[0]}.cls_score", f"{predictor[1]}/classes")
    table += dense(f"{predictor[0]}.bbox_pred", f"{predictor[1]}/deltas")
    return [rule for rule in table if counters or rule.layout is not STEP_COUNTER]


def _pyramid(theirs: str, ours: str, norm: bool) -> list[Rule]:
    if norm:
        kernel = conv(f"{theirs}.0", f"fpn/{ours}", bias=False)
        return kernel + batch_norm(f"{theirs}.1", f"fpn/{ours}_norm")
    before_0_13 = conv(theirs, f"fpn/{ours}", bias=True)
    return conv(f"{theirs}.0", f"fpn/{ours}", bias=True) + before_0_13


def _fc_head(pool_size: int) -> list[Rule]:
    kernel = dense_after_pool(pool_size)
    first = dense(_PLAIN_FC, "box_head/fc1", kernel=kernel)
    return first + dense(f"{_HEAD}.fc7", "box_head/fc2")


def _conv_head(pool_size: int) -> list[Rule]:
    table = []
    for i in range(4):
        table += conv(f"{_HEAD}.{i}.0", f"box_head/conv{i + 1}", bias=False)
        table += batch_norm(f"{_HEAD}.{i}.1", f"box_head/norm{i + 1}")
    return table + dense(_CONV_FC, "box_head/fc1", kernel=dense_after_pool(pool_size))


def conversion(
    state: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Conversion:
    """Turns a state dict into our variables, with the names that were not used.

    `pool_size` None: read from the widths of the first fc and of the RPN, which see
    equally many channels. Raises ConversionError for unexplained names, half layers and
    wrong shapes.
    """
    return convert(state, table(state, pool_size=pool_size))


def table(
    state: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Sequence[Rule]:
    """Returns the rules of `conversion` for this state dict, judged by its names."""
    v2 = f"{_CONV_FC}.weight" in state
    if pool_size is None:
        now, before = "rpn.head.conv.0.0.weight", "rpn.head.conv.weight"
        rpn = before if before in state else now
        first_fc = _CONV_FC if v2 else _PLAIN_FC
        pool_size = pool_side(state, f"{first_fc}.weight", 1, rpn, 1)
    mobile = "backbone.body.0.0.weight" in state
    return rules(pool_size, mobile=mobile, v2=v2, counters=True)


def from_state_dict(
    state: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Flat:
    """Returns the variables of `conversion`."""
    return conversion(state, pool_size=pool_size).variables


def to_state_dict(
    variables: Mapping[str, np.ndarray],
    *,
    pool_size: int | None = None,
    counters: bool | None = None,
) -> Flat:
    """Turns our variables into a state dict that torchvision loads strictly.

    `counters` says whether norms get `num_batches_tracked` = int64 0. None: those of v2
    do and those of the other factories, frozen where they have weights, do not.
    `pool_size` None: as in `conversion`. Raises ConversionError for paths that no rule
    explains.
    """
    if pool_size is None:
        fc, rpn = "params/box_head/fc1/kernel", "params/rpn/conv/kernel"
        pool_size = pool_side(variables, fc, 0, rpn, 2)
    v2 = "params/box_head/conv1/kernel" in variables
    mobile = "params/backbone/block1/depthwise_conv/kernel" in variables
    counters = v2 if counters is None else counters
    return invert(variables, rules(pool_size, mobile=mobile, v2=v2, counters=counters))
