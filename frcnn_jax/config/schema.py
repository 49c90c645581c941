"""The schema: every field a user can set, with its one default.

Plain dataclasses (no jax here), so that `--config.model.rpn.nms_iou=0.6` works from the
command line and a typo stops at once. Tuples, never lists. Where a field may hold one
of several sections, or none, its type says so. Nothing else in the package has a
default of its own; the rules that join fields are in `rules`.
"""

from dataclasses import dataclass, field


@dataclass
class Data:
    """Where images come from and how they reach the network."""

    root: str = ""  # folder of a COCO, VOC or YOLO set, or "tfds:NAME:VERSION"
    train: str = "train"  # split, as in annotations/<name>.json; see docs/own_data.md
    val: str = "val"
    val_fraction: float = 0.1  # of train, held out where the set has no other split
    classes: tuple[str, ...] = ()  # subset by name; () = all classes of the data
    image_ids: tuple[str, ...] = ()  # subset by id, numbers as texts; () = all
    fraction: float = 1.0  # of the training images, always the same ones
    voc_inclusive: bool = True  # VOC XML counts pixels from 1, the last included
    short_sides: tuple[int, ...] = (800,)  # training; several: see short_side_mode
    short_side_mode: str = "choice"  # "choice" of the list, or "range" of its extremes
    max_side: int = 1333
    eval_short_side: int = 800
    size_rule: str = "round"  # of resized sides; "floor" = torchvision
    resize: str = "cv2_u8"  # as mmdetection; see data/transforms.py: "cv2_f32", "pil"
    flip: float = 0.5  # probability of a horizontal flip
    crop: tuple[int, ...] = ()  # (H, W): training images are cut to it; () = not
    crop_keeps_box: bool = False  # the centre of a box stays inside
    crop_visible: float = 0.0  # boxes are dropped with a smaller share of them left
    scale_jitter: tuple[float, ...] = ()  # (0.1, 2.0) of what fits `crop`; () = off
    brightness: float = 0.0  # factors 1 - x to 1 + x, as torchvision's ColorJitter
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # turns of the colour circle, either way
    exact_decode: bool = True  # False: large JPEGs are decoded at 1/2, 1/4 or 1/8
    buckets: tuple[tuple[int, int], ...] = ()  # (H, W); () = one per orientation, tight
    max_boxes: int = 0  # ground-truth rows per image; 0 = what the data needs
    keep_empty: bool = True  # train on images without objects
    min_box_side: float = 1.0  # smaller boxes are no training target (original pixels)
    allow_outside_root: bool = False  # COCO file names may be absolute, or begin "../"
    on_bad_image: str = "error"  # or "skip": the next readable image takes its place
    max_image_pixels: int = 178_956_970  # larger files are refused; Pillow's own limit
    threads: int = 8  # each fills a batch of its own, so at most `prefetch` of them
    prefetch: int = 8  # batches


@dataclass
class ResNet:
    """A ResNet or ResNeXt trunk."""

    depth: int = 50  # 18, 34, 50, 101, 152
    width: int = 64  # channels of the 3x3 in stage c2, doubled at each stage
    stem_width: int = 0  # channels of the stem; 0 = width
    groups: int = 1  # of the 3x3 convolutions; above 1 = ResNeXt (depth 50 and more)
    group_width: int = 64  # channels per group in stage c2: 4 in "32x4d"
    stride_in_1x1: bool = False  # True = caffe style, False = pytorch style
    dilate_c5: bool = False  # c5 keeps the stride of c4 and dilates its 3x3 ("DC5")
    stem_pool: str = "padded"  # 3x3 stride 2; "ceil" = Caffe's, without padding
    stages: tuple[str, ...] = ("c2", "c3", "c4", "c5")  # outputs, finest first
    norm: str = "frozen"  # "frozen" statistics, or "batch" = synchronised over devices
    norm_eps: float = 1e-5


@dataclass
class VGG16:
    """The convolutions of VGG-16 up to conv5_3, stride 16, one output "c5"."""

    width: int = 64  # channels of the first stage
    norm: str = "none"  # or "frozen", "batch": after each convolution, as vgg16_bn
    norm_eps: float = 1e-5


@dataclass
class MobileNetV3:
    """MobileNetV3-Large up to stride 32: last stage ("c5") and last 1x1 ("c6")."""

    width: float = 1.0  # multiplier of all channels
    norm: str = "frozen"
    norm_eps: float = 1e-5


Backbone = ResNet | VGG16 | MobileNetV3


@dataclass
class FPN:
    """The feature pyramid; levels beyond the backbone's are subsampled by two."""

    channels: int = 256
    levels: int = 5
    norm: str = "none"  # or "frozen", "batch": norms instead of biases
    norm_eps: float = 1e-5


@dataclass
class RPN:
    """Region proposals: head, anchors, matching, sampling, proposals."""

    channels: int = 256
    convs: int = 1  # 3x3 convolutions before the outputs
    two_way: bool = False  # a logit each for background and object; their difference
    anchor_sizes: tuple[tuple[float, ...], ...] = (
        (32.0,),
        (64.0,),
        (128.0,),
        (256.0,),
        (512.0,),
    )  # sqrt(area) in pixels, one row per level
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    anchor_style: str = "exact"  # see ops/anchors.py: "exact", "rounded", "caffe"
    allowed_border: float = -1.0  # pixels beyond the image in training; -1 = any
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    min_positive_iou: float = 0.3  # each box takes its best anchors above this
    rescue_rematches: bool = True  # ... also those that fit another box better
    samples: int = 256
    positive_fraction: float = 0.5
    box_loss: str = "l1"  # on deltas
    box_loss_beta: float = 0.0  # smooth_l1 is quadratic below it
    loss_count: str = "mmdet"  # divisor of both losses: "mmdet", "sampled", "slots"
    pre_nms_train: int = 2000  # per level
    post_nms_train: int = 1000  # over all levels
    pre_nms_test: int = 1000
    post_nms_test: int = 1000
    nms_iou: float = 0.7
    score_threshold: float = 0.0  # proposals need at least this objectness
    min_side: float = 0.0  # and longer sides, in pixels


@dataclass
class RoI:
    """The second stage: RoIAlign, head, matching, sampling, final detections."""

    pooling: str = "align"  # or "point_align" (jwyang), "max" (RoIPool)
    pool_size: int = 7
    sampling_ratio: int = 0  # samples per bin and axis; 0 = adaptive, ceil(side / pool)
    aligned: bool = True  # half-pixel shift
    finest_scale: float = 56.0  # RoIs below twice this side use the finest level
    res5: bool = False  # the head is stage 5 of the ResNet on each crop ("C4")
    convs: tuple[int, ...] = ()  # 3x3 with norm and relu on each crop, before the fc
    norm: str = "frozen"  # of these; or "batch"
    norm_eps: float = 1e-5
    fc: tuple[int, ...] = (1024, 1024)
    dropout: float = 0.0  # after each fc, in training
    background_deltas: bool = False  # four more outputs for background, never used
    box_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    box_loss: str = "l1"  # see losses/boxes.py
    box_loss_beta: float = 0.0  # smooth_l1 is quadratic below it
    box_loss_weight: float = 1.0
    positive_iou: float = 0.5
    samples: int = 512
    positive_fraction: float = 0.25
    score_threshold: float = 0.05
    min_side: float = 0.0  # detections need longer sides, in network pixels
    nms_iou: float = 0.5
    max_detections: int = 100


@dataclass
class FasterRCNN:
    """The two-stage detector."""

    num_classes: int = 80  # 0 = taken from the data
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channel_order: str = "rgb"  # what the weights expect; batches are always RGB
    dtype: str = "float32"  # compute type of the networks; "bfloat16" or "float16"
    mask_padding: bool = True  # a larger canvas then gives the same detections
    cells: str = "padded32"  # cells of an image on a map, see ops/canvas.py
    initial_values: str = "mmdet"  # or "torchvision", see models/initialise.py
    box_coder: str = "mmdet"  # or "torchvision", "caffe", see ops/boxes.py
    backbone: Backbone = field(default_factory=ResNet)
    fpn: FPN | None = field(default_factory=FPN)  # None: RPN and RoIs on one map
    rpn: RPN = field(default_factory=RPN)
    roi: RoI = field(default_factory=RoI)


@dataclass
class Train:
    """Optimisation, logging, checkpoints."""

    batch_size: int = 16  # images per step over all devices
    epochs: float = 12.0
    steps: int = 0  # when set, wins over epochs
    lr: float = 0.02  # for lr_batch_size images per step, scaled linearly
    lr_batch_size: int = 16  # 0 = use lr as it stands
    optimizer: str = "sgd"  # or "adamw": weights decay apart from the gradient
    momentum: float = 0.9  # of sgd
    betas: tuple[float, float] = (0.9, 0.999)  # of adamw
    weight_decay: float = 1e-4
    no_decay: tuple[str, ...] = ()  # patterns of whole paths, as in freeze
    bias_rate: float = 1.0  # times lr for biases of convolutions and fc, not of norms
    warmup_steps: int = 500
    warmup_factor: float = 0.001  # of the learning rate at step 0
    milestones: tuple[float, ...] = (8.0, 11.0)  # epochs at which the rate drops
    decay_factor: float = 0.1
    clip_norm: float = 0.0  # of the whole gradient; 0 = off
    # Factor on the loss at the start, for model.dtype "float16" only: it doubles after
    # 2000 good steps and halves on overflow.
    loss_scale: float = 65536.0
    # Patterns of whole parameter paths (regular expressions) that do not learn.
    freeze: tuple[str, ...] = ("backbone/(stem|layer1)/.*",)
    accumulate: int = 1  # parts that a batch is computed in, one after the other
    ema: float = 0.0  # decay of averaged weights, such as 0.9998; 0 = none
    patience: int = 0  # evaluations without a better AP that end the run; 0 = off
    max_nonfinite: int = 10  # steps in a row without effect, before ...
    on_nonfinite: str = "stop"  # or "rollback": to the last checkpoint, once
    log_every: int = 50  # steps
    eval_every: float = 1.0  # epochs; 0 = only at the end
    checkpoint_every: int = 0  # steps; 0 = at each evaluation
    keep_checkpoints: int = 2
    profile: int = 0  # steps to trace into workdir/profile; 0 = none
    save_best_effort: bool = False  # go on where a checkpoint could not be written
    wandb: str = ""  # project of Weights & Biases to log to as well; "" = none
    pictures: int = 4  # of validation, for TensorBoard at each evaluation; 0 = none
    picture_score: float = 0.5  # they show predictions from this score on


@dataclass
class Eval:
    """Scoring."""

    metric: str = "coco"  # or "voc07" (11 recalls), "voc" (area), both at IoU 0.5
    backend: str = "pycocotools"  # of the COCO metric; or "faster": faster-coco-eval
    split: str = ""  # "" = data.val
    loss: bool = False  # the training loss on these images too
    batch_size: int = 8  # most images per step over all devices
    max_pictures: int = 16  # drawn by the demo and by eval.py --pictures


@dataclass
class Init:
    """Where weights start from."""

    # A file (.pth, .pkl, .safetensors, .npz) with names of ours or of a peer, the name
    # of published weights (torchvision:resnet50) or a repository (hf:OWNER/NAME).
    load: str = ""
    skip: tuple[str, ...] = ()  # patterns of whole paths that keep their fresh values


@dataclass
class Run:
    """One experiment."""

    seed: int = 0
    data: Data = field(default_factory=Data)
    model: FasterRCNN = field(default_factory=FasterRCNN)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    init: Init = field(default_factory=Init)
