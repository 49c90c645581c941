"""Faster R-CNN R-101-FPN in caffe style, multi-scale 3x on COCO.

Published box AP 42.0 (mmdetection, faster-rcnn_r101-caffe_fpn_ms-3x_coco);
ours is not trained yet.

Pixels are those of the published weights (mmdetection 2.x): BGR, mean only. The
configuration of mmdetection 3.3.0 inherits RGB with deviations, which do not fit the
ImageNet weights it starts from.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.ms_3x(common.caffe_fpn(101))
