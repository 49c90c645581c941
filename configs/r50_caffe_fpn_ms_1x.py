"""Faster R-CNN R-50-FPN in caffe style, multi-scale 1x on COCO.

No row of the table itself: the base of the COCO subsets, and of the 2x row.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    return common.multi_scale(common.caffe_fpn(50))
