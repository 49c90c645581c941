"""Faster R-CNN X-101-64x4d-FPN, 2x on COCO.

Published box AP 41.6 (mmdetection, faster-rcnn_x101-64x4d_fpn_2x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.resnext_fpn(64, 4)
    common.schedule(run, 24.0, (16.0, 22.0))
    return run
