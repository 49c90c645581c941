"""Faster R-CNN R-50-FPN from torchvision's newer backbone with AdamW, 1x on COCO.

Published box AP 40.2 (mmdetection, faster-rcnn_r50-tnr-pre_fpn_1x_coco);
ours is not trained yet.

The row starts from torchvision's IMAGENET1K_V2 trunk:
`--config.init.load=torchvision:resnet50_v2`.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.fpn(50)
    run.train.optimizer, run.train.lr, run.train.weight_decay = "adamw", 1e-4, 0.1
    run.train.no_decay = (".*norm.*",)
    return run
