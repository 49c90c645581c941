"""Faster R-CNN R-50-FPN, detectron2's recipe, multi-scale 3x on COCO.

Published box AP 40.2 (detectron2, COCO-Detection/faster_rcnn_R_50_FPN_3x);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.detectron2(common.caffe_fpn(50))
