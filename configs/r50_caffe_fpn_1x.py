"""Faster R-CNN R-50-FPN in caffe style, 1x on COCO.

Published AP 37.8 (mmdetection, faster-rcnn_r50-caffe_fpn_1x_coco); ours is not trained
yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.r50_fpn()
    common.caffe_style(run.model)
    run.train.freeze = ("backbone/(stem|layer1)/.*", "backbone/.*norm.*")
    return run
