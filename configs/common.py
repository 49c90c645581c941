"""What several configurations share: schedules and pixel schemes.

A configuration is a function `get_config() -> frcnn_jax.config.Run`; fields not set
keep the default of `frcnn_jax/config.py`.
"""

from frcnn_jax import config


def r50_fpn() -> config.Run:
    """R-50-FPN, 1x schedule on COCO: mmdetection's base configuration."""
    run = config.Run()
    run.data.root = "data/coco"
    run.data.train, run.data.val = "train2017", "val2017"
    return run


def caffe_style(model: config.FasterRCNN) -> None:
    """Strides in the first 1x1, BGR pixels without scaling."""
    model.backbone.stride_in_1x1 = True
    model.channel_order = "bgr"
    model.pixel_mean = (103.53, 116.28, 123.675)
    model.pixel_std = (1.0, 1.0, 1.0)
