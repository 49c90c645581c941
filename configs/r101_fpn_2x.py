"""Faster R-CNN R-101-FPN, 2x on COCO.

Published box AP 39.8 (mmdetection, faster-rcnn_r101_fpn_2x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.fpn(101)
    common.schedule(run, 24.0, (16.0, 22.0))
    return run
