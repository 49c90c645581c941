"""Faster R-CNN VGG-16 on COCO at 800 pixels, jwyang's recipe.

Published box AP 29.2 (jwyang faster-rcnn.pytorch, VGG-16 on COCO, scale 800,
6 epochs); ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.jwyang_vgg16(800, 12.0)
