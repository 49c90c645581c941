"""The schema: every field a user can set, with its one default.

Plain dataclasses (no jax here), so that `--config.model.rpn.nms_iou=0.6` works from the
command line and a typo stops at once. Tuples, never lists. `validate` holds every rule
that joins fields; nothing else in the package has a default of its own.
"""

import dataclasses
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Data:
    """Where images come from and how they reach the network."""

    root: str = ""  # folder with annotations/*.json and the images
    train: str = "train"  # split name: annotations/<name>.json or instances_<name>.json
    val: str = "val"
    classes: tuple[str, ...] = ()  # subset by name; () = all classes of the JSON
    short_sides: tuple[int, ...] = (800,)  # training; several: see short_side_mode
    short_side_mode: str = "choice"  # "choice" of the list, or "range" of its extremes
    max_side: int = 1333
    eval_short_side: int = 800
    resize: str = "cv2_u8"  # OpenCV bilinear on uint8 = mmdetection
    flip: float = 0.5  # probability of a horizontal flip
    buckets: tuple[tuple[int, int], ...] = ()  # (H, W); () = one per orientation, tight
    max_boxes: int = 0  # ground-truth rows per image; 0 = what the data needs
    keep_empty: bool = True  # train on images without objects
    min_box_side: float = 1.0  # smaller boxes are no training target (original pixels)
    on_bad_image: str = "error"  # or "skip": the next readable image takes its place
    threads: int = 8  # each fills a batch of its own, so at most `prefetch` of them
    prefetch: int = 8  # batches


@dataclass
class Backbone:
    """A ResNet trunk."""

    depth: int = 50  # 18, 34, 50, 101, 152
    width: int = 64  # channels of the stem
    stride_in_1x1: bool = False  # True = caffe style, False = pytorch style
    stages: tuple[str, ...] = ("c2", "c3", "c4", "c5")  # outputs, finest first
    norm: str = "frozen"  # "frozen" statistics, or "batch" = synchronised over devices
    norm_eps: float = 1e-5


@dataclass
class FPN:
    """The feature pyramid; levels beyond the backbone's are subsampled by two."""

    channels: int = 256
    levels: int = 5


@dataclass
class RPN:
    """Region proposals: head, anchors, matching, sampling, proposals."""

    channels: int = 256
    anchor_sizes: tuple[tuple[float, ...], ...] = (
        (32.0,),
        (64.0,),
        (128.0,),
        (256.0,),
        (512.0,),
    )  # sqrt(area) in pixels, one row per level
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    min_positive_iou: float = 0.3  # each box takes its best anchors above this
    samples: int = 256
    positive_fraction: float = 0.5
    pre_nms_train: int = 2000  # per level
    post_nms_train: int = 1000  # over all levels
    pre_nms_test: int = 1000
    post_nms_test: int = 1000
    nms_iou: float = 0.7


@dataclass
class RoI:
    """The second stage: RoIAlign, head, matching, sampling, final detections."""

    pool_size: int = 7
    sampling_ratio: int = 0  # samples per bin and axis; 0 = adaptive, ceil(side / pool)
    aligned: bool = True  # half-pixel shift
    finest_scale: float = 56.0  # RoIs below twice this side use the finest level
    fc: tuple[int, ...] = (1024, 1024)
    box_stds: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)
    box_loss: str = "l1"
    box_loss_weight: float = 1.0
    positive_iou: float = 0.5
    samples: int = 512
    positive_fraction: float = 0.25
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100


@dataclass
class FasterRCNN:
    """The two-stage detector."""

    num_classes: int = 80  # 0 = taken from the data
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channel_order: str = "rgb"  # what the weights expect; batches are always RGB
    dtype: str = "float32"  # compute type of the networks; or "bfloat16"
    mask_padding: bool = True  # a larger canvas then gives the same detections
    backbone: Backbone = field(default_factory=Backbone)
    fpn: FPN = field(default_factory=FPN)
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
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 500
    warmup_factor: float = 0.001  # of the learning rate at step 0
    milestones: tuple[float, ...] = (8.0, 11.0)  # epochs at which the rate drops
    decay_factor: float = 0.1
    clip_norm: float = 0.0  # of the whole gradient; 0 = off
    # Patterns of whole parameter paths (regular expressions) that do not learn.
    freeze: tuple[str, ...] = ("backbone/(stem|layer1)/.*",)
    log_every: int = 50  # steps
    eval_every: float = 1.0  # epochs; 0 = only at the end
    checkpoint_every: int = 0  # steps; 0 = at each evaluation
    keep_checkpoints: int = 2


@dataclass
class Eval:
    """Scoring with the COCO metric."""

    split: str = ""  # "" = data.val
    batch_size: int = 8  # images per step over all devices
    max_pictures: int = 16  # drawn by the demo and by eval.py --pictures


@dataclass
class Init:
    """Where weights start from."""

    load: str = ""  # .safetensors or .npz: ours, mmdetection or torchvision names
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


CHOICES = {
    "data.short_side_mode": ("choice", "range"),
    "data.resize": ("cv2_u8", "cv2_f32"),
    "data.on_bad_image": ("error", "skip"),
    "model.channel_order": ("rgb", "bgr"),
    "model.dtype": ("float32", "bfloat16"),
    "model.backbone.depth": (18, 34, 50, 101, 152),
    "model.backbone.norm": ("frozen", "batch"),
    "model.roi.box_loss": ("l1", "iou", "giou", "bounded_iou"),
}
_STAGES = ("c2", "c3", "c4", "c5")


def validate(run: Run) -> None:
    """Checks every rule that a type cannot say.

    Errors: ValueError naming the field, its value and what is allowed.
    """
    values = dict(flatten(run))
    for name, allowed in CHOICES.items():
        if values[name] not in allowed:
            near = difflib.get_close_matches(str(values[name]), map(str, allowed), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            _fail(name, values[name], f"choose from {allowed}{hint}")
    _validate_numbers(values)
    _validate_model(run.model)
    _validate_data(run.data)


def _validate_numbers(values: dict[str, Any]) -> None:
    at_least_one = ("train.batch_size", "eval.batch_size", "train.log_every")
    at_least_one += ("model.backbone.width", "model.fpn.channels", "model.rpn.channels")
    at_least_one += ("model.roi.pool_size", "model.roi.samples", "model.rpn.samples")
    at_least_one += ("model.roi.max_detections", "data.threads", "data.prefetch")
    for name in at_least_one:
        if values[name] < 1:
            _fail(name, values[name], "must be 1 or more")
    fractions = [k for k in values if k.endswith(("_iou", "_fraction", "_threshold"))]
    for name in (*fractions, "data.flip"):
        if not 0 <= values[name] <= 1:
            _fail(name, values[name], "must lie in 0..1")
    for name in ("train.lr", "train.warmup_steps", "train.weight_decay", "seed"):
        if values[name] < 0:
            _fail(name, values[name], "must not be negative")
    if values["train.epochs"] <= 0:
        _fail("train.epochs", values["train.epochs"], "must be above 0")
    late = [m for m in values["train.milestones"] if m >= values["train.epochs"]]
    if late and not values["train.steps"]:
        limit = f"must lie before train.epochs = {values['train.epochs']:g}"
        _fail("train.milestones", values["train.milestones"], limit)


def _validate_model(model: FasterRCNN) -> None:
    stages = model.backbone.stages
    if not stages or any(stage not in _STAGES for stage in stages):
        _fail("model.backbone.stages", stages, f"choose from {_STAGES}")
    if tuple(sorted(set(stages))) != tuple(stages) or len(stages) != (
        int(stages[-1][1]) - int(stages[0][1]) + 1
    ):
        _fail("model.backbone.stages", stages, "must be neighbours, finest first")
    if model.fpn.levels < len(stages):
        limit = f"must be at least the {len(stages)} stages of the backbone"
        _fail("model.fpn.levels", model.fpn.levels, limit)
    sizes = model.rpn.anchor_sizes
    if len(sizes) != model.fpn.levels or len({len(row) for row in sizes}) != 1:
        limit = f"needs one row of equal length for each of {model.fpn.levels} levels"
        _fail("model.rpn.anchor_sizes", sizes, limit)
    if model.num_classes < 0:
        _fail(
            "model.num_classes", model.num_classes, "must be 0 (from the data) or more"
        )


def _validate_data(data: Data) -> None:
    odd = [b for b in data.buckets if len(b) != 2 or b[0] % 32 or b[1] % 32]
    if odd:
        _fail("data.buckets", data.buckets, "each must be (H, W), multiples of 32")
    if not data.short_sides or min(data.short_sides) < 1:
        _fail("data.short_sides", data.short_sides, "needs one or more sizes in pixels")


def _fail(name: str, value: Any, rule: str) -> None:
    raise ValueError(f"config field {name} is {value!r}: {rule}")


def flatten(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field as ("model.rpn.nms_iou", value)."""
    for entry in dataclasses.fields(section):
        value = getattr(section, entry.name)
        if dataclasses.is_dataclass(value):
            yield from flatten(value, f"{prefix}{entry.name}.")
        else:
            yield prefix + entry.name, value


def to_json(run: Run) -> str:
    """The run as indented JSON, for `config.json` in its folder."""
    return json.dumps(dataclasses.asdict(run), indent=1)


def from_dict(values: dict[str, Any], kind: type = Run) -> Any:
    """A run (or section) from what `to_json` wrote.

    Errors: ValueError for a field that does not exist, with the nearest name.
    """
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{kind.__name__} has no field {name!r}{hint}")
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(fields[name].type):
            value = from_dict(value, fields[name].type)
        made[name] = _as_tuples(value)
    return kind(**made)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def differences(old: Run, new: Run) -> dict[str, tuple[Any, Any]]:
    """Fields whose values differ, as {name: (old, new)}."""
    before = dict(flatten(old))
    return {k: (before[k], v) for k, v in flatten(new) if before[k] != v}
