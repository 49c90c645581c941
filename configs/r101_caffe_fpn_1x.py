"""Faster R-CNN R-101-FPN in caffe style, 1x on COCO.

Published box AP 39.8 (mmdetection, faster-rcnn_r101-caffe_fpn_1x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.caffe_fpn(101)
