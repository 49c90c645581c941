"""Faster R-CNN R-50-FPN in caffe style, multi-scale 1x on COCO's persons.

Published box AP 55.8 (mmdetection, faster-rcnn_r50-caffe_fpn_ms-1x_coco-person);
ours is not trained yet.

The row starts from a detector of 80 classes with a fresh predictor:
`--config.init.load=mmdet:r50_caffe_fpn_ms_3x_2020
--config.init.skip='box_head/predictor/.*'`.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.subset("person")
