"""Faster R-CNN R-50-FPN in caffe style, 1x on COCO.

Published box AP 37.8 (mmdetection, faster-rcnn_r50-caffe_fpn_1x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.caffe_fpn(50)
