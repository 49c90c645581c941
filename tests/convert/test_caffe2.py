"""Caffe2's ResNets: a real list of names, both kinds of norms, what is refused."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.convert import caffe2, files, imagenet
from frcnn_jax.convert.rules import ConversionError

GOLDEN = Path(__file__).parents[1] / "golden"
EPS = 1e-3


def listed(name) -> dict[str, np.ndarray]:
    """Small random arrays under a published file's names, axes as they are there."""
    rng = np.random.default_rng(0)
    listing = json.loads(gzip.decompress((GOLDEN / name).read_bytes()))
    state = {}
    for key, (shape, dtype) in listing.items():
        small = rng.standard_normal([min(side, 3) for side in shape])
        state[key] = np.abs(small).astype(dtype)
    return state


@pytest.fixture
def backbone():
    return listed("classifiers/caffe2_resnet50.json.gz")


def test_every_name_of_the_msra_file_is_understood(backbone):
    assert len(backbone) == 268 and files.recognise(backbone) == "imagenet"
    converted = imagenet.conversion(backbone, norm_eps=EPS)
    assert set(converted.unused) <= {"fc.weight", "fc.bias"}
    assert len(converted.variables) == 53 * 5
    for theirs, ours in {
        "conv1_w": "params/backbone/stem/conv/kernel",
        "res2_0_branch1_w": "params/backbone/layer1/block0/shortcut_conv/kernel",
        "res4_5_branch2b_w": "params/backbone/layer3/block5/conv2/kernel",
    }.items():
        moved = backbone[theirs].transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(converted.variables[ours], moved)
    for theirs, ours in {
        "res_conv1_bn_gamma": "params/backbone/stem/norm/scale",
        "res5_2_branch2c_bn_beta": "params/backbone/layer4/block2/norm3/bias",
        "res3_0_branch1_bn_running_var": "batch_stats/backbone/layer2/block0"
        "/shortcut_norm/var",
    }.items():
        np.testing.assert_array_equal(converted.variables[ours], backbone[theirs])


def test_scale_and_shift_alone_act_as_they_are(backbone):
    short = {"_bn_gamma": "_bn_s", "_bn_beta": "_bn_b"}
    fused = {}
    for name, array in backbone.items():
        if not name.endswith(("_running_mean", "_running_var")):
            for long, letter in short.items():
                name = name.replace(long, letter)
            fused[name] = array
    fused["res2_0_branch2a_b"] = np.zeros(3, np.float32)
    ours = imagenet.from_state_dict(fused, norm_eps=EPS)
    norm = "backbone/layer2/block1/norm2"
    scale, bias = ours[f"params/{norm}/scale"], ours[f"params/{norm}/bias"]
    mean, var = ours[f"batch_stats/{norm}/mean"], ours[f"batch_stats/{norm}/var"]
    x = np.linspace(-2, 2, 3)
    found = (x - mean) / np.sqrt(var + EPS) * scale + bias
    wanted = x * fused["res3_1_branch2b_bn_s"] + fused["res3_1_branch2b_bn_b"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_short_names_of_statistics(backbone):
    renamed = {
        k.replace("running_mean", "rm").replace("running_var", "riv"): v
        for k, v in backbone.items()
    }
    theirs = caffe2.to_torchvision(backbone, norm_eps=EPS)
    ours = caffe2.to_torchvision(renamed, norm_eps=EPS)
    assert theirs.keys() == ours.keys()
    assert all((theirs[k] == ours[k]).all() for k in theirs)


def test_what_cannot_be_right_is_refused(backbone):
    for change, words in (
        ({"res2_0_branch3_w": np.zeros(1)}, "res2_0_branch3_w is no name"),
        ({"res2_0_branch2a_b": np.ones(3)}, "branch2a_b: a bias before a norm"),
    ):
        with pytest.raises(ConversionError, match=words):
            imagenet.conversion({**backbone, **change}, norm_eps=EPS)
    del backbone["res2_0_branch1_bn_running_mean"]
    with pytest.raises(ConversionError, match="without statistics: layer1.0.downsampl"):
        imagenet.conversion(backbone, norm_eps=EPS)


def test_a_mobilenet_classifier_fills_the_trunk():
    state = listed("classifiers/mobilenet_v3_large.json.gz")
    assert files.recognise(state) == "imagenet"
    converted = imagenet.conversion(state, norm_eps=EPS)
    assert {k for k in converted.unused if "classifier" in k} == {
        f"classifier.{layer}.{leaf}" for layer in (0, 3) for leaf in ("weight", "bias")
    }
    assert all("/backbone/" in path for path in converted.variables)
    last = converted.variables["params/backbone/last/conv/kernel"]
    moved = state["features.16.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(last, moved)
    back = imagenet.to_state_dict(converted.variables)
    assert back.keys() == {name for name in state if "classifier" not in name}
    np.testing.assert_array_equal(
        back["features.0.0.weight"], state["features.0.0.weight"]
    )


def test_a_wide_resnet_has_the_names_of_the_others():
    state = listed("classifiers/wide_resnet50_2.json.gz")
    assert files.recognise(state) == "imagenet"
    assert len(imagenet.from_state_dict(state, norm_eps=EPS)) == 53 * 5
