"""detectron2 Faster R-CNN, to and from our variables.

Names of the model zoo's `GeneralizedRCNN` (commit 02b5c4e2): `backbone.bottom_up.*`
with `backbone.fpn_*` (FPN), `backbone.*` alone (C4 and DC5), `proposal_generator.*`,
`roi_heads.*`; C4's stage 5 is `roi_heads.res5.*`, our `box_head/layer4`. ResNet and
ResNeXt.

What differs, all absorbed here: kernel axes; a flattened crop is (C, pool, pool) there;
background is the last class there and the first here; RPN outputs run over anchor sizes
first there and over ratios first here. Norms have no step counters. Pixel means and
cell anchors, which older files list too, are dropped and counted.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from frcnn_jax.convert.layouts import (
    DENSE_BACKGROUND_LAST,
    VECTOR_BACKGROUND_LAST,
    Layout,
    dense_after_pool,
    size_major_anchors,
)
from frcnn_jax.convert.rules import (
    Conversion,
    Flat,
    Rule,
    conv,
    convert,
    dense,
    frozen_norm,
    invert,
    pool_side,
)

_FIRST_FC = "roi_heads.box_head.fc1"
_RPN = "proposal_generator.rpn_head"
BUFFERS = Layout("pixel means and anchors, which are fields here", None, None)


def rules(pool_size: int | None, pyramid: bool) -> list[Rule]:
    """Returns the table, both directions.

    `pool_size` is the side of the RoI crop in cells, None for C4 models, which have no
    hidden fc. With `pyramid` the trunk lies in `backbone.bottom_up`.
    """
    trunk = "backbone.bottom_up." if pyramid else "backbone."
    table = _conv_norm(f"{trunk}stem.conv1", "backbone/stem/", "")
    for stage in (2, 3, 4, 5):
        table += _stage(f"{trunk}res{stage}", f"backbone/layer{stage - 1}")
    table += _stage("roi_heads.res5", "box_head/layer4")
    for level in (2, 3, 4, 5):
        for part in ("lateral", "output"):
            ours = f"fpn/{part}{level}"
            table += conv(f"backbone.fpn_{part}{level}", ours, bias=True)
    table += conv(f"{_RPN}.conv", "rpn/conv", bias=True)
    table += _anchors("objectness_logits", "objectness", 1)
    table += _anchors("anchor_deltas", "deltas", 4)
    if pool_size is not None:
        after_pool = dense_after_pool(pool_size)
        table += dense(_FIRST_FC, "box_head/fc1", kernel=after_pool)
        table += dense("roi_heads.box_head.fc{fc}", "box_head/fc{fc}")
    table += dense(
        "roi_heads.box_predictor.cls_score",
        "box_head/predictor/classes",
        kernel=DENSE_BACKGROUND_LAST,
        bias=VECTOR_BACKGROUND_LAST,
    )
    table += dense("roi_heads.box_predictor.bbox_pred", "box_head/predictor/deltas")
    cells = "proposal_generator.anchor_generator.cell_anchors.{level}"
    return table + [
        Rule(name, "", BUFFERS) for name in ("pixel_mean", "pixel_std", cells)
    ]


def _stage(theirs: str, ours: str) -> list[Rule]:
    table = []
    for i in (1, 2, 3):
        table += _conv_norm(f"{theirs}.{{block}}.conv{i}", f"{ours}/block{{block}}/", i)
    shortcut = f"{theirs}.{{block}}.shortcut", f"{ours}/block{{block}}/shortcut_"
    return table + _conv_norm(*shortcut, "")


def _conv_norm(theirs: str, ours: str, number: int | str) -> list[Rule]:
    """A convolution and the norm that is its child there and its neighbour here."""
    return [
        *conv(theirs, f"{ours}conv{number}", bias=False),
        *frozen_norm(f"{theirs}.norm", f"{ours}norm{number}"),
    ]


def _anchors(theirs: str, ours: str, values: int) -> list[Rule]:
    return [
        Rule(
            f"{_RPN}.{theirs}.{leaf}",
            f"params/rpn/{ours}/{our_leaf}",
            size_major_anchors(values, ndim),
        )
        for leaf, our_leaf, ndim in (("weight", "kernel", 4), ("bias", "bias", 1))
    ]


def conversion(
    state: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Conversion:
    """Turns a state dict into our variables, with the names that were not used.

    `pool_size` None: read from the widths of the first fc and of the RPN, which see the
    same feature channels. Raises ConversionError for unexplained names, half layers and
    wrong shapes.
    """
    return convert(state, table(state, pool_size=pool_size))


def table(
    state: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Sequence[Rule]:
    """Returns the rules of `conversion` for this state dict, judged by its names."""
    first_fc = f"{_FIRST_FC}.weight"
    if pool_size is None and first_fc in state:
        pool_size = pool_side(state, first_fc, 1, f"{_RPN}.conv.weight", 1)
    pyramid = any(name.startswith("backbone.bottom_up.") for name in state)
    return rules(pool_size, pyramid)


def from_state_dict(
    state: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Flat:
    """Returns the variables of `conversion`."""
    return conversion(state, pool_size=pool_size).variables


def to_state_dict(
    variables: Mapping[str, np.ndarray], *, pool_size: int | None = None
) -> Flat:
    """Turns our variables into a state dict with detectron2's names.

    `pool_size` None: as in `conversion`. Raises ConversionError for paths that no rule
    explains.
    """
    first_fc = "params/box_head/fc1/kernel"
    if pool_size is None and first_fc in variables:
        pool_size = pool_side(variables, first_fc, 0, "params/rpn/conv/kernel", 2)
    pyramid = any(path.startswith("params/fpn/") for path in variables)
    return invert(variables, rules(pool_size, pyramid))
