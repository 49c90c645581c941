"""Faster R-CNN R-50-DC5, detectron2's recipe, multi-scale 3x on COCO.

Published box AP 39.0 (detectron2, COCO-Detection/faster_rcnn_R_50_DC5_3x);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.detectron2(common.caffe_dc5(50))
