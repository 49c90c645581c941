"""torchvision 0.29.1: parts of the second version, trunks, box functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.convert import imagenet, rules, torchvision
from frcnn_jax.detectors import faster_rcnn, rpn
from frcnn_jax.models import mobilenet, resnet
from frcnn_jax.ops import anchors, matching, nms
from frcnn_jax.ops import boxes as box_ops
from tests.parity.compare import assert_close, assert_map, nested, recorded_state

MAPS = ("0", "1", "2", "3", "pool")


def test_torchvision_v2_pyramid_rpn_and_box_head(golden):
    case = np.load(golden / "torchvision" / "v2_heads.npz")
    names = {
        "fpn": "backbone.fpn",
        "rpn_head": "rpn.head",
        "box_head": "roi_heads.box_head",
        "box_predictor": "roi_heads.box_predictor",
    }
    state = {}
    for name, array in recorded_state(case).items():
        part, rest = name.split(".", 1)
        state[f"{names[part]}.{rest}"] = array
    variables = nested(torchvision.from_state_dict(state))
    model = config.FasterRCNN(num_classes=3, mask_padding=False)
    model.fpn.channels = model.rpn.channels = 16
    model.fpn.norm = model.roi.norm = "batch"
    model.rpn.convs, model.roi.convs, model.roi.fc = 2, (16,) * 4, (32,)
    model.roi.background_deltas = True
    network = faster_rcnn.Network(model)

    def parts(network, maps, crops):
        features = network.fpn(maps)
        hw = jnp.zeros((2, 2))
        return features, network.propose_raw(features, hw), network.classify(crops)

    maps = {f"c{i + 2}": case[f"in/{i}"].transpose(0, 2, 3, 1) for i in range(4)}
    crops = case["rois"].transpose(0, 2, 3, 1)
    features, (logits, deltas), (classes, boxes) = jax.jit(
        lambda *inputs: network.apply(variables, *inputs, method=parts)
    )(maps, crops)
    for level, name in enumerate(MAPS):
        assert_map(features[level], case, f"fpn_out/{name}", 1e-5)
        shape = (*features[level].shape[:3], -1)
        assert_map(logits[level].reshape(shape), case, f"rpn_obj/{level}", 1e-5)
        assert_map(deltas[level].reshape(shape), case, f"rpn_delta/{level}", 1e-5)
    assert_close(classes, case["cls"], 1e-5)
    assert_close(boxes, case["reg"].reshape(-1, 4, 4)[:, 1:], 1e-5)


def test_torchvision_mobilenet(golden):
    case = np.load(golden / "torchvision" / "backbone_mobilenet.npz")
    table = torchvision.mobilenet_rules("features.", "")
    variables = nested(rules.convert(recorded_state(case), table).variables)
    # The classifier's epsilon; detectors have frozen norms with 1e-5.
    trunk = mobilenet.MobileNetV3(width=0.25, norm_eps=1e-3)
    images = case["input"].transpose(0, 2, 3, 1)
    maps, state = jax.jit(
        lambda images: trunk.apply(variables, images, capture_intermediates=True)
    )(images)
    inner = state["intermediates"]
    for block in (1, 3, 6, 12):
        found = inner[f"block{block}"]["__call__"][0]
        assert_map(found, case, f"features/{block}", 1e-5)
    assert_map(maps["c5"], case, "features/13", 1e-5)
    assert_map(maps["c6"], case, "features/16", 1e-5)


@pytest.mark.parametrize(("name", "groups"), (("resnet", 1), ("resnext", 4)))
def test_torchvision_bottlenecks(name, groups, golden, monkeypatch):
    """Two blocks a stage, widths an eighth; ResNeXt with four groups."""
    case = np.load(golden / "torchvision" / f"backbone_{name}.npz")
    state = recorded_state(case)
    variables = nested(rules.convert(state, imagenet.resnet_rules("", "")).variables)
    monkeypatch.setitem(resnet.BLOCKS, 50, (2, 2))
    trunk = resnet.ResNet(
        50, 8, groups=groups, group_width=64 // groups, stages=("c2", "c3")
    )
    maps = jax.jit(trunk.apply)(variables, case["input"].transpose(0, 2, 3, 1))
    assert_map(maps["c2"], case, "layer1", 1e-5)
    assert_map(maps["c3"], case, "layer2", 1e-5)


@pytest.fixture(scope="module")
def ops_case(golden):
    return np.load(golden / "torchvision" / "ops_boxes.npz")


@pytest.mark.parametrize("stage", ("rpn", "box"))
def test_box_coder(stage, ops_case):
    case = ops_case
    stds = tuple((1 / case[f"coder/{stage}/weights"]).tolist())
    coder = box_ops.BoxCoder(stds, "torchvision")
    anchors = jnp.asarray(case["coder/anchors"])
    encoded = box_ops.encode(jnp.asarray(case["coder/gt"]), anchors, coder)
    np.testing.assert_allclose(encoded, case[f"coder/{stage}/enc"], atol=1e-5)
    codes = jnp.asarray(case[f"coder/{stage}/codes"].reshape(30, -1, 4))
    decoded = box_ops.decode(codes, anchors[:, None], coder).reshape(30, -1)
    theirs = case[f"coder/{stage}/dec"]
    np.testing.assert_allclose(decoded, theirs, rtol=1e-5, atol=1e-3)


def test_overlaps_and_clipping(ops_case):
    case = ops_case
    found = box_ops.pairwise_iou(jnp.asarray(case["iou/a"]), jnp.asarray(case["iou/b"]))
    # The peer has NaN where both boxes are empty.
    np.testing.assert_allclose(found, np.nan_to_num(case["iou/iou"]), atol=1e-6)
    hw = jnp.asarray(case["clip/hw"], jnp.float32)
    boxes = box_ops.clip(jnp.asarray(case["clip/in"]), hw, "torchvision")
    np.testing.assert_array_equal(boxes, case["clip/out"])
    for side in (1e-3, 1e-2):
        kept = np.flatnonzero(box_ops.at_least(boxes, side))
        exponent = {1e-3: "1e-3", 1e-2: "1e-2"}[side]
        np.testing.assert_array_equal(kept, case[f"clip/keep_min{exponent}"])


@pytest.mark.parametrize("kind", ("rpn_0.7_0.3_lowq", "box_0.5_0.5"))
def test_matcher(kind, ops_case):
    iou = jnp.asarray(ops_case["matcher/iou"]).T
    high, low = map(float, kind.split("_")[1:3])
    found = matching.match(
        iou,
        jnp.ones(iou.shape[0], bool),
        jnp.ones(iou.shape[1], bool),
        positive_iou=high,
        negative_iou=low,
        rescue_iou=0.0 if kind.startswith("rpn") else None,
        rematch=False,
    )
    special = {matching.NEGATIVE: -1, matching.IGNORED: -2}
    ours = [
        special.get(int(label), int(index))
        for label, index in zip(found.label, found.index, strict=True)
    ]
    assert ours == ops_case[f"matcher/{kind}"].tolist()


@pytest.mark.parametrize("name", ("0", "1", "2", "3", "4", "5", "edge"))
def test_nms(name, ops_case):
    boxes, scores = (
        jnp.asarray(ops_case[f"nms/{name}/{k}"]) for k in ("boxes", "scores")
    )
    count = len(scores)
    kept = nms.nms(
        boxes,
        scores,
        jnp.ones(count, bool),
        iou=float(ops_case[f"nms/{name}/thresh"]),
        keep=count,
    )
    found = kept.index[: int(kept.valid.sum())]
    np.testing.assert_array_equal(found, ops_case[f"nms/{name}/keep"])


@pytest.mark.parametrize("name", ("0", "1"))
def test_nms_by_group(name, ops_case):
    boxes, scores, groups = (
        jnp.asarray(ops_case[f"batched_nms/{name}/{k}"])
        for k in ("boxes", "scores", "idxs")
    )
    count = len(scores)
    kept = nms.nms(
        boxes, scores, jnp.ones(count, bool), iou=0.5, keep=count, group=groups
    )
    found = kept.index[: int(kept.valid.sum())]
    np.testing.assert_array_equal(found, ops_case[f"batched_nms/{name}/keep"])


def test_base_anchors(ops_case):
    sizes = (32.0, 64.0, 128.0, 256.0, 512.0)
    ratios = (0.5, 1.0, 2.0)
    for level, size in enumerate(sizes):
        found = anchors.base_anchors((size,), ratios, "rounded")
        np.testing.assert_array_equal(found, ops_case["anchors/cell_fpn"][level])
    found = anchors.base_anchors(sizes, ratios, "rounded")
    np.testing.assert_array_equal(found, ops_case["anchors/cell_15"])


@pytest.mark.parametrize("name", ("0", "1"))
def test_anchor_grids(name, ops_case):
    grids = [tuple(hw) for hw in ops_case[f"anchors/{name}/grids"].tolist()]
    sizes = tuple((size,) for size in (32.0, 64.0, 128.0, 256.0, 512.0))
    spec = anchors.AnchorSpec(sizes, (0.5, 1.0, 2.0), (4, 8, 16, 32, 64), "rounded")
    hw = jnp.asarray(ops_case[f"anchors/{name}/image_hw"], jnp.float32)
    levels = rpn.anchors_of(rpn.grid(spec, grids, "padded32"), hw)
    theirs = ops_case[f"anchors/{name}/last_two_levels"]
    np.testing.assert_array_equal(np.concatenate(levels[-2:]), theirs)
    theirs = ops_case[f"anchors/{name}/level0_first60"]
    np.testing.assert_array_equal(levels[0][:60], theirs)
    total = np.concatenate(levels).astype(np.float64).sum(0)
    np.testing.assert_array_equal(total, ops_case[f"anchors/{name}/sum"])
