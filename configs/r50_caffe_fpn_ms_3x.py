"""Faster R-CNN R-50-FPN in caffe style, multi-scale 3x on COCO.

Published box AP 39.9 (mmdetection, faster-rcnn_r50-caffe_fpn_ms-3x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.ms_3x(common.caffe_fpn(50))
