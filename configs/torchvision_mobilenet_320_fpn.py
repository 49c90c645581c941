"""Faster R-CNN MobileNetV3-Large-FPN at 320 pixels; labels are COCO's ids 1..90.

Published box AP 22.8 (torchvision, fasterrcnn_mobilenet_v3_large_320_fpn COCO_V1);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.torchvision_mobilenet()
    data, rpn = run.data, run.model.rpn
    data.short_sides, data.max_side, data.eval_short_side = (320,), 640, 320
    rpn.pre_nms_test, rpn.post_nms_test = 150, 150
    return run
