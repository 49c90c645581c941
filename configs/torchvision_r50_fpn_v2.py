"""Faster R-CNN R-50-FPN, torchvision's second version; labels are COCO's ids 1..90.

Batch norm everywhere, two convolutions in the RPN, four and one fc in the box head.
From scratch, with large-scale jitter.

Published box AP 46.7 (torchvision, fasterrcnn_resnet50_fpn_v2 COCO_V1);
ours is not trained yet.
"""

from configs import common
from frcnn_jax import config


def get_config() -> config.Run:
    run = common.torchvision_fpn()
    model, train = run.model, run.train
    model.backbone.norm = model.fpn.norm = model.roi.norm = "batch"
    model.rpn.convs = 2
    model.roi.convs, model.roi.fc = (256, 256, 256, 256), (1024,)
    common.schedule(run, 400.0, (352.0, 384.0))
    train.lr, train.batch_size, train.lr_batch_size = 0.1, 64, 64
    train.weight_decay, train.freeze = 4e-5, ()
    train.eval_every = 10.0
    run.data.crop, run.data.scale_jitter = (1024, 1024), (0.1, 2.0)
    return run
