"""Faster R-CNN ResNet-101 on COCO at 800 pixels, jwyang's recipe.

Published box AP 36.2 (jwyang faster-rcnn.pytorch, ResNet-101 on COCO, scale 800,
6 epochs); ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.jwyang_res101(800, 12.0)
