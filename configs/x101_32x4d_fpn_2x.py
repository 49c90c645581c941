"""Faster R-CNN X-101-32x4d-FPN, 2x on COCO.

Published box AP 41.2 (mmdetection, faster-rcnn_x101-32x4d_fpn_2x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.resnext_fpn(32, 4)
    common.schedule(run, 24.0, (16.0, 22.0))
    return run
