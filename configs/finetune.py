"""Fine-tuning on your own COCO, VOC or YOLO folder: `--config.data.root=DIR`.

Class names and their number come from the data. A ResNet-18 trunk with its stages to C4
keeps it quick on a CPU. Start it from ImageNet weights, downloaded once, with
`--config.init.load=torchvision:resnet18`: its frozen layers learn nothing themselves.
"""

from frcnn_jax import config


def get_config() -> config.Run:
    run = config.Run()
    run.data.short_sides, run.data.max_side, run.data.eval_short_side = (240,), 320, 240
    model = run.model
    # Few steps: how fresh layers start is worth 0.05 AP, see benchmarks/results.
    model.num_classes, model.initial_values = 0, "torchvision"
    model.backbone.depth, model.backbone.stages = 18, ("c2", "c3", "c4")
    model.fpn.channels, model.fpn.levels = 128, 4
    model.rpn.channels = 128
    model.rpn.anchor_sizes = ((16.0,), (32.0,), (64.0,), (128.0,))
    model.rpn.pre_nms_train, model.rpn.post_nms_train = 1000, 500
    model.rpn.pre_nms_test, model.rpn.post_nms_test = 500, 500
    model.roi.fc, model.roi.samples = (512, 512), 256
    train = run.train
    train.batch_size, train.lr_batch_size, train.lr = 8, 8, 0.01
    train.epochs, train.milestones = 12.0, (8.0, 11.0)
    train.warmup_steps, train.warmup_factor = 50, 0.02
    train.freeze = ("backbone/(stem|layer1)/.*", "backbone/.*norm.*")
    train.log_every, train.eval_every = 25, 3.0
    return run
