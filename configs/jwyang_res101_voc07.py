"""Faster R-CNN ResNet-101 on VOC 2007 at 600 pixels, jwyang's recipe.

Published box AP50 75.2 (jwyang faster-rcnn.pytorch, ResNet-101 on VOC07, scale 600,
7 epochs); ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.jwyang_voc07(common.jwyang_res101(600, 14.0), 14.0)
