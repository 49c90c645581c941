"""Faster R-CNN R-50-FPN, multi-scale 3x on COCO.

Published box AP 40.3 (mmdetection, faster-rcnn_r50_fpn_ms-3x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.ms_3x(common.fpn(50))
