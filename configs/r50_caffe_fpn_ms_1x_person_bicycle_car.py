"""Faster R-CNN R-50-FPN in caffe style, multi-scale 1x on three of COCO's classes.

Published box AP 44.1 (mmdetection,
faster-rcnn_r50-caffe_fpn_ms-1x_coco-person-bicycle-car);
ours is not trained yet.

Where the row starts from is told in `r50_caffe_fpn_ms_1x_person.py`.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.subset("person", "bicycle", "car")
