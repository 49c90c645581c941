"""What a user can set: sections (`schema`), their rules, and their plain form."""

from frcnn_jax.config.plain import (
    differences,
    flatten,
    from_dict,
    nearest,
    to_dict,
    to_json,
)
from frcnn_jax.config.rules import CHOICES, check_names, validate
from frcnn_jax.config.schema import (
    FPN,
    RPN,
    VGG16,
    Backbone,
    Data,
    Eval,
    FasterRCNN,
    Init,
    MobileNetV3,
    ResNet,
    RoI,
    Run,
    Train,
)

__all__ = [
    "CHOICES",
    "FPN",
    "RPN",
    "VGG16",
    "Backbone",
    "Data",
    "Eval",
    "FasterRCNN",
    "Init",
    "MobileNetV3",
    "ResNet",
    "RoI",
    "Run",
    "Train",
    "check_names",
    "differences",
    "flatten",
    "from_dict",
    "nearest",
    "to_dict",
    "to_json",
    "validate",
]
