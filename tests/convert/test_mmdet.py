"""mmdetection names: round trips of real manifests, and the order of channels."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.convert import mmdet
from frcnn_jax.convert.rules import ConversionError

MANIFESTS = Path(__file__).parents[1] / "golden" / "mmdet_manifests"


def manifest(name):
    return json.loads(gzip.decompress((MANIFESTS / f"{name}.json.gz").read_bytes()))


def arrays(listing):
    """Random bits of the listed shapes: any float32 pattern, NaN too, must survive."""
    rng = np.random.default_rng(0)

    def array(shape, dtype):
        if dtype == "int64":
            return np.zeros(shape, np.int64)
        return np.frombuffer(rng.bytes(4 * int(np.prod(shape))), dtype).reshape(shape)

    return {name: array(*entry) for name, entry in listing.items()}


def tiny_state(*, channels=4, pool=2, fc=3, classes=2):
    """Only the parts a box head and an RPN need: layers may be absent as a whole."""
    rng = np.random.default_rng(2)
    head = "roi_head.bbox_head"
    shapes = {
        "rpn_head.rpn_conv": (channels, channels, 3, 3),
        "rpn_head.rpn_cls": (3, channels, 1, 1),
        "rpn_head.rpn_reg": (12, channels, 1, 1),
        f"{head}.shared_fcs.0": (fc, channels * pool * pool),
        f"{head}.shared_fcs.1": (fc, fc),
        f"{head}.fc_cls": (classes + 1, fc),
        f"{head}.fc_reg": (4 * classes, fc),
    }
    state = {}
    for module, shape in shapes.items():
        state[f"{module}.weight"] = rng.standard_normal(shape).astype(np.float32)
        state[f"{module}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    return state


def assert_same_bits(a, b):
    assert set(a) == set(b)
    for name in a:
        assert a[name].shape == b[name].shape and a[name].dtype == b[name].dtype, name
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize(
    ("name", "count", "ours"), [("r50_fpn_1x", 348, 295), ("r50_caffe_c4_1x", 328, 275)]
)
def test_round_trip_of_a_published_model(name, count, ours):
    listing = manifest(name)
    state = arrays(listing)
    converted = mmdet.conversion(state)
    assert len(state) == count and len(converted.variables) == ours
    assert all(n.endswith("num_batches_tracked") for n in converted.unused)
    back = mmdet.to_state_dict(converted.variables)
    assert {n: [list(a.shape), str(a.dtype)] for n, a in back.items()} == listing
    assert_same_bits(back, state)


def test_paths_of_an_fpn_model():
    state = {n: np.broadcast_to(np.float32(0), s) for n, (s, _) in fpn_shapes().items()}
    shapes = {p: a.shape for p, a in mmdet.from_state_dict(state).items()}
    expected = {
        "params/backbone/stem/conv/kernel": (7, 7, 3, 64),
        "params/backbone/stem/norm/scale": (64,),
        "batch_stats/backbone/stem/norm/var": (64,),
        "params/backbone/layer1/block0/shortcut_conv/kernel": (1, 1, 64, 256),
        "batch_stats/backbone/layer1/block0/shortcut_norm/mean": (256,),
        "params/backbone/layer3/block5/conv2/kernel": (3, 3, 256, 256),
        "params/backbone/layer3/block5/norm2/bias": (256,),
        "params/fpn/lateral2/kernel": (1, 1, 256, 256),
        "params/fpn/lateral5/kernel": (1, 1, 2048, 256),
        "params/fpn/output5/bias": (256,),
        "params/rpn/conv/kernel": (3, 3, 256, 256),
        "params/rpn/objectness/kernel": (1, 1, 256, 3),
        "params/rpn/deltas/bias": (12,),
        "params/box_head/fc1/kernel": (12544, 1024),
        "params/box_head/fc2/kernel": (1024, 1024),
        "params/box_head/predictor/classes/kernel": (1024, 81),
        "params/box_head/predictor/deltas/kernel": (1024, 320),
    }
    assert {path: shapes[path] for path in expected} == expected


def fpn_shapes():
    listing = manifest("r50_fpn_1x")
    return {n: e for n, e in listing.items() if not n.endswith("num_batches_tracked")}


def test_c4_shared_head_is_the_layer4_of_the_box_head():
    table = mmdet.rules(None)
    theirs = "roi_head.shared_head.layer4.{block}.conv1.weight"
    (rule,) = [rule for rule in table if rule.theirs == theirs]
    assert rule.ours == "params/box_head/layer4/block{block}/conv1/kernel"


def test_head_outputs_agree_channel_by_channel():
    state = tiny_state()
    ours = mmdet.from_state_dict(state)
    crops = np.random.default_rng(3).standard_normal((5, 4, 2, 2)).astype(np.float32)

    def theirs(x, layer):
        layer = f"roi_head.bbox_head.{layer}"
        return x @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]

    def mine(x, layer):
        layer = f"params/box_head/{layer}"
        return x @ ours[f"{layer}/kernel"] + ours[f"{layer}/bias"]

    x = np.maximum(theirs(crops.reshape(5, -1), "shared_fcs.0"), 0)
    x = theirs(x, "shared_fcs.1")
    y = np.maximum(mine(crops.transpose(0, 2, 3, 1).reshape(5, -1), "fc1"), 0)
    y = mine(y, "fc2")
    np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5)
    logits, classes = theirs(x, "fc_cls"), mine(x, "predictor/classes")
    np.testing.assert_allclose(classes[:, 1:], logits[:, :-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(classes[:, 0], logits[:, -1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        mine(x, "predictor/deltas"), theirs(x, "fc_reg"), rtol=1e-4, atol=1e-5
    )


def test_rpn_channels_keep_their_order():
    state = tiny_state()
    ours = mmdet.from_state_dict(state)
    for name, path in (("rpn_cls", "objectness"), ("rpn_reg", "deltas")):
        weight = state[f"rpn_head.{name}.weight"]
        assert (ours[f"params/rpn/{path}/kernel"][0, 0].T == weight[:, :, 0, 0]).all()
        assert (ours[f"params/rpn/{path}/bias"] == state[f"rpn_head.{name}.bias"]).all()


def test_pool_size_is_read_or_given():
    state = tiny_state(channels=4, pool=3)
    ours = mmdet.from_state_dict(state)
    assert_same_bits(ours, mmdet.from_state_dict(state, pool_size=3))
    assert_same_bits(mmdet.to_state_dict(ours), state)
    assert_same_bits(mmdet.to_state_dict(ours, pool_size=3), state)
    # 36 inputs are also nine channels of 2 x 2: another reading, another order.
    other = mmdet.from_state_dict(state, pool_size=2)["params/box_head/fc1/kernel"]
    assert (other != ours["params/box_head/fc1/kernel"]).any()


def test_pool_size_that_cannot_be_read_is_asked_for():
    state = tiny_state()
    state["roi_head.bbox_head.shared_fcs.0.weight"] = np.zeros((3, 18), np.float32)
    with pytest.raises(
        ConversionError, match="18 inputs .* 4 channels: pass pool_size"
    ):
        mmdet.from_state_dict(state)
    without_rpn = {n: a for n, a in tiny_state().items() if "rpn" not in n}
    with pytest.raises(
        ConversionError, match="rpn_head.rpn_conv.weight.*pass pool_siz"
    ):
        mmdet.from_state_dict(without_rpn)
    mmdet.from_state_dict(without_rpn, pool_size=2)
    ours = {p: a for p, a in mmdet.from_state_dict(tiny_state()).items()}
    del ours["params/rpn/conv/kernel"]
    with pytest.raises(ConversionError, match="params/rpn/conv/kernel.*pass pool_size"):
        mmdet.to_state_dict(ours)


def test_notes_beside_the_weights_are_ignored():
    state = {**tiny_state(), "__in_scale": np.array(57.0), "__gain_keys": np.array("a")}
    assert_same_bits(mmdet.from_state_dict(state), mmdet.from_state_dict(tiny_state()))
    assert "2 arrays, notes beside the weights" in mmdet.conversion(state).notes()[-1]


@pytest.mark.parametrize(
    "name",
    [
        "backbone.layer5.0.conv1.weight",
        "backbone.layer1.0.conv4.weight",
        "backbone.conv1.bias",
        "neck.fpn_convs.4.conv.weight",
        "mask_head.conv.weight",
    ],
)
def test_layers_we_do_not_have_are_refused(name):
    with pytest.raises(ConversionError, match=name):
        mmdet.from_state_dict({**tiny_state(), name: np.zeros((1, 1, 1, 1))})
