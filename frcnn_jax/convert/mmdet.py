"""mmdetection Faster R-CNN, to and from our variables.

Names as in mmdet 3.3.0: `backbone.*` (torchvision's ResNet names), `neck.*` (FPN),
`rpn_head.*`, `roi_head.bbox_head.*`. Covered: the FPN family (ResNet and ResNeXt), C4
(`roi_head.shared_head.layer4.*` is our `box_head/layer4`) and DC5 (no neck).

What differs between the two sides, all of it absorbed here: kernel axes; the first fc
reads a crop flattened (C, pool, pool) there and (pool, pool, C) here; background is the
last class there and the first here. Equal on both sides: the order of RPN channels
(anchor a; 4a + dx, dy, dw, dh), class-major box deltas, pixel order of the first
convolution (a config field here). The state dict alone: optimizer and meta are left to
the caller.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from frcnn_jax.convert.imagenet import resnet_rules, stage_rules
from frcnn_jax.convert.layouts import (
    DENSE_BACKGROUND_LAST,
    VECTOR_BACKGROUND_LAST,
    dense_after_pool,
)
from frcnn_jax.convert.rules import (
    Conversion,
    Flat,
    Rule,
    conv,
    convert,
    dense,
    invert,
    pool_side,
)

_FIRST_FC = "roi_head.bbox_head.shared_fcs.0"
_OUR_FIRST_FC = "box_head/fc1"


def rules(pool_size: int | None) -> list[Rule]:
    """Returns the table, both directions.

    `pool_size` is the side of the RoI crop in cells; None leaves the first fc out, as
    in C4 models, which have no hidden fc.
    """
    table = resnet_rules("backbone.", "backbone/")
    table += stage_rules("roi_head.shared_head.layer4", "box_head/layer4")
    for i in range(4):
        for theirs, ours in (("lateral", "lateral"), ("fpn", "output")):
            table += conv(
                f"neck.{theirs}_convs.{i}.conv", f"fpn/{ours}{i + 2}", bias=True
            )
    table += conv("rpn_head.rpn_conv", "rpn/conv", bias=True)
    table += conv("rpn_head.rpn_cls", "rpn/objectness", bias=True)
    table += conv("rpn_head.rpn_reg", "rpn/deltas", bias=True)
    return table + _box_head_rules(pool_size)


def _box_head_rules(pool_size: int | None) -> list[Rule]:
    head = "roi_head.bbox_head"
    table = []
    if pool_size is not None:  # the first fc stands before the general rule for fcs
        after_pool = dense_after_pool(pool_size)
        table += dense(_FIRST_FC, _OUR_FIRST_FC, kernel=after_pool)
        table += dense(f"{head}.shared_fcs.{{fc}}", "box_head/fc{fc+1}")
    table += dense(
        f"{head}.fc_cls",
        "box_head/predictor/classes",
        kernel=DENSE_BACKGROUND_LAST,
        bias=VECTOR_BACKGROUND_LAST,
    )
    return table + dense(f"{head}.fc_reg", "box_head/predictor/deltas")


def conversion(
    state: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Conversion:
    """Turns a state dict into our variables, with the names that were not used.

    `pool_size` None: read from the widths of the first fc and of the RPN, which see the
    same feature channels. Raises ConversionError for unexplained names, half layers,
    wrong axes, and widths from which no pool size follows.
    """
    return convert(state, table(state, pool_size=pool_size))


def table(
    state: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Sequence[Rule]:
    """Returns the rules of `conversion` for this state dict, judged by its names."""
    first_fc = f"{_FIRST_FC}.weight"
    if pool_size is None and first_fc in state:
        pool_size = pool_side(state, first_fc, 1, "rpn_head.rpn_conv.weight", 1)
    return rules(pool_size)


def from_state_dict(
    state: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Flat:
    """Returns the variables of `conversion`."""
    return conversion(state, pool_size=pool_size).variables


def to_state_dict(
    variables: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Flat:
    """Turns our variables into a state dict that mmdetection loads strictly.

    Every batch norm gets `num_batches_tracked` = int64 0. `pool_size` None: as in
    `conversion`. Raises ConversionError for paths that no rule explains.
    """
    first_fc = f"params/{_OUR_FIRST_FC}/kernel"
    if pool_size is None and first_fc in variables:
        pool_size = pool_side(variables, first_fc, 0, "params/rpn/conv/kernel", 2)
    return invert(variables, rules(pool_size))
