"""Faster R-CNN R-50-C4 in caffe style, multi-scale 1x on COCO.

Published box AP 35.9 (mmdetection, faster-rcnn_r50-caffe-c4_ms-1x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.multi_scale(common.caffe_c4(50))
