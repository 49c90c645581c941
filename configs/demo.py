"""A small detector from scratch on drawn shapes: `make demo`, minutes on two cores."""

from frcnn_jax import config


def get_config() -> config.Run:
    run = config.Run()
    run.data.root = "runs/demo/data"
    run.data.short_sides, run.data.max_side, run.data.eval_short_side = (192,), 256, 192
    model = run.model
    model.num_classes = 0
    model.backbone.depth, model.backbone.width = 18, 32
    model.backbone.stages, model.backbone.norm = ("c2", "c3", "c4"), "batch"
    model.fpn.channels, model.fpn.levels = 64, 4
    model.rpn.channels = 64
    model.rpn.anchor_sizes = ((16.0,), (32.0,), (64.0,), (128.0,))
    model.rpn.pre_nms_train = model.rpn.pre_nms_test = 300
    model.rpn.post_nms_train = model.rpn.post_nms_test = 150
    model.roi.fc, model.roi.samples, model.roi.finest_scale = (256, 256), 64, 28.0
    train = run.train
    train.batch_size, train.lr_batch_size, train.lr = 8, 8, 0.02
    train.epochs, train.milestones, train.warmup_steps = 16.0, (12.0, 15.0), 30
    train.freeze, train.clip_norm = (), 10.0
    train.log_every, train.eval_every = 30, 8.0
    return run
