"""Faster R-CNN X-101-32x8d-FPN, multi-scale 3x on COCO.

Published box AP 42.4 (mmdetection, faster-rcnn_x101-32x8d_fpn_ms-3x_coco);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.ms_3x(common.resnext_fpn(32, 8))
    common.bgr_pixels(run.model)
    common.freeze_norms(run)
    return run
