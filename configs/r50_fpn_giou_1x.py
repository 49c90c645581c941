"""Faster R-CNN R-50-FPN with the GIoU loss, 1x on COCO.

Published box AP 37.6 (mmdetection, faster-rcnn_r50_fpn_giou_1x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.box_loss("giou")
