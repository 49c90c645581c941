"""jwyang faster-rcnn.pytorch, VGG-16 and ResNet detectors, to and from our variables.

Names as in f9d984d2, the `model` entry of its checkpoints: `RCNN_base.*` is the trunk
by position (torchvision's `features` of VGG-16; stem, and stages 4 to 6 of a list for a
ResNet), `RCNN_top.*` the head of every RoI (fc6 and fc7, or the last stage),
`RCNN_rpn.*`, `RCNN_cls_score`, `RCNN_bbox_pred`.

What differs: kernel axes, and fc6 reads a crop flattened (C, 7, 7) there and (7, 7, C)
here. Equal on both sides: background is the first class and has deltas of its own, both
logits of an anchor are kept, deltas are normalised (py-faster-rcnn folds the deviations
into its weights, these files do not), pixel order BGR.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from frcnn_jax.convert.imagenet import stage_rules, vgg_rules
from frcnn_jax.convert.layouts import STEP_COUNTER, Layout
from frcnn_jax.convert.rules import (
    Conversion,
    Flat,
    Rule,
    batch_norm,
    conv,
    convert,
    dense,
    invert,
)

# The published files are older than torch's step counters: none are written.
COUNTER = Layout(STEP_COUNTER.name, None, None)


def rules(vgg: bool) -> list[Rule]:
    """Returns the table of VGG-16 or of ResNet detectors, both directions."""
    table = vgg_rules("RCNN_base", "RCNN_top") if vgg else _resnet_rules()
    table += conv("RCNN_rpn.RPN_Conv", "rpn/conv", bias=True)
    table += conv("RCNN_rpn.RPN_cls_score", "rpn/objectness", bias=True)
    table += conv("RCNN_rpn.RPN_bbox_pred", "rpn/deltas", bias=True)
    table += dense("RCNN_cls_score", "box_head/predictor/classes")
    return table + dense("RCNN_bbox_pred", "box_head/predictor/deltas")


def _resnet_rules() -> list[Rule]:
    table = conv("RCNN_base.0", "backbone/stem/conv", bias=False)
    table += batch_norm("RCNN_base.1", "backbone/stem/norm")
    for stage in (1, 2, 3):
        table += stage_rules(f"RCNN_base.{stage + 3}", f"backbone/layer{stage}")
    table += stage_rules("RCNN_top.0", "box_head/layer4")
    return [
        rule._replace(layout=COUNTER) if rule.layout is STEP_COUNTER else rule
        for rule in table
    ]


def conversion(state: Mapping[str, np.ndarray]) -> Conversion:
    """Turns a state dict into our variables, with the names that were not used.

    Raises ConversionError for unexplained names, half layers and wrong axes.
    """
    return convert(state, table(state))


def table(state: Mapping[str, np.ndarray]) -> Sequence[Rule]:
    """Returns the rules of `conversion` for this state dict, judged by its names."""
    return rules("RCNN_base.0.bias" in state)


def from_state_dict(state: Mapping[str, np.ndarray]) -> Flat:
    """Returns the variables of `conversion`."""
    return conversion(state).variables


def to_state_dict(variables: Mapping[str, np.ndarray]) -> Flat:
    """Turns our variables into a state dict with jwyang's names.

    Without step counters, as the published files; newer versions of torch fill them in.
    Raises ConversionError for paths that no rule explains.
    """
    return invert(variables, rules("params/backbone/stage1/conv1/kernel" in variables))
