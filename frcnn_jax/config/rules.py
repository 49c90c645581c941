"""The rules that join fields, and what a field may be."""

import dataclasses
import difflib
import math
from collections.abc import Iterator
from typing import Any, NoReturn

from frcnn_jax.config.plain import flatten, nearest
from frcnn_jax.config.schema import (
    VGG16,
    FasterRCNN,
    MobileNetV3,
    ResNet,
    Run,
)

CHOICES = {
    "data.short_side_mode": ("choice", "range"),
    "data.size_rule": ("round", "floor"),
    "data.resize": ("cv2_u8", "cv2_f32", "pil"),
    "data.on_bad_image": ("error", "skip"),
    "model.channel_order": ("rgb", "bgr"),
    "model.dtype": ("float32", "bfloat16", "float16"),
    "model.cells": ("padded32", "ceil", "floor", "caffe", "canvas"),
    "model.initial_values": ("mmdet", "torchvision"),
    "model.box_coder": ("mmdet", "torchvision", "caffe"),
    "model.backbone.depth": (18, 34, 50, 101, 152),
    "model.backbone.norm": ("frozen", "batch", "none"),
    "model.backbone.stem_pool": ("padded", "ceil"),
    "model.fpn.norm": ("none", "frozen", "batch"),
    "model.roi.norm": ("frozen", "batch"),
    "model.rpn.anchor_style": ("exact", "rounded", "caffe"),
    "model.rpn.box_loss": ("l1", "smooth_l1"),
    "model.rpn.loss_count": ("mmdet", "sampled", "slots"),
    "train.optimizer": ("sgd", "adamw"),
    "train.on_nonfinite": ("stop", "rollback"),
    "eval.metric": ("coco", "voc07", "voc"),
    "eval.backend": ("pycocotools", "faster"),
    "model.roi.pooling": ("align", "point_align", "max"),
    "model.roi.box_loss": (
        *("l1", "smooth_l1", "iou", "giou", "diou", "ciou", "bounded_iou"),
    ),
}
# Why a choice is narrower than elsewhere.
REASONS = {"model.rpn.box_loss": "the RPN compares deltas, not boxes: "}
_STAGES = ("c2", "c3", "c4", "c5")


def validate(run: Run) -> None:
    """Checks every rule that a type cannot say.

    Errors: ValueError naming the field, its value and what is allowed.
    """
    check_names(run)
    values = dict(flatten(run))
    for name, allowed in CHOICES.items():
        if name in values and values[name] not in allowed:
            near = difflib.get_close_matches(str(values[name]), map(str, allowed), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            why = REASONS.get(name, "")
            _fail(name, values[name], f"{why}choose from {allowed}{hint}")
    _validate_numbers(values)
    _validate_training(run)
    _validate_backbone(run.model)
    _validate_model(run.model)
    _validate_roi(run.model)
    _validate_data(run)


def check_names(run: Run) -> None:
    """Checks that the run and its sections hold fields of the schema only.

    Errors: ValueError naming what does not exist, with the nearest field.
    """
    known = [name for name, _ in flatten(run)]
    for name in _strangers(run):
        near = nearest(name, known)
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"config field {name} does not exist{hint}")


def _strangers(section: Any, prefix: str = "") -> Iterator[str]:
    """What was assigned beside the fields: nothing would read it."""
    fields = {entry.name for entry in dataclasses.fields(section)}
    for name, value in vars(section).items():
        if name not in fields:
            yield prefix + name
        elif dataclasses.is_dataclass(value):
            yield from _strangers(value, f"{prefix}{name}.")


def _validate_numbers(values: dict[str, Any]) -> None:
    at_least_one: tuple[str, ...] = (
        "train.batch_size",
        "eval.batch_size",
        "train.log_every",
    )
    at_least_one += ("train.max_nonfinite",)
    at_least_one += ("model.fpn.channels", "model.rpn.channels", "model.rpn.convs")
    at_least_one += ("model.backbone.groups", "model.backbone.group_width")
    at_least_one += ("model.roi.pool_size", "model.roi.samples", "model.rpn.samples")
    at_least_one += ("model.roi.max_detections", "data.threads", "data.prefetch")
    at_least_one += ("data.max_image_pixels", "train.accumulate")
    for name in at_least_one:
        if values.get(name, 1) < 1:
            _fail(name, values[name], "must be 1 or more")
    if values["model.backbone.width"] <= 0:
        _fail("model.backbone.width", values["model.backbone.width"], "must be above 0")
    fractions = [k for k in values if k.endswith(("_iou", "_fraction", "_threshold"))]
    for name in (*fractions, "data.flip", "data.crop_visible", "train.picture_score"):
        if not 0 <= values[name] <= 1:
            _fail(name, values[name], "must lie in 0..1")
    not_negative: tuple[str, ...] = ("train.lr", "train.warmup_steps", "seed")
    not_negative += ("train.weight_decay",)
    not_negative += ("data.brightness", "data.contrast", "data.saturation", "data.hue")
    not_negative += ("train.patience", "train.pictures", "train.profile")
    not_negative += ("train.bias_rate", "train.clip_norm", "model.roi.sampling_ratio")
    for name in not_negative:
        if values[name] < 0:
            _fail(name, values[name], "must not be negative")
    for section in ("model.rpn", "model.roi"):
        if values[f"{section}.box_loss"] == "smooth_l1":
            if values[f"{section}.box_loss_beta"] <= 0:
                rule = "smooth_l1 needs a value above 0 (use l1 for 0)"
                _fail(
                    f"{section}.box_loss_beta", values[f"{section}.box_loss_beta"], rule
                )


def _validate_training(run: Run) -> None:
    train = run.train
    if train.epochs <= 0:
        _fail("train.epochs", train.epochs, "must be above 0")
    late = [m for m in train.milestones if m >= train.epochs]
    if late and not train.steps:
        limit = f"must lie before train.epochs = {train.epochs:g}"
        _fail("train.milestones", train.milestones, limit)
    for name, values in (("momentum", (train.momentum,)), ("betas", train.betas)):
        if not all(0 <= value < 1 for value in values):
            value = getattr(train, name)
            _fail(f"train.{name}", value, "must lie in 0..1, below 1")
    if not 0 <= train.ema < 1:
        _fail("train.ema", train.ema, "must lie in 0..1, below 1")
    if train.batch_size % train.accumulate:
        rule = f"must divide train.batch_size, which is {train.batch_size}"
        _fail("train.accumulate", train.accumulate, rule)
    if run.model.dtype == "float16" and not 1 <= train.loss_scale < math.inf:
        rule = "model.dtype float16 needs a scale of 1 or more, such as 65536"
        _fail("train.loss_scale", train.loss_scale, rule)


def _validate_backbone(model: FasterRCNN) -> None:
    trunk = model.backbone
    if trunk.norm == "none" and not isinstance(trunk, VGG16):
        rule = "only VGG16 goes without; choose 'frozen' or 'batch'"
        _fail("model.backbone.norm", trunk.norm, rule)
    if not isinstance(trunk, ResNet):
        return
    stages, deep = trunk.stages, trunk.depth >= 50
    if not stages or any(stage not in _STAGES for stage in stages):
        _fail("model.backbone.stages", stages, f"choose from {_STAGES}")
    if tuple(sorted(set(stages))) != tuple(stages) or len(stages) != (
        int(stages[-1][1]) - int(stages[0][1]) + 1
    ):
        _fail("model.backbone.stages", stages, "must be neighbours, finest first")
    if not deep and (trunk.groups > 1 or trunk.group_width != 64):
        rule = "groups need bottlenecks: model.backbone.depth 50, 101 or 152"
        _fail("model.backbone.groups", trunk.groups, rule)
    if trunk.stride_in_1x1 and not deep:
        rule = "only bottlenecks have a 1x1: model.backbone.depth 50, 101 or 152"
        _fail("model.backbone.stride_in_1x1", True, rule)
    if trunk.dilate_c5 and not deep:
        rule = "only bottlenecks dilate: model.backbone.depth 50, 101 or 152"
        _fail("model.backbone.dilate_c5", True, rule)
    if trunk.dilate_c5 and stages[-1] != "c5":
        rule = f"needs c5 among model.backbone.stages, which are {stages}"
        _fail("model.backbone.dilate_c5", True, rule)


def _validate_model(model: FasterRCNN) -> None:
    trunk = model.backbone
    outputs = {ResNet: 0, VGG16: 1, MobileNetV3: 2}[type(trunk)]
    if isinstance(trunk, ResNet):
        outputs = len(trunk.stages)
    levels = outputs if model.fpn is None else model.fpn.levels
    if model.fpn is not None and isinstance(trunk, VGG16):
        rule = "VGG16 has one map, nothing to build a pyramid from: set it to None"
        _fail("model.fpn", model.fpn, rule)
    if model.fpn is None and outputs != 1:
        rule = f"without a pyramid the backbone has one output, not {outputs}"
        _fail("model.fpn", None, rule)
    if levels < outputs:
        limit = f"must be at least the {outputs} stages of the backbone"
        _fail("model.fpn.levels", levels, limit)
    sizes = model.rpn.anchor_sizes
    if len(sizes) != levels or len({len(row) for row in sizes}) != 1:
        limit = f"needs one row of equal length for each of {levels} levels"
        _fail("model.rpn.anchor_sizes", sizes, limit)
    if model.num_classes < 0:
        _fail(
            "model.num_classes", model.num_classes, "must be 0 (from the data) or more"
        )


def _validate_roi(model: FasterRCNN) -> None:
    roi, trunk = model.roi, model.backbone
    if roi.pooling == "max" and model.fpn is not None:
        rule = "pools one map only: set model.fpn to None, or choose align"
        _fail("model.roi.pooling", roi.pooling, rule)
    if roi.res5:
        if not isinstance(trunk, ResNet) or trunk.stages != ("c4",):
            rule = 'needs a ResNet with model.backbone.stages = ("c4",)'
            _fail("model.roi.res5", True, rule)
        if model.fpn is not None:
            rule = "stage 5 as a head reads the trunk's own map: set it to None"
            _fail("model.fpn", model.fpn, rule)
        if roi.fc or roi.convs:
            name = "fc" if roi.fc else "convs"
            rule = "stage 5 is the whole head: leave it empty with model.roi.res5"
            _fail(f"model.roi.{name}", getattr(roi, name), rule)
        if trunk.norm != "frozen":
            rule = "stage 5 as a head needs frozen norms: its crops are no images"
            _fail("model.backbone.norm", trunk.norm, rule)
        if trunk.depth < 50:
            rule = "stage 5 as a head needs depth 50, 101 or 152"
            _fail("model.backbone.depth", trunk.depth, rule)
    if not 0 <= roi.dropout < 1:
        _fail("model.roi.dropout", roi.dropout, "must lie in 0..1, below 1")
    if roi.dropout and not roi.fc:
        rule = "it follows fully connected layers, and model.roi.fc is empty"
        _fail("model.roi.dropout", roi.dropout, rule)


def _validate_data(run: Run) -> None:
    data, classes, found = run.data, run.model.num_classes, len(set(run.data.classes))
    if found and classes not in (0, found):
        rule = f"data.classes names {found}: set it to {found}, or to 0 to count them"
        _fail("model.num_classes", classes, rule)
    odd = [b for b in data.buckets if len(b) != 2 or b[0] % 32 or b[1] % 32]
    if odd:
        _fail("data.buckets", data.buckets, "each must be (H, W), multiples of 32")
    if not data.short_sides or min(data.short_sides) < 1:
        _fail("data.short_sides", data.short_sides, "needs one or more sizes in pixels")
    if data.crop and (len(data.crop) != 2 or any(s < 32 or s % 32 for s in data.crop)):
        _fail("data.crop", data.crop, "must be (H, W), multiples of 32")
    jitter = data.scale_jitter
    if jitter and (len(jitter) != 2 or not 0 < jitter[0] <= jitter[1] or not data.crop):
        rule = "must be (lowest, highest), above 0, and needs data.crop"
        _fail("data.scale_jitter", jitter, rule)
    for name in ("crop_keeps_box", "crop_visible"):
        if getattr(data, name) and not data.crop:
            _fail(f"data.{name}", getattr(data, name), "needs data.crop")
    if data.hue > 0.5:
        _fail("data.hue", data.hue, "must be at most 0.5, half the colour circle")
    if not 0 < data.fraction <= 1:
        _fail("data.fraction", data.fraction, "must lie above 0, and at most be 1")
    if not 0 < data.val_fraction < 1:
        _fail("data.val_fraction", data.val_fraction, "must lie between 0 and 1")


def _fail(name: str, value: Any, rule: str) -> NoReturn:
    raise ValueError(f"config field {name} is {value!r}: {rule}")
