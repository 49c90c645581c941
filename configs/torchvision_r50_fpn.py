"""Faster R-CNN R-50-FPN as torchvision has it; labels are COCO's ids 1..90.

Published box AP 37.0 (torchvision, fasterrcnn_resnet50_fpn COCO_V1);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.torchvision_fpn()
    # torchvision sets it to 0 after loading these weights, which were trained so.
    run.model.backbone.norm_eps = 0.0
    return run
