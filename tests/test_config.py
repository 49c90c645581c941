"""The schema: its rules, and its way through JSON."""

import dataclasses
import json
import operator

import pytest

from frcnn_jax import config

# A trunk with one map and no pyramid.
VGG = {
    "model__backbone": config.VGG16(),
    "model__fpn": None,
    "model__rpn__anchor_sizes": ((64.0, 128.0),),
}


def changed(**fields) -> config.Run:
    """A default run with fields set by name: model__rpn__nms_iou=0.6."""
    run = config.Run()
    for name, value in fields.items():
        *sections, field = name.split("__")
        section = run
        for part in sections:
            section = getattr(section, part)
        assert hasattr(section, field), name
        setattr(section, field, value)
    return run


def test_the_defaults_are_valid():
    config.validate(config.Run())


@pytest.mark.parametrize(
    "fields",
    [
        {"model__num_classes": 0},  # taken from the data
        {"model__backbone__stages": ("c3", "c4", "c5"), "model__fpn__levels": 5},
        {"model__backbone__stages": ("c4",)},
        {"train__milestones": ()},
        {"data__buckets": ((800, 1344), (1344, 800))},
        {"model__rpn__positive_fraction": 1.0, "data__flip": 0.0},
        {"train__optimizer": "adamw", "train__betas": (0.0, 0.99)},
        {"train__loss_scale": 0.0},  # of no use to float32
        {"model__dtype": "float16", "train__loss_scale": 1.0},
        {"data__classes": ("person", "car"), "model__num_classes": 2},
        {"data__classes": ("person", "car"), "model__num_classes": 0},
        VGG,
        {**VGG, "model__roi__dropout": 0.5},
    ],
)
def test_unusual_but_valid(fields):
    config.validate(changed(**fields))


@pytest.mark.parametrize(
    ("field", "value", "hint"),
    [
        ("data__resize", "cv2_u9", "cv2_u8"),
        ("data__short_side_mode", "choise", "did you mean 'choice'"),
        ("data__on_bad_image", "warn", "skip"),
        ("model__channel_order", "rbg", "rgb"),
        ("model__dtype", "float8", "bfloat16"),
        ("model__backbone__depth", 51, "50"),
        ("model__rpn__box_loss", "giou", "the RPN compares deltas, not boxes: choose"),
        ("train__optimizer", "adam", "did you mean 'adamw'"),
        ("train__betas", (0.9, 1.0), "below 1"),
        ("train__momentum", 1.0, "below 1"),
        ("train__bias_rate", -1.0, "negative"),
        ("model__roi__sampling_ratio", -1, "negative"),
        ("model__backbone__norm", "group", "frozen"),
        ("model__roi__box_loss", "l2", "giou"),
        ("train__batch_size", 0, "1 or more"),
        ("eval__batch_size", 0, "1 or more"),
        ("model__roi__samples", 0, "1 or more"),
        ("model__roi__max_detections", -1, "1 or more"),
        ("model__rpn__nms_iou", 1.5, "0..1"),
        ("model__rpn__positive_fraction", -0.1, "0..1"),
        ("model__roi__score_threshold", 5.0, "0..1"),
        ("data__flip", 2.0, "0..1"),
        ("train__lr", -0.02, "negative"),
        ("train__pictures", -1, "negative"),
        ("train__picture_score", 1.5, "0..1"),
        ("seed", -1, "negative"),
        ("train__epochs", 0.0, "above 0"),
        ("train__milestones", (8.0, 12.0), "train.epochs = 12"),
        ("model__backbone__stages", (), "c2"),
        ("model__backbone__stages", ("c1", "c2"), "c2"),
        ("model__backbone__stages", ("c3", "c2"), "neighbours"),
        ("model__backbone__stages", ("c2", "c4"), "neighbours"),
        ("model__fpn__levels", 3, "4 stages"),
        ("model__rpn__anchor_sizes", ((32.0,),) * 4, "5 levels"),
        ("model__rpn__anchor_sizes", ((32.0,),) * 4 + ((1.0, 2.0),), "equal length"),
        ("model__num_classes", -1, "0"),
        ("model__roi__pooling", "max", "one map only"),
        ("data__buckets", ((800, 1333),), "multiples of 32"),
        ("data__buckets", ((800,),), "(H, W)"),
        ("data__short_sides", (), "sizes"),
    ],
)
def test_a_broken_rule_names_the_field_its_value_and_the_way_out(field, value, hint):
    with pytest.raises(ValueError) as error:
        config.validate(changed(**{field: value}))
    message = str(error.value)
    assert field.replace("__", ".") in message
    assert repr(value) in message
    assert hint in message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model__backbone": config.VGG16()},
            "model.fpn is FPN(channels=256, levels=5, norm='none', norm_eps=1e-05):"
            " VGG16 has one map",
        ),
        (
            {"model__backbone": config.MobileNetV3(), "model__fpn": None},
            "model.fpn is None: without a pyramid the backbone has one output, not 2",
        ),
        ({"model__fpn": None}, "model.fpn is None: without a pyramid"),
        (
            {**VGG, "model__roi__fc": (), "model__roi__dropout": 0.5},
            "model.roi.dropout is 0.5: it follows fully connected layers",
        ),
        (
            {**VGG, "model__rpn__anchor_sizes": ((8.0,),) * 5},
            "one row of equal length for each of 1 levels",
        ),
        (
            {"model__backbone__depth": 18, "model__backbone__stride_in_1x1": True},
            "model.backbone.stride_in_1x1 is True: only bottlenecks",
        ),
        (
            {"model__backbone__depth": 34, "model__backbone__dilate_c5": True},
            "model.backbone.dilate_c5 is True: only bottlenecks",
        ),
        (
            {**VGG, "model__roi__res5": True},
            "model.roi.res5 is True: needs a ResNet with model.backbone.stages",
        ),
        (
            {"model__backbone__stages": ("c4",), "model__roi__res5": True},
            "stage 5 as a head reads the trunk's own map: set it to None",
        ),
        (
            {"model__dtype": "float16", "train__loss_scale": 0.0},
            "train.loss_scale is 0.0: model.dtype float16 needs a scale",
        ),
        ({"train__ema": 1.0}, "train.ema is 1.0: must lie in 0..1, below 1"),
        (
            {"train__accumulate": 3},
            "train.accumulate is 3: must divide train.batch_size, which is 16",
        ),
        ({"train__accumulate": 0}, "train.accumulate is 0: must be 1 or more"),
        ({"train__patience": -1}, "train.patience is -1: must not be negative"),
        ({"data__crop_visible": 0.3}, "data.crop_visible is 0.3: needs data.crop"),
        (
            {"data__crop_keeps_box": True},
            "data.crop_keeps_box is True: needs data.crop",
        ),
        ({"data__hue": 0.6}, "data.hue is 0.6: must be at most 0.5"),
        (
            {"data__scale_jitter": (0.1, 2.0)},
            "data.scale_jitter is (0.1, 2.0): must be (lowest, highest), above 0, and",
        ),
        (
            {"data__classes": ("person",)},
            "model.num_classes is 80: data.classes names 1: set it to 1, or to 0",
        ),
        (
            {"model__rpn__box_loss": "smooth_l1", "model__rpn__box_loss_beta": -1.0},
            "model.rpn.box_loss_beta is -1.0: smooth_l1 needs a value above 0",
        ),
    ],
)
def test_fields_that_do_not_go_together(fields, message):
    with pytest.raises(ValueError) as error:
        config.validate(changed(**fields))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_field_is_flattened_once():
    names = [name for name, _ in config.flatten(config.Run())]
    assert len(names) == len(set(names))
    assert {"seed", "data.root", "model.rpn.nms_iou", "train.lr"} <= set(names)
    assert dict(config.flatten(changed(model__rpn__nms_iou=0.6)))[
        "model.rpn.nms_iou"
    ] == (0.6)


def test_defaults_are_hashable_and_have_the_type_that_is_declared():
    """Tuples, never lists: lists cannot be overridden from the command line."""
    for name, value in config.flatten(config.Run()):
        assert isinstance(value, bool | int | float | str | tuple), name
        hash(value)


def test_sections_do_not_share_their_values():
    one, other = config.Run(), config.Run()
    one.model.rpn.nms_iou = 0.1
    assert other.model.rpn.nms_iou == config.RPN().nms_iou


def test_a_run_survives_json():
    run = changed(
        seed=7,
        model__rpn__anchor_sizes=((8.0, 9.0),) * 5,
        data__buckets=((64, 96), (96, 64)),
        train__freeze=(),
        model__roi__fc=(32,),
    )
    text = config.to_json(run)
    again = config.from_dict(json.loads(text))
    assert again == run
    assert config.to_json(again) == text


def test_missing_fields_take_their_defaults():
    assert config.from_dict({"seed": 3}) == changed(seed=3)
    assert config.from_dict({"model": {"rpn": {}}}) == config.Run()
    section = config.from_dict({"fc": [32, 16]}, config.RoI)
    assert section == dataclasses.replace(config.RoI(), fc=(32, 16))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"sead": 1}, "Run has no field 'sead'; did you mean 'seed'?"),
        ({"model": {"rpn": {"nms_iuo": 1}}}, "RPN has no field 'nms_iuo'"),
        ({"zzzzzz": 1}, "Run has no field 'zzzzzz'"),
    ],
)
def test_an_unknown_field_is_an_error(values, complaint):
    with pytest.raises(ValueError) as error:
        config.from_dict(values)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("section", "name", "complaint"),
    [
        ("train", "lrr", "train.lrr does not exist; did you mean train.lr?"),
        ("", "sed", "sed does not exist; did you mean seed?"),
        ("model.rpn", "nms", "model.rpn.nms does not exist; did you mean model.rpn."),
        ("data", "x9", "data.x9 does not exist"),
    ],
)
def test_what_is_no_field_cannot_be_assigned(section, name, complaint):
    """As a configuration file does; Python itself takes any name."""
    run = config.Run()
    setattr(operator.attrgetter(section)(run) if section else run, name, 1)
    with pytest.raises(ValueError, match=complaint.replace("?", "[?]")):
        config.validate(run)


def test_differences_name_what_changed():
    assert config.differences(config.Run(), config.Run()) == {}
    run = changed(model__rpn__nms_iou=0.6, seed=1)
    found = config.differences(config.Run(), run)
    assert found == {"seed": (0, 1), "model.rpn.nms_iou": (0.7, 0.6)}
