"""Faster R-CNN ResNet-101 on COCO at 600 pixels, longer, jwyang's recipe.

Published box AP 34.5 (jwyang faster-rcnn.pytorch, ResNet-101 on COCO, scale 600,
10 epochs); ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.jwyang_res101(600, 20.0)
