"""What several configurations share: families, pixel schemes, schedules.

A configuration is a function `get_config() -> frcnn_jax.config.Run`; fields not set
keep the default of `frcnn_jax/config/schema.py`, which is R-50-FPN as mmdetection
trains it. Functions that take a run change it.
"""

from frcnn_jax import config

SIDES = (640, 672, 704, 736, 768, 800)  # detectron2's and mmdetection's scales


def fpn(depth: int) -> config.Run:
    """ResNet with a pyramid on COCO, mmdetection's base configuration."""
    run = config.Run()
    run.data.root = "data/coco"
    run.data.train, run.data.val = "train2017", "val2017"
    run.data.keep_empty = False
    run.model.backbone.depth = depth
    return run


def caffe_fpn(depth: int) -> config.Run:
    """The same in caffe style: strides in the first 1x1, frozen norms, raw BGR."""
    run = fpn(depth)
    run.model.backbone.stride_in_1x1 = True
    freeze_norms(run)
    caffe_pixels(run.model)
    return run


def resnext_fpn(groups: int, group_width: int) -> config.Run:
    """ResNeXt-101 with a pyramid: 32 groups of 4 channels is "32x4d"."""
    run = fpn(101)
    run.model.backbone.groups = groups
    run.model.backbone.group_width = group_width
    return run


def caffe_c4(depth: int) -> config.Run:
    """One map of stride 16; stage 5 of the trunk is the head of every RoI."""
    run = caffe_fpn(depth)
    run.model.backbone.stages = ("c4",)
    _one_map(run.model, channels=1024)
    run.model.roi.res5, run.model.roi.fc, run.model.roi.pool_size = True, (), 14
    run.train.freeze += ("box_head/layer4/.*norm.*",)
    return run


def caffe_dc5(depth: int) -> config.Run:
    """One map of stride 16 from a dilated stage 5; two-fc head."""
    run = caffe_fpn(depth)
    run.model.backbone.stages, run.model.backbone.dilate_c5 = ("c5",), True
    _one_map(run.model, channels=2048)
    run.model.rpn.allowed_border = 0.0
    return run


def _one_map(model: config.FasterRCNN, channels: int) -> None:
    model.fpn, rpn = None, model.rpn
    rpn.channels = channels
    rpn.anchor_sizes = ((32.0, 64.0, 128.0, 256.0, 512.0),)
    rpn.pre_nms_train, rpn.post_nms_train = 12000, 2000
    rpn.pre_nms_test, rpn.post_nms_test = 6000, 1000


def freeze_norms(run: config.Run) -> None:
    """Scale and bias of the trunk's norms do not learn."""
    run.train.freeze = ("backbone/(stem|layer1)/.*", "backbone/.*norm.*")


def caffe_pixels(model: config.FasterRCNN) -> None:
    """BGR, mean only: what weights of caffe origin expect."""
    model.channel_order = "bgr"
    model.pixel_mean = (103.53, 116.28, 123.675)
    model.pixel_std = (1.0, 1.0, 1.0)


def bgr_pixels(model: config.FasterRCNN) -> None:
    """The usual mean and deviation in BGR."""
    model.channel_order = "bgr"
    model.pixel_mean = (103.53, 116.28, 123.675)
    model.pixel_std = (57.375, 57.12, 58.395)


def schedule(run: config.Run, epochs: float, milestones: tuple[float, ...]) -> None:
    """Passes over the data, and those before which the rate drops tenfold."""
    run.train.epochs, run.train.milestones = epochs, milestones


def ms_3x(run: config.Run) -> config.Run:
    """Multi-scale "3x": 36 passes, scored every third; sides drawn from a range.

    mmdetection writes it as 12 epochs of the data set repeated three times.
    """
    run.data.short_sides, run.data.short_side_mode = (640, 800), "range"
    schedule(run, 36.0, (27.0, 33.0))
    run.train.eval_every = 3.0
    return run


def multi_scale(run: config.Run) -> config.Run:
    """One of six sides for each image."""
    run.data.short_sides = SIDES
    return run


def box_loss(name: str) -> config.Run:
    """R-50-FPN whose box head compares decoded boxes; weight 10."""
    run = fpn(50)
    run.model.roi.box_loss, run.model.roi.box_loss_weight = name, 10.0
    return run


def subset(*classes: str) -> config.Run:
    """Caffe-style R-50-FPN, multi-scale, on images that show one of these classes."""
    run = multi_scale(caffe_fpn(50))
    run.data.classes, run.model.num_classes = classes, len(classes)
    return run


def torchvision_fpn() -> config.Run:
    """R-50-FPN by torchvision's rules, as its published weights want it.

    They have a class for each of COCO's category ids 1..90, ten of which are unused, so
    a label is an id. The rate is that of torchvision's training script.
    """
    run = fpn(50)
    run.data.size_rule, run.data.resize = "floor", "cv2_f32"
    run.data.min_box_side = 0.0
    _torchvision_rules(run.model)
    freeze_norms(run)
    schedule(run, 26.0, (16.0, 22.0))
    run.train.warmup_steps = 1000
    return run


def _torchvision_rules(model: config.FasterRCNN) -> None:
    model.num_classes, model.initial_values = 90, "torchvision"
    model.box_coder = "torchvision"
    rpn, roi = model.rpn, model.roi
    rpn.anchor_style, rpn.post_nms_train, rpn.min_side = "rounded", 2000, 1e-3
    rpn.rescue_rematches, rpn.min_positive_iou = False, 0.0
    rpn.loss_count = "sampled"
    rpn.box_loss, rpn.box_loss_beta = "smooth_l1", 1 / 9
    roi.box_loss, roi.box_loss_beta = "smooth_l1", 1 / 9
    roi.aligned, roi.sampling_ratio = False, 2
    roi.background_deltas, roi.min_side = True, 1e-2


def torchvision_mobilenet() -> config.Run:
    """The same on MobileNetV3-Large: two maps of stride 32, one of 64.

    All anchor sizes are on every map; RoIs are cut from the first.
    """
    run = torchvision_fpn()
    run.model.backbone, run.model.fpn.levels = config.MobileNetV3(), 3
    rpn = run.model.rpn
    rpn.anchor_sizes = ((32.0, 64.0, 128.0, 256.0, 512.0),) * 3
    rpn.score_threshold = 0.05
    run.train.freeze = ("backbone/(stem|block[1-6])/.*", "backbone/.*norm.*")
    return run
