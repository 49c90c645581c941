"""Faster R-CNN R-50-FPN, 2x on COCO.

Published box AP 38.4 (mmdetection, faster-rcnn_r50_fpn_2x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.fpn(50)
    common.schedule(run, 24.0, (16.0, 22.0))
    return run
