"""Every configuration in configs/: it validates, builds and survives its JSON."""

import ast
import functools
import gzip
import importlib.util
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

from frcnn_jax import build, cli, config
from frcnn_jax.convert import mmdet, torchvision
from frcnn_jax.data import batching, coco_classes
from frcnn_jax.training import optimizer, schedule

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "common"
)


def load(name: str) -> config.Run:
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def shapes(run: config.Run) -> dict:
    """{"params/...": shape} of the model, nothing computed."""
    if run.model.num_classes == 0:
        run.model.num_classes = 5
    init = build.detector(run.model).init
    tree = jax.eval_shape(init, jax.random.key(0), build.example_batch())
    flat = traverse_util.flatten_dict(tree, sep="/")
    return {name: leaf.shape for name, leaf in flat.items()}


def count(flat: dict) -> int:
    return sum(int(np.prod(shape)) for shape in flat.values())


def learning(run: config.Run, flat: dict) -> int:
    """Number of parameters that learn."""
    params = {k.removeprefix("params/"): v for k, v in flat.items() if "params" in k}
    nested = traverse_util.unflatten_dict(params, sep="/")
    trainable, _ = optimizer.split(nested, run.train.freeze)
    return count(trainable)


def test_there_are_configurations():
    assert {"demo", "finetune", "r50_fpn_1x", "r50_caffe_fpn_1x"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_validates_and_builds(name):
    run = cli.checked(load(name))
    flat = shapes(run)
    assert learning(run, flat) > 0  # every freeze pattern matches something
    sides = [*run.data.short_sides, run.data.eval_short_side]
    assert max(sides) <= run.data.max_side
    assert run.train.lr_batch_size > 0 and schedule.base_rate(run.train) > 0


@pytest.mark.parametrize("name", NAMES)
def test_json_and_back(name):
    run = load(name)
    again = config.from_dict(json.loads(config.to_json(run)))
    assert again == run
    assert config.differences(run, again) == {}


@pytest.mark.parametrize("name", NAMES)
def test_each_call_gives_a_fresh_one(name):
    first, second = load(name), load(name)
    first.model.roi.samples = 0
    assert second.model.roi.samples != 0


# ---- the published rows

MANIFESTS = ROOT / "tests/golden/mmdet_manifests"
PUBLISHED = json.loads((MANIFESTS / "published.json").read_text())
SIZES = json.loads((MANIFESTS / "rows.json").read_text())
FORM = re.compile(
    r"Faster R-CNN .+\.\n\n"
    r"Published box AP (\d\d\.\d) \(mmdetection,\s(\S+)\);\n"
    r"ours is (not trained yet|\d\d\.\d.*)\.(\n\n(.|\n)+)?\n"
)


def docstring(name: str) -> str:
    return ast.get_docstring(
        ast.parse((ROOT / f"configs/{name}.py").read_text()), False
    )


# {our configuration: mmdetection's}
ROWS = {
    name: re.search(r"\(mmdetection,\s(\S+)\)", docstring(name))[1]
    for name in NAMES
    if "(mmdetection," in docstring(name)
}


def test_every_published_row_has_one_configuration():
    assert len(PUBLISHED) == 30 and set(SIZES) == set(PUBLISHED)
    assert sorted(ROWS.values()) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", ROWS)
def test_its_docstring_quotes_the_published_figure(name):
    found = FORM.fullmatch(docstring(name))
    assert found, docstring(name)
    assert float(found[1]) == PUBLISHED[found[2]]


@functools.cache
def manifest(name: str) -> dict:
    text = gzip.open(MANIFESTS / f"{name}.json.gz").read()
    return {key: tuple(shape) for key, (shape, _) in json.loads(text).items()}


@pytest.mark.parametrize("name", ROWS)
def test_it_has_mmdetections_parameters(name):
    """The same names and shapes, as many numbers, and as many of them learn."""
    run, row = load(name), SIZES[ROWS[name]]
    flat = shapes(run)
    # Arrays that take no memory: one zero, seen many times.
    arrays = {k: np.broadcast_to(np.float32(0), shape) for k, shape in flat.items()}
    state = mmdet.to_state_dict(arrays)
    assert {k: value.shape for k, value in state.items()} == manifest(row["manifest"])
    params = {k: v for k, v in flat.items() if k.startswith("params/")}
    assert count(params) == row["n_params"]
    assert learning(run, flat) == row["n_trainable"]


# What a row changes of the base recipe below; the rest is the same for all of them.
STEPS_2X = {"train.epochs": 24.0, "train.milestones": (16.0, 22.0)}
CHOICE = {"data.short_sides": (640, 672, 704, 736, 768, 800)}
# mmdetection: 12 epochs, milestones 9 and 11, of the data set repeated three times.
RANGE_3X = {
    "data.short_sides": (640, 800),
    "data.short_side_mode": "range",
    "train.epochs": 36.0,
    "train.milestones": (27.0, 33.0),
}
IOU = {"model.roi.box_loss_weight": 10.0}
ADAMW = {
    "train.optimizer": "adamw",
    "train.lr": 1e-4,
    "train.betas": (0.9, 0.999),
    "train.weight_decay": 0.1,
    "train.no_decay": (".*norm.*",),
}
BASE = {
    "data.short_sides": (800,),
    "data.max_side": 1333,
    "data.classes": (),
    "data.keep_empty": False,
    "data.flip": 0.5,
    "model.dtype": "float32",
    "model.roi.box_loss": "l1",
    "model.roi.box_loss_weight": 1.0,
    "train.batch_size": 16,
    "train.epochs": 12.0,
    "train.milestones": (8.0, 11.0),
    "train.optimizer": "sgd",
    "train.lr": 0.02,
    "train.lr_batch_size": 16,
    "train.momentum": 0.9,
    "train.weight_decay": 1e-4,
    "train.no_decay": (),
    "train.bias_rate": 1.0,
    "train.clip_norm": 0.0,
    "train.warmup_steps": 500,
    "train.warmup_factor": 0.001,
}
CHANGED = {
    "r50_caffe_c4_1x": {},
    "r50_caffe_dc5_1x": {},
    "r50_caffe_fpn_1x": {},
    "r50_fpn_1x": {},
    "r50_fpn_amp_1x": {"model.dtype": "float16"},
    "r50_fpn_2x": STEPS_2X,
    "r101_caffe_fpn_1x": {},
    "r101_fpn_1x": {},
    "r101_fpn_2x": STEPS_2X,
    "x101_32x4d_fpn_1x": {},
    "x101_32x4d_fpn_2x": STEPS_2X,
    "x101_64x4d_fpn_1x": {},
    "x101_64x4d_fpn_2x": STEPS_2X,
    "r50_fpn_iou_1x": {"model.roi.box_loss": "iou", **IOU},
    "r50_fpn_giou_1x": {"model.roi.box_loss": "giou", **IOU},
    "r50_fpn_bounded_iou_1x": {"model.roi.box_loss": "bounded_iou", **IOU},
    "r50_caffe_c4_ms_1x": CHOICE,
    "r50_caffe_dc5_ms_1x": CHOICE,
    # Of these two the 3.3.0 configurations never drop the rate; the weights' did.
    "r50_caffe_dc5_ms_3x": {
        **CHOICE,
        "train.epochs": 36.0,
        "train.milestones": (28.0, 34.0),
    },
    "r50_caffe_fpn_ms_2x": {
        **CHOICE,
        "train.epochs": 24.0,
        "train.milestones": (16.0, 23.0),
    },
    "r50_caffe_fpn_ms_3x": RANGE_3X,
    "r50_fpn_ms_3x": RANGE_3X,
    "r101_caffe_fpn_ms_3x": RANGE_3X,
    "r101_fpn_ms_3x": RANGE_3X,
    "x101_32x4d_fpn_ms_3x": RANGE_3X,
    "x101_32x8d_fpn_ms_3x": RANGE_3X,
    "x101_64x4d_fpn_ms_3x": RANGE_3X,
    "r50_caffe_fpn_ms_1x_person": {**CHOICE, "data.classes": ("person",)},
    "r50_caffe_fpn_ms_1x_person_bicycle_car": {
        **CHOICE,
        "data.classes": ("person", "bicycle", "car"),
    },
    "r50_tnr_fpn_1x": ADAMW,
}


@pytest.mark.parametrize("name", ROWS)
def test_its_recipe_is_mmdetections(name):
    values = dict(config.flatten(load(name)))
    assert CHANGED.keys() == ROWS.keys()
    expected = BASE | CHANGED[name]
    assert {field: values[field] for field in expected} == expected


@pytest.mark.parametrize("name", ROWS)
def test_its_pixels_are_those_of_its_weights(name):
    """Of r101_caffe_fpn_ms_3x the 3.3.0 configuration has RGB; the weights are BGR."""
    model = load(name).model
    caffe = "caffe" in name
    assert model.backbone.stride_in_1x1 == caffe
    assert model.channel_order == ("bgr" if caffe or "32x8d" in name else "rgb")
    assert (model.pixel_std == (1.0, 1.0, 1.0)) == caffe
    mean = (123.675, 116.28, 103.53)
    assert model.pixel_mean == (mean if model.channel_order == "rgb" else mean[::-1])


@pytest.mark.parametrize("name", ROWS)
def test_its_classes_are_those_of_its_data(name):
    run = load(name)
    assert run.model.num_classes == (len(run.data.classes) or 80)
    assert set(run.data.classes) <= set(coco_classes.NAMES)


@pytest.fixture(scope="module")
def r50():
    return load("r50_fpn_1x")


# mmdetection 3.3.0, faster-rcnn_r50_fpn_1x_coco, resolved through its inheritance.
RECIPE = {
    "data.train": "train2017",
    "data.val": "val2017",
    "data.short_sides": (800,),
    "data.max_side": 1333,
    "data.eval_short_side": 800,
    "data.resize": "cv2_u8",
    "data.flip": 0.5,
    "model.num_classes": 80,
    "model.pixel_mean": (123.675, 116.28, 103.53),
    "model.pixel_std": (58.395, 57.12, 57.375),
    "model.channel_order": "rgb",
    "model.dtype": "float32",
    "model.backbone.depth": 50,
    "model.backbone.stride_in_1x1": False,
    "model.backbone.stages": ("c2", "c3", "c4", "c5"),
    "model.backbone.norm": "frozen",
    "model.backbone.norm_eps": 1e-5,
    "model.fpn.channels": 256,
    "model.fpn.levels": 5,
    "model.rpn.anchor_sizes": ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,)),
    "model.rpn.anchor_ratios": (0.5, 1.0, 2.0),
    "model.rpn.positive_iou": 0.7,
    "model.rpn.negative_iou": 0.3,
    "model.rpn.min_positive_iou": 0.3,
    "model.rpn.samples": 256,
    "model.rpn.positive_fraction": 0.5,
    "model.rpn.pre_nms_train": 2000,
    "model.rpn.post_nms_train": 1000,
    "model.rpn.pre_nms_test": 1000,
    "model.rpn.post_nms_test": 1000,
    "model.rpn.nms_iou": 0.7,
    "model.roi.pool_size": 7,
    "model.roi.sampling_ratio": 0,
    "model.roi.aligned": True,
    "model.roi.finest_scale": 56.0,
    "model.roi.fc": (1024, 1024),
    "model.roi.box_stds": (0.1, 0.1, 0.2, 0.2),
    "model.roi.box_loss": "l1",
    "model.roi.box_loss_weight": 1.0,
    "model.roi.positive_iou": 0.5,
    "model.roi.samples": 512,
    "model.roi.positive_fraction": 0.25,
    "model.roi.score_threshold": 0.05,
    "model.roi.nms_iou": 0.5,
    "model.roi.max_detections": 100,
    "train.batch_size": 16,
    "train.epochs": 12.0,
    "train.lr": 0.02,
    "train.momentum": 0.9,
    "train.weight_decay": 1e-4,
    "train.warmup_steps": 500,
    "train.warmup_factor": 0.001,
    "train.milestones": (8.0, 11.0),
    "train.decay_factor": 0.1,
    "train.clip_norm": 0.0,
    "train.freeze": ("backbone/(stem|layer1)/.*",),
}


@pytest.mark.parametrize(("field", "value"), RECIPE.items())
def test_the_published_recipe(r50, field, value):
    assert dict(config.flatten(r50))[field] == value


def test_the_published_rate(r50):
    assert schedule.base_rate(r50.train) == 0.02


def test_caffe_differs_in_style_only(r50):
    changed = config.differences(load("r50_fpn_1x"), load("r50_caffe_fpn_1x"))
    assert set(changed) == {
        *("model.backbone.stride_in_1x1", "model.channel_order", "model.pixel_mean"),
        *("model.pixel_std", "train.freeze"),
    }


# ---- torchvision: names, shapes, and numbers of parameters that it publishes

TORCHVISION = {
    "torchvision_r50_fpn": ("r50_fpn", 41_755_286),
    "torchvision_r50_fpn_v2": ("r50_fpn_v2", 43_712_278),
    "torchvision_mobilenet_fpn": ("mobilenet_fpn", 19_386_354),
    "torchvision_mobilenet_320_fpn": ("mobilenet_fpn", 19_386_354),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_names_shapes_and_number_of_parameters(name, golden):
    manifest, parameters = TORCHVISION[name]
    file = golden / "torchvision_manifests" / f"{manifest}.json.gz"
    listing = json.loads(gzip.open(file).read())
    run = load(name)
    flat = shapes(run)
    ours = {k: np.broadcast_to(np.float32(0), shape) for k, shape in flat.items()}
    state = torchvision.to_state_dict(ours)
    theirs = {key: tuple(shape) for key, (shape, _) in listing.items()}
    assert {key: value.shape for key, value in state.items()} == theirs
    params = {k: v for k, v in flat.items() if k.startswith("params/")}
    if run.model.backbone.norm == "frozen":  # then its norms are no parameters there
        norm = re.compile(r"params/backbone/.*norm\d?/(scale|bias)")
        params = {k: v for k, v in params.items() if not norm.fullmatch(k)}
    assert count(params) == parameters


# ---- jwyang faster-rcnn.pytorch: its arguments and cfgs/*.yml

JWYANG = {
    "jwyang_vgg16_800": (800, 16, 0.01, 12, (8,), 5e-4, 10, 256, 300),
    "jwyang_res101_600": (600, 24, 0.01, 12, (8,), 1e-4, 0, 128, 300),
    "jwyang_res101_600_long": (600, 24, 0.01, 20, (8, 18), 1e-4, 0, 128, 300),
    "jwyang_res101_800": (800, 16, 0.01, 12, (8,), 1e-4, 0, 128, 1000),
    "jwyang_res101_800_long": (800, 16, 0.01, 20, (8, 18), 1e-4, 0, 128, 1000),
    "jwyang_vgg16_voc07": (600, 1, 0.001, 12, (10,), 5e-4, 10, 256, 300),
    "jwyang_res101_voc07": (600, 1, 0.001, 14, (10,), 1e-4, 0, 128, 300),
}


@pytest.mark.parametrize("name", JWYANG)
def test_recipes_of_jwyang(name):
    run = load(name)
    data, train, roi = run.data, run.train, run.model.roi
    found = (
        *(data.eval_short_side, train.batch_size, schedule.base_rate(train)),
        *(train.epochs, train.milestones, train.weight_decay, train.clip_norm),
        *(roi.samples, run.model.rpn.post_nms_test),
    )
    assert found == JWYANG[name] and data.short_sides == (data.eval_short_side,)
    assert train.warmup_steps == 0
    assert run.model.num_classes == (20 if "voc" in name else 80)


@pytest.mark.parametrize("name", JWYANG)
def test_canvases_of_jwyang_hold_every_picture(name):
    data = load(name).data
    sizes = [(480, 640), (427, 640), (640, 64), (500, 500), (375, 500), (333, 500)]
    rows = batching.assign(
        sizes,
        data.buckets,
        short_side=data.eval_short_side,
        max_side=data.max_side,
    )
    canvas = [data.buckets[row] for row in rows]
    usual = {600: 800, 800: 1088}[data.eval_short_side]
    assert canvas[0] == canvas[4] == (-(-data.eval_short_side // 32) * 32, usual)
    assert canvas[1][1] == canvas[2][0] > usual


@pytest.mark.parametrize(
    ("name", "frozen"),
    # The first ten modules of VGG-16; stem, stage 2 and every norm of ResNet-101.
    [("jwyang_vgg16_800", 260_160), ("jwyang_res101_600", 327_744)],
)
def test_what_jwyang_freezes(name, frozen):
    run = load(name)
    flat = shapes(run)
    params = {k: v for k, v in flat.items() if k.startswith("params/")}
    assert count(params) - learning(run, flat) == frozen
