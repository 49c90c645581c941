"""Faster R-CNN ResNet-101 on COCO at 800 pixels, longer, jwyang's recipe.

Published box AP 37.0 (jwyang faster-rcnn.pytorch, ResNet-101 on COCO, scale 800,
10 epochs); ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.jwyang_res101(800, 20.0)
