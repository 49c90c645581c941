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


# ---- detectron2
#
# What differs in training: its sampler of aspect ratios groups differently, and every
# worker divides losses by its own images; here all share one batch.


def detectron2(run: config.Run) -> config.Run:
    """A caffe-style run by detectron2's rules, multi-scale 3x: 270 000 steps."""
    run.data.resize, run.data.short_sides = "pil", SIDES
    _detectron2_rules(run.model)
    run.train.steps = 270_000
    schedule(run, 27.0, (21.0, 25.0))
    run.train.warmup_steps = 1000
    return run


def _detectron2_rules(model: config.FasterRCNN) -> None:
    model.box_coder = "torchvision"
    rpn = model.rpn
    rpn.min_positive_iou, rpn.rescue_rematches = 0.0, False
    rpn.loss_count, rpn.allowed_border = "slots", -1.0
    if model.fpn is None:
        model.cells = "canvas"  # nothing is padded beyond the batch


# ---- jwyang faster-rcnn.pytorch
#
# What a pass is: the peer lists every picture and its mirror image, so one of its
# epochs is two passes here. Where training differs from the peer's:
# - It crops pictures to a ratio of two at most and leaves the long side free in
#   scoring; here `max_side` shrinks longer ones in both.
# - It divides the RPN's box loss by the anchors drawn in the last image of a batch,
#   each GPU for itself; here by those of all images.
# - It draws background RoIs with replacement, so that a batch is always full, and fills
#   missing proposals up with empty boxes; here missing ones are missing.
# - It learns crowd boxes as objects and keeps more than 100 detections whose scores
#   tie with the last; neither happens here.


def jwyang_res101(side: int, passes: float) -> config.Run:
    """ResNet-101 on COCO, stage 5 on each RoI; batch 16 at 800 pixels, 24 at 600."""
    run = _jwyang(side, passes)
    _jwyang_resnet(run)
    run.train.batch_size = run.train.lr_batch_size = 16 if side == 800 else 24
    run.model.rpn.post_nms_test = 1000 if side == 800 else 300
    return run


def jwyang_vgg16(side: int, passes: float) -> config.Run:
    """VGG-16 on COCO, its two fully connected layers on each RoI."""
    run = _jwyang(side, passes)
    _jwyang_vgg(run)
    return run


def jwyang_voc07(run: config.Run, passes: float) -> config.Run:
    """The same on VOC 2007, one picture per step, scored by VOC's measure of 2007."""
    run.data.root, run.eval.metric = "data/VOCdevkit", "voc07"
    run.data.train, run.data.val = "VOC2007/trainval", "VOC2007/test"
    run.model.num_classes = 20
    run.model.rpn.anchor_sizes = ((128.0, 256.0, 512.0),)
    run.train.batch_size = run.train.lr_batch_size = 1
    run.train.lr = 0.001
    schedule(run, passes, (10.0,))
    return run


def _jwyang(side: int, passes: float) -> config.Run:
    run = fpn(101)
    data, model, train = run.data, run.model, run.train
    data.short_sides, data.eval_short_side, data.max_side = (side,), side, 2 * side
    data.buckets, data.resize = _jwyang_canvases(side), "cv2_f32"
    model.channel_order, model.box_coder, model.fpn = "bgr", "caffe", None
    model.pixel_mean, model.pixel_std = (102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0)
    _jwyang_stages(model.rpn, model.roi)
    train.lr, train.warmup_steps = 0.01, 0
    train.no_decay = (".*/bias",)
    # A tenth at the start of its epochs 5 and 10, which are our passes 9 and 19.
    schedule(run, passes, tuple(m for m in (8.0, 18.0) if m < passes))
    return run


def _jwyang_canvases(side: int) -> tuple[tuple[int, int], ...]:
    """For pictures up to 4:3, as most are, and for longer ones; both orientations."""
    short, usual, long = (-(-x // 32) * 32 for x in (side, side * 4 / 3, side * 2))
    wide = [(short, int(usual)), (short, long)]
    return (*wide, *((w, h) for h, w in wide))


def _jwyang_stages(rpn: config.RPN, roi: config.RoI) -> None:
    rpn.channels, rpn.two_way = 512, True
    rpn.anchor_sizes, rpn.anchor_style = ((64.0, 128.0, 256.0, 512.0),), "caffe"
    rpn.allowed_border = 0.0
    rpn.min_positive_iou, rpn.rescue_rematches = 1e-5, False  # any overlap at all
    rpn.box_loss, rpn.box_loss_beta, rpn.loss_count = "smooth_l1", 1 / 9, "sampled"
    rpn.pre_nms_train, rpn.post_nms_train = 12000, 2000
    rpn.pre_nms_test, rpn.post_nms_test = 6000, 300
    roi.pooling, roi.background_deltas = "point_align", True
    roi.box_loss, roi.box_loss_beta = "smooth_l1", 1.0
    roi.score_threshold, roi.nms_iou = 0.0, 0.3


def _jwyang_resnet(run: config.Run) -> None:
    model, train = run.model, run.train
    model.backbone = config.ResNet(
        depth=101, stride_in_1x1=True, stem_pool="ceil", stages=("c4",)
    )
    model.cells = "caffe"
    model.roi.res5, model.roi.fc, model.roi.samples = True, (), 128
    freeze_norms(run)
    train.freeze += ("box_head/layer4/.*norm.*",)


def _jwyang_vgg(run: config.Run) -> None:
    model, train = run.model, run.train
    model.backbone, model.cells = config.VGG16(), "floor"
    model.roi.fc, model.roi.dropout, model.roi.samples = (4096, 4096), 0.5, 256
    train.freeze = ("backbone/stage[12]/.*",)
    train.batch_size = train.lr_batch_size = 16
    train.weight_decay, train.clip_norm = 5e-4, 10.0
    train.bias_rate = 2.0
