"""Faster R-CNN X-101-32x4d-FPN, 1x on COCO.

Published box AP 41.2 (mmdetection, faster-rcnn_x101-32x4d_fpn_1x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.resnext_fpn(32, 4)
