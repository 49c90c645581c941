"""Faster R-CNN VGG-16 on VOC 2007 at 600 pixels, jwyang's recipe.

Published box AP50 70.1 (jwyang faster-rcnn.pytorch, VGG-16 on VOC07, scale 600,
6 epochs); ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.jwyang_voc07(common.jwyang_vgg16(600, 12.0), 12.0)
