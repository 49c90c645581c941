"""Faster R-CNN R-50-FPN, 1x on COCO.

Published box AP 37.4 (mmdetection, faster-rcnn_r50_fpn_1x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.fpn(50)
