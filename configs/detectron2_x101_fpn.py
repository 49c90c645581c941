"""Faster R-CNN X-101-32x8d-FPN, detectron2's recipe, multi-scale 3x on COCO.

Published box AP 43.0 (detectron2, COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.detectron2(common.resnext_fpn(32, 8))
    common.bgr_pixels(run.model)
    common.freeze_norms(run)
    return run
