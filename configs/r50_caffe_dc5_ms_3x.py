"""Faster R-CNN R-50-DC5 in caffe style, multi-scale 3x on COCO.

Published box AP 38.7 (mmdetection, faster-rcnn_r50-caffe-dc5_ms-3x_coco);
ours is not trained yet.

The rate drops as it did for the published weights (mmdetection 2.x); the
configuration of mmdetection 3.3.0 ends its scheduler before the first drop.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.multi_scale(common.caffe_dc5(50))
    common.schedule(run, 36.0, (28.0, 34.0))
    return run
