"""Faster R-CNN R-50-FPN in mixed precision, 1x on COCO.

Published box AP 37.5 (mmdetection, faster-rcnn_r50_fpn_amp-1x_coco);
ours is not trained yet.

The row is float16 with a dynamic loss scale, and so is this. bfloat16, which needs no
scale, is `--config.model.dtype=bfloat16` on any configuration.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.fpn(50)
    run.model.dtype = "float16"
    return run
