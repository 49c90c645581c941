"""Faster R-CNN R-50-FPN in caffe style, multi-scale 2x on COCO.

Published box AP 39.7 (mmdetection, faster-rcnn_r50-caffe_fpn_ms-2x_coco);
ours is not trained yet.

The rate drops as it did for the published weights (mmdetection 2.x); the
configuration of mmdetection 3.3.0 ends its scheduler before the first drop.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.multi_scale(common.caffe_fpn(50))
    common.schedule(run, 24.0, (16.0, 23.0))
    return run
