"""Faster R-CNN MobileNetV3-Large-FPN; labels are COCO's ids 1..90.

Published box AP 32.8 (torchvision, fasterrcnn_mobilenet_v3_large_fpn COCO_V1);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.torchvision_mobilenet()
